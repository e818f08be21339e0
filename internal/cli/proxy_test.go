package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/fakeokta"
)

// calledOkta is a fake Okta on a real socket that writes down what the calls of its
// API carry.
type calledOkta struct {
	*fakeokta.Okta
	server *httptest.Server
	issuer string

	mu     sync.Mutex
	tokens map[string]int // how often each Authorization came
}

func startCalledOkta(t *testing.T, app fakeokta.App) *calledOkta {
	t.Helper()
	o := &calledOkta{server: httptest.NewUnstartedServer(nil), tokens: map[string]int{}}
	o.issuer = "http://" + o.server.Listener.Addr().String()
	var err error
	if o.Okta, err = fakeokta.New(fakeokta.Config{URL: o.issuer}); err != nil {
		t.Fatal(err)
	}
	if err := o.AddApp(app); err != nil {
		t.Fatal(err)
	}
	o.server.Config.Handler = o
	o.server.Start()
	t.Cleanup(o.server.Close)
	return o
}

// ServeHTTP answers one request.
func (o *calledOkta) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/api/") {
		o.mu.Lock()
		o.tokens[strings.Join(r.Header.Values("Authorization"), ", ")]++
		o.mu.Unlock()
	}
	o.Okta.ServeHTTP(w, r)
}

// carried are the distinct values of Authorization that came.
func (o *calledOkta) carried() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []string
	for value := range o.tokens {
		list = append(list, value)
	}
	return list
}

// proxying is a broker that makes calls to a fake Okta.
type proxying struct {
	*serving
	dir  string
	okta *calledOkta
}

// bearerApp and dpopApp are the apps of the tests here.
func bearerApp() fakeokta.App {
	return fakeokta.App{ClientID: "0oa1", Scopes: []string{"okta.users.read", "okta.users.manage"}}
}

func dpopApp() fakeokta.App {
	app := bearerApp()
	app.DPoP = true
	return app
}

// startProxying starts a broker with a listener for the calls of client default.
// more is put into the configuration of that client.
func startProxying(t *testing.T, app fakeokta.App, more string) *proxying {
	t.Helper()
	p := &proxying{dir: t.TempDir(), okta: startCalledOkta(t, app)}
	p.configure(t, more)
	p.register(t, command(t, p.dir, "keys", "jwk"))
	p.serving = startServing(t, broker(t, p.dir, nil, "0"))
	return p
}

func (p *proxying) configure(t *testing.T, more string) {
	t.Helper()
	configure(t, p.dir, fmt.Sprintf(`
proxy_listen: {127.0.0.1:0: default}
keys: {default: {file: ring.pem, algorithm: ES256}}
clients:
  default: {issuer: %q, client_id: 0oa1, scopes: [okta.users.read, okta.users.manage]%s}
`, p.okta.issuer, more))
}

func (p *proxying) register(t *testing.T, jwk string) {
	t.Helper()
	if err := p.okta.RegisterKey("0oa1", json.RawMessage(jwk)); err != nil {
		t.Fatal(err)
	}
}

// proxy is the URL of the client's proxy at the API.
func (p *proxying) proxy() string {
	return strings.Replace(p.url, "127.0.0.1", "localhost", 1) + "/proxy/default"
}

// listener is the address of the client's own listener.
func (p *proxying) listener(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile(`msg="serving calls" listen=(\S+) client=default`).FindStringSubmatch(p.logs.String())
	if found == nil {
		t.Fatalf("no listener for calls: %s", p.logs)
	}
	return found[1]
}

// bearerAndDPoP runs a test with each sort of app. The one with DPoP wants nonces at
// the resource, too.
func bearerAndDPoP(t *testing.T, test func(t *testing.T, p *proxying)) {
	t.Run("Bearer", func(t *testing.T) {
		t.Parallel()
		test(t, startProxying(t, bearerApp(), ""))
	})
	t.Run("DPoP", func(t *testing.T) {
		t.Parallel()
		p := startProxying(t, dpopApp(), "")
		p.okta.SetResourceNonce(true)
		test(t, p)
	})
}

// listPages follows the links from page to page, and returns the logins of each.
// Every link has to begin with base.
func listPages(t *testing.T, base string) (pages [][]string) {
	t.Helper()
	next := base + "/api/v1/users?limit=2"
	link := regexp.MustCompile(`^<([^>]*)>; rel="(\w+)"$`)
	for next != "" {
		resp, err := http.Get(next)
		if err != nil {
			t.Fatal(err)
		}
		var users []struct{ Profile struct{ Login string } }
		err = json.NewDecoder(resp.Body).Decode(&users)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("X-Rate-Limit-Remaining") == "" {
			t.Fatalf("%s: status %d, %v, %v", next, resp.StatusCode, err, resp.Header)
		}
		var page []string
		for _, user := range users {
			page = append(page, user.Profile.Login)
		}
		pages = append(pages, page)
		next = ""
		for _, field := range resp.Header["Link"] {
			found := link.FindStringSubmatch(field)
			if found == nil || !strings.HasPrefix(found[1], base+"/api/v1/users?") {
				t.Fatalf("a link leads out of %s: %s", base, field)
			}
			if found[2] == "next" {
				next = found[1]
			}
		}
	}
	return pages
}

// sevenUsers are the pages of SetUsers(7) with two on each.
func sevenUsers() [][]string {
	return [][]string{
		{"ada.example@example.com", "ben.sample@example.com"},
		{"cleo.specimen@example.com", "dan.template@example.com"},
		{"ada.example5@example.com", "ben.sample6@example.com"},
		{"cleo.specimen7@example.com"},
	}
}

func TestProxyListsUsers(t *testing.T) {
	bearerAndDPoP(t, func(t *testing.T, p *proxying) {
		p.okta.SetUsers(7)
		for _, base := range []string{p.proxy(), "http://" + p.listener(t)} {
			if diff := cmp.Diff(sevenUsers(), listPages(t, base)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", base, diff)
			}
		}
		if n := p.okta.Counters(); n.TokensIssued != 1 || n.ReusedProofs != 0 || n.ReusedJTI != 0 {
			t.Errorf("%d tokens, %d proofs and %d assertions used twice", n.TokensIssued, n.ReusedProofs, n.ReusedJTI)
		}
		if got := p.okta.carried(); len(got) != 1 {
			t.Errorf("calls carried %d different credentials", len(got))
		}
		log := stopped(t, p.serving)
		for _, secret := range append(p.okta.carried(), p.okta.Counters().LastAssertion, p.okta.Counters().LastProof) {
			if secret = secret[strings.IndexByte(secret, ' ')+1:]; secret != "" && strings.Contains(log, secret) {
				t.Error("the log has a credential")
			}
		}
	})
}

// The whole integration, as the README has it.
func TestProxyWithCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not there")
	}
	bearerAndDPoP(t, func(t *testing.T, p *proxying) {
		out, err := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "20", strings.TrimPrefix(p.proxy(), "http://")+"/api/v1/users?limit=2").Output()
		if err != nil || strings.Count(string(out), `"login"`) != 2 {
			t.Errorf("curl: %v: %s", err, out)
		}
	})
}

// Bodies go through whole, also those that are too large to be kept, and when the
// first attempt is refused.
func TestProxyCreatesUsers(t *testing.T) {
	bearerAndDPoP(t, func(t *testing.T, p *proxying) {
		for i, size := range []int{1 << 10, 70 << 10, 1 << 20} {
			login := fmt.Sprintf("new%d@example.com", i)
			user := fmt.Sprintf(`{"profile": {"firstName": "New", "lastName": "User", "email": %q, "login": %[1]q, "nickName": %q}}`, login, strings.Repeat("n", size))
			resp, err := http.Post(p.proxy()+"/api/v1/users", "application/json", strings.NewReader(user))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), strings.Repeat("n", size)) {
				t.Errorf("%d bytes: status %d, %v: %.200s", size, resp.StatusCode, err, body)
			}
		}
		if got := p.okta.Counters().UsersCreated; got != 3 {
			t.Errorf("%d users were made, want 3", got)
		}
	})
}

// What is refused is refused here, and Okta hears nothing of it.
func TestProxyRefuses(t *testing.T) {
	okta := startWatchedOkta(t, time.Hour)
	okta.addApp(t, "0oa1", bearerApp().Scopes...)
	dir := t.TempDir()
	configure(t, dir, strings.ReplaceAll(`
proxy_listen: {127.0.0.1:0: default}
keys:
  default: {file: ring.pem, algorithm: ES256}
  rotator: {file: rotator.pem, algorithm: ES256}
clients:
  default: {issuer: OKTA, client_id: 0oa1, scopes: [okta.users.read], registration: api, rotator: rotator, prefetch: false}
  rotator: {issuer: OKTA, client_id: 0oarotator, scopes: [okta.apps.read, okta.apps.manage], key: rotator}
  custom:  {issuer: OKTA/oauth2/default, client_id: 0oa1, scopes: [shop.read], prefetch: false}
`, "OKTA", okta.issuer))
	p := &proxying{serving: startServing(t, broker(t, dir, nil, "0"))}
	tests := []struct {
		path, auth string
		status     int
		want       string
	}{
		{path: "/proxy/nobody/api/v1/users", status: 400, want: "no client"},
		{path: "/proxy/nobody/api/v1/users", auth: "Bearer theirs", status: 400, want: "no client"},
		{path: "/proxy/rotator/api/v1/apps", status: 403, want: "serves no caller"},
		{path: "/proxy/0oarotator/api/v1/apps", status: 403, want: "serves no caller"},
		{path: "/proxy/default/oauth2/v1/token", status: 403, want: "/oauth2/"},
		{path: "/proxy/default/OAuth2/v1/keys", status: 403, want: "/oauth2/"},
		{path: "/proxy/default/%6fauth2/v1/keys", status: 403, want: "/oauth2/"},
		{path: "/proxy/default/api/..%2foauth2/v1/keys", status: 400, want: "encoded slash"},
		{path: "/proxy/default/~files/x", status: 400, want: "no such resource"},
		{path: "/proxy/default/~/x", status: 400, want: "name is missing"},
		{path: "/proxy/custom/api/v1/users", status: 400, want: "not an Okta org"},
		{path: "/proxy/", status: 400, want: "the path must be"},
	}
	for _, tt := range tests {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", p.url+tt.path, nil)
		if tt.auth != "" {
			req.Header.Set("Authorization", tt.auth)
		}
		status, body, err := send(http.DefaultClient, req)
		if err != nil || status != tt.status || jsonError(body) == "" || !strings.Contains(body, tt.want) {
			t.Errorf("%s: status %d, %v: %s", tt.path, status, err, body)
		}
	}
	status, body := get(t, "http://"+p.listener(t)+"/oauth2/v1/keys")
	if status != 403 || jsonError(body) != "access_denied" {
		t.Errorf("on the listener: status %d: %s", status, body)
	}
	if n := okta.Counters().ResourceRequests; n != 0 {
		t.Errorf("%d calls came to Okta", n)
	}
	for _, asked := range okta.asked(func(r tokenRequest) bool { return r.client != "0oarotator" }) {
		t.Error(asked) // the rotator asks by itself
	}
}

// jsonError is the error that an answer names; nothing if it is not in that form.
func jsonError(body string) string {
	var answer struct{ Error string }
	_ = json.Unmarshal([]byte(body), &answer)
	return answer.Error
}

// A listener can be a socket, and one address for each of several clients.
func TestProxyListenOnASocket(t *testing.T) {
	okta := startCalledOkta(t, dpopApp())
	okta.SetUsers(7)
	dir := t.TempDir()
	socket := filepath.Join(t.TempDir(), "calls.sock") // a short path
	configure(t, dir, fmt.Sprintf(`
proxy_listen: {'unix:%s': other, 127.0.0.1:0: default}
keys: {default: {file: ring.pem, algorithm: ES256}}
clients:
  default: {issuer: %q, client_id: 0oa1, scopes: [okta.users.read]}
  other: {issuer: %[2]q, client_id: 0oa1, scopes: [okta.users.read], resources: {gone: 'http://127.0.0.1:1'}}
`, socket, okta.issuer))
	p := &proxying{dir: dir, okta: okta}
	p.register(t, command(t, dir, "keys", "jwk"))
	p.serving = startServing(t, broker(t, dir, nil, "0"))
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	resp, err := client.Get("http://localhost/api/v1/users?limit=2")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	theirs, err := client.Get("http://localhost/~gone/") // which client default does not have
	if err != nil {
		t.Fatal(err)
	}
	theirs.Body.Close()
	if theirs.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a resource of the socket's client: status %d", theirs.StatusCode)
	}
	client.CloseIdleConnections()
	want := fmt.Sprintf(`<http://localhost/api/v1/users?after=00u1fakeokta%08d&limit=2>; rel="next"`, 2)
	if resp.StatusCode != http.StatusOK || !slices.Contains(resp.Header["Link"], want) {
		t.Errorf("status %d: %v", resp.StatusCode, resp.Header)
	}
	if n := strings.Count(p.logs.String(), `msg="serving calls"`); n != 2 {
		t.Errorf("%d listeners: %s", n, p.logs)
	}
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d: %s", code, p.logs)
	}
	if left, _ := filepath.Glob(socket); len(left) != 0 {
		t.Error("the socket is left behind")
	}
}

// Another listener for calls needs a restart, and that is said; its client's settings
// do not.
func TestReloadOfProxyListen(t *testing.T) {
	p := startProxying(t, bearerApp(), "")
	p.configure(t, ", assertion_lifetime: 4m")
	p.hangUp(t)
	if strings.Contains(p.logs.String(), "needs a restart") {
		t.Errorf("with the same listener: %s", p.logs)
	}
	text, err := os.ReadFile(filepath.Join(p.dir, "okta-token-broker.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	configure(t, p.dir, strings.Replace(string(text), "127.0.0.1:0: default", "127.0.0.1:0: default, '[::1]:0': default", 1))
	p.hangUp(t)
	if log := stopped(t, p.serving); !strings.Contains(log, `msg="a changed setting needs a restart" setting=proxy_listen`) || strings.Count(log, `msg="serving calls"`) != 1 {
		t.Errorf("with another one: %s", log)
	}
}
