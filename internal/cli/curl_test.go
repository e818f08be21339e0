package cli_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/fakeokta"
)

// startCurl sets up what the commands need to make calls: no broker serves.
func startCurl(t *testing.T, app fakeokta.App, more string) *proxying {
	t.Helper()
	p := &proxying{dir: t.TempDir(), okta: startCalledOkta(t, app)}
	p.configure(t, more)
	p.register(t, command(t, p.dir, "keys", "jwk"))
	return p
}

// With an app that requires DPoP each call has a proof, and nonces are learned on the
// way.
func TestCurlWithDPoP(t *testing.T) {
	p := startCurl(t, dpopApp(), "")
	p.okta.SetUsers(7)
	p.okta.SetResourceNonce(true)
	out := command(t, p.dir, "curl", "-i", "/api/v1/users?limit=2", "/api/v1/users?limit=3", p.okta.issuer+"/api/v1/users/ada.example@example.com")
	if strings.Count(out, "HTTP/1.1 200 OK\r\n") != 3 || strings.Count(out, `"login"`) != 6 {
		t.Errorf("the answers: %s", out)
	}
	n := p.okta.Counters()
	if n.BoundTokens != 1 || n.TokensIssued != 1 || n.ReusedProofs != 0 {
		t.Errorf("%d tokens, %d bound, %d proofs used twice", n.TokensIssued, n.BoundTokens, n.ReusedProofs)
	}
	// A nonce each for the token and for the calls, and no more.
	if diff := cmp.Diff(map[fakeokta.Endpoint]int{fakeokta.Token: 1, fakeokta.Users: 1}, n.NonceRefusals); diff != "" {
		t.Errorf("refused for a nonce (-want +got):\n%s", diff)
	}

	// Each nonce in turn ends, also right after it was given.
	p.okta.SetNonceRefusal(2)
	body := `{"profile": {"firstName": "New", "lastName": "User", "email": "new@example.com", "login": "new@example.com"}}`
	out = command(t, p.dir, "curl", "-f", "-H", "Content-Type: application/json", "-d", body, "/api/v1/users")
	if !strings.Contains(out, `"login":"new@example.com"`) || p.okta.Counters().UsersCreated != 1 {
		t.Errorf("the answer: %s", out)
	}
}

// A server that sells a token for whoever has it, to a client that is not to take
// one, gets no call.
func TestCurlRequiringDPoP(t *testing.T) {
	p := startCurl(t, bearerApp(), ", dpop: required")
	stdout, stderr, code := run(t, broker(t, p.dir, nil, "curl", "/api/v1/users"))
	if code != 1 || stdout != "" || !strings.Contains(stderr, "the token is a Bearer token, and clients.default.dpop is required") {
		t.Errorf("exit code %d: %q, %q", code, stdout, stderr)
	}
	if n := p.okta.Counters(); n.ResourceRequests != 0 || n.TokensIssued == 0 {
		t.Errorf("%d calls, %d tokens", n.ResourceRequests, n.TokensIssued)
	}
}

// A bound token alone is of no use, which somebody has to say.
func TestHeaderOfABoundToken(t *testing.T) {
	p := startCurl(t, dpopApp(), "")
	stdout, stderr, code := run(t, broker(t, p.dir, nil, "token", "--output", "header"))
	words := strings.Fields(stdout)
	if code != 0 || len(words) != 3 || words[0] != "Authorization:" || words[1] != "DPoP" || strings.Count(stdout, "\n") != 1 {
		t.Errorf("exit code %d: %q", code, stdout)
	}
	want := "note: the token is bound to a key, so each call needs a DPoP proof as well, and without dpop_key_file the key is gone now: use okta-token-broker curl\n"
	if stderr != want {
		t.Errorf("stderr %q, want %q", stderr, want)
	}
	var answer struct {
		Type string `json:"token_type"`
		Cnf  struct{ JKT string }
	}
	if err := json.Unmarshal([]byte(command(t, p.dir, "token")), &answer); err != nil || answer.Type != "DPoP" || len(answer.Cnf.JKT) != 43 {
		t.Errorf("the token in JSON: %+v, %v", answer, err)
	}
}

// echo is what a resource was sent, which it answers.
type echo struct {
	Method, URI, Body string
	Header            http.Header
}

func startEcho(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_ = json.NewEncoder(w).Encode(echo{r.Method, r.RequestURI, string(body), r.Header})
	}))
	t.Cleanup(server.Close)
	return server
}

// What is sent is what curl would send, at a resource that only ca_file trusts, of a
// client that has no org.
func TestCurlSends(t *testing.T) {
	server := startEcho(t)
	server.StartTLS()
	okta := startCalledOkta(t, fakeokta.App{ClientID: "0oa1"})
	custom := fakeokta.Server{ID: "shop", Scopes: []string{"shop.read"}, Policies: []fakeokta.Policy{{Rules: []fakeokta.Rule{{}}}}}
	if err := okta.AddServer(custom); err != nil {
		t.Fatal(err)
	}
	p := &proxying{dir: t.TempDir(), okta: okta}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for file, text := range map[string]string{"ca.pem": string(ca), "body": "from\r\na file\n"} {
		if err := os.WriteFile(filepath.Join(p.dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure(t, p.dir, fmt.Sprintf(`
keys: {default: {file: ring.pem, algorithm: ES256}}
clients:
  shop: {issuer: %q, client_id: 0oa1, scopes: [shop.read], ca_file: ca.pem, resources: {orders: '%s/base'}}
`, okta.issuer+"/oauth2/shop", server.URL))
	p.register(t, command(t, p.dir, "keys", "jwk"))

	const form = "application/x-www-form-urlencoded"
	tests := []struct {
		args string // without spaces in them
		want echo
	}{
		{"/~orders/v1?q=a%20b", echo{Method: "GET", URI: "/base/v1?q=a%20b"}},
		{"/~orders", echo{Method: "GET", URI: "/base"}},
		{"-X DELETE " + server.URL + "/base/v1", echo{Method: "DELETE", URI: "/base/v1"}},
		{"-X purge /~orders/", echo{Method: "purge", URI: "/base/"}}, // methods differ by case
		{"-d a=1 /~orders/", echo{Method: "POST", URI: "/base/", Body: "a=1", Header: http.Header{"Content-Type": {form}}}},
		{"-d a=1 -d b=2,3 /~orders/", echo{Method: "POST", URI: "/base/", Body: "a=1&b=2,3", Header: http.Header{"Content-Type": {form}}}},
		{"-d @body -d @- -X PUT /~orders/", echo{Method: "PUT", URI: "/base/", Body: "froma file&from stdin", Header: http.Header{"Content-Type": {form}}}},
		{"-d {} -H content-type:text/plain /~orders/", echo{Method: "POST", URI: "/base/", Body: "{}", Header: http.Header{"Content-Type": {"text/plain"}}}},
		{"-d {} -H Content-Type: -H Accept: -H User-Agent: /~orders/", echo{
			Method: "POST", URI: "/base/", Body: "{}", Header: http.Header{"Accept": nil, "User-Agent": nil},
		}},
		{"-H X-A:1 -H X-A:2 -H Accept:text/csv /~orders/", echo{Method: "GET", URI: "/base/", Header: http.Header{"X-A": {"1", "2"}, "Accept": {"text/csv"}}}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			cmd := broker(t, p.dir, nil, append([]string{"curl", "--client", "0oa1"}, strings.Split(tt.args, " ")...)...)
			cmd.Stdin = strings.NewReader("from\n stdin\n")
			stdout, stderr, code := run(t, cmd)
			var got echo
			if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 {
				t.Fatalf("exit code %d, %v: %s%s", code, err, stdout, stderr)
			}
			want := http.Header{"User-Agent": {"okta-token-broker"}, "Accept": {"*/*"}}
			for name, values := range tt.want.Header {
				if want[name] = values; values == nil {
					delete(want, name)
				}
			}
			if !strings.HasPrefix(got.Header.Get("Authorization"), "Bearer ") {
				t.Errorf("Authorization: %s", got.Header.Get("Authorization"))
			}
			for _, name := range []string{"Authorization", "Content-Length", "Accept-Encoding"} {
				delete(got.Header, name)
			}
			tt.want.Header = want
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("sent (-want +got):\n%s", diff)
			}
		})
	}
}

// What is refused is not sent, nor is a token bought for it. A token does not follow
// a redirect.
func TestCurlSendsNothing(t *testing.T) {
	var sent atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sent.Add(1) }))
	t.Cleanup(elsewhere.Close)
	p := startCurl(t, bearerApp(), "")
	if err := os.WriteFile(filepath.Join(p.dir, "large"), make([]byte, 16<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		code int
	}{
		{[]string{elsewhere.URL + "/api/v1/users"}, 1},
		{[]string{p.okta.issuer + "/oauth2/v1/keys"}, 1},
		{[]string{"/oauth2/v1/token"}, 1},
		{[]string{"-H", "Authorization: Bearer mine", "/api/v1/users"}, 2},
		{[]string{"-H", "DPoP : mine", "/api/v1/users"}, 2},
		{[]string{"-H", ": mine", "/api/v1/users"}, 2},
		{[]string{"-H", "A B: c", "/api/v1/users"}, 2},
		{[]string{"-H", "A: b\r\nAuthorization: mine", "/api/v1/users"}, 2},
		{[]string{"-X", "GE T", "/api/v1/users"}, 2},
		{[]string{"/~/api/v1/users"}, 2},
		{[]string{"/api/v1/users?q=a b"}, 2},
		{[]string{"/api/v1/users?q=\u00e4"}, 2},
		{[]string{"/api/v1/users?q=a\tb"}, 2},
		{[]string{"/api/v1/users", "/~nope/x", "/api/v1/groups"}, 1},
		{[]string{"-d", "@large", "/api/v1/users"}, 1},
		{[]string{"--fast", "/api/v1/users"}, 2},
		{[]string{}, 2},
	}
	for _, tt := range tests {
		stdout, stderr, code := run(t, broker(t, p.dir, nil, append([]string{"curl"}, tt.args...)...))
		if code != tt.code || stdout != "" || stderr == "" || strings.Contains(stderr, "mine") {
			t.Errorf("%v: exit code %d, want %d: %q, %q", tt.args, code, tt.code, stdout, stderr)
		}
	}
	if n := p.okta.Counters(); n.TokenRequests != 0 || n.ResourceRequests != 0 || sent.Load() != 0 {
		t.Errorf("%d token requests, %d calls, %d calls elsewhere", n.TokenRequests, n.ResourceRequests, sent.Load())
	}

	p.okta.SetFaultAt(fakeokta.Users, fakeokta.Fault{Status: http.StatusFound, Header: http.Header{"Location": {elsewhere.URL}}})
	if out := command(t, p.dir, "curl", "-i", "/api/v1/users"); !strings.Contains(out, "HTTP/1.1 302") || sent.Load() != 0 {
		t.Errorf("%d calls elsewhere: %s", sent.Load(), out)
	}
}
