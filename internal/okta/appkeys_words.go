package okta

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/oauth"
)

// What is wrong that Okta does not say, or not in words to go by: the app's list
// shows it. Advice of the key API may hold {client}, {rotator}, {app}, {org}, {kid}
// and {missing}.
const (
	duplicateAdvice = "the app {app} has another public key under the kid {kid}, which the broker leaves alone, and Okta takes a kid once: rotate to a key with a kid of its own; or, if nothing uses the other key, delete it (" + appCredentials + ")"

	tooManyAdvice = "the app {app} has 50 public keys, and Okta takes no more: delete those that nothing uses (" + appCredentials + "); the broker deletes no key that is not its own"

	noKidAdvice = "Okta did not take the public key {kid}; the app {app} has a public key without a kid, next to which it may take no other: give that one a kid, or delete it (" + appCredentials + ")"

	lastActiveAdvice = "the public key {kid} is the last active one of the app {app}, which stays: the broker removes it once another one is registered"

	scopesAdvice = "the token of clients.{rotator}, the rotator, is not good for the app's public keys: grant its app {missing} (in Okta, Applications > app > Okta API Scopes)"
)

// unwilling is why something was not asked for.
func unwilling(advice string) *failure {
	return &failure{kind: refused, row: row{class: oauth.Refused, advice: advice}, err: errors.New("nothing was changed")}
}

// appKeyRows are how the key API refuses, to be read as those of a server are. What
// matches a cause is of Okta's documents, which do not give the causes' own words.
func appKeyRows() []row {
	return []row{
		{429, "", "", giveUp, oauth.Unavailable, oauth.ReachRequest,
			"Okta limits the rate of calls to its API of apps: wait before calling again; in Okta, Reports > Rate Limits shows what uses it up"},
		{500, "", "", giveUp, oauth.Unavailable, oauth.ReachRequest,
			"Okta's API of apps failed: call it again later; status.okta.com shows Okta's outages"},

		{0, dpop.UseNonce, "", giveUp, oauth.Refused, oauth.ReachRequest,
			"Okta's API of apps does not accept the nonces for DPoP proofs that it gives itself: try again; if this goes on, look for a proxy that keeps DPoP-Nonce headers away"},
		{0, dpop.InvalidProof, "", giveUp, oauth.Refused, oauth.ReachRequest,
			"Okta's API of apps does not accept the DPoP proofs of clients.{rotator}, the rotator: check that clients.{rotator}.issuer is the org, {org}, the broker's clock, and that no proxy repeats requests"},

		{400, invalid, "jwks_uri", giveUp, oauth.Refused, oauth.ReachRequest,
			"the app {app} takes its public keys from a URL, so that none can be registered: set clients.{client}.registration to jwks_uri; or choose Save keys in Okta (" + appCredentials + " > Public keys)"},
		{400, invalid, "RSA", giveUp, oauth.Refused, oauth.ReachRequest,
			"Okta does not take the public key {kid}, which is not one that it verifies with: rotate to an RSA key of 2048 bits or more, or to an EC key"},
		{400, "", "", giveUp, oauth.Refused, oauth.ReachRequest,
			"Okta refused to change the public key {kid} of the app {app}: see what it says; if the app takes its keys from a URL, set clients.{client}.registration to jwks_uri"},
		{401, "", "", giveUp, oauth.Refused, oauth.ReachRequest,
			"Okta's API of apps accepts no token of clients.{rotator}, the rotator, not even a new one: check that clients.{rotator}.issuer is the org, {org}"},
		{403, "", "required scopes", giveUp, oauth.Refused, oauth.ReachRequest, scopesAdvice},
		{403, forbidden, "", giveUp, oauth.Refused, oauth.ReachRequest,
			"clients.{rotator}, the rotator, has no right to manage the public keys of the app {app}: give its app the role Super Administrator (in Okta, Applications > app > Admin roles), without which nobody changes the keys of an app that holds okta.* scopes"},
		{403, "", "", giveUp, oauth.Refused, oauth.ReachRequest,
			"Okta's API of apps denies the call: check that the broker's network address is in a zone that the org allows (in Okta, Security > Networks), and that no proxy answers in Okta's place"},
		{404, notFound, "", giveUp, oauth.Refused, oauth.ReachRequest,
			"{org} has no app {app}: check clients.{client}.app_id (in Okta, Applications > app, the address of that page has it), and that clients.{client}.rotator is of the same org"},
		{404, "", "", giveUp, oauth.Refused, oauth.ReachRequest,
			"{org} has no API of apps: check that clients.{rotator}.issuer is an Okta org, and that no proxy answers in its place"},
		{0, "", "", giveUp, oauth.Refused, oauth.ReachRequest,
			"Okta's API of apps refused the call: look it up, by its request id if it has one (in Okta, Reports > System Log)"},
	}
}

// explain turns a failure into words for whoever runs the broker, as Client.explain
// does. The caller has the turn.
func (a *AppKeys) explain(f *failure, kid string) *oauth.Error {
	server, rotator := a.cfg.Rotator.cfg.Server, a.cfg.Rotator.cfg.Name
	e := &oauth.Error{Upstream: f.upstream(), Err: f}
	switch f.kind {
	case held:
		e = a.explain(f.earlier, kid)
		e.Repeated = true
		e.RetryAfter = max(a.until.Sub(server.now()), time.Second)
		e.Description += fmt.Sprintf("; nothing was sent: the limit ends in %.0fs", math.Ceil(e.RetryAfter.Seconds()))
		return e
	case noToken:
		told, ok := errors.AsType[*oauth.Error](f.err)
		if !ok {
			told = &oauth.Error{Err: f.err}
		}
		*e = *told
		e.Description = "clients." + rotator + ", the rotator of clients." + a.cfg.Client + ", got no token: " + told.Description
		return e
	case signing:
		e.Class, e.Description = oauth.Internal, "the request to Okta's API of apps could not be made; the broker's log has the reason"
	case refused:
		e.Class, e.Description = f.row.class, a.fill(f.row.advice, kid)
	default:
		e.Class, e.Description = f.unanswered(a.org, "clients."+rotator+".issuer", rotator)
	}
	if f.kind == badAnswer {
		e.Err = nil // the description has it
	}
	if e.Class == oauth.Unavailable || e.Class == oauth.TimedOut {
		e.RetryAfter = max(f.retryAfter, time.Second)
	}
	return e
}

// fill puts what is configured into an advice.
func (a *AppKeys) fill(advice, kid string) string {
	missing := rotatorScopes.Without(a.token.Scopes)
	if len(missing) == 0 {
		missing = rotatorScopes.List()
	}
	return strings.NewReplacer(
		"{client}", a.cfg.Client,
		"{rotator}", a.cfg.Rotator.cfg.Name,
		"{app}", strconv.Quote(a.cfg.AppID),
		"{org}", a.org,
		"{kid}", quoteKid(kid),
		"{missing}", strings.Join(missing, " and "),
	).Replace(advice)
}
