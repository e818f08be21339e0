package okta

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

// These tests go over sockets of this machine, through the Server's own
// transport.

// realWorld is a client of a fake Okta behind a real server. start starts it;
// conns counts the connections that were made to it.
func realWorld(t *testing.T, start func(*httptest.Server), changes ...func(*ServerConfig, *ClientConfig)) (w *world, server *httptest.Server, conns *atomic.Int64) {
	t.Helper()
	var org *fakeokta.Okta
	conns = &atomic.Int64{}
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want := map[bool]int{false: 1, true: 2}[server.EnableHTTP2]; r.ProtoMajor != want {
			t.Errorf("asked over %s, want HTTP/%d", r.Proto, want)
		}
		org.ServeHTTP(w, r)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	start(server)
	t.Cleanup(server.Close)
	org = newOkta(t, server.URL)
	w = newClient(t, nil, append(changes, on(server.URL))...)
	t.Cleanup(func() { closeIdle(w) })
	w.okta = org
	w.register(t)
	return w, server, conns
}

func closeIdle(w *world) {
	if transport, ok := w.client.cfg.Server.transport.(*http.Transport); ok {
		transport.CloseIdleConnections()
	}
}

// serve is a client of a handler behind a real server.
func serve(t *testing.T, handler http.HandlerFunc) *world {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	w := newClient(t, nil, on(server.URL))
	t.Cleanup(func() { closeIdle(w) })
	return w
}

func TestConnectionReuseSendsNoAssertionTwice(t *testing.T) {
	wants := func(t *testing.T, w *world, exchanges int) {
		t.Helper()
		if seen := w.okta.Counters(); seen.TokenRequests != exchanges || seen.DistinctJTI != exchanges || seen.ReusedJTI != 0 {
			t.Errorf("%d requests, %d jti and %d again; want %d, as many, and 0", seen.TokenRequests, seen.DistinctJTI, seen.ReusedJTI, exchanges)
		}
	}
	starts := map[string]func(*httptest.Server){
		"HTTP/1.1": (*httptest.Server).Start,
		"HTTP/2": func(s *httptest.Server) {
			s.EnableHTTP2 = true
			s.StartTLS()
		},
	}
	for protocol, start := range starts {
		t.Run(protocol, func(t *testing.T) {
			trusted := func(t *testing.T) (*world, *httptest.Server, *atomic.Int64) {
				t.Helper()
				var server *httptest.Server
				begin := func(s *httptest.Server) { start(s); server = s }
				return realWorld(t, begin, func(s *ServerConfig, _ *ClientConfig) {
					if server.Certificate() != nil {
						s.RootCAs = poolOf(server.Certificate())
					}
				})
			}
			t.Run("kept open", func(t *testing.T) {
				w, _, conns := trusted(t)
				for range 3 {
					w.works(t)
				}
				wants(t, w, 3)
				if n := conns.Load(); n != 1 {
					t.Errorf("%d connections for 3 exchanges, want 1", n)
				}
			})
			t.Run("closed while idle", func(t *testing.T) {
				w, server, conns := trusted(t)
				w.works(t)
				server.CloseClientConnections()
				w.works(t)
				wants(t, w, 2)
				if n := conns.Load(); n != 2 {
					t.Errorf("%d connections, want 2", n)
				}
			})
			t.Run("closed once the request is there", func(t *testing.T) {
				w, _, _ := trusted(t)
				w.works(t)
				w.okta.SetFault(fakeokta.Fault{Count: 1, Reset: true})
				w.works(t)
				wants(t, w, 3)
			})
			t.Run("closed with half of the answer", func(t *testing.T) {
				w, _, _ := trusted(t)
				w.works(t)
				w.okta.SetFault(fakeokta.Fault{Count: 1, Status: 200, Body: good()[:30], Reset: true})
				w.works(t)
				wants(t, w, 3)
			})
		})
	}
}

// A redirect would carry the assertion to a server that it is not for.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var elsewhere atomic.Int64
	second := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		elsewhere.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, good())
	}))
	t.Cleanup(second.Close)
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			var first atomic.Int64
			w := serve(t, func(w http.ResponseWriter, r *http.Request) {
				first.Add(1)
				http.Redirect(w, r, second.URL+"/oauth2/v1/token", status)
			})
			if e := w.fails(t); e.Class != oauth.BadAnswer || !strings.Contains(e.Description, strconv.Itoa(status)) {
				t.Errorf("class %d, %s", e.Class, e.Description)
			}
			if n := first.Load(); n != 1 {
				t.Errorf("%d requests to the server, want 1", n)
			}
		})
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests to the second server, want none", n)
	}
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	const unknown = "the host's name is not known"
	tests := []struct{ name, issuer, cause string }{
		{"closed port", closed, "dial: " + syscall.ECONNREFUSED.Error()},
		{"no such host", "https://" + strings.Repeat("a", 64) + ".example", unknown}, // a label this long needs no DNS to fail
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wantUnreachable(t, newClient(t, nil, on(tt.issuer)), tt.issuer, tt.cause) })
	}
	t.Run("DNS answers no", func(t *testing.T) {
		const other = "https://another.okta.test"
		w := newClient(t, newOkta(t, issuer).Transport(), on(other))
		wantUnreachable(t, w, other, unknown)
		w.wantPosts(t, 1)
	})
	t.Run("a proxy answers no", func(t *testing.T) {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusProxyAuthRequired)
		}))
		t.Cleanup(proxy.Close)
		w := newClient(t, nil)
		w.client.cfg.Server.transport.(*http.Transport).Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
		wantUnreachable(t, w, issuer, "the proxy answered status 407")
	})
}

func wantUnreachable(t *testing.T, w *world, issuer, cause string) {
	t.Helper()
	e := w.fails(t)
	if e.Class != oauth.Unavailable || e.Reach != oauth.ReachServer || e.RetryAfter < time.Second || e.Upstream != nil {
		t.Errorf("class %d, reach %d, retry after %v, upstream %+v", e.Class, e.Reach, e.RetryAfter, e.Upstream)
	}
	for _, want := range []string{issuer + " cannot be reached", "DNS", "HTTPS_PROXY"} {
		if !strings.Contains(e.Description, want) {
			t.Errorf("no %q in: %s", want, e.Description)
		}
	}
	if e.Err.Error() != cause {
		t.Errorf("the cause is %q, want %q", e.Err, cause)
	}
}

// An answer that unpacks to 1 GiB, and that nobody asked to be packed, costs no
// more than the bound on answers.
func TestGzipBomb(t *testing.T) {
	var packed bytes.Buffer
	packer, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 64 { // a member of 64 MiB, 16 times
		if _, err := packer.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := packer.Close(); err != nil {
		t.Fatal(err)
	}
	for _, status := range []int{200, 400} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			w := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Accept-Encoding"); got != "identity" {
					t.Errorf("Accept-Encoding: %q", got)
				}
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Content-Encoding", "gzip")
				w.WriteHeader(status)
				for range 16 {
					if _, err := w.Write(packed.Bytes()); err != nil {
						return
					}
				}
			})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			e := w.fails(t)
			runtime.ReadMemStats(&after)
			if want := map[int]oauth.Class{200: oauth.BadAnswer, 400: oauth.Refused}[status]; e.Class != want {
				t.Errorf("class %d, want %d: %v", e.Class, want, e)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
				t.Errorf("%d KiB were allocated, want 8 MiB at most", grown>>10)
			}
		})
	}
}

// raw is a client of a server that answers each connection's request with the
// bytes that reply makes of its body.
func raw(t *testing.T, reply func(body string) string) (w *world, posts *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	posts = &atomic.Int64{}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return
				}
				posts.Add(1)
				_, _ = io.WriteString(conn, reply(string(body)))
			})
		}
	})
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { _ = listener.Close() })
	return newClient(t, nil, on("http://"+listener.Addr().String())), posts
}

// A server that speaks no HTTP may send the request back, and net/http quotes
// what it cannot read.
func TestBrokenHTTPIsNotQuoted(t *testing.T) {
	const status = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	tests := []struct {
		name  string
		reply func(body string) string
		class oauth.Class
	}{
		{"no status line", func(body string) string { return body + "\r\n\r\n" }, oauth.Unavailable},
		{"no status code", func(body string) string { return "HTTP/1.1 " + body + "\r\n\r\n" }, oauth.Unavailable},
		{"no HTTP version", func(body string) string { return "HTTP/" + body + " 200 OK\r\n\r\n" }, oauth.Unavailable},
		{"no header", func(body string) string { return status + body + "\r\n\r\n" }, oauth.Unavailable},
		{"no length", func(body string) string { return status + "Content-Length: " + body + "\r\n\r\n" }, oauth.Unavailable},
		{"no coding", func(body string) string { return status + "Transfer-Encoding: " + body + "\r\n\r\n" }, oauth.Unavailable},
		{"nothing", func(string) string { return "" }, oauth.Unavailable},
		{"less than it says", func(string) string {
			return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", status, len(good())+1, good())
		}, oauth.Unavailable},
		{"more than it says", func(string) string {
			return fmt.Sprintf("%sConnection: close\r\nContent-Length: %d\r\n\r\n%s", status, len(good())-1, good())
		}, oauth.BadAnswer},
		{"headers without end", func(string) string { return status + strings.Repeat("X-A: b\r\n", 1<<15) + "\r\n" + good() }, oauth.Unavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			var assertions []string
			w, posts := raw(t, func(body string) string {
				_, rest, _ := strings.Cut(body, "client_assertion=")
				assertion, _, _ := strings.Cut(rest, "&")
				mu.Lock()
				defer mu.Unlock()
				assertions = append(assertions, assertion)
				return tt.reply(body)
			})
			e := w.fails(t)
			if e.Class != tt.class {
				t.Errorf("class %d, want %d: %v", e.Class, tt.class, e)
			}
			want := map[oauth.Class]int64{oauth.Unavailable: 2, oauth.BadAnswer: 1}[tt.class]
			if n := posts.Load(); n != want {
				t.Errorf("%d POSTs, want %d", n, want)
			}
			mu.Lock()
			defer mu.Unlock()
			for i, assertion := range assertions {
				if i > 0 && assertion == assertions[0] {
					t.Error("the assertion was sent again")
				}
				wantNothingOf(t, assertion, w.texts(e))
			}
		})
	}
}

// A body that never ends is left when the time is up.
func TestEndlessBody(t *testing.T) {
	w := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := w.client.Exchange(ctx, asked)
	if err == nil {
		t.Fatal("got a token")
	}
	if e := explained(t, err); e.Class != oauth.TimedOut {
		t.Errorf("class %d, want TimedOut: %v", e.Class, e)
	}
}
