package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/oauth"
)

func TestCall(t *testing.T) {
	tests := []struct {
		name      string
		tokenType string
		method    string
		path      string
		own       bool // at the listener of one client
		body      string
		line      string // at the upstream
	}{
		{"read", "", "GET", "/api/v1/users?limit=2&after=a%2Fb;c", false, "", "GET /api/v1/users?limit=2&after=a%2Fb;c"},
		{"read with DPoP", "DPoP", "GET", "/api/v1/users/a%40b.com?limit=2", false, "", "GET /api/v1/users/a%40b.com?limit=2"},
		{"at a listener of its own", "", "GET", "/api/v1/users?limit=2", true, "", "GET /api/v1/users?limit=2"},
		{"write", "", "POST", "/api/v1/users", false, `{"profile":{}}`, "POST /api/v1/users"},
		{"any other method", "", "PURGE", "/api", false, "", "PURGE /api"},
		{"empty query", "", "GET", "/api?", false, "", "GET /api?"},
		{"query that is no form", "", "GET", "/api?q=%zz&a;b&filter=a+b", false, "", "GET /api?q=%zz&a;b&filter=a+b"},
		{"nothing behind the client", "", "GET", "", false, "", "GET /"},
		{"root", "", "GET", "/", false, "", "GET /"},
		{"resource", "DPoP", "GET", "/~api/x?y", false, "", "GET /base/x?y"},
		{"resource at a listener of its own", "", "GET", "/~api/x", true, "", "GET /base/x"},
		{"base of a resource", "", "GET", "/~api", false, "", "GET /base"},
		{"folder of a resource", "", "GET", "/~api/", false, "", "GET /base/"},
		{"/oauth2/ of a resource elsewhere", "", "GET", "/~api/oauth2/x", false, "", "GET /base/oauth2/x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stand := &standIn{tokenType: tt.tokenType}
			r := recording(t, stand)
			address := r.url + tt.path
			if tt.own {
				address = r.own + tt.path
			}
			got := do(t, request(t, tt.method, address, strings.NewReader(tt.body)))
			if got.StatusCode != http.StatusOK {
				t.Fatal(got.Status, got.body)
			}
			seen := r.take()
			if len(seen) != 1 || seen[0].line != tt.line || seen[0].body != tt.body {
				t.Fatalf("the upstream saw %v; want %s with the body %q", seen, tt.line, tt.body)
			}
			target, _, _ := strings.Cut(strings.TrimPrefix(tt.line, tt.method+" "), "?")
			called := "http://" + seen[0].host + target
			want := map[string][]string{"Authorization": {"Bearer the-token-0"}}
			if tt.tokenType == "DPoP" {
				want = map[string][]string{
					"Authorization": {"DPoP the-token-0"},
					"Dpop":          {"proof-1 " + tt.method + " " + called},
				}
			}
			for _, name := range []string{"Authorization", "Dpop"} {
				if diff := cmp.Diff(want[name], seen[0].header[name]); diff != "" {
					t.Errorf("%s (-want +got)\n%s", name, diff)
				}
			}
			wantRequests := []broker.CallRequest{{Client: "default", Method: tt.method, URL: called}}
			if diff := cmp.Diff(wantRequests, stand.requests); diff != "" {
				t.Errorf("asked of the broker (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff([]string{"tester"}, stand.callers); diff != "" {
				t.Errorf("callers (-want +got)\n%s", diff)
			}
			if told := stand.told(); told != nil {
				t.Errorf("the broker was told of %v", told)
			}
		})
	}
}

// What reaches the upstream is the caller's header without what the caller has no
// say in, and nothing else.
func TestRequestHeader(t *testing.T) {
	r := recording(t, &standIn{tokenType: "DPoP"})
	req := request(t, "GET", r.url+"/api", nil,
		"Accept", "application/json", "Accept-Language", "de", "X-Okta-User-Agent-Extended", "x", "X_Custom", "kept", "X-Client-Version", "1", "If-Match", `"1"`,
		"Range", "bytes=0-1", "Prefer", "respond-async", "Idempotency-Key", "1", "Te", "trailers")
	kept := req.Header.Clone()
	for _, name := range []string{
		"Authorization", "authorization", "AUTHORIZATION", "DPoP", "Dpop", "dpop", "Cookie", "cookie", "Cookie2",
		"Proxy-Authorization", "Proxy-Connection", "Proxy-Authenticate", "Proxy_Authorization", "proxy-foo", "Keep-Alive", "Keep_Alive",
		"Forwarded", "forwarded", "Via", "VIA", "X-Forwarded-For", "X_Forwarded_For", "x-forwarded_for", "X-Forwarded-Host", "X_Forwarded_Host",
		"X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded", "x_forwarded_anything-at-all_of_any_length",
		"Client-Cert", "Client_Cert", "Client-Cert-Chain", "X-Real-IP", "X_Real_Ip", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP", "X-Cluster-Client-IP", "Client_Ip",
		"X-Original-URL", "X_Original_URL", "X-Rewrite-URL", "X-Original-Host", "X-Host", "X-HTTP-Host-Override",
		"X-HTTP-Method-Override", "X_HTTP_Method_Override", "X-HTTP-Method", "X-Method-Override",
		"Fastly-Client-IP", "X-Originating-IP", "X-Remote-IP", "X-Remote-Addr", "X-Original-URI",
		"X-Original-Forwarded-For", "X-Envoy-External-Address", "X_Envoy_Original_Path",
		"Forwarded-For", "Forwarded_For_Ip", "X-Forward-For", "X-Forwarder-For", "WL-Proxy-Client-IP", "WL_Proxy_SSL", "X-ProxyUser-Ip", "X-Scheme", "X-Url-Scheme",
		"Front-End-Https", "X-SSL-Client-Cert", "Ssl-Client-Cert", "X_SSL_Client_DN", "X-Client-Cert", "X-ARR-ClientCert", "Remote-User", "Remote_User", "X-Remote-User",
		"Transfer_Encoding", "Content_Length", "X-Named", "X-Also-Named", "Connection-Named",
	} {
		req.Header[name] = []string{"evil"}
	}
	req.Header["Connection"] = []string{"X-Named, close", "x-also-named,connection-named, Authorization, DPoP, Host"}
	// Not as the client would send it: it checks.
	var raw strings.Builder
	fmt.Fprintf(&raw, "GET %s HTTP/1.1\r\nHost: %s\r\n", req.URL.Path, "localhost")
	for name, values := range req.Header {
		for _, value := range values {
			fmt.Fprintf(&raw, "%s: %s\r\n", name, value)
		}
	}
	if got := rawDo(t, "http://"+req.URL.Host, raw.String()+"\r\n"); got.StatusCode != http.StatusOK {
		t.Fatal(got.Status, got.body)
	}
	seen := r.take()[0]
	kept["X_custom"] = kept["X_Custom"] // as the servers read it
	delete(kept, "X_Custom")
	kept["Authorization"] = []string{"DPoP the-token-0"}
	kept["Dpop"] = []string{"proof-1 GET http://" + seen.host + "/api"}
	if via := seen.header["Via"]; len(via) != 1 || !strings.HasPrefix(via[0], "1.1 okta-token-broker-") {
		t.Errorf("via %q", via)
	}
	delete(seen.header, "Via")
	if diff := cmp.Diff(kept, seen.header); diff != "" {
		t.Errorf("header (-want +got)\n%s", diff)
	}
	if seen.host == "localhost" {
		t.Error("the caller's Host reached the upstream")
	}
}

func TestUserAgent(t *testing.T) {
	r := recording(t, &standIn{})
	do(t, request(t, "GET", r.url+"/api", nil, "User-Agent", "okta-sdk-golang/6.1.0"))
	do(t, request(t, "GET", r.url+"/api", nil, "User-Agent", "")) // sends none
	seen := r.take()
	if diff := cmp.Diff([]string{"okta-sdk-golang/6.1.0"}, seen[0].header["User-Agent"]); diff != "" {
		t.Error(diff)
	}
	if got, there := seen[1].header["User-Agent"]; there {
		t.Errorf("the proxy sent the User-Agent %q by itself", got)
	}
	if got, there := seen[1].header["Accept-Encoding"]; there {
		t.Errorf("the proxy sent the Accept-Encoding %q by itself", got)
	}
}

func TestAnswerHeader(t *testing.T) {
	stand := &standIn{}
	r := newRig(t, stand, func(w http.ResponseWriter, _ *http.Request) {
		for name, value := range map[string]string{
			"Set-Cookie": "sid=1", "Set-Cookie2": "sid=2", "DPoP-Nonce": "n1", "Access-Control-Allow-Origin": "*", "Alt-Svc": `h3=":443"`,
			"Strict-Transport-Security": "max-age=1", "Clear-Site-Data": `"*"`, "Keep-Alive": "timeout=5", "Proxy-Authenticate": "Basic",
			"Refresh": "0; url=/token", "Content-Location": "/api/1", "Location": "http://localhost/token",
			"X-Content-Type-Options": "other", "X-Rate-Limit-Limit": "600", "X-Rate-Limit-Remaining": "599", "X-Rate-Limit-Reset": "1779010200",
			"X-Okta-Request-Id": "req1", "Etag": `"1"`, "Content-Type": "application/json",
		} {
			w.Header().Set(name, value)
		}
		w.Header().Add("Set-Cookie", "other=1")
		w.Header()["Date"] = nil
		_, _ = io.WriteString(w, "{}")
	})
	got := do(t, request(t, "GET", r.url+"/api", nil))
	got.Header.Del("Date") // the proxy's own
	want := http.Header{
		"X-Content-Type-Options": {"nosniff"}, "X-Rate-Limit-Limit": {"600"}, "X-Rate-Limit-Remaining": {"599"},
		"X-Rate-Limit-Reset": {"1779010200"}, "X-Okta-Request-Id": {"req1"}, "Etag": {`"1"`}, "Content-Type": {"application/json"},
		"Content-Length": {"2"}, "Content-Location": {r.url + "/api/1"},
	}
	if diff := cmp.Diff(want, got.Header); diff != "" || got.body != "{}" {
		t.Errorf("answered %q; header (-want +got)\n%s", got.body, diff)
	}
	if diff := cmp.Diff([]broker.Answer{{Status: 200, Nonce: "n1"}}, stand.told()); diff != "" {
		t.Errorf("told the broker (-want +got)\n%s", diff)
	}
}

// Interim answers would come past all that is done to an answer.
func TestInterimAnswersAreNotPassedOn(t *testing.T) {
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Set-Cookie", "sid=1")
		w.Header().Set("Link", "</x>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Set-Cookie")
		w.Header().Del("Link")
		_, _ = io.WriteString(w, "{}")
	})
	got := rawDo(t, r.own, "GET /api HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if got.StatusCode != http.StatusOK || got.Header["Set-Cookie"] != nil || got.body != "{}" {
		t.Errorf("answered %s %v %q", got.Status, got.Header, got.body)
	}
}

func TestRefusals(t *testing.T) {
	denied := &standIn{refusal: oauth.Fail(oauth.AccessDenied, "not you")}
	tests := []struct {
		name   string
		broker *standIn
		sent   string // request line and header
		status int
		code   string
	}{
		{"websocket", &standIn{}, "GET /proxy/default/api HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket", 400, "invalid_request"},
		{"websocket among offers", &standIn{}, "GET /proxy/default/api HTTP/1.1\nConnection: Upgrade\nUpgrade: h2c\nUpgrade: TLS/1.2, WebSocket/13", 400, "invalid_request"},
		{"protocol without an upgrade", &standIn{}, "GET /proxy/default/api HTTP/1.1\nUpgrade: connect-udp", 400, "invalid_request"},
		{"CONNECT to a path", &standIn{}, "CONNECT /proxy/default/api HTTP/1.1", 400, "invalid_request"},
		{"CONNECT", &standIn{}, "CONNECT evil.test:443 HTTP/1.1", 400, "invalid_request"},
		{"absolute target", &standIn{}, "GET http://localhost/proxy/default/api HTTP/1.1", 400, "invalid_request"},
		{"asterisk", &standIn{}, "OPTIONS * HTTP/1.1", 400, "invalid_request"},
		{"no client", &standIn{}, "GET /proxy/ HTTP/1.1", 400, "invalid_request"},
		{"no client, but a path", &standIn{}, "GET /proxy//api HTTP/1.1", 400, "invalid_request"},
		{"unknown client", &standIn{}, "GET /proxy/other/api HTTP/1.1", 400, "invalid_client"},
		{"client of dots", &standIn{}, "GET /proxy/%2e%2e/api HTTP/1.1", 400, "invalid_request"},
		{"unknown resource", &standIn{}, "GET /proxy/default/~other/api HTTP/1.1", 400, "invalid_client"},
		{"resource without a name", &standIn{}, "GET /proxy/default/~/api HTTP/1.1", 400, "invalid_request"},
		{"another path", &standIn{}, "GET /token HTTP/1.1", 400, "invalid_request"},
		{"the broker says no", denied, "GET /proxy/default/api HTTP/1.1", 403, "access_denied"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := recording(t, tt.broker)
			got := rawDo(t, strings.TrimSuffix(r.url, "/proxy/default"), strings.ReplaceAll(tt.sent, "\n", "\r\n")+"\r\nHost: localhost\r\n\r\n")
			got.wantError(t, tt.status, tt.code)
			if seen := r.take(); seen != nil {
				t.Errorf("the upstream saw %v", seen)
			}
		})
	}
}

// An offer to go on in another version of HTTP, or in TLS, is not taken up, and no
// upstream hears of it. HTTP/2 that began so would go past the broker.
func TestOffersToUpgrade(t *testing.T) {
	for _, offer := range []string{
		"Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAEAAEAAAAIAAAAB", // Java's HttpClient
		"Upgrade: TLS/1.2\nConnection: Upgrade",                                               // Apache's
		"Connection: keep-alive, uPgrade",
		"Upgrade: h2c",
		"HTTP2-Settings: x",
		"Connection: Upgrade\nUpgrade: HTTP/2.0, h2c,",
	} {
		r := recording(t, &standIn{})
		for _, method := range []string{"GET", "POST"} {
			sent := method + " /api HTTP/1.1\nHost: localhost\nContent-Length: 2\n" + offer + "\n\n{}"
			got := rawDo(t, r.own, strings.ReplaceAll(sent, "\n", "\r\n"))
			seen := r.take()
			if got.StatusCode != http.StatusOK || len(seen) != 1 || seen[0].body != "{}" {
				t.Fatalf("%s with %q: answered %s; the upstream saw %v", method, offer, got.Status, seen)
			}
			for _, name := range []string{"Connection", "Upgrade", "Http2-Settings"} {
				if seen[0].header[name] != nil || got.Header[name] != nil {
					t.Errorf("%s with %q: the upstream saw %v, and the caller %v", method, offer, seen[0].header, got.Header)
				}
			}
		}
	}
}

// The name of a client is what the path says, decoded.
func TestClientOfTheConfiguration(t *testing.T) {
	stand := &standIn{}
	r := recording(t, stand)
	address := strings.Replace(r.url, "default", "%64efault", 1)
	if got := do(t, request(t, "GET", address+"/api", nil)); got.StatusCode != http.StatusOK {
		t.Fatal(got.Status, got.body)
	}
	if got := stand.requests[0].Client; got != "default" {
		t.Errorf("asked for the client %q", got)
	}
}

// A call that comes back is answered, and does not go round.
func TestLoop(t *testing.T) {
	stand := &standIn{}
	var front http.Handler
	r := newRig(t, stand, func(w http.ResponseWriter, req *http.Request) { front.ServeHTTP(w, req) })
	front = r.proxy.For("default")
	got := do(t, request(t, "GET", r.own+"/api", nil))
	got.wantError(t, 400, "invalid_request")
	if asked := stand.asked(); asked != 1 || !strings.Contains(got.body, "come back") {
		t.Errorf("%d calls were made of one: %s", asked, got.body)
	}
}

// So is one that comes back by way of another broker, and of a proxy that puts all of
// Via into one field.
func TestLoopOfTwo(t *testing.T) {
	var a, b *rig
	merging := func(to **rig) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			req.Header["Via"] = []string{"1.1 squid, " + strings.Join(req.Header["Via"], " , ")}
			(*to).proxy.For("default").ServeHTTP(w, req)
		}
	}
	a, b = newRig(t, &standIn{}, merging(&b)), newRig(t, &standIn{}, merging(&a))
	got := do(t, request(t, "GET", a.own+"/api", nil))
	got.wantError(t, 400, "invalid_request")
	if a, b := a.broker.asked(), b.broker.asked(); a != 1 || b != 1 || !strings.Contains(got.body, "come back") {
		t.Errorf("%d and %d calls were made of one: %s", a, b, got.body)
	}
}

// Of those that a call came through an upstream hears of brokers alone.
func TestVia(t *testing.T) {
	r := recording(t, &standIn{})
	do(t, request(t, "GET", r.own+"/api", nil, "Via", "1.1 squid", "Via", "1.0 okta-token-broker-a", "Via", "1.1 b (x, y),1.1 okta-token-broker-c (z), 2 d"))
	via := r.take()[0].header["Via"]
	want := []string{"1.0 okta-token-broker-a", "1.1 okta-token-broker-c (z)"}
	if diff := cmp.Diff(want, via[:len(via)-1]); diff != "" || !strings.HasPrefix(via[len(via)-1], "1.1 okta-token-broker-") {
		t.Errorf("%q (-want +got)\n%s", via, diff)
	}
}
