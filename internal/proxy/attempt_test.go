package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
)

// The transport sends an attempt over another connection when the first one turns out to
// be closed before anything of the body was read. All of it has to go there.
func TestAttemptOverAnotherConnection(t *testing.T) {
	connect := func() *closeNotifyConn {
		server, client := net.Pipe()
		t.Cleanup(func() { _ = server.Close() })
		return &closeNotifyConn{Conn: client}
	}
	tests := []struct {
		name string
		run  func(b *body, first, second *closeNotifyConn)
		want string
	}{
		{"closed before it is used", func(b *body, first, second *closeNotifyConn) {
			_ = first.Close()
			b.sentOver(httptrace.GotConnInfo{Conn: first})
			b.sentOver(httptrace.GotConnInfo{Conn: second})
		}, "body"},
		{"closed when it was taken", func(b *body, first, second *closeNotifyConn) {
			b.sentOver(httptrace.GotConnInfo{Conn: first})
			_ = first.Close()
			b.sentOver(httptrace.GotConnInfo{Conn: second})
		}, "body"},
		{"closed when the other was taken", func(b *body, first, second *closeNotifyConn) {
			b.sentOver(httptrace.GotConnInfo{Conn: first})
			b.sentOver(httptrace.GotConnInfo{Conn: second})
			_ = first.Close()
		}, "body"},
		{"told late", func(b *body, first, second *closeNotifyConn) {
			b.sentOver(httptrace.GotConnInfo{Conn: first})
			user := first.user.Load()
			b.sentOver(httptrace.GotConnInfo{Conn: second})
			user.cutOff(first)
		}, "body"},
		{"both closed", func(b *body, first, second *closeNotifyConn) {
			b.sentOver(httptrace.GotConnInfo{Conn: first})
			_ = first.Close()
			b.sentOver(httptrace.GotConnInfo{Conn: second})
			_ = second.Close()
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newTestBody(strings.NewReader("body"), -1, http.NewResponseController(httptest.NewRecorder()))
			attempt := b.first()
			tt.run(b, connect(), connect())
			if got, err := io.ReadAll(attempt); err != nil || string(got) != tt.want {
				t.Errorf("sent %q, %v; want %q", got, err, tt.want)
			}
			b.end()
		})
	}
}

// refusing is a connection whose other end takes nothing more.
type refusing struct{ net.Conn }

func (refusing) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// Of what the upstream takes no more the transport gets no more: it would take the request
// for one that was sent, and keep the connection.
func TestAttemptIsUnwanted(t *testing.T) {
	for _, end := range []string{"attempt", "connection"} {
		synctest.Test(t, func(t *testing.T) {
			server, client := net.Pipe()
			defer server.Close()
			b := newTestBody(strings.NewReader("body"), -1, http.NewResponseController(httptest.NewRecorder()))
			attempt := b.first()
			conn := &closeNotifyConn{Conn: refusing{client}}
			conn.begin()
			b.sentOver(httptrace.GotConnInfo{Conn: conn})
			if _, err := conn.Write([]byte("header")); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("that nothing was written is told as %v", err)
			}
			conn.begun.Store(true)
			if n, err := conn.Write([]byte("header")); n != len("header") || err != nil {
				t.Errorf("that the rest was not is told: %d, %v", n, err)
			}
			read := make(chan error, 1)
			go func() {
				_, err := io.ReadAll(attempt)
				read <- err
			}()
			synctest.Wait()
			select {
			case err := <-read:
				t.Fatalf("it was read to its end: %v", err)
			default:
			}
			if end == "attempt" {
				_ = attempt.Close()
				if err := <-read; !errors.Is(err, errOver) {
					t.Errorf("closed: %v", err)
				}
			} else {
				_ = conn.Close()
				if err := <-read; err != nil {
					t.Errorf("cut off: %v", err)
				}
			}
			b.end()
		})
	}
}
