package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
)

// answerBody is the body of an answer. What follows it, a trailer, is known when it has
// been closed.
type answerBody struct {
	io.ReadCloser
	resp   *http.Response
	call   *call
	unhook func() bool
	buffer []byte // for begin. Nil: it was not called
	begun  []byte // of buffer: what the caller does not have yet
	err    error  // that came with it
}

func (c *call) answerBody(resp *http.Response) *answerBody {
	b := &answerBody{ReadCloser: resp.Body, resp: resp, call: c}
	if c.body != nil && resp.ProtoMajor == 2 {
		// There the end of the context goes unnoticed while what is left of the request
		// waits for the upstream to take it.
		b.unhook = context.AfterFunc(c.in.Context(), func() { _ = b.ReadCloser.Close() })
	}
	return b
}

// begin waits for the first of the body, while the caller can still be told that there
// is none. The error is that of RoundTrip.
func (b *answerBody) begin() error {
	b.buffer = b.call.proxy.buffers.Get()
	n, err := b.read(b.buffer)
	b.begun, b.err = b.buffer[:n], err
	if n > 0 || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Read reads what there is. When the answer breaks off, that ends the caller's
// connection without a word.
func (b *answerBody) Read(p []byte) (int, error) {
	if len(b.begun) == 0 && b.err == nil {
		return b.read(p)
	}
	n := copy(p, b.begun)
	if b.begun = b.begun[n:]; len(b.begun) > 0 {
		return n, nil
	}
	return n, b.err
}

// read reads from the upstream, and logs when the answer breaks off.
func (b *answerBody) read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.call.body.heard()
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	ctx := b.call.in.Context()
	err = fault(ctx, b.call.target.Host, b.call.settings(), err)
	if why, ok := errors.AsType[cause](err); ok {
		b.call.log().InfoContext(ctx, "an answer broke off", "err", why)
	}
	return n, err
}

// Close closes the body, and strips its trailer.
func (b *answerBody) Close() error {
	if b.buffer != nil {
		b.call.proxy.buffers.Put(b.buffer)
		b.buffer, b.begun = nil, nil
	}
	if b.unhook != nil {
		b.unhook()
	}
	err := b.ReadCloser.Close()
	stripTrailer(b.resp.Trailer)
	return err
}
