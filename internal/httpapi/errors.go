package httpapi

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"okta-token-broker/api"
	"okta-token-broker/internal/oauth"
)

// statusAndCode is how each class of error is answered.
func statusAndCode(class oauth.Class) (int, string) {
	switch class {
	case oauth.InvalidRequest:
		return http.StatusBadRequest, "invalid_request"
	case oauth.UnknownClient:
		return http.StatusBadRequest, "invalid_client"
	case oauth.InvalidScope:
		return http.StatusBadRequest, "invalid_scope"
	case oauth.UnsupportedGrant:
		return http.StatusBadRequest, "unsupported_grant_type"
	case oauth.AccessDenied:
		return http.StatusForbidden, "access_denied"
	case oauth.NoSpace:
		return http.StatusInsufficientStorage, "server_error"
	case oauth.Refused, oauth.BadAnswer:
		return http.StatusBadGateway, "server_error"
	case oauth.Unavailable:
		return http.StatusServiceUnavailable, "temporarily_unavailable"
	case oauth.TimedOut:
		return http.StatusGatewayTimeout, "temporarily_unavailable"
	case oauth.TooMany:
		return http.StatusTooManyRequests, "temporarily_unavailable"
	}
	return http.StatusInternalServerError, "server_error"
}

// fail answers an error of a route.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	if bad, ok := errors.AsType[*requestError](err); ok {
		writeError(w, r, bad.status, api.Error{Error: "invalid_request", Description: bad.description})
		return
	}
	e := a.told(r, err)
	status, answer := errorAnswer(w, e)
	if e.Class == oauth.UnknownClient && len(r.Header.Values("Authorization")) > 0 {
		// RFC 6749 section 5.2.
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", `Basic realm="okta-token-broker"`)
	}
	writeError(w, r, status, answer)
}

// told is what callers are told of an error: only an *oauth.Error has words meant
// for them.
func (a *API) told(r *http.Request, err error) *oauth.Error {
	e, ok := errors.AsType[*oauth.Error](err)
	switch {
	case ok:
		return e
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &oauth.Error{Class: oauth.TimedOut, Description: "the request ended before there was an answer", RetryAfter: time.Second}
	}
	a.log.Error("answering failed", "path", r.URL.Path, "err", err)
	return oauth.Fail(oauth.Internal, "the broker failed; its log has the reason")
}

// errorAnswer puts an error into its wire form.
func errorAnswer(w http.ResponseWriter, e *oauth.Error) (status int, answer api.Error) {
	status, code := statusAndCode(e.Class)
	if e.RetryAfter > 0 && status != http.StatusBadGateway { // which somebody has to mend first
		w.Header().Set("Retry-After", strconv.FormatInt(int64(math.Ceil(e.RetryAfter.Seconds())), 10))
	}
	answer = api.Error{Error: code, Description: e.Description}
	if up := e.Upstream; up != nil {
		answer.Upstream = &api.Upstream{Status: up.Status, Error: up.Code, Description: up.Description, RequestID: up.RequestID}
	}
	return status, answer
}

// errorWriter writes an error: writeError or writeCallError.
type errorWriter func(w http.ResponseWriter, r *http.Request, status int, e api.Error)

// writeError answers in the form that the route has: POST / keeps the Flask
// server's.
func writeError(w http.ResponseWriter, r *http.Request, status int, e api.Error) {
	noStore(w)
	e.Description = describe(e.Description)
	if r.Method == http.MethodPost && r.URL.Path == "/" {
		writeJSON(w, status, api.SignError{Error: e.Description})
		return
	}
	writeJSON(w, status, e)
}

// describe keeps to the characters that RFC 6749 section 5.2 allows in
// error_description.
func describe(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r < ' ' || r > '~' || r == '\\':
			return '?'
		}
		return r
	}, s)
}

// requestError is a request that HTTP itself has a status for.
type requestError struct {
	status      int
	description string
}

func (e *requestError) Error() string { return e.description }

// unreadable says why a body could not be read.
func unreadable(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &requestError{http.StatusRequestEntityTooLarge, "the body is over 16 KiB"}
	}
	return &requestError{http.StatusBadRequest, "the body could not be read"}
}
