package cli_test

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestPrefetch(t *testing.T) {
	okta, issuer := startOkta(t)
	dir := t.TempDir()
	jwk, _, _ := run(t, broker(t, dir, nil, "keys", "jwk"))
	if err := okta.RegisterKey("0oa1", json.RawMessage(jwk)); err != nil {
		t.Fatal(err)
	}
	config := "clients:\n  default: {issuer: '" + issuer + "', client_id: 0oa1, scopes: [okta.users.read]}\n" +
		"  later: {issuer: '" + issuer + "', client_id: 0oa1, scopes: [okta.users.read], prefetch: false}\n"
	if err := os.WriteFile(filepath.Join(dir, "okta-token-broker.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServing(t, broker(t, dir, nil, "0"))
	eventually(t, s.logs, func() bool { return okta.Counters().TokensIssued > 0 })
	for i, tt := range []struct {
		client string
		posts  int
	}{{"default", 1}, {"later", 2}} {
		if status, body := get(t, s.url+"/token?client="+tt.client); status != 200 {
			t.Errorf("status %d: %s", status, body)
		}
		if got := okta.Counters().TokenRequests; got != tt.posts {
			t.Errorf("%d requests after %d tokens were read, want %d", got, i+1, tt.posts)
		}
	}
}

func TestHealthListen(t *testing.T) {
	s := startServing(t, broker(t, t.TempDir(), []string{"OKTA_TOKEN_BROKER_HEALTH_LISTEN=127.0.0.1:0"}, "0"))
	health := healthOf(t, s)
	if status, body := get(t, health+"/readyz"); status != 200 || !strings.Contains(body, "ready") {
		t.Errorf("status %d: %s", status, body)
	}
	if status, _ := get(t, health+"/token"); status != 404 {
		t.Errorf("/token: status %d", status)
	}

	// A port that is taken is found before anything happens.
	address, dir := strings.TrimPrefix(health, "http://"), t.TempDir()
	_, stderr, code := run(t, broker(t, dir, append(oktaVariables("http://127.0.0.1:1"), "OKTA_TOKEN_BROKER_HEALTH_LISTEN="+address), "0"))
	if code != 1 || !strings.HasSuffix(stderr, "health_listen: listening on "+address+": the port is taken\n") {
		t.Errorf("a taken port: exit code %d: %s", code, stderr)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// healthOf is the URL of a broker's health listener.
func healthOf(t *testing.T, s *serving) string {
	t.Helper()
	found := regexp.MustCompile(`msg="serving health" listen=(\S+)`).FindStringSubmatch(s.logs.String())
	if found == nil {
		t.Fatalf("no health: %s", s.logs)
	}
	return "http://" + found[1]
}

// The Flask server's way: the first POST / makes the key under the kid that it
// answers, and registering that jwk is all it takes, also where a client is
// configured from the start.
func TestFirstKeyKeepsTheKidOfItsRequest(t *testing.T) {
	okta, issuer := startOkta(t)
	s := startServing(t, broker(t, t.TempDir(), oktaVariables(issuer), "0"))
	resp, err := http.Post(s.url, "application/json", strings.NewReader(`{"client_id": "0oa1", "audience": "`+issuer+`/oauth2/v1/token", "kid": "mine"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var signed struct {
		JWK     json.RawMessage `json:"jwk"`
		Changed bool            `json:"private_key_changed"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&signed); err != nil || !signed.Changed || !strings.Contains(string(signed.JWK), `"mine"`) {
		t.Fatalf("%+v, %v", signed, err)
	}
	if err := okta.RegisterKey("0oa1", signed.JWK); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, s.url+"/token"); status != 200 {
		t.Errorf("status %d: %s", status, body)
	}
	if got := okta.Counters(); got.TokenRequests != 1 {
		t.Errorf("%d token requests, want 1", got.TokenRequests)
	}
}

// A flood of connections keeps callers waiting, and takes nothing from health or
// from the files that the broker needs.
func TestConnectionsAreBounded(t *testing.T) {
	okta, issuer := startOkta(t)
	dir := t.TempDir()
	jwk, _, _ := run(t, broker(t, dir, nil, "keys", "jwk"))
	if err := okta.RegisterKey("0oa1", json.RawMessage(jwk)); err != nil {
		t.Fatal(err)
	}
	cmd := broker(t, dir, append(oktaVariables(issuer), "OKTA_TOKEN_BROKER_HEALTH_LISTEN=127.0.0.1:0"))
	cmd.Args = []string{"sh", "-c", "ulimit -n 64; exec '" + cmd.Path + "' 0"}
	var err error
	if cmd.Path, err = exec.LookPath("sh"); err != nil {
		t.Skip("no sh")
	}
	s := startServing(t, cmd)
	health := healthOf(t, s)
	for flooded, asked := range map[string]string{s.url: health + "/readyz", health: s.url + "/token"} {
		var flood []net.Conn
		for range 50 {
			conn, err := net.Dial("tcp", strings.TrimPrefix(flooded, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			flood = append(flood, conn)
		}
		if status, body := get(t, asked); status != 200 {
			t.Errorf("%s while %s is flooded: status %d: %s", asked, flooded, status, body)
		}
		for _, conn := range flood {
			_ = conn.Close()
		}
	}
	if strings.Contains(s.logs.String(), "too many open files") {
		t.Errorf("no file is left: %s", s.logs)
	}
}
