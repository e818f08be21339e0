package okta

import (
	"fmt"
	"strings"
	"time"

	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// correction is what an exchange does after a failed attempt.
type correction string

const (
	giveUp       correction = "none"
	useClock     correction = "clock" // the offset is taken up by itself
	newJTI       correction = "jti"   // every attempt has a new one
	otherKey     correction = "other key"
	retryBroken  correction = "retry"
	waitAndRetry correction = "wait"

	// byState is for the errors that have no words to go by.
	byState correction = "by state"
)

// maxWaits is how often a server error is retried.
const maxWaits = 2

// row is one way in which a server refuses, as Okta words it.
type row struct {
	code  string // "" matches any
	words string // part of the description, "" matches any
	fix   correction
	class oauth.Class
	// advice may hold {client}, {ring}, {kid}, {issuer} and {endpoint}.
	advice string
}

const registerAdvice = "the authorization server does not know the public key {kid}: add the output of `okta-token-broker keys jwk --key {ring}` to the app's public keys; or, for a key that was made elsewhere, set keys.{ring}.kid to the kid it has there"

const unknownClientAdvice = "the server does not know this client: check clients.{client}.client_id and clients.{client}.issuer"

const refusedAdvice = "the authorization server does not accept the client: check clients.{client}.client_id, issuer and audience, that the public key {kid} is registered (`okta-token-broker keys jwk --key {ring}`), and the broker's clock"

// rows is read from the top; the first match counts. The texts are Okta's.
func rows() []row {
	return []row{
		{"invalid_client", "must be the endpoint invoked", giveUp, oauth.Refused, "the server expects another audience than {endpoint}: check clients.{client}.issuer, and clients.{client}.audience for servers that are not Okta"},
		{"invalid_client", "expiration too far into the future", useClock, oauth.Refused, "the broker's clock runs fast: synchronise it; or lower clients.{client}.assertion_lifetime"},
		{"invalid_client", "token is expired", useClock, oauth.Refused, "the broker's clock runs slow: synchronise it"},
		{"invalid_client", "must be issued before the current time", useClock, oauth.Refused, "the broker's clock runs fast: synchronise it"},
		{"invalid_client", "has already been used", newJTI, oauth.Refused, "the server says that fresh assertions were used before: look for a proxy that repeats requests"},
		{"invalid_client", "kid is invalid", otherKey, oauth.Refused, registerAdvice},
		{"invalid_client", "signature is invalid", otherKey, oauth.Refused, registerAdvice},
		{"invalid_client", "algorithm", otherKey, oauth.Refused, registerAdvice},
		{"invalid_client", "'use'", otherKey, oauth.Refused, registerAdvice},
		{"invalid_client", "does not have a JWKSet configured", giveUp, oauth.Refused, registerAdvice},
		{"invalid_client", "Error retrieving the client JWKSet", giveUp, oauth.Unavailable, "the authorization server cannot read the app's jwks_uri"},
		{"invalid_client", "Invalid value for 'client_id'", giveUp, oauth.Refused, unknownClientAdvice},
		// How Ory's servers say it.
		{"invalid_request", "kid", otherKey, oauth.Refused, registerAdvice},
		{"invalid_scope", "", giveUp, oauth.InvalidScope, "the authorization server does not grant these scopes: check clients.{client}.scopes"},
		{"consent_required", "", giveUp, oauth.Refused, "the app may not have these scopes: in Okta grant them on the app's tab Okta API Scopes"},
		{"access_denied", "", giveUp, oauth.Refused, "a policy or network zone of the authorization server denies the app: check its access policies"},
		{"unauthorized_client", "", byState, oauth.Refused, "the app may not use the client credentials grant: enable it in the app's general settings"},
		{"unsupported_grant_type", "", giveUp, oauth.Refused, "the authorization server does not serve the client credentials grant: check clients.{client}.issuer"},
		{"invalid_dpop_proof", "", giveUp, oauth.Refused, "the app requires DPoP: in Okta clear Proof of possession in the app's general settings"},
		{"use_dpop_nonce", "", giveUp, oauth.Refused, "the app requires DPoP: in Okta clear Proof of possession in the app's general settings"},
		{"temporarily_unavailable", "", waitAndRetry, oauth.Unavailable, "the authorization server is overloaded or in maintenance"},
		{"invalid_client", "", byState, oauth.Refused, refusedAdvice},
	}
}

// match finds how a refusal is dealt with.
func (f *failure) match() row {
	switch {
	case f.status == 429:
		return row{fix: giveUp, class: oauth.Unavailable, advice: "the authorization server limits the rate of requests"}
	case f.status >= 500:
		return row{fix: waitAndRetry, class: oauth.Unavailable, advice: "the authorization server failed"}
	}
	for _, row := range rows() {
		if row.code == f.code && strings.Contains(f.description, row.words) {
			return row
		}
	}
	if f.refusesClient() {
		return row{fix: byState, class: oauth.Refused, advice: refusedAdvice}
	}
	return row{fix: giveUp, class: oauth.Refused, advice: "the authorization server refused the request"}
}

// corrections remembers what an exchange has tried: each at most once, server
// errors twice.
type corrections struct {
	clock, jti, broken bool
	waits              int
}

// choose picks what to do about a failure, by the server's words where they are
// known, else by state. It gives up where the same again would be refused
// again. hasOther says that there is another key to try.
func (done *corrections) choose(f *failure, hasOther bool) correction {
	fix := giveUp
	switch f.kind {
	case refused:
		fix = f.row.fix
	case broken:
		fix = retryBroken
	}
	if fix == byState {
		fix = f.fixByState(done.clock)
	}

	possible := false
	switch fix {
	case useClock:
		possible, done.clock = f.clockMoved && !done.clock, true
	case newJTI:
		possible, done.jti = !done.jti, true
	case otherKey:
		possible = hasOther
	case retryBroken:
		possible, done.broken = !done.broken, true
	case waitAndRetry:
		possible = done.waits < maxWaits
		done.waits++
	}
	if !possible {
		return giveUp
	}
	return fix
}

// refusesKeys reports whether the server said that no key of ours will do for the
// client, or may have meant that.
func (f *failure) refusesKeys() bool {
	if f.kind != refused {
		return false
	}
	return f.row.advice == registerAdvice || f.row.advice == unknownClientAdvice || f.row.fix == byState && f.refusesClient()
}

// fixByState is for servers that say a bare invalid_client for every cause.
func (f *failure) fixByState(clockDone bool) correction {
	switch {
	case !f.refusesClient():
		return giveUp
	case f.clockMoved && !clockDone:
		return useClock
	}
	return otherKey
}

// explain turns a failure into words for whoever runs the broker: what is
// wrong, on which side, and what to do.
func (c *Client) explain(f *failure, active *keys.Key) *oauth.Error {
	e := &oauth.Error{Upstream: f.upstream(), RetryAfter: f.retryAfter, Err: f}
	issuer := c.cfg.Server.issuer
	switch f.kind {
	case signing:
		e.Class, e.Description = oauth.Internal, "the broker could not sign an assertion"
	case badAnswer:
		e.Class, e.Description, e.Err = oauth.BadAnswer, fmt.Sprintf("%s gave an answer that is not usable: %v", issuer, f.err), nil
	case tooSlow:
		e.Class, e.Description = oauth.TimedOut, issuer+" did not answer in time"
	case untrusted:
		e.Class, e.Description = oauth.Unavailable, "the TLS connection to "+issuer+" is not to be trusted: check the certificate, and clients."+c.cfg.Name+".ca_file for a private CA"
	case unreachable:
		e.Class, e.Description = oauth.Unavailable, issuer+" cannot be reached: check the network, DNS and HTTPS_PROXY"
	case broken:
		e.Class, e.Description = oauth.Unavailable, "the connection to "+issuer+" broke"
	case refused:
		e.Class = f.row.class
		e.Description = strings.NewReplacer(
			"{client}", c.cfg.Name, "{ring}", c.cfg.Ring.Name(), "{kid}", fmt.Sprintf("%q", active.ID()),
			"{issuer}", issuer, "{endpoint}", c.cfg.Server.endpoints.Token,
		).Replace(f.row.advice)
	}
	if offset := c.cfg.Server.uncorrected(); f.kind == refused && offset != 0 {
		e.Description += fmt.Sprintf("; its clock differs from the broker's by %v, too much to correct: synchronise the broker's clock", offset)
	}
	if e.Class == oauth.Unavailable && e.RetryAfter == 0 {
		e.RetryAfter = time.Second
	}
	return e
}
