package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"okta-token-broker/internal/transport/transporttest"
)

// leaky stands for whatever an upstream says: none of it may be in an error or in
// the log.
const leaky = "l3aky-upstream-words"

// What goes wrong between the proxy and the upstream is an error of the proxy's, in
// its own words.
func TestFaults(t *testing.T) {
	tests := []struct {
		name   string
		start  func(*testing.T) (origin string)
		status int
		code   string
	}{
		{"nobody listens", closedPort, 503, "temporarily_unavailable"},
		{"no such host", func(*testing.T) string { return "http://upstream.invalid" }, 503, "temporarily_unavailable"},
		{"closes", raw(""), 502, "server_error"},
		{"not HTTP", raw(leaky + "\r\n\r\n"), 502, "server_error"},
		{"a status that is none", raw("HTTP/1.1 " + leaky + "\r\n\r\n"), 502, "server_error"},
		{"status 000", raw("HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n"), 502, "server_error"},
		{"status 999", raw("HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n"), 502, "server_error"},
		{"an upgrade that nobody asked for", raw("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: " + leaky + "\r\n\r\n"), 502, "server_error"},
		{"a bad header", raw("HTTP/1.1 200 OK\r\n" + leaky + "\r\n\r\n"), 502, "server_error"},
		{"two lengths", raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 502, "server_error"},
		{"a length that is none", raw("HTTP/1.1 200 OK\r\nContent-Length: " + leaky + "\r\n\r\nab"), 502, "server_error"},
		{"another coding", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: " + leaky + "\r\n\r\nab"), 502, "server_error"},
		{"a long header", raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat(leaky, 1<<16) + "\r\n\r\n"), 502, "server_error"},
		{"half a header", raw("HTTP/1.1 200 OK\r\nX: " + leaky), 502, "server_error"},
		{"too slow", silent, 504, "temporarily_unavailable"},
		{"a certificate of nobody's", untrusted, 503, "temporarily_unavailable"},
		{"no TLS", func(t *testing.T) string { return strings.Replace(raw(leaky)(t), "http:", "https:", 1) }, 503, "temporarily_unavailable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &rig{tb: t, broker: &standIn{tokenType: "DPoP"}, log: &lockedBuffer{}}
			transport := newTransport(t)
			transport.ResponseHeaderTimeout = 500 * time.Millisecond
			r.start(tt.start(t), transport)
			got := do(t, request(t, "POST", r.url+"/api", strings.NewReader("{}")))
			got.wantError(t, tt.status, tt.code)
			for where, text := range map[string]string{"answer": got.body, "log": r.log.String()} {
				if strings.Contains(text, leaky) || strings.Contains(text, "the-token") || strings.Contains(text, "proof-") {
					t.Errorf("the %s has what it must not: %s", where, text)
				}
			}
			if !strings.Contains(r.log.String(), "client=default") {
				t.Errorf("the log says %s", r.log)
			}
		})
	}
}

// An error names the setting that may be wrong, of the client as the configuration
// calls it.
func TestFaultsNameTheSetting(t *testing.T) {
	for _, tt := range []struct{ path, origin, says string }{
		{"/api", "http://127.0.0.1:1", "clients.default.issuer may be wrong"},
		{"/~api/x", "http://127.0.0.1:1", "clients.default.resources.api may be wrong"},
		{"/api", untrusted(t), "clients.default.ca_file for a private CA"},
	} {
		r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}}
		r.start(tt.origin, newTransport(t))
		for _, as := range []string{r.url, strings.Replace(r.url, "default", "0oa1b2c3d4", 1)} {
			got := do(t, request(t, "GET", as+tt.path, nil))
			if got.wantError(t, http.StatusServiceUnavailable, "temporarily_unavailable"); !strings.Contains(got.body, tt.says) {
				t.Errorf("%s%s: %s", as, tt.path, got.body)
			}
		}
	}
}

// The connection of an answer that is none is not held, whatever it goes on with.
func TestNoAnswerIsHeld(t *testing.T) {
	for _, begins := range []string{
		"HTTP/1.1 999 OK\r\nContent-Length: 1000000\r\n\r\nbegun",
		"HTTP/1.1 000 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nbegun",
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		closed := make(chan error, 1)
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				closed <- err
				return
			}
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 4<<10))
			_, _ = io.WriteString(conn, begins)
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			_, err = conn.Read(make([]byte, 1))
			closed <- err
		}()
		r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}}
		r.start("http://"+listener.Addr().String(), newTransport(t))
		do(t, request(t, "GET", r.url+"/api", nil)).wantError(t, http.StatusBadGateway, "server_error")
		if err := <-closed; errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %.12q the connection is still open", begins)
		}
	}
}

// A proxy on the way that does not connect is told from the upstream.
func TestProxyOnTheWayRefuses(t *testing.T) {
	forward := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	t.Cleanup(forward.Close)
	r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}}
	transport := newTransport(t)
	transport.Proxy = http.ProxyURL(mustParse(t, forward.URL))
	r.start("https://upstream.test", transport)
	got := do(t, request(t, "GET", r.url+"/api", nil))
	got.wantError(t, http.StatusServiceUnavailable, "temporarily_unavailable")
	if !strings.Contains(r.log.String(), "the proxy answered status 407") {
		t.Errorf("the log says %s", r.log)
	}
}

// closedPort is where nobody listens: port 1 is tcpmux's (RFC 1078).
func closedPort(*testing.T) string { return "http://127.0.0.1:1" }

// raw answers each request with these bytes, and closes.
func raw(text string) func(*testing.T) string {
	return func(t *testing.T) string {
		return transporttest.Listen(t, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 4<<10))
			_, _ = io.WriteString(conn, text)
		})
	}
}

// silent takes a request and says nothing.
func silent(t *testing.T) string {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		<-req.Context().Done()
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func untrusted(t *testing.T) string {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the upstream was spoken to")
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// A caller that sends half a body is to blame for it itself.
func TestHalfABody(t *testing.T) {
	r := newRig(t, &standIn{}, func(_ http.ResponseWriter, req *http.Request) { _, _ = io.Copy(io.Discard, req.Body) })
	got := rawDo(t, r.own, "POST /api HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nnot a chunk\r\n")
	got.wantError(t, http.StatusBadRequest, "invalid_request")

	for _, framing := range []string{"Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.own, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST /api HTTP/1.1\r\nHost: localhost\r\n"+framing)
		_ = conn.(*net.TCPConn).CloseWrite() // it still reads
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		answer{resp, string(body)}.wantError(t, http.StatusBadRequest, "invalid_request")
	}
}

// When the caller leaves, the upstream is left, too.
func TestCallerLeaves(t *testing.T) {
	begun, left := make(chan struct{}), make(chan struct{})
	r := newRig(t, &standIn{}, func(_ http.ResponseWriter, req *http.Request) {
		close(begun)
		<-req.Context().Done()
		close(left)
	})
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	req := request(t, "GET", r.url+"/api", nil).WithContext(ctx)
	c := client(t)
	go func() {
		resp, err := c.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	<-begun
	leave()
	<-left
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// That an answer broke off is in the log, unless it is the caller that has left.
func TestLogOfBrokenAnswers(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		goOn := make(chan struct{})
		r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-goOn:
			case <-req.Context().Done():
			}
			panic(http.ErrAbortHandler)
		})
		ended := make(chan struct{})
		front := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			defer close(ended)
			r.proxy.For("default").ServeHTTP(w, req)
		}))
		resp, err := client(t).Do(request(t, "GET", front+"/api", nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, len("begun"))); err != nil {
			t.Error(err)
		}
		if leaves {
			resp.Body.Close()
		} else {
			close(goOn)
		}
		<-ended
		resp.Body.Close()
		log := r.log.String()
		told := strings.Contains(log, `msg="an answer broke off" client=default upstream=127.0.0.1:`) && strings.Contains(log, `err="the connection ended before the answer did"`)
		if leaves && log != "" || !leaves && !told {
			t.Errorf("the caller leaves: %t; the log says %s", leaves, log)
		}
	}
}

// Of an answer that ends before its body the caller is told so while it has seen nothing of
// it, as it has of a small one. One that ends later is the caller's as far as it came.
func TestAnswerEndsEarly(t *testing.T) {
	const header = "HTTP/1.1 201 Created\r\nX-Said: " + leaky + "\r\nContent-Length: 5\r\n\r\n"
	r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}}
	r.start(raw(header)(t), newTransport(t))
	got := do(t, request(t, "GET", r.url+"/api", nil))
	got.wantError(t, http.StatusBadGateway, "server_error")
	if got.Header["X-Said"] != nil || strings.Contains(got.body, leaky) {
		t.Errorf("the upstream has its say: %v, %s", got.Header, got.body)
	}
	if !strings.Contains(r.log.String(), `msg="an answer broke off" client=default`) || strings.Contains(r.log.String(), leaky) {
		t.Errorf("the log says %s", r.log)
	}
	if got := do(t, request(t, "HEAD", r.url+"/api", nil)); got.StatusCode != http.StatusCreated || got.ContentLength != 5 {
		t.Errorf("an answer without a body: %s, %d bytes", got.Status, got.ContentLength)
	}

	r = &rig{tb: t, broker: &standIn{}}
	r.start(raw(header+"begu")(t), newTransport(t))
	resp, err := client(t).Do(request(t, "GET", r.url+"/api", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || resp.StatusCode != http.StatusCreated || string(body) != "begu" {
		t.Errorf("%s, %q, %v", resp.Status, body, err)
	}

	// The header of any other does not wait for the body, but may come no sooner.
	for _, framing := range []string{"Content-Length: 100000", "Transfer-Encoding: chunked"} {
		r := &rig{tb: t, broker: &standIn{}}
		r.start(raw("HTTP/1.1 201 Created\r\n"+framing+"\r\n\r\n")(t), newTransport(t))
		for range 50 {
			resp, err := client(t).Do(request(t, "GET", r.url+"/api", nil))
			if err != nil {
				t.Fatalf("%s: %v", framing, err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if begun := resp.StatusCode == http.StatusCreated; begun && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s: %q, %v", framing, body, err)
			} else if !begun {
				answer{resp, string(body)}.wantError(t, http.StatusBadGateway, "server_error")
			}
		}
	}
}

// A resource that cannot be asked a second time is not asked a third time.
func TestReplayThatFails(t *testing.T) {
	var calls atomic.Int64
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) > 1 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusUnauthorized)
	})
	got := do(t, request(t, "POST", r.url+"/api", strings.NewReader("{}")))
	got.wantError(t, http.StatusBadGateway, "server_error")
	if calls.Load() != 2 {
		t.Errorf("%d attempts", calls.Load())
	}
}

// In HTTP/2 a body can be all there, by its length, when the stream breaks.
func TestAnswerEndsLate(t *testing.T) {
	const whole = "hello, world"
	r := &rig{tb: t, broker: &standIn{}}
	r.start("http://upstream.test", roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: http.StatusOK, ProtoMajor: 2, Header: http.Header{"Content-Length": {strconv.Itoa(len(whole))}}, ContentLength: int64(len(whole)),
			Body: io.NopCloser(io.MultiReader(strings.NewReader(whole), iotest.ErrReader(errors.New("the stream broke")))),
		}, nil
	}))
	if got := do(t, request(t, "GET", r.url+"/api", nil)); got.StatusCode != http.StatusOK || got.body != whole {
		t.Errorf("%s, %q", got.Status, got.body)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
