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

// Read logs when the answer breaks off. If the caller has something of it already, that
// ends its connection without a word.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.call.body.heard()
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	ctx := b.call.in.Context()
	b.call.broken = fault(ctx, b.call.target.Host, b.call.settings(), err)
	if why, ok := errors.AsType[cause](b.call.broken); ok {
		b.call.log().InfoContext(ctx, "an answer broke off", "err", why)
	}
	return n, err
}

// Close closes the body, and strips its trailer.
func (b *answerBody) Close() error {
	if b.unhook != nil {
		b.unhook()
	}
	err := b.ReadCloser.Close()
	stripTrailer(b.resp.Trailer)
	return err
}
