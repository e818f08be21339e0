package transport

import (
	"context"
	"net/http/httptrace"
)

// OnRepeat returns a context for one request, with which repeat is called before net/http
// sends that once more by itself. It does when a kept connection breaks before there is
// an answer, if nothing was written to it, or the method or an Idempotency-Key allows it.
//
// net/http tells of each connection before it writes to it, and when it is done with the
// one before. So the header is nobody else's then, and repeat may change it.
func OnRepeat(ctx context.Context, repeat func()) context.Context {
	sent := false
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		if sent {
			repeat()
		}
		sent = true
	}})
}
