package okta

import (
	"slices"
	"strings"

	"okta-token-broker/internal/oauth"
)

// row is one way in which a server refuses, as Okta words it.
type row struct {
	status int    // 0 matches any, 500 any server error
	code   string // "" matches any
	words  string // part of the description, "" matches any
	fix    correction
	class  oauth.Class
	reach  oauth.Reach
	// advice says what is wrong and what to do. It may hold {client}, {id},
	// {ring}, {kid}, {issuer}, {org}, {endpoint} and {audience}; that of the key API
	// has its own.
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

	// Where no proof may be sent.
	offAdvice     = "the client has to prove that it holds a key (DPoP), and clients.{client}.dpop is off: set it to auto"
	noProofAdvice = "the authorization server wants a DPoP proof at {endpoint}, where the broker sends none"

	// Of servers that are not Okta.
	htuAdvice          = "the authorization server was asked at another URL than the DPoP proof is for, {endpoint}: check that clients.{client}.token_endpoint is the address that the server itself knows"
	nonceAdvice        = "the authorization server does not accept the nonces for DPoP proofs that it gives itself: ask again; if this goes on, look for a proxy that keeps DPoP-Nonce headers away"
	lostAdvice         = "the broker's DPoP proof does not arrive: look for a proxy that takes DPoP headers away"
	invalidGrantAdvice = "the authorization server refuses the client credentials grant: its log may have the reason; if the client has to prove that it holds a key (DPoP), clients.{client}.dpop must not be off"
	invalidProofAdvice = "the authorization server does not accept the broker's DPoP proofs: check that {endpoint} is the address that the server itself knows, the broker's clock, and that no proxy repeats requests"

	refusedAdvice = "the authorization server does not accept the client: check clients.{client}.client_id, issuer and audience, that the public key {kid} is registered (`okta-token-broker keys jwk --key {ring}`), and the broker's clock"
)

// oktaRows is read from the top; the first match counts, and the last row matches
// everything. The texts are Okta's.
func oktaRows() []row {
	return []row{
		{429, "", "", giveUp, oauth.Unavailable, oauth.ReachServer,
			"the authorization server limits the rate of requests: wait before asking again; in Okta, Reports > Rate Limits shows what uses it up"},
		{500, "", "", waitAndRetry, oauth.Unavailable, oauth.ReachServer,
			"the authorization server failed: ask again later; status.okta.com shows Okta's outages"},

		{0, "invalid_client", "must be the endpoint invoked", giveUp, oauth.Refused, oauth.ReachClient,
			"the authorization server was asked at another URL than the assertion's audience, {audience}: check that clients.{client}.issuer has the host that the server itself knows, and set clients.{client}.audience to endpoint"},
		{0, "invalid_client", "expiration too far into the future", useClock, oauth.Refused, oauth.ReachClient,
			"the broker's clock runs fast: synchronise it; or lower clients.{client}.assertion_lifetime, which may be an hour at most"},
		{0, "invalid_client", "token is expired", useClock, oauth.Refused, oauth.ReachClient,
			"the broker's clock runs slow: synchronise it"},
		{0, "invalid_client", "must be issued before the current time", useClock, oauth.Refused, oauth.ReachClient,
			"the broker's clock runs fast: synchronise it"},
		{0, "invalid_client", "has already been used", newJTI, oauth.Refused, oauth.ReachClient,
			"the authorization server says that fresh assertions were used before: look for a proxy that repeats requests"},
		{0, "invalid_client", "kid is invalid", otherKey, oauth.Refused, oauth.ReachClient,
			"the authorization server does not know the public key {kid}: add " + jwkCommand + " to the app's public keys (" + appCredentials + "); or, for a key that was made elsewhere, set keys.{ring}.kid to the kid it has there"},
		{0, "invalid_client", "signature is invalid", otherKey, oauth.Refused, oauth.ReachClient,
			"the assertion's signature does not fit the app's public key of the same kid: replace that one (" + appCredentials + ") by " + jwkCommand + ", which has the kid {kid}; or, if keys.{ring}.kid names another key's kid, correct it"},
		{0, "invalid_client", "algorithm", otherKey, oauth.Refused, oauth.ReachClient,
			"the app's public key is for another algorithm than the broker's key: replace it (" + appCredentials + ") by " + jwkCommand + ", which has the kid {kid}"},
		{0, "invalid_client", "'use'", otherKey, oauth.Refused, oauth.ReachClient,
			"the app's public key is not for signing: replace it (" + appCredentials + ") by " + jwkCommand + ", which has the kid {kid} and the use sig"},
		{0, "invalid_client", "does not have a JWKSet configured", noKeyWill, oauth.Refused, oauth.ReachClient,
			"the app has no public key: choose Public key / Private key (" + appCredentials + ") and add " + jwkCommand + ", which has the kid {kid}"},
		{0, "invalid_client", "Error retrieving the client JWKSet", giveUp, oauth.Unavailable, oauth.ReachClient,
			"the authorization server cannot read the app's jwks_uri: check that URL (" + appCredentials + "), and that the server can reach it"},
		{0, "invalid_client", "Invalid value for 'client_id'", noKeyWill, oauth.Refused, oauth.ReachClient,
			"{issuer} does not know the client {id}: check clients.{client}.client_id (" + appGeneral + " > Client ID) and clients.{client}.issuer, which must be of the org that has the app"},
		{0, "invalid_client", "", byState, oauth.Refused, oauth.ReachClient, refusedAdvice},
		{0, "invalid_scope", "No scopes were requested", giveUp, oauth.InvalidScope, oauth.ReachScopes,
			"the authorization server gives no token without a scope: set clients.{client}.scopes"},
		{0, "invalid_scope", "are not configured", giveUp, oauth.InvalidScope, oauth.ReachScopes,
			"{issuer} does not have all of these scopes: add them to it (" + customServer + " > Scopes) or take them out of clients.{client}.scopes; for okta.* scopes set clients.{client}.issuer to the org, {org}"},
		{0, "invalid_scope", "Custom scopes are not allowed", giveUp, oauth.InvalidScope, oauth.ReachScopes,
			"{issuer} is the org authorization server, which gives okta.* scopes alone: take the others out of clients.{client}.scopes, or set clients.{client}.issuer to a custom authorization server, {org}/oauth2/ID"},
		{0, "invalid_scope", "'openid'", giveUp, oauth.InvalidScope, oauth.ReachScopes,
			"openid is for users who sign in, and the client credentials grant has none: take it out of clients.{client}.scopes"},
		{0, "invalid_scope", "", giveUp, oauth.InvalidScope, oauth.ReachScopes,
			"the authorization server does not grant these scopes: check clients.{client}.scopes"},
		{0, "consent_required", "", giveUp, oauth.Refused, oauth.ReachScopes,
			"the app was granted none of these scopes: grant them (in Okta, Applications > app > Okta API Scopes), or correct clients.{client}.scopes"},

		{403, "access_denied", "", giveUp, oauth.Refused, oauth.ReachClient,
			"the authorization server denies the app from the broker's network address: add the address to a network zone (in Okta, Security > Networks) that the app allows (" + appGeneral + ")"},
		{0, "access_denied", "Denied scopes", giveUp, oauth.Refused, oauth.ReachScopes,
			"no access policy of {issuer} grants the app all of these scopes at once: add the denied ones to the rule that has the others (" + customServer + " > Access Policies), or take them out of clients.{client}.scopes"},
		{0, "access_denied", "", giveUp, oauth.Refused, oauth.ReachScopes,
			"no access policy of {issuer} lets the app in: assign one to the app, with a rule for Client Credentials and these scopes (" + customServer + " > Access Policies)"},

		{401, "unauthorized_client", "", byState, oauth.Refused, oauth.ReachClient, refusedAdvice},
		{0, "unauthorized_client", "to use the provided grant type", giveUp, oauth.Refused, oauth.ReachClient,
			"the app may not use the client credentials grant: tick Client Credentials under Grant type (" + appGeneral + " > General Settings)"},
		{0, "unauthorized_client", "", giveUp, oauth.Refused, oauth.ReachClient,
			"the authorization server does not let the app use the client credentials grant: tick Client Credentials under Grant type (" + appGeneral + " > General Settings); where it takes a custom authorization server, set clients.{client}.issuer to {org}/oauth2/ID"},
		{0, "unsupported_grant_type", "", giveUp, oauth.Refused, oauth.ReachClient,
			"{issuer} does not serve the client credentials grant: check clients.{client}.issuer, {org} for okta.* scopes, {org}/oauth2/ID for others"},
		{0, "invalid_dpop_proof", "header is missing", useProof, oauth.Refused, oauth.ReachClient,
			lostAdvice},
		{0, "invalid_dpop_proof", "htu", decodePath, oauth.Refused, oauth.ReachClient,
			"the authorization server was asked at another URL than the DPoP proof is for, {endpoint}: check that clients.{client}.issuer has the host that the server itself knows"},
		{0, "invalid_dpop_proof", "issued in the future", useClock, oauth.Refused, oauth.ReachClient,
			"the broker's clock runs fast: synchronise it"},
		{0, "invalid_dpop_proof", "five minutes in the past", useClock, oauth.Refused, oauth.ReachClient,
			"the broker's clock runs slow: synchronise it"},
		{0, "invalid_dpop_proof", "", newProof, oauth.Refused, oauth.ReachClient,
			"the authorization server does not accept the broker's DPoP proofs: check that clients.{client}.issuer has the host that the server itself knows, the broker's clock, and that no proxy repeats requests"},
		// The next one may do: so this is not remembered as a refusal of the client.
		{0, "use_dpop_nonce", "", useNonce, oauth.BadAnswer, oauth.ReachScopes, nonceAdvice},
		// Of other servers at Okta's paths: see otherRows. Okta's own invalid_grant is a 429.
		{0, "invalid_grant", "", newProof, oauth.Refused, oauth.ReachClient, invalidGrantAdvice},
		{0, "invalid_request", "DPoP", newProof, oauth.Refused, oauth.ReachClient,
			"the authorization server wants another DPoP proof, or one at all: check that clients.{client}.dpop is not off, and that {endpoint} is the address that the server itself knows"},
		{0, "temporarily_unavailable", "", waitAndRetry, oauth.Unavailable, oauth.ReachServer,
			"the authorization server is overloaded or in maintenance: ask again later; status.okta.com shows Okta's outages"},

		{401, "", "", byState, oauth.Refused, oauth.ReachClient, refusedAdvice},
		{404, "", "", giveUp, oauth.Refused, oauth.ReachClient,
			"{endpoint} is not there: check clients.{client}.issuer; servers that are not Okta need clients.{client}.token_endpoint"},
		{0, "", "", giveUp, oauth.Refused, oauth.ReachScopes,
			"the authorization server refused the request: look the call up, by its request id if it has one (in Okta, Reports > System Log)"},
	}
}

// otherRows is the same for servers that are not Okta. Their words differ, so that
// codes have to do, and what they mean by a code does, too.
func otherRows() []row {
	return []row{
		{429, "", "", giveUp, oauth.Unavailable, oauth.ReachServer,
			"the authorization server limits the rate of requests: wait before asking again"},
		{500, "", "", waitAndRetry, oauth.Unavailable, oauth.ReachServer,
			"the authorization server failed: ask again later; its log may have the reason"},
		{0, "temporarily_unavailable", "", waitAndRetry, oauth.Unavailable, oauth.ReachServer,
			"the authorization server is overloaded or in maintenance: ask again later"},

		{0, "invalid_client", "", byState, oauth.Refused, oauth.ReachClient, refusedAdvice},
		// How Ory's servers say that they do not know the key.
		{0, "invalid_request", " kid ", otherKey, oauth.Refused, oauth.ReachClient,
			"the authorization server does not know the public key {kid}: add " + jwkCommand + " to the client's public keys; or, for a key that was made elsewhere, set keys.{ring}.kid to the kid it has there"},
		// Keycloak and Entra say so of an unknown client and of a wrong key, too.
		{0, "unauthorized_client", "", byState, oauth.Refused, oauth.ReachClient,
			"the authorization server does not accept the client, or does not let it use the client credentials grant: check clients.{client}.client_id, that the client may use the grant and authenticates by private_key_jwt, that the public key {kid} is registered (`okta-token-broker keys jwk --key {ring}`), and the broker's clock"},
		{0, "invalid_scope", "", giveUp, oauth.InvalidScope, oauth.ReachScopes,
			"the authorization server does not grant these scopes: check clients.{client}.scopes"},
		{0, "consent_required", "", giveUp, oauth.Refused, oauth.ReachScopes,
			"the client was not granted these scopes: grant them at the authorization server, or correct clients.{client}.scopes"},
		{0, "access_denied", "", giveUp, oauth.Refused, oauth.ReachScopes,
			"the authorization server denies the client these scopes: check its policies, and clients.{client}.scopes"},
		{0, "unsupported_grant_type", "", giveUp, oauth.Refused, oauth.ReachClient,
			"{endpoint} does not serve the client credentials grant: check clients.{client}.token_endpoint"},
		{0, "invalid_dpop_proof", "htu", decodePath, oauth.Refused, oauth.ReachClient, htuAdvice},
		{0, "invalid_dpop_proof", "DPoP HTTP URL", decodePath, oauth.Refused, oauth.ReachClient, htuAdvice},
		// Keycloak's, which lets iat be ten seconds old at most, and sends no Date.
		{0, "invalid_dpop_proof", "DPoP proof is not active", newProof, oauth.Refused, oauth.ReachClient,
			"the server's clock and the broker's differ: synchronise the broker's"},
		{0, "invalid_dpop_proof", "", newProof, oauth.Refused, oauth.ReachClient, invalidProofAdvice},
		// The next one may do: so this is not remembered as a refusal of the client.
		{0, "use_dpop_nonce", "", useNonce, oauth.BadAnswer, oauth.ReachScopes, nonceAdvice},
		// Keycloak's words, and others', under codes that say nothing.
		{0, "", "DPoP proof is missing", useProof, oauth.Refused, oauth.ReachClient, lostAdvice},
		{0, "", "DPoP proof required", useProof, oauth.Refused, oauth.ReachClient, lostAdvice},
		{0, "invalid_request", "DPoP HTTP URL", decodePath, oauth.Refused, oauth.ReachClient, htuAdvice},
		{0, "invalid_request", "DPoP", newProof, oauth.Refused, oauth.ReachClient, invalidProofAdvice},
		// This grant has nothing else that could be invalid (RFC 6749 section 5.2), and
		// oidc-provider has no other word for a proof that is missing or used.
		{0, "invalid_grant", "", newProof, oauth.Refused, oauth.ReachClient,
			invalidGrantAdvice},

		{401, "", "", byState, oauth.Refused, oauth.ReachClient, refusedAdvice},
		{404, "", "", giveUp, oauth.Refused, oauth.ReachClient,
			"{endpoint} is not there: check clients.{client}.token_endpoint"},
		{0, "", "", giveUp, oauth.Refused, oauth.ReachScopes,
			"the authorization server refused the request: its log may have the reason"},
	}
}

// rows are how this server refuses.
func (s *Server) rows() []row {
	if s.isOkta {
		return oktaRows()
	}
	return otherRows()
}

// meaning finds how a refusal is dealt with, in rows of which the last one matches
// everything.
func meaning(rows []row, f *failure) row {
	return rows[slices.IndexFunc(rows, func(r row) bool { return r.matches(f) })]
}
