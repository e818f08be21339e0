package proxy

import (
	"errors"
	"io"
	"net/http/httptrace"
)

// attempt reads a body from its beginning, to send it over a connection.
type attempt struct {
	body     *body
	at       int // up to there kept was read
	over     bool
	conn     *closeNotifyConn // that it is sent over. Nil: nobody tells when that is closed
	cut      bool             // conn is closed
	unwanted bool             // the upstream takes no more of what is sent over conn
}

var errOver = errors.New("the attempt is over")

// Close ends the attempt. It does not wait for a Read.
func (a *attempt) Close() error {
	a.body.mu.Lock()
	defer a.body.mu.Unlock()
	a.over = true
	a.body.change.Broadcast()
	if a.conn != nil {
		a.conn.user.CompareAndSwap(a, nil)
	}
	return nil
}

func (a *attempt) Read(p []byte) (int, error) {
	b := a.body
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case a.over, b.ended:
			return 0, errOver
		case a.unwanted && !a.cut:
			// The transport must not take the request for one that was sent, whose connection
			// it would keep.
			b.change.Wait()
			continue
		case a.at < len(b.kept) || b.err != nil:
			return a.take(p)
		case a.cut:
			// That is all, and nobody gets to see it: nothing can be sent over conn any more.
			// Any error would be the caller's to net/http, which sends a request of which
			// nothing was written once more.
			return 0, io.EOF
		}
		b.rest() // the upstream has taken what there was
		b.begin()
		b.change.Wait()
	}
}

// take takes what there is.
func (a *attempt) take(p []byte) (n int, err error) {
	b := a.body
	n = copy(p, b.kept[a.at:])
	if a.at += n; a.at == len(b.kept) {
		err = b.err
	}
	if err != nil && b.lost {
		b.kept, a.at = nil, 0
	}
	b.expect()
	return n, err
}

// sentOver has the current attempt end with its connection. The transport finds out
// when that breaks, but tells nobody before it is done with the body: an attempt that
// waits for the caller would hold it up.
func (b *body) sentOver(got httptrace.GotConnInfo) {
	conn := closeNotifyConnOf(got.Conn)
	if conn == nil {
		return
	}
	b.mu.Lock()
	a := b.current
	if a.conn != nil {
		a.conn.user.CompareAndSwap(a, nil)
	}
	// The transport sends an attempt that it has not begun to read over another connection
	// when the one before turns out to be closed.
	a.conn, a.cut, a.unwanted = conn, false, false
	conn.user.Store(a)
	b.mu.Unlock()
	if conn.closed.Load() {
		conn.tell()
	}
}

// refused tells that the upstream takes no more of what is sent over a connection.
func (a *attempt) refused(conn *closeNotifyConn) {
	a.body.mu.Lock()
	defer a.body.mu.Unlock()
	if a.conn == conn {
		a.unwanted = true
	}
}

// cutOff tells that a connection is closed.
func (a *attempt) cutOff(conn *closeNotifyConn) {
	a.body.mu.Lock()
	defer a.body.mu.Unlock()
	if a.conn == conn {
		a.cut = true
		a.body.change.Broadcast()
	}
}
