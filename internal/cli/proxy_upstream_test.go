package cli_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"okta-token-broker/internal/fakeokta"
)

// seenRequest is what a resource got.
type seenRequest struct {
	uri, host string
	header    http.Header
}

// startResource starts a resource server that is no Okta. It answers with a link to
// its next page, and one that leads elsewhere.
func startResource(t *testing.T) (url string, last func() seenRequest) {
	t.Helper()
	var mu sync.Mutex
	var seen seenRequest
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = seenRequest{r.RequestURI, r.Host, r.Header}
		mu.Unlock()
		w.Header().Add("Link", "<http://"+r.Host+"/base/v1/orders?page=2>; rel=\"next\", <https://elsewhere.example/base/v1>; rel=\"help\"")
		w.Header().Set("Set-Cookie", "session=theirs")
		_, _ = io.WriteString(w, "order")
	}))
	t.Cleanup(server.Close)
	return server.URL, func() seenRequest {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

// A client of a custom authorization server has no org to call, but the resources
// that it names, below their base paths. What a caller has no say in does not get
// there.
func TestProxyNamedResource(t *testing.T) {
	for _, dpop := range []bool{false, true} {
		name, scheme := "Bearer", "Bearer"
		app := fakeokta.App{ClientID: "0oa1", DPoP: dpop}
		if dpop {
			name, scheme = "DPoP", "DPoP"
		}
		t.Run(name, func(t *testing.T) { namedResource(t, app, scheme) })
	}
}

func namedResource(t *testing.T, app fakeokta.App, scheme string) {
	resource, last := startResource(t)
	okta := startCalledOkta(t, app)
	server := fakeokta.Server{ID: "default", Scopes: []string{"shop.read"}, Policies: []fakeokta.Policy{{Rules: []fakeokta.Rule{{}}}}}
	if err := okta.AddServer(server); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	configure(t, dir, strings.NewReplacer("OKTA", okta.issuer, "RESOURCE", resource).Replace(`
proxy_listen: {127.0.0.1:0: default}
keys: {default: {file: ring.pem, algorithm: ES256}}
clients:
  default: {issuer: OKTA/oauth2/default, client_id: 0oa1, scopes: [shop.read], resources: {shop: RESOURCE/base}}
`))
	p := &proxying{dir: dir, okta: okta}
	p.register(t, command(t, dir, "keys", "jwk"))
	p.serving = startServing(t, broker(t, dir, nil, "0"))
	for _, base := range []string{p.proxy(), "http://" + p.listener(t)} {
		base += "/~shop"
		req, _ := http.NewRequestWithContext(t.Context(), "GET", base+"/v1/orders?page=1&q=a%20b", nil)
		for field, value := range map[string]string{
			"Authorization": "Bearer theirs", "DPoP": "theirs", "Cookie": "a=theirs", "X-Forwarded_Proto": "theirs", "X-Trace": "ours",
		} {
			req.Header.Set(field, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || string(body) != "order" {
			t.Fatalf("status %d: %s", resp.StatusCode, body)
		}
		if got, want := resp.Header.Get("Link"), "<"+base+`/v1/orders?page=2>; rel="next", <https://elsewhere.example/base/v1>; rel="help"`; got != want {
			t.Errorf("Link: %s, want %s", got, want)
		}
		if resp.Header.Get("Set-Cookie") != "" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("the answer's header: %v", resp.Header)
		}
		got := last()
		if got.uri != "/base/v1/orders?page=1&q=a%20b" || "http://"+got.host != resource {
			t.Errorf("the resource saw %s at %s", got.uri, got.host)
		}
		words := strings.Fields(got.header.Get("Authorization"))
		if len(words) != 2 || words[0] != scheme || (got.header.Get("DPoP") != "") != app.DPoP || got.header.Get("X-Trace") != "ours" {
			t.Errorf("the resource saw %v", got.header)
		}
		for field, values := range got.header {
			if strings.Contains(strings.Join(values, " "), "theirs") {
				t.Errorf("the caller's %s came through", field)
			}
		}
	}
	if got := okta.Counters(); got.TokensIssued != 1 || got.ResourceRequests != 0 {
		t.Errorf("%d tokens, %d calls to the org", got.TokensIssued, got.ResourceRequests)
	}
}

// What goes wrong behind the broker is said as JSON with an error, unless an answer
// has begun: then the connection ends.
func TestProxyUpstreamFaults(t *testing.T) {
	tests := []struct {
		name   string
		fault  func(p *proxying)
		status int
		want   string
	}{
		{"the resource drops the connection", func(p *proxying) {
			p.okta.SetFaultAt(fakeokta.Users, fakeokta.Fault{Reset: true})
		}, 502, "server_error"},
		{"no token in time", func(p *proxying) {
			p.okta.SetFault(fakeokta.Fault{Hang: true})
		}, 504, "temporarily_unavailable"},
		{"no token", func(p *proxying) {
			p.okta.RemoveKey("0oa1", p.okta.AppKeys("0oa1")[0].Kid)
		}, 502, "server_error"},
		{"the org is limited", func(p *proxying) {
			p.okta.SetFault(fakeokta.Fault{Status: 429, Body: `{"error":"invalid_grant"}`})
		}, 503, "temporarily_unavailable"},
		{"the org is gone", func(p *proxying) { p.okta.server.Close() }, 503, "temporarily_unavailable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := startProxying(t, bearerApp(), ", prefetch: false")
			tt.fault(p)
			for _, url := range []string{p.proxy() + "/api/v1/users", "http://" + p.listener(t) + "/api/v1/users"} {
				resp, err := http.Get(url)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != tt.status || jsonError(string(body)) != tt.want || resp.Header.Get("Content-Type") != "application/json" {
					t.Errorf("%s: status %d, want %d: %s", url, resp.StatusCode, tt.status, body)
				}
				if retry := resp.Header.Get("Retry-After"); (retry != "") != (tt.status > 502) {
					t.Errorf("%s: status %d with Retry-After %q", url, resp.StatusCode, retry)
				}
			}
		})
	}

	t.Run("the resource is gone, and the token is good", func(t *testing.T) {
		p := startProxying(t, bearerApp(), "")
		p.wantUsers(t, 1)
		p.okta.server.Close()
		if status, body := get(t, p.proxy()+"/api/v1/users"); status != 503 || jsonError(body) != "temporarily_unavailable" {
			t.Errorf("status %d: %s", status, body)
		}
	})
	t.Run("the answer has begun", func(t *testing.T) {
		p := startProxying(t, bearerApp(), "")
		p.okta.SetFaultAt(fakeokta.Users, fakeokta.Fault{Truncate: true})
		resp, err := http.Get(p.proxy() + "/api/v1/users")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err == nil || strings.Contains(string(body), "server_error") {
			t.Errorf("an answer that is cut off passes for whole: %s", body)
		}
	})
	t.Run("the resource limits", func(t *testing.T) { // and says so itself
		p := startProxying(t, bearerApp(), "")
		p.okta.SetRateLimit(fakeokta.Users, fakeokta.RateLimit{Requests: 1})
		p.wantUsers(t, 1)
		resp, err := http.Get(p.proxy() + "/api/v1/users")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("X-Rate-Limit-Remaining") != "0" {
			t.Errorf("status %d: %v", resp.StatusCode, resp.Header)
		}
		if got := p.okta.Counters().RateLimited[fakeokta.Users]; got != 1 {
			t.Errorf("a limited call was sent %d times", got)
		}
	})
}
