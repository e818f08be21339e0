package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// maxKept is how much of a body is kept to be sent again, in bytes.
const maxKept = 64 << 10

// body is the caller's: it goes to the upstream as it comes in, and what has gone
// is kept, for a second attempt, as long as it is no more than maxKept. Of a body
// that is longer, and says so, nothing is kept: it can be sent again as long as
// none of it was asked for (Expect: 100-continue).
//
// The attempt before may still be reading when the next one begins, which ends it. So
// only one attempt reads from the caller at a time, and what it gets is for the next
// one, too.
type body struct {
	source  io.Reader
	control *http.ResponseController
	most    int // of kept

	mu      sync.Mutex
	change  sync.Cond
	current *attempt
	reading bool // an attempt reads from source
	lost    bool // not all that was read is kept
	kept    []byte
	err     error // how source ended
	ended   bool  // nobody may read any more
}

// newBody makes a body of a length, which is -1 when it is not known.
func newBody(source io.Reader, length int64, control *http.ResponseController) *body {
	b := &body{source: source, control: control, most: maxKept}
	if length > maxKept {
		b.most = 0
	}
	b.change.L = &b.mu
	return b
}

var errNotKept = errors.New("the body is not kept")

// first returns what the first attempt reads.
func (b *body) first() io.ReadCloser {
	b.current = &attempt{body: b}
	return b.current
}

// again returns what another attempt reads: the whole body. It ends the one before,
// so that what is kept stays as it is until the new one has read it.
func (b *body) again() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lost {
		return nil, errNotKept
	}
	b.current.over = true
	b.change.Broadcast()
	b.current = &attempt{body: b}
	return b.current, nil
}

// forget lets go of what is kept: no attempt follows. What is not read yet stays.
func (b *body) forget() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lost = true; b.current.at == len(b.kept) {
		b.kept, b.current.at = nil, 0
	}
}

// failed reports whether the caller did not send all of the body.
func (b *body) failed() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil && !errors.Is(b.err, io.EOF)
}

// whole reports whether all of the body was read.
func (b *body) whole() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Is(b.err, io.EOF)
}

// end stops all reading from the caller, before its connection is another
// request's. An upstream may have answered without waiting for the whole body: the
// server reads on then, to end the connection in order, and is given little time.
func (b *body) end() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.change.Broadcast()
	if b.reading && b.control.SetReadDeadline(time.Unix(1, 0)) == nil {
		for b.reading {
			b.change.Wait()
		}
	}
	if !errors.Is(b.err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Now().Add(lingering))
	}
}

// attempt reads a body from its beginning.
type attempt struct {
	body *body
	at   int // up to there kept was read
	over bool
}

var errOver = errors.New("the attempt is over")

// Close ends the attempt. It does not wait for a Read.
func (a *attempt) Close() error {
	a.body.mu.Lock()
	defer a.body.mu.Unlock()
	a.over = true
	a.body.change.Broadcast()
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
		case a.at < len(b.kept):
			n := copy(p, b.kept[a.at:])
			a.at += n
			return n, nil
		case b.err != nil:
			return 0, b.err
		case !b.reading:
			return a.read(p)
		}
		b.change.Wait()
	}
}

// read reads from the caller, and lets mu go meanwhile.
func (a *attempt) read(p []byte) (int, error) {
	b := a.body
	room := b.most - len(b.kept)
	if !b.lost && room > 0 {
		p = p[:min(len(p), room)]
	}
	lostBefore := b.lost
	b.lost = lostBefore || room == 0 // unless this is the end
	b.reading = true
	_ = b.control.SetReadDeadline(time.Now().Add(stalled))
	b.mu.Unlock()
	n, err := b.source.Read(p)
	b.mu.Lock()
	if errors.Is(err, io.EOF) { // from now on the server reads, to notice when the caller leaves
		_ = b.control.SetReadDeadline(time.Time{})
	}
	b.reading = false
	b.change.Broadcast()
	b.err = err
	switch {
	case !b.lost:
		b.kept = append(b.kept, p[:n]...)
		a.at = len(b.kept)
	case n == 0:
		b.lost = lostBefore
	default:
		b.kept, a.at = nil, 0
	}
	return n, err
}
