package httpapi_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/okta"
	"okta-token-broker/internal/proxy"
)

// BenchmarkProxy sets the whole way of a call, as the broker serves it with its audit
// record in a file, against a bare ReverseProxy that goes to the same upstream over a
// Transport of its own with the same settings, and adds the header fields that the
// upstream wants. With DPoP the bare one makes one ES256 signature for each call, over
// as many bytes as a proof has: that is what no proxy can do without.
func BenchmarkProxy(b *testing.B) {
	for _, tt := range []struct {
		name, method, body string
		kind               string
		bytes              int // of the answer
	}{
		{"Bearer/GET-1KiB", "GET", "", oauth.Bearer, 1 << 10},
		{"Bearer/POST-1KiB", "POST", strings.Repeat("y", 1<<10), oauth.Bearer, 1 << 10},
		{"Bearer/GET-16KiB", "GET", "", oauth.Bearer, 16 << 10},
		{"Bearer/GET-1MiB", "GET", "", oauth.Bearer, 1 << 20},
		{"DPoP/GET-1KiB", "GET", "", oauth.DPoP, 1 << 10},
	} {
		b.Run(tt.name, func(b *testing.B) {
			answer := bytes.Repeat([]byte("x"), tt.bytes)
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.Header.Get("Authorization"), tt.kind+" ") || (r.Header.Get("DPoP") != "") != (tt.kind == oauth.DPoP) {
					b.Error("not the credentials")
				}
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Link", "<http://"+r.Host+"/api/v1/users?after=00u1&limit=2>; rel=\"next\"")
				_, _ = w.Write(answer)
			}))
			b.Cleanup(upstream.Close)
			acme := newApp(b, "default", upstream.URL, clientID, scopes)
			acme.upstream = newTransport(b)
			if tt.kind == oauth.DPoP {
				acme.bind(b, okta.DPoPRequired)
			}
			target := startTarget(b, "ES256", acme)
			bare := target.bare(b, target.reverse(b, upstream.URL, tt.kind))
			compare(b,
				client("proxy", target.address, newRequest(tt.method, "/proxy/default/api/v1/users?limit=2", target.address, tt.body)),
				client("bare", bare, newRequest(tt.method, "/api/v1/users?limit=2", bare, tt.body)))
		})
	}
}

// newTransport reaches an upstream.
func newTransport(tb testing.TB) *http.Transport {
	transport := proxy.NewTransport(nil)
	transport.Proxy = nil
	tb.Cleanup(transport.CloseIdleConnections)
	return transport
}

// reverse is a bare ReverseProxy to the upstream, which signs as much as a proof has.
func (t *target) reverse(tb testing.TB, upstream, kind string) http.HandlerFunc {
	to, err := url.Parse(upstream)
	if err != nil {
		tb.Fatal(err)
	}
	authorization := kind + " " + strings.Repeat("t", tokenSize)
	text := bytes.Repeat([]byte("p"), 400)
	reverse := &httputil.ReverseProxy{
		Transport: newTransport(tb),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Header["Authorization"] = []string{authorization}
			if kind != oauth.DPoP {
				return
			}
			digest := sha256.Sum256(text)
			signature, err := t.private.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil {
				tb.Error(err)
			}
			r.Out.Header["Dpop"] = []string{string(text) + base64.RawURLEncoding.EncodeToString(signature)}
		},
	}
	return reverse.ServeHTTP
}
