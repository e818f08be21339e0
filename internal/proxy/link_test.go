package proxy_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What an answer says of the upstream's addresses leads back to the proxy. ORG is
// the upstream's origin, HOST what the caller calls the proxy, HERE the proxy.
func TestLinks(t *testing.T) {
	tests := []struct{ name, path, link, want string }{
		{
			"pagination", "/api/v1/users",
			`<ORG/api/v1/users?limit=2>; rel="self", <ORG/api/v1/users?after=00u%2Fx&limit=2>; rel="next"`,
			`<HERE/api/v1/users?limit=2>; rel="self", <HERE/api/v1/users?after=00u%2Fx&limit=2>; rel="next"`,
		},
		{"path", "/api", `</api/v1/users?after=x>; rel="next"`, `<HERE/api/v1/users?after=x>; rel="next"`},
		{"same scheme", "/api", `<//ORGHOST/api?x>;rel=next`, `<HERE/api?x>;rel=next`},
		{"scheme and host in capitals", "/api", `<HTTP://ORGHOST/api>`, `<HERE/api>`},
		{"root", "/api", `<ORG>, <ORG/>`, `<HERE>, <HERE/>`},
		{"relative", "/api/v1/users?limit=1", `<?after=x>; rel="next", <users?after=x>, <#part>, <>`, `<HERE/api/v1/users?after=x>; rel="next", <HERE/api/v1/users?after=x>, <HERE/api/v1/users?limit=1#part>, <HERE/api/v1/users?limit=1>`},
		{"relative, past the base", "/~api/users", `<../../../token>, <../other?x>, </oauth2/v1/token>`, `<ORG/token>, <ORG/other?x>, <ORG/oauth2/v1/token>`},
		{"relative, to another client", "/~api/users", `<../../other/api>`, `<ORG/other/api>`},
		{"the broker's own", "/~api/users", `<http://HEREHOST/token>, <//HEREHOST/base/x>, <http://me@HEREHOST/token>, <https://HEREHOST/token>, <https://me@HEREHOST/token>`, ``},
		{"the broker's own, by other names", "/api", `<http://localhost:5000/token>, <http://127.1/token>, <http://2130706433/>, <http://[::1]:5000/>, <http://evil.test/>, <//%6cocalhost/token>`, ``},
		{"the broker's own, for lenient clients", "/api", `</token#%>, </token?#%zz>, </%zz/../token>, <http:/token>, <http:token>, <http:///token>, <http:\\\\HEREHOST\\token>, <https:/token>, <HTTP:token>`, ``},
		{"another host", "/api", `<https://evil.test/api>; rel="next"`, `<https://evil.test/api>; rel="next"`},
		{"another host, as it is sent", "/api", `<HTTPS://evil.test:444/a%2Fb?c=%2F#d>, <https://me@evil.test>`, `<https://evil.test:444/a%2Fb?c=%2F#d>`},
		{"another port", "/api", `<http://127.0.0.1:1/api>; rel="next"`, ``},
		{"another scheme", "/api", `<https://ORGHOST/api>`, `<https://ORGHOST/api>`},
		{"a host that begins the same", "/api", `<http://127.0.0.1.evil.test:ORGPORT/api>`, ``},
		{"a user", "/api", `<http://me@ORGHOST/api>`, ``},
		{"what the proxy does not serve", "/api", `<ORG/oauth2/v1/token>, <ORG/api//x>`, `<ORG/oauth2/v1/token>, <ORG/api//x>`},
		{"in quotes", "/api", `<ORG/api>; title="\", ORG/api", <ORG/b>`, `<HERE/api>; title="\", ORG/api", <HERE/b>`},
		{"in quotes, what is a link to lenient clients", "/api", `<ORG/api>; title="x, </token>; rel=next", <ORG/b>`, `<HERE/b>`},
		{"quotes that are open", "/api", `<ORG/a>, <ORG/api>; title="`, `<HERE/a>`},
		{"quotes from a field before", "/api", `x", </token>; rel="next"`, ``},
		{"not a URL", "/api", `<ht tp://%zz>, <mailto:me@ORGHOST>`, `<mailto:me@ORGHOST>`},
		{"not a link", "/api", `rel="next"; <ORG/api`, ``},
		{"half a link behind one", "/api", `<ORG/api>; rel="next", <ORG/api`, `<HERE/api>; rel="next"`},
		{"not a link, behind one", "/api", `, ,<ORG/api>,, x <ORG/api>`, `<HERE/api>`},
		{"other ways to a host", "/api", `<ws://HEREHOST/token>, <wss://HEREHOST/token>, <view-source:http://HEREHOST/token>, <ftp://HEREHOST/>, <data:,x>, <WS:HEREHOST>, <okta://x>`, ``},
		{"fragment", "/api", `<ORG/api#a?b>`, `<HERE/api#a?b>`},
		{"resource", "/~api/users", `<ORG/base/users?after=x>; rel="next"`, `<HERE/~api/users?after=x>; rel="next"`},
		{"path of a resource", "/~api/users", `</base/users?after=x>; rel="next"`, `<HERE/~api/users?after=x>; rel="next"`},
		{"base of a resource", "/~api/users", `<ORG/base>, <ORG/base/>`, `<HERE/~api>, <HERE/~api/>`},
		{"below a resource, what looks like one", "/~api/users", `<ORG/base/~x/y>`, `<HERE/~api/~x/y>`},
		{"of the org, what would be a resource here", "/api", `<ORG/~api/x>, </~x>, <ORG/x/~y>`, `<ORG/~api/x>, <ORG/~x>, <HERE/x/~y>`},
		{"beside a resource", "/~api/users", `<ORG/other>, <ORG/basement>`, `<ORG/other>, <ORG/basement>`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			link := tt.link
			r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
				_, port, _ := strings.Cut(req.Host, ":")
				expanded := strings.NewReplacer("HEREHOST", req.Header.Get("X-Here"), "ORGHOST", req.Host, "ORGPORT", port, "ORG", "http://"+req.Host).Replace(link)
				w.Header().Add("Link", "<https://evil.test/>; rel=other")
				w.Header().Add("Link", expanded)
				w.Header().Set("X-Origin", "http://"+req.Host)
			})
			for _, here := range []string{r.url, r.own} {
				req := request(t, "GET", here+tt.path, nil)
				req.Header.Set("X-Here", req.URL.Host)
				got := do(t, req)
				org := got.Header.Get("X-Origin")
				host := strings.TrimPrefix(org, "http://")
				want := []string{"<https://evil.test/>; rel=other"}
				if tt.want != "" {
					want = append(want, strings.NewReplacer("ORGHOST", host, "ORG", org, "HERE", here).Replace(tt.want))
				}
				if diff := cmp.Diff(want, got.Header["Link"]); diff != "" {
					t.Errorf("at %s (-want +got)\n%s", here, diff)
				}
			}
		})
	}
}

// Redirects are passed on, and lead back to the proxy where it serves what they
// lead to.
func TestRedirects(t *testing.T) {
	var calls atomic.Int64
	var org atomic.Value
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
		calls.Add(1)
		org.Store("http://" + req.Host)
		w.Header().Set("Location", strings.Replace(req.URL.Query().Get("to"), "ORG", "http://"+req.Host, 1))
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	for to, want := range map[string]string{
		"ORG/api/v1/x":           r.url + "/api/v1/x",
		"/api/v1/x":              r.url + "/api/v1/x",
		"x":                      r.url + "/x",
		"https://evil.test/":     "https://evil.test/",
		"//evil.test/":           "",
		"http://localhost/token": "",
		"/oauth2/v1/authorize":   "ORG/oauth2/v1/authorize", // the broker has such a path, too
		"https://127.0.0.1/api/": "https://127.0.0.1/api/",
		"ws://localhost/token":   "",
		"view-source:http://x/":  "",
	} {
		got := do(t, request(t, "GET", r.url+"/api?to="+to, nil))
		want = strings.Replace(want, "ORG", org.Load().(string), 1)
		if got.StatusCode != http.StatusTemporaryRedirect || got.Header.Get("Location") != want {
			t.Errorf("a redirect to %s is %s to %s; want %s", to, got.Status, got.Header.Get("Location"), want)
		}
	}
	if calls.Load() != 10 {
		t.Errorf("%d calls: a redirect was followed", calls.Load())
	}
}

// The proxy's address is as the caller wrote it.
func TestLinksForTheHostThatWasAsked(t *testing.T) {
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</api>, <mailto:help@acme.test>")
	})
	for sent, want := range map[string]string{
		"GET /api HTTP/1.1\r\nHost: stand.internal:8080\r\n\r\n": "<http://stand.internal:8080/api>, <mailto:help@acme.test>",
		"GET /api HTTP/1.0\r\n\r\n":                              "</api>, <mailto:help@acme.test>",
	} {
		if got := rawDo(t, r.own, sent); got.Header.Get("Link") != want {
			t.Errorf("%q is answered with the link %s; want %s", sent, got.Header.Get("Link"), want)
		}
	}
	server := httptest.NewTLSServer(r.proxy.For("default"))
	t.Cleanup(server.Close)
	c := server.Client()
	c.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS12
	resp, err := c.Do(request(t, "GET", server.URL+"/api", nil))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got, want := resp.Header.Get("Link"), "<"+server.URL+"/api>, <mailto:help@acme.test>"; got != want {
		t.Errorf("over TLS the link is %s; want %s", got, want)
	}
}

// Whatever host a URL of plain HTTP has, a client of a Unix socket goes to the socket.
func TestLinksOnASocket(t *testing.T) {
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Link", "<http://"+req.Host+"/oauth2/v1/token>, </a/../b>, <http://evil.test/token>, <https://evil.test/>, </api>")
	})
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: r.proxy.For("default"), ReadHeaderTimeout: time.Minute}}
	server.Start()
	t.Cleanup(server.Close)
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	t.Cleanup(client.CloseIdleConnections)
	resp, err := client.Do(request(t, "GET", "http://localhost/api", nil))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got, want := resp.Header.Get("Link"), "<http://localhost/b>, <https://evil.test/>, <http://localhost/api>"; got != want {
		t.Errorf("the links are %s; want %s", got, want)
	}
}

// A trailer comes when the header, with its URLs, has gone.
func TestLinksInATrailer(t *testing.T) {
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "x")
		_ = http.NewResponseController(w).Flush()
		for _, name := range []string{"Link", "Location", "Content-Location", "Checksum"} {
			w.Header().Set(http.TrailerPrefix+name, "</token>")
		}
	})
	resp, err := http.DefaultClient.Do(request(t, "GET", r.url+"/api", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(http.Header{"Checksum": {"</token>"}}, resp.Trailer); diff != "" {
		t.Errorf("trailer (-want +got)\n%s", diff)
	}
}
