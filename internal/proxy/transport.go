package proxy

import (
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"okta-token-broker/internal/transport"
)

const (
	// connectTimeout leaves room for a SYN that is lost: it is sent again after a
	// second (RFC 6298).
	connectTimeout = 5 * time.Second
	tlsTimeout     = 5 * time.Second
	// answerTimeout is how long the header of an answer may take, from when all of
	// the request was sent.
	answerTimeout = 30 * time.Second
	// maxIdle is how many connections to an upstream are kept.
	maxIdle = 256
	// maxUnread is how much of an answer HTTP/2 takes from the upstream before the caller
	// does, in bytes. All answers together have no limit but the number of calls: they
	// share a connection, and a few callers that read nothing would hold up the others.
	maxUnread = 256 << 10
	// pingAfter and pingTimeout together are how long calls fail over a connection over
	// which no more packets come.
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// NewTransport returns what an Upstream is reached with. roots verify certificates.
// Nil: the system's.
func NewTransport(roots *x509.CertPool) *http.Transport {
	return transport.New(transport.Config{
		Roots:          roots,
		Wrap:           func(conn net.Conn) net.Conn { return &closeNotifyConn{Conn: conn} },
		ConnectTimeout: connectTimeout,
		TLSTimeout:     tlsTimeout,
		AnswerTimeout:  answerTimeout,
		PingAfter:      pingAfter,
		PingTimeout:    pingTimeout,
		MaxIdle:        maxIdle,
		MaxUnread:      maxUnread,
	})
}

// closeNotifyConn is a connection that tells its user when it is closed. In HTTP/2 it has
// many, and tells the newest: there the transport does so itself.
type closeNotifyConn struct {
	net.Conn
	closed atomic.Bool
	user   atomic.Pointer[attempt]
	uses   atomic.Int64 // requests that it carried
	begun  atomic.Bool  // something of the last one was written
}

// Write hides that the upstream takes no more of a request that it has the beginning of.
// It may have answered, and the transport would give the answer up for the error (RFC 9112
// section 9.5 has a client look out for one). If it has not, there is nothing to read either.
func (c *closeNotifyConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil {
		c.begun.Store(true)
		return n, nil
	}
	if c.begun.Load() && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
		if user := c.user.Load(); user != nil {
			user.refused(c)
		}
		return len(p), nil
	}
	return n, err
}

// Close closes the connection, and tells so when nothing can be sent any more.
func (c *closeNotifyConn) Close() error {
	err := c.Conn.Close()
	c.closed.Store(true)
	c.tell()
	return err
}

func (c *closeNotifyConn) tell() {
	if user := c.user.Load(); user != nil {
		user.cutOff(c)
	}
}

// begin notes that a request begins, and returns which one of the connection's that is.
func (c *closeNotifyConn) begin() (use int64) {
	c.begun.Store(false)
	return c.uses.Add(1)
}

// closeAfter closes the connection, unless it carries another request by now.
func (c *closeNotifyConn) closeAfter(use int64) {
	if c.uses.Load() == use {
		_ = c.Close()
	}
}

// closeNotifyConnOf finds the connection under layers of TLS. Nil: it does not tell.
func closeNotifyConnOf(conn net.Conn) *closeNotifyConn {
	for {
		switch c := conn.(type) {
		case *closeNotifyConn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}
