package transport

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// Each connection is wrapped once, below TLS.
func TestWrap(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	var wrapped, read atomic.Int64
	transport := New(Config{Roots: poolOf(server), Wrap: func(conn net.Conn) net.Conn {
		wrapped.Add(1)
		return counting{conn, &read}
	}})
	for range 2 {
		if err := get(t.Context(), t, transport, server.URL); err != nil {
			t.Fatal(err)
		}
	}
	if wrapped.Load() != 1 || read.Load() == 0 {
		t.Errorf("%d connections were wrapped, and %d bytes read through them; want 1 and some", wrapped.Load(), read.Load())
	}
	transport.CloseIdleConnections()
	server.Close()
	if err := get(t.Context(), t, transport, server.URL); err == nil || wrapped.Load() != 1 {
		t.Errorf("error %v, %d connections were wrapped; want one, and no more", err, wrapped.Load())
	}
}

// counting counts the bytes that are read.
type counting struct {
	net.Conn
	read *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}
