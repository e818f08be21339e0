package httpapi_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"okta-token-broker/api"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

// upstreamError is one way in which no token is to be had, and what the caller
// of GET /token is told.
type upstreamError struct {
	name string
	said api.Upstream           // by Okta; the zero value where it said nothing
	by   func(*testing.T, *org) // nil: the fake says it whatever it is asked
	want told
	// posts is how many token requests Okta saw.
	posts int
}

// told is an answer's status, its body without upstream, and Retry-After. The
// words may hold {issuer} and {kid}, the active key's.
type told struct {
	status      int
	code, words string
	retryAfter  string
}

func refused(words string) told  { return told{502, "server_error", words, ""} }
func badScope(words string) told { return told{400, "invalid_scope", words, ""} }
func badAnswer(words string) told {
	return refused("{issuer} gave an answer that is not usable: " + words + "; check clients.default.issuer, and that no proxy answers in its place")
}
func unavailable(words, retryAfter string) told {
	return told{503, "temporarily_unavailable", words, retryAfter}
}

func says(status int, code, words string) api.Upstream {
	return api.Upstream{Status: status, Error: code, Description: words}
}

// The Admin Console's pages.
const (
	general     = "in Okta, Applications > app > General"
	credentials = general + " > Client Credentials"
	servers     = "in Okta, Security > API > Authorization Servers > server"
)

const (
	jwk         = "the output of `okta-token-broker keys jwk --key default`"
	grantType   = "tick Client Credentials under Grant type (" + general + " > General Settings)"
	noProof     = "the client has to prove that it holds a key (DPoP), and clients.default.dpop is off: set it to auto"
	unknownKey  = "the authorization server does not know the public key {kid}: add " + jwk + " to the app's public keys (" + credentials + "); or, for a key that was made elsewhere, set keys.default.kid to the kid it has there"
	notAccepted = "the authorization server does not accept the client: check clients.default.client_id, issuer and audience, that the public key {kid} is registered (`okta-token-broker keys jwk --key default`), and the broker's clock"
	rateLimit   = "the authorization server limits the rate of requests: wait before asking again; in Okta, Reports > Rate Limits shows what uses it up"
	failed      = "the authorization server failed: ask again later; status.okta.com shows Okta's outages"
)

// custom moves the client to a custom authorization server, whose one policy
// allows some scopes, if there are any.
func custom(asked oauth.Scopes, allowed ...string) func(*testing.T, *org) {
	return func(t *testing.T, o *org) {
		t.Helper()
		server := fakeokta.Server{ID: "aus1", Scopes: []string{"orders.read", "orders.write"}, Algorithm: "ES256"}
		if len(allowed) > 0 {
			server.Policies = []fakeokta.Policy{{Rules: []fakeokta.Rule{{Scopes: allowed}}}}
		}
		if err := o.okta.AddServer(server); err != nil {
			t.Fatal(err)
		}
		o.server.Issuer, o.scopes = issuer+"/oauth2/aus1", asked
	}
}

// nowhere makes the app's keys those of a jwks_uri that has none.
func nowhere(t *testing.T, o *org) {
	t.Helper()
	if err := o.okta.SetJWKSURI(clientID, "https://keys.test/jwks.json"); err != nil {
		t.Fatal(err)
	}
	o.jwks = nil
}

// oktasErrors are Okta's ways to refuse a token, most of them for cause.
func oktasErrors() []upstreamError {
	return []upstreamError{
		{"audience", says(401, "invalid_client", "The audience claim for client_assertion must be the endpoint invoked for the request."), func(_ *testing.T, o *org) { o.client.AudienceIssuer = true },
			refused("the authorization server was asked at another URL than the assertion's audience, https://acme.okta.test: check that clients.default.issuer has the host that the server itself knows, and set clients.default.audience to endpoint"), 1},
		{"expiration too far", says(401, "invalid_client", "The client_assertion token has an expiration too far into the future."), func(_ *testing.T, o *org) { o.client.AssertionLifetime = 2 * time.Hour },
			refused("the broker's clock runs fast: synchronise it; or lower clients.default.assertion_lifetime, which may be an hour at most"), 1},
		{"expired", says(401, "invalid_client", "The client_assertion token is expired."), nil,
			refused("the broker's clock runs slow: synchronise it"), 1},
		{"issued in the future", says(401, "invalid_client", "The client_assertion token must be issued before the current time."), nil,
			refused("the broker's clock runs fast: synchronise it"), 1},
		{"used jti", says(401, "invalid_client", "The client_assertion token has already been used."), func(_ *testing.T, o *org) { o.server.Transport = repeating{o.server.Transport} },
			refused("the authorization server says that fresh assertions were used before: look for a proxy that repeats requests"), 4},
		{"kid", says(401, "invalid_client", "The client_assertion JWT kid is invalid."), func(t *testing.T, o *org) { o.jwks = []json.RawMessage{newKey(t, "ES256").JWK()} },
			refused(unknownKey), 1},
		{"signature", says(401, "invalid_client", "The client_assertion signature is invalid."), func(t *testing.T, o *org) { o.jwks = []json.RawMessage{newKey(t, "ES256").JWKAs(o.active.ID())} },
			refused("the assertion's signature does not fit the app's public key of the same kid: replace that one (" + credentials + ") by " + jwk + ", which has the kid {kid}; or, if keys.default.kid names another key's kid, correct it"), 1},
		{"algorithm", says(401, "invalid_client", "The client_assertion signing algorithm is invalid."), func(t *testing.T, o *org) { o.jwks = []json.RawMessage{newKey(t, "ES384").JWKAs(o.active.ID())} },
			refused("the app's public key is for another algorithm than the broker's key: replace it (" + credentials + ") by " + jwk + ", which has the kid {kid}"), 1},
		{"key use", says(401, "invalid_client", "The client_assertion JWT key 'use' is invalid."), nil,
			refused("the app's public key is not for signing: replace it (" + credentials + ") by " + jwk + ", which has the kid {kid} and the use sig"), 1},
		{"no key", says(401, "invalid_client", "The client does not have a JWKSet configured, but the client_assertion requires one."), func(_ *testing.T, o *org) { o.jwks = nil },
			refused("the app has no public key: choose Public key / Private key (" + credentials + ") and add " + jwk + ", which has the kid {kid}"), 1},
		{"jwks_uri", says(401, "invalid_client", "Error retrieving the client JWKSet from jwks_uri."), nowhere,
			unavailable("the authorization server cannot read the app's jwks_uri: check that URL ("+credentials+"), and that the server can reach it", "1"), 1},
		{"client_id", says(401, "invalid_client", "Invalid value for 'client_id' parameter."), func(_ *testing.T, o *org) { o.client.ID = "0oaUnknown" },
			refused("{issuer} does not know the client '0oaUnknown': check clients.default.client_id (" + general + " > Client ID) and clients.default.issuer, which must be of the org that has the app"), 1},
		{"invalid_client alone", says(401, "invalid_client", ""), nil,
			refused(notAccepted), 1},
		{"no scope", says(400, "invalid_scope", "No scopes were requested."), func(_ *testing.T, o *org) { o.scopes = "" },
			badScope("the authorization server gives no token without a scope: set clients.default.scopes"), 1},
		{"scope not configured", says(400, "invalid_scope", "One or more scopes are not configured for the authorization server resource."), custom("okta.users.read orders.read"),
			badScope("{issuer} does not have all of these scopes: add them to it (" + servers + " > Scopes) or take them out of clients.default.scopes; for okta.* scopes set clients.default.issuer to the org, https://acme.okta.test"), 1},
		{"custom scope", says(400, "invalid_scope", "Custom scopes are not allowed for this request."), func(_ *testing.T, o *org) { o.scopes = "okta.users.read orders.read" },
			badScope("{issuer} is the org authorization server, which gives okta.* scopes alone: take the others out of clients.default.scopes, or set clients.default.issuer to a custom authorization server, https://acme.okta.test/oauth2/ID"), 1},
		{"openid", says(400, "invalid_scope", "Cannot request 'openid' scopes using client credentials."), func(_ *testing.T, o *org) { o.scopes = "okta.users.read openid" },
			badScope("openid is for users who sign in, and the client credentials grant has none: take it out of clients.default.scopes"), 1},
		{"invalid_scope alone", says(400, "invalid_scope", ""), nil,
			badScope("the authorization server does not grant these scopes: check clients.default.scopes"), 1},
		{"consent", says(400, "consent_required", "You are not allowed any of the requested scopes."), func(_ *testing.T, o *org) { o.scopes = "okta.apps.manage" },
			refused("the app was granted none of these scopes: grant them (in Okta, Applications > app > Okta API Scopes), or correct clients.default.scopes"), 1},
		{"access policy", says(401, "access_denied", "Policy evaluation failed for this request, please check the policy configurations."), custom("orders.read"),
			refused("no access policy of {issuer} lets the app in: assign one to the app, with a rule for Client Credentials and these scopes (" + servers + " > Access Policies)"), 1},
		{"denied scopes", says(400, "access_denied", "Policy evaluation failed for this request, please check the policy configurations. Denied scopes: [orders.write]"), custom("orders.read orders.write", "orders.read"),
			refused("no access policy of {issuer} grants the app all of these scopes at once: add the denied ones to the rule that has the others (" + servers + " > Access Policies), or take them out of clients.default.scopes"), 1},
		{"network zone", says(403, "access_denied", "The request is outside the permitted network zones."), nil,
			refused("the authorization server denies the app from the broker's network address: add the address to a network zone (in Okta, Security > Networks) that the app allows (" + general + ")"), 1},
		{"grant type not enabled", says(400, "unauthorized_client", "The client is not authorized to use the provided grant type. Configured grant types: [authorization_code]."), nil,
			refused("the app may not use the client credentials grant: " + grantType), 1},
		{"custom server needed", says(400, "unauthorized_client", "The client must use a custom authorization server."), nil,
			refused("the authorization server does not let the app use the client credentials grant: " + grantType + "; where it takes a custom authorization server, set clients.default.issuer to https://acme.okta.test/oauth2/ID"), 1},
		{"grant type not served", says(400, "unsupported_grant_type", "The authorization grant type is not supported by the authorization server."), nil,
			refused("{issuer} does not serve the client credentials grant: check clients.default.issuer, https://acme.okta.test for okta.* scopes, https://acme.okta.test/oauth2/ID for others"), 1},
		{"DPoP nonce", says(400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof."), func(_ *testing.T, o *org) {
			o.fault.Status, o.fault.Header = 400, http.Header{"Dpop-Nonce": {"nonce-1"}}
			o.fault.Body = `{"error":"use_dpop_nonce","error_description":"Authorization server requires nonce in DPoP proof."}`
		}, refused(noProof), 1},
		{"DPoP proof missing", says(400, "invalid_dpop_proof", "The DPoP proof JWT header is missing."), nil, refused(noProof), 1},
		{"DPoP htu", says(400, "invalid_dpop_proof", "The DPoP proof JWT 'htu' claim is invalid."), nil, refused(noProof), 1},
		{"DPoP in the future", says(400, "invalid_dpop_proof", "The DPoP proof JWT is issued in the future."), nil, refused(noProof), 1},
		{"DPoP too old", says(400, "invalid_dpop_proof", "The DPoP proof JWT is issued more than five minutes in the past."), nil, refused(noProof), 1},
		{"DPoP used jti", says(400, "invalid_dpop_proof", "The DPoP proof JWT has already been used."), nil, refused(noProof), 1},
		{"limited, OAuth's form", says(429, "invalid_grant", "API call exceeded rate limit due to too many requests."), nil,
			unavailable(rateLimit, "10"), 1},
		{"limited, the API's form", says(429, "E0000047", "API call exceeded rate limit due to too many requests."), nil,
			unavailable(rateLimit, "10"), 1},
		{"overloaded", says(400, "temporarily_unavailable", "The authorization server is overloaded or in maintenance."), nil,
			unavailable("the authorization server is overloaded or in maintenance: ask again later; status.okta.com shows Okta's outages", "1"), 3},
		{"500, OAuth's form", says(500, "server_error", "The authorization server encountered an unexpected condition."), nil, unavailable(failed, "1"), 3},
		{"500, the API's form", says(500, "E0000009", "Internal Server Error"), nil, unavailable(failed, "1"), 3},
		{"503, the API's form", says(503, "E0000010", "Service is in read only mode"), nil, unavailable(failed, "1"), 3},
		{"no such server", says(404, "E0000007", "Not found: Resource not found: ausX (AuthorizationServer)"), nil,
			refused("{issuer}/oauth2/v1/token is not there: check clients.default.issuer; servers that are not Okta need clients.default.token_endpoint"), 1},
		{"401, the API's form", says(401, "E0000011", "Invalid token provided"), nil, refused(notAccepted), 1},
		{"an error nobody knows", says(400, "E0000021", "Bad request. Accept and/or Content-Type headers likely do not match supported values."), nil,
			refused("the authorization server refused the request: look the call up, by its request id if it has one (in Okta, Reports > System Log)"), 1},
	}
}

// othersErrors are those of a server that is not Okta, by their codes.
func othersErrors() []upstreamError {
	const words = "Something else than Okta says."
	all := []upstreamError{
		{"another's client", says(401, "invalid_client", words), nil, refused(notAccepted), 1},
		{"another's kid, as Ory says it", says(400, "invalid_request", "The JSON Web Token uses signing key with kid 'x', which could not be found."), nil,
			refused("the authorization server does not know the public key {kid}: add " + jwk + " to the client's public keys; or, for a key that was made elsewhere, set keys.default.kid to the kid it has there"), 1},
		{"another's client or grant", says(400, "unauthorized_client", words), nil,
			refused("the authorization server does not accept the client, or does not let it use the client credentials grant: check clients.default.client_id, that the client may use the grant and authenticates by private_key_jwt, that the public key {kid} is registered (`okta-token-broker keys jwk --key default`), and the broker's clock"), 1},
		{"another's scope", says(400, "invalid_scope", words), nil,
			badScope("the authorization server does not grant these scopes: check clients.default.scopes"), 1},
		{"another's consent", says(400, "consent_required", words), nil,
			refused("the client was not granted these scopes: grant them at the authorization server, or correct clients.default.scopes"), 1},
		{"another's policy", says(400, "access_denied", words), nil,
			refused("the authorization server denies the client these scopes: check its policies, and clients.default.scopes"), 1},
		{"another's grant", says(400, "unsupported_grant_type", words), nil,
			refused(endpoint + " does not serve the client credentials grant: check clients.default.token_endpoint"), 1},
		{"another's DPoP proof", says(400, "invalid_dpop_proof", words), nil, refused(noProof), 1},
		{"another's DPoP nonce", says(400, "use_dpop_nonce", words), nil, refused(noProof), 1},
		{"another's limit", says(429, "", ""), nil,
			unavailable("the authorization server limits the rate of requests: wait before asking again", "10"), 1},
		{"another's outage", says(503, "", ""), nil,
			unavailable("the authorization server failed: ask again later; its log may have the reason", "1"), 3},
		{"another overloaded", says(400, "temporarily_unavailable", words), nil,
			unavailable("the authorization server is overloaded or in maintenance: ask again later", "1"), 3},
		{"another's 401", says(401, "", ""), nil, refused(notAccepted), 1},
		{"another's 404", says(404, "", ""), nil, refused(endpoint + " is not there: check clients.default.token_endpoint"), 1},
		{"another's own error", says(400, "invalid_grant", words), nil,
			refused("the authorization server refuses the client credentials grant: its log may have the reason; if the client has to prove that it holds a key (DPoP), clients.default.dpop must not be off"), 1},
	}
	for i, tt := range all {
		all[i].by = func(t *testing.T, o *org) {
			t.Helper()
			o.server.Issuer, o.server.TokenEndpoint = foreignIssuer, endpoint
			o.says(t, tt.said)
		}
	}
	return all
}

// badAnswers are what is no answer of Okta's.
func badAnswers() []upstreamError {
	answers := func(f fakeokta.Fault) func(*testing.T, *org) {
		return func(_ *testing.T, o *org) { o.fault = f }
	}
	rewrites := func(name string, value any) func(*testing.T, *org) {
		return answers(fakeokta.Fault{Rewrite: func(members map[string]any) { members[name] = value }})
	}
	ok := api.Upstream{Status: 200}
	return []upstreamError{
		{"HTML", ok, answers(fakeokta.Fault{Status: 200, Body: "<html>a secret</html>", ContentType: "text/html"}),
			badAnswer("the answer is not application/json"), 1},
		{"not JSON", ok, answers(fakeokta.Fault{Status: 200, Body: "<html>a secret</html>"}),
			badAnswer("the answer is not a valid JSON object with the fields of RFC 6749 section 5.1"), 1},
		{"redirect", api.Upstream{Status: 307}, answers(fakeokta.Fault{Status: 307, Header: http.Header{"Location": {issuer + "/oauth2/default/v1/token"}}}),
			badAnswer("the token endpoint answered status 307, not a token"), 1},
		{"wider scope", ok, rewrites("scope", scopes+" okta.users.manage"),
			badAnswer("scope is wider than what was asked for"), 1},
		{"expires_in of 0", ok, rewrites("expires_in", 0),
			badAnswer("expires_in is not within 1 to 86400 seconds"), 1},
		{"expires_in over a day", ok, rewrites("expires_in", 86401),
			badAnswer("expires_in is not within 1 to 86400 seconds"), 1},
		{"expires_in in words", ok, rewrites("expires_in", "soon"),
			badAnswer("expires_in is not a whole number of seconds"), 1},
		{"DPoP token", ok, rewrites("token_type", "DPoP"),
			badAnswer("the answer is a DPoP token, and no proof was sent"), 1},
		{"502 of a proxy", api.Upstream{Status: 502}, answers(fakeokta.Fault{Status: 502, Body: "<html>a secret</html>", ContentType: "text/html"}),
			unavailable(failed, "1"), 3},
		{"401 without a word", api.Upstream{Status: 401}, answers(fakeokta.Fault{Status: 401}),
			refused(notAccepted), 1},
		{"reset", api.Upstream{}, answers(fakeokta.Fault{Reset: true}),
			unavailable("the connection to {issuer} broke: ask again; if this goes on, check the network and HTTPS_PROXY", "1"), 2},
		{"no such host", api.Upstream{}, func(_ *testing.T, o *org) { o.server.Issuer = "https://another.okta.test" },
			unavailable("{issuer} cannot be reached: check clients.default.issuer, the network, DNS and HTTPS_PROXY", "1"), 0},
	}
}

// errorsInTime depend on what the time is. The clocks' words are the fake's own;
// its Date has whole seconds, so that the broker adds half of one.
func errorsInTime() []upstreamError {
	ahead := func(d time.Duration) func(*testing.T, *org) {
		return func(_ *testing.T, o *org) { o.okta.SetClockOffset(d) }
	}
	limited := func(f fakeokta.Fault) func(*testing.T, *org) {
		f.Status, f.Body = 429, `{"errorCode":"E0000047","errorSummary":"Too many."}`
		return func(_ *testing.T, o *org) { o.fault = f }
	}
	const synchronise = "; the server's clock and the broker's differ by 20m0s, which is too much to correct: synchronise the broker's"
	const late = "{issuer} did not answer in time: ask again; if this goes on, check the network and HTTPS_PROXY"
	return []upstreamError{
		{"broker's clock slow", says(401, "invalid_client", "The client_assertion token is expired."), ahead(20*time.Minute - time.Second/2),
			refused("the broker's clock runs slow: synchronise it" + synchronise), 1},
		{"broker's clock fast", says(401, "invalid_client", "The client_assertion token must be issued before the current time."), ahead(-20 * time.Minute),
			refused("the broker's clock runs fast: synchronise it" + synchronise), 1},
		{"limited for 30 s", says(429, "E0000047", "Too many."), limited(fakeokta.Fault{RetryIn: 30 * time.Second}), unavailable(rateLimit, "30"), 1},
		{"limited for an hour", says(429, "E0000047", "Too many."), limited(fakeokta.Fault{RetryIn: time.Hour}), unavailable(rateLimit, "120"), 1},
		{"limited until a while ago", says(429, "E0000047", "Too many."), limited(fakeokta.Fault{RetryIn: -time.Hour}), unavailable(rateLimit, "1"), 1},
		{"limited, Retry-After", says(429, "E0000047", "Too many."), limited(fakeokta.Fault{Header: http.Header{"Retry-After": {"42"}}}),
			unavailable(rateLimit, "42"), 1},
		{"too slow", api.Upstream{}, func(_ *testing.T, o *org) { o.fault.Delay = time.Minute },
			told{504, "temporarily_unavailable", late, "1"}, 1},
		{"too slow to fail", api.Upstream{}, func(_ *testing.T, o *org) { o.fault = fakeokta.Fault{Status: 500, Delay: 1800 * time.Millisecond} },
			told{504, "temporarily_unavailable", late, "1"}, 3},
	}
}
