package cli_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

const jwksPath = "/.well-known/jwks.json"

// jwksOf is the URL of a broker's listener of public keys.
func jwksOf(t *testing.T, s *serving) string {
	t.Helper()
	found := regexp.MustCompile(`msg="serving public keys" listen=(\S+)`).FindStringSubmatch(s.logs.String())
	if found == nil {
		t.Fatalf("no public keys: %s", s.logs)
	}
	return "http://" + found[1]
}

// maxAge is what a broker says of how long its public keys may be kept.
func maxAge(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url + jwksPath)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("Cache-Control")
}

// The public keys, and they alone, are on a listener of their own, which follows
// what the command line does to the ring.
func TestJWKSListen(t *testing.T) {
	dir, env := t.TempDir(), append(oktaVariables("http://127.0.0.1:1"), "OKTA_TOKEN_BROKER_JWKS_LISTEN=127.0.0.1:0")
	s := startServing(t, broker(t, dir, env, "0"))
	public := jwksOf(t, s)
	if status, body := get(t, public+jwksPath); status != 200 || body != `{"keys":[]}` {
		t.Errorf("status %d: %s", status, body)
	}
	if got := maxAge(t, public); got != "public, max-age=300" {
		t.Errorf("Cache-Control: %s", got)
	}
	for _, path := range []string{"/token", "/healthz", "/readyz", "/metrics", "/openapi.yaml", "/"} {
		if status, body := get(t, public+path); status != 404 {
			t.Errorf("%s: status %d: %s", path, status, body)
		}
	}
	if _, stderr, code := run(t, broker(t, dir, env, "keys", "rotate", "--kid", "mine")); code != 0 {
		t.Fatal(stderr)
	}
	eventually(t, s.logs, func() bool {
		_, body := get(t, public+"/keys/default/jwks.json")
		return strings.Contains(body, `"kid":"mine"`)
	})
	_, onPublic := get(t, public+jwksPath)
	if _, onAPI := get(t, s.url+jwksPath); onAPI != onPublic {
		t.Errorf("the API has %s, the other listener %s", onAPI, onPublic)
	}

	// A port that is taken is found before anything happens.
	address, other := strings.TrimPrefix(public, "http://"), t.TempDir()
	_, stderr, code := run(t, broker(t, other, append(oktaVariables("http://127.0.0.1:1"), "OKTA_TOKEN_BROKER_JWKS_LISTEN="+address), "0"))
	if code != 1 || !strings.HasSuffix(stderr, "jwks_listen: listening on "+address+": the port is taken\n") {
		t.Errorf("a taken port: exit code %d: %s", code, stderr)
	}
	if left, _ := os.ReadDir(other); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if log := stopped(t, s); strings.Contains(log, "jwks.json") {
		t.Errorf("requests are logged: %s", log)
	}
}

// A listener on all addresses needs no callers: it has nothing to hide.
func TestJWKSListenAnywhere(t *testing.T) {
	s := startServing(t, broker(t, t.TempDir(), []string{"OKTA_TOKEN_BROKER_JWKS_LISTEN=:0"}, "0"))
	_, port, err := net.SplitHostPort(strings.TrimPrefix(jwksOf(t, s), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, "http://127.0.0.1:"+port+jwksPath); status != 200 {
		t.Errorf("status %d: %s", status, body)
	}
}

// Another max-age is taken up at once, another listener needs a restart and says
// so.
func TestReloadOfJWKSSettings(t *testing.T) {
	dir := t.TempDir()
	configure := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "okta-token-broker.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure("jwks_listen: 127.0.0.1:0\n")
	s := startServing(t, broker(t, dir, nil, "0"))
	public := jwksOf(t, s)
	configure("jwks_listen: unix:/nowhere/jwks.sock\njwks_max_age: 90s\n")
	eventually(t, s.logs, func() bool { return maxAge(t, public) == "public, max-age=90" })
	if got := maxAge(t, s.url); got != "public, max-age=90" {
		t.Errorf("the API says %s", got)
	}
	times(t, s, `msg="a changed setting needs a restart" setting=jwks_listen`, 1)
	if n := strings.Count(stopped(t, s), "needs a restart"); n != 1 {
		t.Errorf("%d settings need a restart: %s", n, s.logs)
	}
}

// A flood of connections from the internet takes nothing from callers and health.
func TestJWKSFlood(t *testing.T) {
	env := []string{"OKTA_TOKEN_BROKER_HEALTH_LISTEN=127.0.0.1:0", "OKTA_TOKEN_BROKER_JWKS_LISTEN=127.0.0.1:0"}
	s := startServing(t, broker(t, t.TempDir(), env, "0"))
	public := jwksOf(t, s)
	for range 300 { // 256 are open at once
		conn, err := net.Dial("tcp", strings.TrimPrefix(public, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	for _, url := range []string{s.url + "/healthz", s.url + jwksPath, healthOf(t, s) + "/readyz"} {
		if status, body := get(t, url); status != 200 {
			t.Errorf("%s: status %d: %s", url, status, body)
		}
	}
	// Those that say nothing are hung up on, and the next one is served.
	eventually(t, s.logs, func() bool {
		status, _ := get(t, public+jwksPath)
		return status == 200
	})
	if code := s.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d: %s", code, s.logs)
	}
}

// Who lets Okta fetch keys that nobody serves to it is warned.
func TestKeysThatNobodyServes(t *testing.T) {
	dir := t.TempDir()
	const text = "clients:\n  default: {issuer: 'https://acme.okta.com', client_id: c, registration: jwks_uri}\n"
	if err := os.WriteFile(filepath.Join(dir, "okta-token-broker.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := run(t, broker(t, dir, nil, "config", "check"))
	if code != 0 || !strings.Contains(stderr, "okta-token-broker.yaml:2: clients.default.registration: Okta fetches the keys from outside, and jwks_listen is empty") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
