package proxy

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
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
