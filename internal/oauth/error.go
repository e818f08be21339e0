package oauth

import (
	"errors"
	"time"
)

// Class says whose fault an error is, and so how it is answered.
type Class int

// The classes. Internal is the zero value: an error that nobody classified is
// ours.
const (
	// Internal: the broker itself failed.
	Internal Class = iota
	// InvalidRequest: the caller's request is malformed.
	InvalidRequest
	// UnknownClient: no configured client has that name.
	UnknownClient
	// InvalidScope: the scopes are malformed, not allowed, or not granted.
	InvalidScope
	// UnsupportedGrant: a grant type that the broker does not serve.
	UnsupportedGrant
	// AccessDenied: the caller may not do this.
	AccessDenied
	// NoSpace: the key ring could not be written for want of space.
	NoSpace
	// Refused: the authorization server refuses the broker itself.
	Refused
	// BadAnswer: the authorization server's answer makes no sense.
	BadAnswer
	// Unavailable: the authorization server is limited, down or unreachable.
	Unavailable
	// TimedOut: the authorization server was too slow.
	TimedOut
	// TooMany: the caller forces more than it may.
	TooMany
)

// Upstream is what an authorization server answered, with everything taken
// out that should not reach a caller or a log.
type Upstream struct {
	// Status is the HTTP status code.
	Status int
	// Code and Description are its error words: RFC 6749 section 5.2, or
	// Okta's errorCode and errorSummary.
	Code, Description string
	// RequestID is X-Okta-Request-Id: it finds the call in Okta's System Log.
	RequestID string
}

// Reach says for what else than the one request a failure holds, and so what
// need not be tried again for a while.
type Reach int

// The reaches, from the least.
const (
	// ReachRequest: for nothing else.
	ReachRequest Reach = iota
	// ReachScopes: for the same client and scopes.
	ReachScopes
	// ReachClient: for all that the client asks for.
	ReachClient
	// ReachServer: for all clients of the authorization server. Whoever speaks to
	// the server remembers it, and says so with RetryAfter.
	ReachServer
)

// Error is a failure with its class and with words that a caller may read.
type Error struct {
	Class Class
	// Description says what is wrong and what to do. It holds no secret.
	Description string
	// RetryAfter is when it makes sense to ask again; 0 means not said.
	RetryAfter time.Duration
	// Reach is set where an authorization server was asked.
	Reach Reach
	// Repeated says that nothing was sent: it is what an earlier request met.
	Repeated bool
	// Upstream is set where an authorization server answered.
	Upstream *Upstream
	// Err is the cause, for the log. It holds no secret either.
	Err error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Description + ": " + e.Err.Error()
	}
	return e.Description
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Fail makes an Error of a class with a description.
func Fail(class Class, description string) *Error {
	return &Error{Class: class, Description: description}
}

// ClassOf returns the class of the first Error in err's chain, else Internal.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return Internal
}
