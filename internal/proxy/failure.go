package proxy

import (
	"context"
	"errors"
	"time"

	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/transport"
)

// fault sorts an error of an http.RoundTripper by whose it is. Its text can quote
// what the host sent, so none of it is passed on.
func fault(ctx context.Context, host string, from settings, err error) error {
	if ctx.Err() != nil {
		if own, ok := errors.AsType[*oauth.Error](context.Cause(ctx)); ok {
			return own
		}
		return ctx.Err()
	}
	outage, words := transport.OutageOf(err)
	switch outage {
	case transport.TooSlow:
		return &oauth.Error{Class: oauth.TimedOut, Description: host + " did not answer in time", RetryAfter: time.Second, Err: cause(words)}
	case transport.Unreachable:
		return &oauth.Error{
			Class:       oauth.Unavailable,
			Description: host + " could not be reached: the network, HTTPS_PROXY or " + from.address + " may be wrong",
			RetryAfter:  time.Second, Err: cause(words),
		}
	case transport.Untrusted:
		// As with the authorization server: what is wrong there can be mended there.
		return &oauth.Error{
			Class:       oauth.Unavailable,
			Description: "TLS with " + host + " failed (" + words + "): check the certificate, and " + from.roots + " for a private CA",
			RetryAfter:  time.Second, Err: cause("TLS"),
		}
	}
	if errors.Is(err, errStatus) {
		words = errStatus.Error()
	}
	return &oauth.Error{Class: oauth.BadAnswer, Description: "the connection to " + host + " broke, or its answer made no sense", Err: cause(words)}
}

// settings name what leads to a host in the configuration.
type settings struct{ address, roots string }

// errNotTaken is for a host that takes nothing of a request's body.
func errNotTaken(host string) error {
	return &oauth.Error{
		Class: oauth.TimedOut, Description: host + " did not take the body of the request in time",
		RetryAfter: time.Second, Err: cause("time-out"),
	}
}

// cause is why a request had no answer.
type cause string

func (c cause) Error() string { return string(c) }

var errStatus = errors.New("the answer has a status that it must not have")
