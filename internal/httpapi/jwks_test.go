package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/httpapi"
	"okta-token-broker/internal/keys"
)

// kids are those of a JWK Set, in its order. send has checked its schema.
func (a answer) kids(t *testing.T) (kids []string) {
	t.Helper()
	if a.status != 200 || a.header.Get("Content-Type") != "application/jwk-set+json" {
		t.Fatalf("status %d, %s: %s", a.status, a.header.Get("Content-Type"), a.body)
	}
	var set struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal([]byte(a.body), &set); err != nil {
		t.Fatal(err)
	}
	for _, key := range set.Keys {
		kids = append(kids, key.Kid)
	}
	return kids
}

func rotate(t *testing.T, ring *keys.Ring) string {
	t.Helper()
	key, err := ring.Rotate(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return key.ID()
}

// What is published follows the ring, and says so by its entity tag.
func TestJWKS(t *testing.T) {
	r := start(t, setup{maxAge: 90*time.Second + 999*time.Millisecond})
	empty := r.send(t, "GET", ringDefault, "")
	if empty.body != `{"keys":[]}` {
		t.Errorf("without a key: %s", empty.body)
	}
	first := activeKey(t, r.ring).ID()
	one := r.send(t, "GET", ringDefault, "")
	if diff := cmp.Diff([]string{first}, one.kids(t)); diff != "" {
		t.Error(diff)
	}
	second := rotate(t, r.ring)
	two := r.send(t, "GET", ringDefault, "")
	if diff := cmp.Diff([]string{second, first}, two.kids(t)); diff != "" {
		t.Error(diff)
	}
	if tags := []string{empty.header.Get("ETag"), one.header.Get("ETag"), two.header.Get("ETag")}; tags[0] == tags[1] || tags[1] == tags[2] || tags[0] == tags[2] {
		t.Errorf("other keys have the same entity tag: %q", tags)
	}
	if got := r.send(t, "GET", ringDefault, "", "If-None-Match: "+one.header.Get("ETag")); got.status != 200 || got.body != two.body {
		t.Errorf("with the tag of before: status %d: %s", got.status, got.body)
	}

	byName := r.send(t, "GET", ringByName, "")
	if byName.body != two.body || byName.header.Get("ETag") != two.header.Get("ETag") {
		t.Errorf("by its name: %v %s", byName.header, byName.body)
	}
	head := r.send(t, "HEAD", ringDefault, "")
	for _, name := range []string{"Content-Type", "Content-Length", "ETag", "Cache-Control", "X-Content-Type-Options"} {
		if head.status != 200 || head.body != "" || head.header.Get(name) == "" || head.header.Get(name) != two.header.Get(name) {
			t.Errorf("HEAD: %d, %s %q; GET has %q", head.status, name, head.header.Get(name), two.header.Get(name))
		}
	}

	if got := two.header.Get("Cache-Control"); got != "public, max-age=90" {
		t.Errorf("Cache-Control: %s", got)
	}
	r.api.SetJWKSMaxAge(0)
	if got := r.send(t, "GET", ringDefault, "").header.Get("Cache-Control"); got != "public, max-age=0" {
		t.Errorf("Cache-Control after a reload: %s", got)
	}
}

func TestIfNoneMatch(t *testing.T) {
	r := start(t, setup{})
	rotate(t, r.ring)
	etag := r.send(t, "GET", ringDefault, "").header.Get("ETag")
	tests := []struct {
		name   string
		fields []string
		status int
	}{
		{"none", nil, 200},
		{"the same", []string{etag}, 304},
		{"weak", []string{"W/" + etag}, 304},
		{"any", []string{"*"}, 304},
		{"any, with blanks", []string{" * "}, 304},
		{"a list", []string{`"a", W/"b" ,` + etag + `,"c"`}, 304},
		{"a list of others", []string{`"a", W/"b"`}, 200},
		{"two fields", []string{`"a"`, etag}, 304},
		{"another", []string{`"a"`}, 200},
		{"without quotes", []string{strings.Trim(etag, `"`)}, 200},
		{"cut off", []string{etag[:len(etag)-1]}, 200},
		{"a star in a tag", []string{`"a,*,b"`}, 200},
		{"a star in quotes", []string{`"*"`}, 200},
		{"empty", []string{""}, 200},
		{"commas", []string{",,,"}, 200},
		{"long", []string{strings.Repeat(`"x",`, 3<<10) + etag}, 304},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var headers []string
			for _, field := range tt.fields {
				headers = append(headers, "If-None-Match: "+field)
			}
			for _, request := range append(looksAt(ringDefault, headers...), looksAt(ringByName, headers...)...) {
				got := r.send(t, request.method, request.path, "", request.headers...)
				if got.status != tt.status || got.header.Get("ETag") != etag || (got.body != "") != (tt.status == 200 && request.method == "GET") {
					t.Errorf("%s: status %d, want %d; %v %q", request.operation(), got.status, tt.status, got.header, got.body)
				}
			}
		})
	}
}

// startJWKS serves the public keys of a broker alone, on a socket of their own.
func startJWKS(t *testing.T, r *running) *running {
	t.Helper()
	return &running{url: "http://" + listen(t, "", func(ctx context.Context, listener net.Listener) error {
		return httpapi.ServeJWKS(ctx, listener, r.api)
	})}
}

// The listener is open to everybody, and has nothing else to give: not the routes
// of the API, however they are spelled, and no more of its own with other methods.
func TestJWKSListener(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	public := startJWKS(t, r)
	keys := r.send(t, "GET", ringDefault, "").body
	for _, header := range []string{"Host: keys.acme.com", "Host: 203.0.113.7:8087", "Origin: https://evil.test", "X-Forwarded-For: 203.0.113.8", "Sec-Fetch-Site: cross-site"} {
		for _, path := range []string{ringDefault, ringByName, ringDefault + "?v=1"} {
			if got := public.do(t, public.request(t, "GET", path, "", header)); got.status != 200 || got.body != keys {
				t.Errorf("GET %s with %q: %d %s", path, header, got.status, got.body)
			}
		}
	}
	if got := public.do(t, public.request(t, "GET", "/keys/nowhere/jwks.json", "")); got.status != 404 || got.json(t)["error"] != "not_found" {
		t.Errorf("an unknown ring: %d %s", got.status, got.body)
	}

	elsewhere := 0
	operations(t, func(method, path string, _ *openapi3.Operation) {
		for _, path := range []string{path, "/" + path, path + "/", "/.well-known/jwks.json/.." + path, "/keys" + path, "/keys/default/jwks.json" + path} {
			if path == ringDefault || path == "/keys/{ring}/jwks.json" {
				continue
			}
			elsewhere++
			if got := public.do(t, public.request(t, method, path, "")); got.status != 404 {
				t.Errorf("%s %s: status %d: %s", method, path, got.status, got.body)
			}
		}
	})
	if got := public.do(t, public.request(t, "GET", "/metrics", "")); got.status != 404 || elsewhere < 50 {
		t.Errorf("/metrics: %d %s; %d others", got.status, got.body, elsewhere)
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
		for _, path := range []string{ringDefault, ringByName} {
			got := public.do(t, public.request(t, method, path, "x"))
			if got.status != 405 || got.header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: status %d, Allow %q", method, path, got.status, got.header.Get("Allow"))
			}
		}
	}
	if strings.Contains(r.logs.String(), ringDefault) || strings.Contains(r.logs.String(), "jwks") {
		t.Errorf("requests are logged: %s", r.logs)
	}
	if n := r.okta.Counters().TokenRequests; n != 0 {
		t.Errorf("%d token requests", n)
	}
}

// What is on a public listener ends: what is asked, what is sent along, and what
// is not said.
func TestJWKSListenerIsBounded(t *testing.T) {
	t.Parallel() // it takes five seconds of real time
	const ask = "GET " + ringDefault + " HTTP/1.1\r\nHost: keys.acme.com\r\n"
	public := startJWKS(t, start(t, setup{}))
	// What follows on the connection is not answered.
	for name, tt := range map[string]struct{ request, status string }{
		"headers":              {ask + "X: " + strings.Repeat("x", 17<<10) + "\r\n\r\n", "431"},
		"a body":               {ask + "Content-Length: 4\r\n\r\nbody", "200"},
		"a body of any length": {ask + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "200"},
		"HTTP/1.0":             {strings.Replace(ask, "1.1", "1.0", 1) + "Connection: keep-alive\r\n\r\n", "200"},
		"another path":         {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", "404"},
		"no Host":              {"GET " + ringDefault + " HTTP/1.1\r\n\r\n", "400"},
	} {
		if got := raw(t, public.url, tt.request+ask+"\r\n"); !strings.HasPrefix(got, "HTTP/1.") || got[9:12] != tt.status || strings.Count(got, "HTTP/1.") != 1 {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := raw(t, public.url, ask+"\r\n"+ask+"Connection: close\r\n\r\n"); strings.Count(got, "HTTP/1.1 200") != 2 {
		t.Errorf("two requests: %q", got)
	}
	var slow sync.WaitGroup
	for name, request := range map[string]string{"nothing": "", "half a header": ask, "one request, and no more": ask + "\r\n"} {
		slow.Go(func() {
			conn, err := net.Dial("tcp", strings.TrimPrefix(public.url, "http://"))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, request)
			_ = conn.SetReadDeadline(time.Now().Add(8 * time.Second))
			if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: the connection stays open", name)
			}
		})
	}
	slow.Wait()
}

// It goes on while the API drains, and ends when it is told to.
func TestJWKSListenerOutlivesDraining(t *testing.T) {
	r := start(t, setup{})
	listener, err := httpapi.ListenAnywhere(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- httpapi.ServeJWKS(ctx, listener, r.api) }()
	public := &running{url: "http://" + listener.Addr().String()}
	r.api.Drain()
	if got := public.do(t, public.request(t, "GET", ringDefault, "")); got.status != 200 {
		t.Errorf("while draining: %d %s", got.status, got.body)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if resp, err := http.Get(public.url + ringDefault); err == nil {
		resp.Body.Close()
		t.Error("it goes on after its end")
	}
}
