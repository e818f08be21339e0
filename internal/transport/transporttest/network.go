// Package transporttest has what tests reach other servers by: raw sockets, and a network
// within the process, for lost connections in testing/synctest's time, which a real network
// would stop.
package transporttest

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// Network leads to one server. Its methods are not safe for concurrent use: Dials and Lose
// are for when nobody dials.
type Network struct {
	dialed chan net.Conn
	last   *lossy
	dials  int
}

// Start starts a server that speaks HTTP/2 over TLS on a network of its own, until the
// test ends. Its address is the one that it had before.
func Start(tb testing.TB, server *httptest.Server) *Network {
	n := &Network{dialed: make(chan net.Conn)}
	server.Listener = &listener{Listener: server.Listener, dialed: n.dialed, done: tb.Context().Done()}
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{SessionTicketsDisabled: true} // each side would wait for the other to read
	server.StartTLS()
	return n
}

// Dial connects to the server, whatever the address. It is for an http.Transport's
// DialContext.
func (n *Network) Dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	n.dialed <- theirs
	n.last = &lossy{Conn: ours}
	n.dials++
	return n.last, nil
}

// Dials returns how many connections were made.
func (n *Network) Dials() int { return n.dials }

// Lose has the newest connection lose all that is sent to the server, and tell nobody.
func (n *Network) Lose() { n.last.lost.Store(true) }

// listener has an address, and takes connections within the process.
type listener struct {
	net.Listener
	dialed <-chan net.Conn
	done   <-chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.dialed:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// lossy is a connection that can be made to lose what is sent.
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
