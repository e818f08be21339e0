package httpapi

import (
	"context"
	"net/http"
	"time"

	"okta-token-broker/api"
	"okta-token-broker/internal/oauth"
)

// Proxied returns a handler of calls that are made for the caller, on a listener of
// their own: the same requests are refused as everywhere, before the handler sees
// them. Errors the handler leaves to WriteError.
func (a *API) Proxied(handler http.Handler) http.Handler {
	guarded := a.recoverPanics(writeCallError)(a.guard(writeCallError)(a.limitCalls(handler)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.arrived(w)
		guarded.ServeHTTP(&callWriter{ResponseWriter: w}, r)
	})
}

// limitCalls has some calls over the bound of those in flight wait for another to end,
// and refuses the others, and those that have waited long: a stream lasts for as long as
// its caller likes. The connection of a refused one makes room for others.
func (a *API) limitCalls(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.enter(r.Context()) {
			defer func() { <-a.calls }()
			handler.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close")
		a.WriteError(w, r, &oauth.Error{
			Class: oauth.Unavailable, RetryAfter: time.Second,
			Description: "as many calls are being made as the broker makes at once; that depends on how many files it may open (ulimit -n)",
		})
	})
}

// enter adds a call to those in flight, if there is room in time.
func (a *API) enter(ctx context.Context) bool {
	select {
	case a.calls <- struct{}{}:
		return true
	default:
	}
	select {
	case a.waiting <- struct{}{}:
		defer func() { <-a.waiting }()
	default:
		return false
	}
	late := time.NewTimer(a.callWait)
	defer late.Stop()
	select {
	case a.calls <- struct{}{}:
		return true
	case <-late.C:
	case <-ctx.Done():
	}
	return false
}

// WriteError answers an error of a call, which is an *oauth.Error or that of a
// context that ended, in the form that errors of calls have. A client that is not
// configured is a 400, whatever the caller sent: its Authorization is for the
// upstream, and a 401 or a 404 would pass for the upstream's. Once an answer has
// begun the connection is ended instead.
func (a *API) WriteError(w http.ResponseWriter, r *http.Request, err error) {
	status, answer := errorAnswer(w, a.told(r, err))
	writeCallError(w, r, status, answer)
}

// writeCallError answers an error, unless an answer has begun: then it ends the
// connection, as nothing else tells the caller that the answer is not whole.
func writeCallError(w http.ResponseWriter, _ *http.Request, status int, e api.Error) {
	if hasBegun(w) {
		panic(http.ErrAbortHandler)
	}
	noStore(w)
	e.Description = describe(e.Description)
	writeJSON(w, status, api.CallError{Error: e, Code: e.Error, Summary: e.Description})
}

// callWriter knows whether an answer has begun.
type callWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *callWriter) WriteHeader(status int) {
	w.begun = w.begun || status >= http.StatusOK // before that come interim answers
	w.ResponseWriter.WriteHeader(status)
}

func (w *callWriter) Write(p []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *callWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// hasBegun looks for the callWriter under what a handler may have put around it.
func hasBegun(w http.ResponseWriter) bool {
	for {
		switch v := w.(type) {
		case *callWriter:
			return v.begun
		case interface{ Unwrap() http.ResponseWriter }:
			w = v.Unwrap()
		default:
			return false
		}
	}
}
