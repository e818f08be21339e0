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
// The caller is read from beside the attempts, one read at a time: an attempt can end
// while it waits for the caller, and what comes then is for the next one.
//
// While the upstream has of the body what it did not take yet, it is given little time
// to take it, or to answer. That the caller has sent no more is not its fault.
type body struct {
	source  io.Reader
	control *http.ResponseController
	buffers *buffers
	most    int           // of kept
	stalled time.Duration // see the constant
	giveUp  func()        // is called when the upstream is late

	mu       sync.Mutex
	change   sync.Cond
	current  *attempt
	reading  bool   // from source, into buffer
	buffer   []byte // nil: nobody has read yet, or will again
	lost     bool   // not all that was read is kept
	kept     []byte
	err      error       // how source ended
	late     *time.Timer // runs while the upstream has something to take. Nil: it had nothing yet
	answered bool        // the upstream has begun its answer
	ended    bool        // nobody may read any more
}

// newBody makes a body of a length, which is -1 when it is not known.
func newBody(source io.Reader, length int64, control *http.ResponseController, with *buffers, stalled time.Duration, giveUp func()) *body {
	b := &body{source: source, control: control, buffers: with, most: maxKept, stalled: stalled, giveUp: giveUp}
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
	b.rest()
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

// heard notes that the upstream has sent something of its answer.
func (b *body) heard() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered = true
	if b.rest() {
		b.expect()
	}
}

// expect gives the upstream its time, now that it has something to take. An upstream
// that has begun to answer, and was given all, may be silent for as long as the caller
// waits: that is how events are streamed.
func (b *body) expect() {
	switch {
	case b.answered && b.err != nil:
	case b.late == nil:
		b.late = time.AfterFunc(b.stalled, b.giveUp)
	default:
		b.late.Reset(b.stalled)
	}
}

// rest has the upstream's time rest, and reports whether it ran.
func (b *body) rest() (ran bool) { return b.late != nil && b.late.Stop() }

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
	b.rest()
	b.change.Broadcast()
	if b.reading && b.control.SetReadDeadline(time.Unix(1, 0)) == nil {
		for b.reading {
			b.change.Wait()
		}
	}
	b.release()
	if !errors.Is(b.err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Now().Add(lingering))
	}
}

// begin begins to read from the caller.
func (b *body) begin() {
	if b.reading {
		return
	}
	if b.buffer == nil {
		b.buffer = b.buffers.Get()
	}
	b.reading = true
	go b.read()
}

// read reads from the caller what there is.
func (b *body) read() {
	_ = b.control.SetReadDeadline(time.Now().Add(b.stalled))
	n, err := b.source.Read(b.buffer)
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(err, io.EOF) { // from now on the server reads, to notice when the caller leaves
		_ = b.control.SetReadDeadline(time.Time{})
	}
	b.reading = false
	b.change.Broadcast()
	b.err = err
	if b.lost = b.lost || len(b.kept)+n > b.most; b.lost {
		b.kept, b.current.at = append(b.kept[:0], b.kept[b.current.at:]...), 0
	}
	b.kept = append(b.kept, b.buffer[:n]...)
	if err != nil {
		b.release()
	}
}

// release gives the buffer back.
func (b *body) release() {
	if b.buffer != nil && !b.reading {
		b.buffers.Put(b.buffer)
		b.buffer = nil
	}
}
