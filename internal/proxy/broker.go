package proxy

import (
	"context"
	"net/http"
	"net/url"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
)

// Broker decides what a call may carry. It does so for whatever the caller is and
// in one configuration, and knows all of tokens, keys, proofs and nonces that the
// proxy does not. Its errors are of type *oauth.Error, or those of a context that
// ended. It is used by many calls at once.
type Broker interface {
	// Authorize returns what a call has to carry: the client's token, and for a
	// token that is bound to a key a fresh proof. It is where the caller's right
	// to the call is checked and the call is audited. It refuses a URL that the
	// client may not call, so that a change of configuration between the lookup of
	// the upstream and this moment sends no token elsewhere.
	Authorize(ctx context.Context, who caller.Caller, req broker.CallRequest) (broker.Credentials, error)

	// Answered tells what a resource said of a call's credentials, and asks whether
	// others could help. If so it returns them, and ok; a token that was refused
	// has then been replaced, within what the limiter for forced fetches allows.
	// It is not called for answers that say nothing: those that bring no nonce and
	// do not challenge.
	Answered(ctx context.Context, who caller.Caller, req broker.CallRequest, had broker.Credentials, answer broker.Answer) (next broker.Credentials, ok bool)
}

// Upstreams says where requests go.
type Upstreams interface {
	// Upstream returns the org of a client, or its resource of that name. It is
	// where an unknown client, an unknown resource, and a client that has no org
	// are refused, with an *oauth.Error.
	Upstream(who caller.Caller, client, resource string) (*Upstream, error)
}

// Upstream is where requests go. It does not change.
type Upstream struct {
	// Client is whose it is, by its name in the configuration. Empty: errors name the
	// client as the caller does, which may be by its client_id.
	Client string
	// Base is an absolute http or https URL, without user, query and fragment. Its
	// path is put in front of every path.
	Base *url.URL
	// AtOkta says that Base is at the origin of the Okta org that has the client's
	// authorization server. Nothing below /oauth2/ is served there: tokens are the broker's
	// business.
	AtOkta bool
	// Transport reaches it: see NewTransport. It is kept with its connections for
	// as long as the Upstream is in use.
	Transport http.RoundTripper
}
