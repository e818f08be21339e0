package proxy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/proxy"
)

// givenUp is how long after the last that came over it a connection is given up that
// loses all that is sent.
const givenUp = 15 * time.Second

// Calls over a kept connection that loses all that is sent fail for as long as it
// takes to find out, and no longer.
func TestLostConnection(t *testing.T) {
	t.Run("in a call", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			network, call := lossyUpstream(t, 0)
			if err := call(); err != nil {
				t.Fatal(err)
			}
			network.last.lost.Store(true)
			start := time.Now()
			if err := call(); err == nil || time.Since(start) != givenUp {
				t.Errorf("error %v after %v, want one after %v", err, time.Since(start), givenUp)
			}
			if err := call(); err != nil || network.dials != 2 {
				t.Errorf("error %v, %d connections; want none and 2", err, network.dials)
			}
		})
	})
	t.Run("between two", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			network, call := lossyUpstream(t, 0)
			if err := call(); err != nil {
				t.Fatal(err)
			}
			network.last.lost.Store(true)
			time.Sleep(givenUp + time.Millisecond)
			if err := call(); err != nil || network.dials != 2 {
				t.Errorf("error %v, %d connections; want none and 2", err, network.dials)
			}
		})
	})
}

// Slow is not lost, neither in an answer nor between two.
func TestSlowConnectionIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, call := lossyUpstream(t, 2*givenUp-time.Second)
		for range 2 {
			if err := call(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * givenUp)
		}
		if network.dials != 1 {
			t.Errorf("%d connections, want 1", network.dials)
		}
	})
}

// lossyUpstream is an upstream that speaks HTTP/2 and takes its time, in a test's own
// time. call makes a call to it.
func lossyUpstream(t *testing.T, takes time.Duration) (n *network, call func() error) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(takes)
		_, _ = io.WriteString(w, r.Proto)
	}))
	n = &network{Listener: server.Listener, dialed: make(chan net.Conn), done: t.Context().Done()}
	server.Listener = n
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{SessionTicketsDisabled: true} // each side would wait for the other to read
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	transport := proxy.NewTransport(roots)
	transport.DialContext = n.dial
	t.Cleanup(transport.CloseIdleConnections)
	return n, func() error {
		resp, err := transport.RoundTrip(request(t, "GET", server.URL, nil))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if proto, err := io.ReadAll(resp.Body); err != nil || string(proto) != "HTTP/2.0" {
			t.Errorf("answered over %q, %v", proto, err)
		}
		return nil
	}
}

// network has connections within the process: a real one would stop the test's time.
type network struct {
	net.Listener // has the address
	dialed       chan net.Conn
	done         <-chan struct{}
	last         *lossy
	dials        int
}

func (n *network) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	n.dialed <- theirs
	n.last = &lossy{Conn: ours}
	n.dials++
	return n.last, nil
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case conn := <-n.dialed:
		return conn, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

// lossy is a connection that can be made to lose what is sent, and tell nobody.
type lossy struct {
	net.Conn
	lost atomic.Bool
}

func (l *lossy) Write(p []byte) (int, error) {
	if l.lost.Load() {
		return len(p), nil
	}
	return l.Conn.Write(p)
}
