package proxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"strings"
	"testing"
	"time"

	"okta-token-broker/internal/proxy"
)

// impatience is how long the proxy waits here for who has stalled.
const impatience = 300 * time.Millisecond

// An upstream that takes no more of a body is given up, and so is a caller that has
// left meanwhile: nothing tells of that as long as nobody reads from it.
func TestUpstreamThatStopsReading(t *testing.T) {
	for name, start := range map[string]func(*rig, bool) (left <-chan error){"HTTP/1": notReading, "HTTP/2": notReadingHTTP2} {
		for _, answers := range []bool{false, true} {
			for _, leaves := range []bool{false, true} {
				t.Run(name+map[bool]string{true: ", it answers"}[answers]+map[bool]string{true: ", the caller leaves"}[leaves], func(t *testing.T) {
					t.Parallel()
					r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}, stalled: impatience}
					left := start(r, answers)
					caller := pushing(t, r.own)
					if leaves {
						_ = caller.Close()
					}
					select {
					case err := <-left:
						if err != nil {
							t.Errorf("the upstream's side: %v", err)
						}
					case <-time.After(10 * time.Second):
						t.Fatal("the upstream is still held")
					}
					if leaves {
						return
					}
					resp, err := http.ReadResponse(bufio.NewReader(caller), nil)
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(resp.Body)
					if answers {
						if err == nil || resp.StatusCode != http.StatusOK || !strings.Contains(r.log.String(), "an answer broke off") {
							t.Errorf("answered %s with %q, %v; the log says %s", resp.Status, body, err, r.log)
						}
						return
					}
					answer{resp, string(body)}.wantError(t, http.StatusGatewayTimeout, "temporarily_unavailable")
					if !strings.Contains(string(body), "did not take the body") || !strings.Contains(r.log.String(), "did not take the body") {
						t.Errorf("told %s, and the log %s", body, r.log)
					}
				})
			}
		}
	}
}

// pushing is a caller that sends of a large body what it can. It returns when that is
// no more.
func pushing(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	_ = conn.SetWriteDeadline(time.Now().Add(impatience / 2))
	_, _ = io.WriteString(conn, "POST /api HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
	if n, err := io.Copy(conn, only{zeros(1e9)}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes were taken, %v", n, err)
	}
	return conn
}

// notReading starts an upstream that reads nothing but a header. left gets nil when its
// connection has ended.
func notReading(r *rig, answers bool) (left <-chan error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.tb.Fatal(err)
	}
	r.tb.Cleanup(func() { _ = listener.Close() })
	ended := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 1<<10))
		if answers {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		}
		<-time.After(3 * impatience)
		_ = conn.SetReadDeadline(time.Now().Add(impatience))
		if _, err = io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			ended <- err
			return
		}
		ended <- nil
	}()
	transport := proxy.NewTransport(nil)
	transport.Proxy = nil
	r.tb.Cleanup(transport.CloseIdleConnections)
	r.start("http://"+listener.Addr().String(), transport)
	return ended
}

// notReadingHTTP2 is notReading for HTTP/2, where the connection stays.
func notReadingHTTP2(r *rig, answers bool) (left <-chan error) {
	ended := make(chan error, 1)
	r.startHTTP2(func(w http.ResponseWriter, req *http.Request) {
		if answers {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		<-req.Context().Done()
		ended <- nil
	})
	return ended
}

// Slow is not stalled: this one takes many times as long as an upstream may take
// nothing, and so does its caller.
func TestSlowBodies(t *testing.T) {
	handler := func(w http.ResponseWriter, req *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		piece := make([]byte, 256<<10)
		for {
			n, err := io.ReadFull(req.Body, piece)
			if err != nil {
				return
			}
			_, _ = w.Write(piece[:n])
			_ = http.NewResponseController(w).Flush()
			<-time.After(impatience / 3)
		}
	}
	for name, start := range map[string]func(*rig){
		"HTTP/1": func(r *rig) {
			upstream := httptest.NewServer(http.HandlerFunc(handler))
			r.tb.Cleanup(upstream.Close)
			r.start(upstream.URL, newTransport(r.tb))
		},
		"HTTP/2": func(r *rig) { r.startHTTP2(handler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const size = 4 << 20
			r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}, stalled: impatience}
			start(r)
			got := do(t, request(t, "POST", r.own+"/api", zeros(size)))
			if got.StatusCode != http.StatusOK || len(got.body) != size {
				t.Errorf("answered %s with %d bytes", got.Status, len(got.body))
			}
		})
	}
}

// Events may be far apart, and the end far from the last: all the same it is an end in
// order, also for a caller that has sent a body, and whether or not there was any event.
func TestSilentStreamEndsInOrder(t *testing.T) {
	for _, body := range []string{"", "a body"} {
		for _, event := range []string{"", "event\n"} {
			r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}, stalled: impatience}
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, event)
				_ = http.NewResponseController(w).Flush()
				<-time.After(2 * impatience)
			}))
			t.Cleanup(upstream.Close)
			r.start(upstream.URL, newTransport(t))
			if got := do(t, request(t, "POST", r.own+"/api", strings.NewReader(body))); got.body != event {
				t.Errorf("with the body %q: answered %s with %q", body, got.Status, got.body)
			}
		}
	}
}

// An upstream that answers, piece by piece, may leave the body for as long.
func TestUpstreamThatAnswersWithoutReading(t *testing.T) {
	r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}, stalled: impatience}
	r.startHTTP2(func(w http.ResponseWriter, _ *http.Request) {
		for range 8 {
			_, _ = io.WriteString(w, "event\n")
			_ = http.NewResponseController(w).Flush()
			<-time.After(impatience / 3)
		}
	})
	resp, err := http.ReadResponse(bufio.NewReader(pushing(t, r.own)), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != strings.Repeat("event\n", 8) {
		t.Errorf("answered %s with %q, %v", resp.Status, body, err)
	}
}

// An upstream that breaks off while it is the caller that has sent no more is told of at
// once.
func TestUpstreamBreaksOffInABody(t *testing.T) {
	breaks := func(w http.ResponseWriter, req *http.Request) {
		_, _ = req.Body.Read(make([]byte, 1))
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
			return
		}
		panic(http.ErrAbortHandler) // HTTP/2
	}
	overTLS := func(http2 bool) func(*rig) {
		return func(r *rig) {
			if http2 {
				r.startHTTP2(breaks)
				return
			}
			upstream := httptest.NewTLSServer(http.HandlerFunc(breaks))
			r.tb.Cleanup(upstream.Close)
			transport := proxy.NewTransport(upstream.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs)
			transport.Proxy = nil
			r.start(upstream.URL, transport)
		}
	}
	for name, start := range map[string]func(*rig){
		"HTTP/1": func(r *rig) {
			transport := proxy.NewTransport(nil)
			transport.Proxy = nil
			r.start(resetting(r.tb), transport)
		},
		"HTTP/1, TLS": overTLS(false),
		"HTTP/2":      overTLS(true),
	} {
		for _, sent := range []string{
			"Content-Length: 400000\r\n\r\nbegun",
			"Transfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n",
		} {
			t.Run(name+", "+sent[:strings.IndexByte(sent, ':')], func(t *testing.T) {
				t.Parallel()
				r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}}
				start(r)
				// rawDo waits for a third of what the caller may take.
				got := rawDo(t, r.own, "POST /api HTTP/1.1\r\nHost: localhost\r\n"+sent)
				got.wantError(t, http.StatusBadGateway, "server_error")
			})
		}
	}
}

// resetting is an upstream that resets each connection when something has come.
func resetting(tb testing.TB) (origin string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1<<10))
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}()
	return "http://" + listener.Addr().String()
}

// What may be repeated is, when a kept connection breaks, also while the caller has not
// sent the body.
func TestConnectionThatBreaksBeforeTheBody(t *testing.T) {
	r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}}
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { r.record(req) }))
	t.Cleanup(upstream.Close)
	transport := proxy.NewTransport(nil)
	transport.Proxy = nil
	t.Cleanup(transport.CloseIdleConnections)
	got := make(chan bool, 3)
	r.start(upstream.URL, tracing{transport, func(info httptrace.GotConnInfo) { got <- info.Reused }})
	do(t, request(t, "GET", r.own+"/api", nil))
	<-got
	body, caller := io.Pipe()
	go func() {
		if reused := <-got; !reused {
			t.Error("the connection was not kept")
		}
		upstream.CloseClientConnections()
		<-got // another one
		_, _ = io.WriteString(caller, "body")
		_ = caller.Close()
	}()
	req := request(t, "POST", r.own+"/api", body, "Idempotency-Key", "1")
	req.ContentLength = 4
	if answer := do(t, req); answer.StatusCode != http.StatusOK {
		t.Error(answer.Status, answer.body)
	}
	if seen := r.take(); len(seen) != 2 || seen[1].body != "body" {
		t.Errorf("the upstream saw %v", seen)
	}
}

// tracing tells of each connection that is used.
type tracing struct {
	http.RoundTripper
	got func(httptrace.GotConnInfo)
}

func (tr tracing) RoundTrip(req *http.Request) (*http.Response, error) {
	return tr.RoundTripper.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: tr.got})))
}
