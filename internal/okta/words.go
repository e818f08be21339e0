package okta

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// correction is what an exchange does after a failed attempt.
type correction string

const (
	giveUp       correction = "none"
	noKeyWill    correction = "none, whatever the key" // gives up
	useClock     correction = "clock"                  // the offset is taken up by itself
	newJTI       correction = "jti"                    // every attempt has a new one
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
	status int    // 0 matches any, 500 any server error
	code   string // "" matches any
	words  string // part of the description, "" matches any
	fix    correction
	class  oauth.Class
	// advice says what is wrong and what to do. It may hold {client}, {id},
	// {ring}, {kid}, {issuer}, {org} and {audience}.
	advice string
}

func (r row) matches(f *failure) bool {
	return (r.status == 0 || r.status == f.status || r.status == 500 && f.status >= 500) &&
		(r.code == "" || r.code == f.code) && strings.Contains(f.description, r.words)
}

// Where Okta's Admin Console has what is to be changed.
const (
	appGeneral     = "in Okta, Applications > app > General"
	appCredentials = appGeneral + " > Client Credentials"
	customServer   = "in Okta, Security > API > Authorization Servers > server"
)

const (
	// jwkCommand shows the active key, whatever other key was tried last.
	jwkCommand = "the output of `okta-token-broker keys jwk --key {ring}`"

	dpopAdvice = "the app requires DPoP, and the broker sends no proof: under Proof of possession (" + appGeneral + " > General Settings) clear Require Demonstrating Proof of Possession (DPoP) header in token requests"

	refusedAdvice = "the authorization server does not accept the client: check clients.{client}.client_id, issuer and audience, that the public key {kid} is registered (`okta-token-broker keys jwk --key {ring}`), and the broker's clock"
)

// rows is read from the top; the first match counts, and the last row matches
// everything. The texts are Okta's.
func rows() []row {
	return []row{
		{429, "", "", giveUp, oauth.Unavailable,
			"the authorization server limits the rate of requests: wait before asking again; in Okta, Reports > Rate Limits shows what uses it up"},
		{500, "", "", waitAndRetry, oauth.Unavailable,
			"the authorization server failed: ask again later; status.okta.com shows Okta's outages"},

		{0, "invalid_client", "must be the endpoint invoked", giveUp, oauth.Refused,
			"the authorization server was asked at another URL than the assertion's audience, {audience}: check that clients.{client}.issuer has the host that the server itself knows, and set clients.{client}.audience to endpoint"},
		{0, "invalid_client", "expiration too far into the future", useClock, oauth.Refused,
			"the broker's clock runs fast: synchronise it; or lower clients.{client}.assertion_lifetime, which may be an hour at most"},
		{0, "invalid_client", "token is expired", useClock, oauth.Refused,
			"the broker's clock runs slow: synchronise it"},
		{0, "invalid_client", "must be issued before the current time", useClock, oauth.Refused,
			"the broker's clock runs fast: synchronise it"},
		{0, "invalid_client", "has already been used", newJTI, oauth.Refused,
			"the authorization server says that fresh assertions were used before: look for a proxy that repeats requests"},
		{0, "invalid_client", "kid is invalid", otherKey, oauth.Refused,
			"the authorization server does not know the public key {kid}: add " + jwkCommand + " to the app's public keys (" + appCredentials + "); or, for a key that was made elsewhere, set keys.{ring}.kid to the kid it has there"},
		{0, "invalid_client", "signature is invalid", otherKey, oauth.Refused,
			"the assertion's signature does not fit the app's public key of the same kid: replace that one (" + appCredentials + ") by " + jwkCommand + ", which has the kid {kid}; or, if keys.{ring}.kid names another key's kid, correct it"},
		{0, "invalid_client", "algorithm", otherKey, oauth.Refused,
			"the app's public key is for another algorithm than the broker's key: replace it (" + appCredentials + ") by " + jwkCommand + ", which has the kid {kid}"},
		{0, "invalid_client", "'use'", otherKey, oauth.Refused,
			"the app's public key is not for signing: replace it (" + appCredentials + ") by " + jwkCommand + ", which has the kid {kid} and the use sig"},
		{0, "invalid_client", "does not have a JWKSet configured", noKeyWill, oauth.Refused,
			"the app has no public key: choose Public key / Private key (" + appCredentials + ") and add " + jwkCommand + ", which has the kid {kid}"},
		{0, "invalid_client", "Error retrieving the client JWKSet", giveUp, oauth.Unavailable,
			"the authorization server cannot read the app's jwks_uri: check that URL (" + appCredentials + "), and that the server can reach it"},
		{0, "invalid_client", "Invalid value for 'client_id'", noKeyWill, oauth.Refused,
			"{issuer} does not know the client {id}: check clients.{client}.client_id (" + appGeneral + " > Client ID) and clients.{client}.issuer, which must be of the org that has the app"},
		{0, "invalid_client", "", byState, oauth.Refused, refusedAdvice},
		// How Ory's servers say it.
		{0, "invalid_request", "kid", otherKey, oauth.Refused,
			"the authorization server does not know the public key {kid}: add " + jwkCommand + " to the client's public keys; or, for a key that was made elsewhere, set keys.{ring}.kid to the kid it has there"},

		{0, "invalid_scope", "No scopes were requested", giveUp, oauth.InvalidScope,
			"the authorization server gives no token without a scope: set clients.{client}.scopes"},
		{0, "invalid_scope", "are not configured", giveUp, oauth.InvalidScope,
			"{issuer} does not have all of these scopes: add them to it (" + customServer + " > Scopes) or take them out of clients.{client}.scopes; for okta.* scopes set clients.{client}.issuer to the org, {org}"},
		{0, "invalid_scope", "Custom scopes are not allowed", giveUp, oauth.InvalidScope,
			"{issuer} is the org authorization server, which gives okta.* scopes alone: take the others out of clients.{client}.scopes, or set clients.{client}.issuer to a custom authorization server, {org}/oauth2/ID"},
		{0, "invalid_scope", "'openid'", giveUp, oauth.InvalidScope,
			"openid is for users who sign in, and the client credentials grant has none: take it out of clients.{client}.scopes"},
		{0, "invalid_scope", "", giveUp, oauth.InvalidScope,
			"the authorization server does not grant these scopes: check clients.{client}.scopes"},
		{0, "consent_required", "", giveUp, oauth.Refused,
			"the app was granted none of these scopes: grant them (in Okta, Applications > app > Okta API Scopes), or correct clients.{client}.scopes"},

		{403, "access_denied", "", giveUp, oauth.Refused,
			"the authorization server denies the app from the broker's network address: add the address to a network zone (in Okta, Security > Networks) that the app allows (" + appGeneral + ")"},
		{0, "access_denied", "Denied scopes", giveUp, oauth.Refused,
			"no access policy of {issuer} grants the app all of these scopes at once: add the denied ones to the rule that has the others (" + customServer + " > Access Policies), or take them out of clients.{client}.scopes"},
		{0, "access_denied", "", giveUp, oauth.Refused,
			"no access policy of {issuer} lets the app in: assign one to the app, with a rule for Client Credentials and these scopes (" + customServer + " > Access Policies)"},

		{0, "unauthorized_client", "to use the provided grant type", byState, oauth.Refused,
			"the app may not use the client credentials grant: tick Client Credentials under Grant type (" + appGeneral + " > General Settings)"},
		{0, "unauthorized_client", "", byState, oauth.Refused,
			"the authorization server does not let the app use the client credentials grant: tick Client Credentials under Grant type (" + appGeneral + " > General Settings); where it takes a custom authorization server, set clients.{client}.issuer to {org}/oauth2/ID"},
		{0, "unsupported_grant_type", "", giveUp, oauth.Refused,
			"{issuer} does not serve the client credentials grant: check clients.{client}.issuer, {org} for okta.* scopes, {org}/oauth2/ID for others"},
		{0, "invalid_dpop_proof", "", giveUp, oauth.Refused, dpopAdvice},
		{0, "use_dpop_nonce", "", giveUp, oauth.Refused, dpopAdvice},
		{0, "temporarily_unavailable", "", waitAndRetry, oauth.Unavailable,
			"the authorization server is overloaded or in maintenance: ask again later; status.okta.com shows Okta's outages"},

		{401, "", "", byState, oauth.Refused, refusedAdvice},
		{404, "", "", giveUp, oauth.Refused,
			"{issuer} has no token endpoint: check clients.{client}.issuer, and clients.{client}.token_endpoint for servers that are not Okta"},
		{0, "", "", giveUp, oauth.Refused,
			"the authorization server refused the request: look the call up by its request id in that server's log (in Okta, Reports > System Log)"},
	}
}

// match finds how a refusal is dealt with.
func (f *failure) match() row {
	all := rows()
	return all[slices.IndexFunc(all, func(r row) bool { return r.matches(f) })]
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
	switch f.row.fix {
	case otherKey, noKeyWill:
		return true
	case byState:
		return f.refusesClient()
	}
	return false
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
	setting := "clients." + c.cfg.Name
	switch f.kind {
	case signing:
		e.Class, e.Description = oauth.Internal, "the broker could not sign an assertion; its log has the reason"
	case badAnswer:
		e.Class, e.Err = oauth.BadAnswer, nil
		e.Description = fmt.Sprintf("%s gave an answer that is not usable: %v; check %s.issuer, and that no proxy answers in its place", issuer, f.err, setting)
	case tooSlow:
		e.Class, e.Description = oauth.TimedOut, issuer+" did not answer in time: ask again; if this goes on, check the network and HTTPS_PROXY"
	case untrusted:
		e.Class, e.Description = oauth.Unavailable, "the TLS connection to "+issuer+" is not to be trusted: check the certificate, and "+setting+".ca_file for a private CA"
	case unreachable:
		e.Class, e.Description = oauth.Unavailable, issuer+" cannot be reached: check "+setting+".issuer, the network, DNS and HTTPS_PROXY"
	case broken:
		e.Class, e.Description = oauth.Unavailable, "the connection to "+issuer+" broke: ask again; if this goes on, check the network and HTTPS_PROXY"
	case refused:
		e.Class, e.Description = f.row.class, c.fill(f.row.advice, active)
	}
	if offset := c.cfg.Server.uncorrected(); f.kind == refused && offset != 0 {
		e.Description += fmt.Sprintf("; its clock differs from the broker's by %v, too much to correct: synchronise the broker's clock", offset)
	}
	if e.Class == oauth.Unavailable && e.RetryAfter == 0 {
		e.RetryAfter = time.Second
	}
	return e
}

// fill puts what the client is configured with into a row's advice.
func (c *Client) fill(advice string, active *keys.Key) string {
	server := c.cfg.Server
	return strings.NewReplacer(
		"{client}", c.cfg.Name,
		"{id}", strconv.Quote(c.cfg.ID),
		"{ring}", c.cfg.Ring.Name(),
		"{kid}", strconv.Quote(active.ID()),
		"{issuer}", server.issuer,
		"{org}", orgOf(server.issuer),
		"{audience}", server.endpoints.Audience(server.issuer, c.cfg.AudienceIssuer),
	).Replace(advice)
}
