package proxy_test

import (
	"bufio"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"okta-token-broker/internal/proxy"
)

// What either side sends, the other sees before the rest is there.
func TestStreamsBothWays(t *testing.T) {
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprintf("known length %t", known), func(t *testing.T) {
			r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
				control := http.NewResponseController(w)
				_ = control.EnableFullDuplex()
				if known {
					w.Header().Set("Content-Length", "30")
				}
				w.WriteHeader(http.StatusOK)
				_ = control.Flush()
				lines := bufio.NewReader(req.Body)
				for {
					line, err := lines.ReadString('\n')
					if err != nil {
						return
					}
					_, _ = io.WriteString(w, line)
					_ = control.Flush()
				}
			})
			reader, writer := io.Pipe()
			resp, err := client(t).Do(request(t, "POST", r.url+"/api", reader))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewReader(resp.Body)
			for i := range 3 {
				sent := fmt.Sprintf("message %d\n", i)
				if _, err := io.WriteString(writer, sent); err != nil {
					t.Fatal(err)
				}
				if got, err := lines.ReadString('\n'); err != nil || got != sent {
					t.Fatalf("sent %q, and %q, %v came back", sent, got, err)
				}
			}
			if err := writer.Close(); err != nil {
				t.Error(err)
			}
			if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

// The pieces of an answer come one by one, whether or not its length is known.
func TestPiecesComeAtOnce(t *testing.T) {
	const piece = "a piece\n"
	for _, length := range []string{"", "24", "1000000"} {
		next := make(chan struct{})
		r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			for range 3 {
				_, _ = io.WriteString(w, piece)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-next:
				case <-req.Context().Done():
				}
			}
		})
		resp, err := client(t).Do(request(t, "GET", r.url+"/api", nil))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			got := make([]byte, len(piece))
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != piece {
				t.Errorf("length %q: read %q, %v", length, got, err)
			}
			next <- struct{}{}
		}
		resp.Body.Close()
	}
}

// The header of an answer comes before the first byte of its body, unless that is
// small.
func TestHeaderComesFirst(t *testing.T) {
	for _, length := range []string{"", "1000000"} {
		more := make(chan struct{})
		r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			w.WriteHeader(http.StatusAccepted)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-more:
			case <-req.Context().Done():
			}
		})
		c := client(t)
		c.Timeout = 5 * time.Second
		resp, err := c.Do(request(t, "GET", r.url+"/api", nil))
		close(more)
		if err != nil {
			t.Fatalf("length %q: %v", length, err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			t.Errorf("length %q: %s", length, resp.Status)
		}
	}
}

// zeros is a body of n bytes.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// 64 MiB go through each way, and memory does not grow with them.
func TestLargeBodies(t *testing.T) {
	const size = 64 << 20
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
		n, err := io.Copy(io.Discard, req.Body)
		if err != nil || n != size {
			t.Errorf("%d bytes arrived: %v", n, err)
		}
		_, _ = io.Copy(w, zeros(size))
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, body := range []io.Reader{only{zeros(size)}, zeros(size)} {
		req := request(t, "POST", r.url+"/api", body)
		if _, unknown := body.(only); !unknown {
			req.ContentLength = size
		}
		resp, err := client(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || n != size || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s with %d bytes: %v", resp.Status, n, err)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("256 MiB took %d MiB of memory", grown>>20)
	}
}

// Callers that read nothing hold up no others whose answers come over the same
// connection, and little is read for them.
func TestCallersThatDoNotRead(t *testing.T) {
	const callers, size = 40, 8 << 20
	var sent atomic.Int64
	r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}}
	r.startHTTP2(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/small" {
			_, _ = io.WriteString(w, "{}")
			return
		}
		for i := 0; i < size; i += 32 << 10 {
			n, err := w.Write(make([]byte, 32<<10))
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	})
	server := httptest.NewUnstartedServer(r.proxy.For("default"))
	server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateNew {
			_ = conn.(*net.TCPConn).SetWriteBuffer(4 << 10) // so that the kernel takes little
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	for range callers {
		conn, err := net.Dial("tcp", strings.TrimPrefix(server.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		if _, err := io.WriteString(conn, "GET /api HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	for before := int64(-1); sent.Load() != before; { // until nothing moves any more
		before = sent.Load()
		<-time.After(300 * time.Millisecond)
	}
	if each := sent.Load() / callers; each > 1<<20 {
		t.Errorf("%d bytes of each answer were read", each)
	}
	if got := do(t, request(t, "GET", r.own+"/small", nil)); got.body != "{}" {
		t.Errorf("another is answered %s with %q", got.Status, got.body)
	}
}

// The server's time-outs are for small requests and answers. This one takes longer
// than they allow.
func TestLongAnswer(t *testing.T) {
	next := make(chan struct{})
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
		for _, text := range []string{"", "more\n", "more\n", "more\n"} { // the header first
			select {
			case <-next:
			case <-req.Context().Done():
				t.Error("the proxy left")
				return
			}
			_, _ = io.WriteString(w, text)
			_ = http.NewResponseController(w).Flush()
		}
	})
	server := impatient(t, r)
	resp := make(chan answer, 1)
	go func() { resp <- do(t, request(t, "GET", server+"/api", nil)) }()
	for range 4 {
		<-time.After(150 * time.Millisecond) // over the server's 100
		next <- struct{}{}
	}
	if got := <-resp; got.StatusCode != http.StatusOK || got.body != strings.Repeat("more\n", 3) {
		t.Errorf("answered %s with %q", got.Status, got.body)
	}
}

// An upstream that has begun to answer and breaks off does not look as if it had
// finished.
func TestBrokenAnswerIsNoWholeAnswer(t *testing.T) {
	for _, length := range []string{"", "100"} {
		r := newRig(t, &standIn{}, func(w http.ResponseWriter, _ *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		resp, err := client(t).Do(request(t, "GET", r.url+"/api", nil))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil || string(body) != "begun" {
			t.Errorf("the answer is %q, %v; want it to end in an error", body, err)
		}
	}
}

// An answer that does not wait for the whole body ends the call: the caller is not
// asked for the rest.
func TestAnswerBeforeTheBody(t *testing.T) {
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
		if _, err := req.Body.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	reader, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	go func() { _, _ = io.WriteString(writer, "begun") }() // and no more
	if got := do(t, request(t, "POST", r.url+"/api", reader)); got.StatusCode != http.StatusRequestEntityTooLarge {
		t.Error(got.Status)
	}
}

// An upstream with TLS and HTTP/2 is spoken to in HTTP/2, and asked again alike.
func TestHTTP2(t *testing.T) {
	r := &rig{tb: t, broker: &standIn{tokenType: "DPoP"}, log: &lockedBuffer{}}
	origin := r.startHTTP2(func(w http.ResponseWriter, req *http.Request) {
		got := r.record(req)
		if got.header.Get("Authorization") == "DPoP the-token-0" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = fmt.Fprintf(w, "%s of %s", req.Proto, got.body)
	})
	got := do(t, request(t, "POST", r.url+"/api/a%40b;c?d", strings.NewReader("something")))
	if got.StatusCode != http.StatusOK || got.body != "HTTP/2.0 of something" {
		t.Errorf("answered %s with %q", got.Status, got.body)
	}
	if seen := r.take(); len(seen) != 2 || seen[1].line != "POST /api/a%40b;c?d" || seen[1].header.Get("DPoP") != "proof-2 POST "+origin+"/api/a%40b;c" {
		t.Errorf("the upstream saw %v", seen)
	}
}

// startHTTP2 starts an upstream that speaks HTTP/2, and the proxy in front of it.
func (r *rig) startHTTP2(handler http.HandlerFunc) (origin string) {
	r.tb.Helper()
	upstream := httptest.NewUnstartedServer(handler)
	upstream.EnableHTTP2 = true
	upstream.StartTLS()
	r.tb.Cleanup(upstream.Close)
	roots := x509.NewCertPool()
	roots.AddCert(upstream.Certificate())
	transport := proxy.NewTransport(roots)
	transport.Proxy = nil
	r.tb.Cleanup(transport.CloseIdleConnections)
	r.start(upstream.URL, transport)
	return upstream.URL
}
