package okta

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
)

// An exchange over a kept connection that loses all that is sent finds another in
// its own 5 seconds, whenever it comes.
func TestLostConnection(t *testing.T) {
	tests := map[string]time.Duration{ // from the last answer
		"at once":              0,
		"before the ping":      pingAfter - time.Millisecond,
		"after the ping":       pingAfter + time.Millisecond,
		"once it was given up": pingAfter + pingTimeout + time.Millisecond,
	}
	for name, idle := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, network := lossyWorld(t)
				w.works(t)
				network.last.lost.Store(true)
				time.Sleep(idle)
				start := time.Now()
				w.works(t)
				if took, most := time.Since(start), max(pingAfter+pingTimeout-idle, 0)+retryPause; took > most {
					t.Errorf("took %v, want %v at most", took, most)
				}
				w.works(t)
				if network.dials != 2 {
					t.Errorf("%d connections, want 2", network.dials)
				}
			})
		})
	}
}

// Slow is not lost, neither in an answer nor between two.
func TestSlowConnectionIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, network := lossyWorld(t)
		w.works(t)
		time.Sleep(50 * time.Second)
		w.okta.SetFault(fakeokta.Fault{Delay: 4900 * time.Millisecond})
		w.works(t)
		if network.dials != 1 {
			t.Errorf("%d connections, want 1", network.dials)
		}
	})
}

// lossyWorld is a client of a fake Okta behind a real server and the Server's own
// transport, in a test's own time.
func lossyWorld(t *testing.T) (*world, *network) {
	t.Helper()
	network := &network{dialed: make(chan net.Conn), done: t.Context().Done()}
	var server *httptest.Server
	start := func(s *httptest.Server) {
		network.Listener, s.Listener = s.Listener, network
		s.EnableHTTP2 = true
		s.TLS = &tls.Config{SessionTicketsDisabled: true} // each side would wait for the other to read
		s.StartTLS()
		server = s
	}
	w, _, _ := realWorld(t, start, func(s *ServerConfig, _ *ClientConfig) { s.RootCAs = poolOf(server.Certificate()) })
	w.client.cfg.Server.transport.(*http.Transport).DialContext = network.dial
	return w, network
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
