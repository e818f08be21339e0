package okta

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

// Whatever a server does to an exchange: how often it is asked, what the caller is
// told, for what else that holds, and that all is well when the fault is over.
// Faults of sockets and of TLS have tests of their own.
func TestFaults(t *testing.T) {
	rewrite := func(name string, value any) fakeokta.Fault {
		return fakeokta.Fault{Rewrite: func(members map[string]any) {
			if members[name] = value; value == nil {
				delete(members, name)
			}
		}}
	}
	says := func(status int, code, words string) fakeokta.Fault {
		return fakeokta.Fault{Status: status, Body: refusing(code, words)}
	}
	named := func(name string) fakeokta.Fault {
		faults, err := fakeokta.ParseFaults(name + "*")
		if err != nil {
			t.Fatal(err)
		}
		return faults[0]
	}
	const none = oauth.Class(-1) // a token
	tests := []struct {
		name  string
		fault fakeokta.Fault
		posts int
		class oauth.Class
		reach oauth.Reach
	}{
		{"reset", named("reset"), 2, oauth.Unavailable, oauth.ReachServer},
		{"reset in the body", named("cut"), 2, oauth.Unavailable, oauth.ReachServer},
		{"lost answer", fakeokta.Fault{Reset: true, After: true}, 2, oauth.Unavailable, oauth.ReachServer},
		{"hanging", named("hang"), 1, oauth.TimedOut, oauth.ReachServer},
		{"slow", fakeokta.Fault{Delay: 5100 * time.Millisecond}, 1, oauth.TimedOut, oauth.ReachServer},
		{"slow to fail", fakeokta.Fault{Status: 503, Delay: 4800 * time.Millisecond}, 2, oauth.TimedOut, oauth.ReachServer},
		{"not that slow", fakeokta.Fault{Delay: 4900 * time.Millisecond}, 1, none, 0},
		{"429", says(429, "invalid_grant", "API call exceeded rate limit due to too many requests."), 1, oauth.Unavailable, oauth.ReachServer},
		{"500", says(500, "server_error", ""), 3, oauth.Unavailable, oauth.ReachServer},
		{"503 and a page", fakeokta.Fault{Status: 503, Body: "<html>", ContentType: "text/html"}, 3, oauth.Unavailable, oauth.ReachServer},
		{"overloaded", says(400, "temporarily_unavailable", "The authorization server is overloaded."), 3, oauth.Unavailable, oauth.ReachServer},
		{"a page", fakeokta.Fault{Status: 200, Body: "<html>", ContentType: "text/html"}, 1, oauth.BadAnswer, oauth.ReachServer},
		{"bad JSON", fakeokta.Fault{Status: 200, Body: good()[1:]}, 1, oauth.BadAnswer, oauth.ReachServer},
		{"nothing", fakeokta.Fault{Status: 200}, 1, oauth.BadAnswer, oauth.ReachServer},
		{"redirect", fakeokta.Fault{Status: 307, Header: http.Header{"Location": {"https://acme.okta.test/elsewhere"}}}, 1, oauth.BadAnswer, oauth.ReachServer},
		{"a flood", named("huge"), 1, oauth.BadAnswer, oauth.ReachServer},
		{"invalid_client", says(401, "invalid_client", ""), 2, oauth.Refused, oauth.ReachClient},
		{"unknown client", says(401, "invalid_client", "Invalid value for 'client_id' parameter."), 1, oauth.Refused, oauth.ReachClient},
		{"unknown key", says(401, "invalid_client", "The client_assertion JWT kid is invalid."), 2, oauth.Refused, oauth.ReachClient},
		{"jwks_uri", says(401, "invalid_client", "Error retrieving the client JWKSet from jwks_uri."), 1, oauth.Unavailable, oauth.ReachClient},
		{"invalid_scope", says(400, "invalid_scope", "One or more scopes are not configured for the authorization server resource."), 1, oauth.InvalidScope, oauth.ReachScopes},
		{"consent_required", says(400, "consent_required", "You are not allowed any of the requested scopes."), 1, oauth.Refused, oauth.ReachScopes},
		{"policy", says(401, "access_denied", "Policy evaluation failed for this request, please check the policy configurations."), 1, oauth.Refused, oauth.ReachScopes},
		{"network zone", says(403, "access_denied", "Access denied"), 1, oauth.Refused, oauth.ReachClient},
		{"grant not enabled", says(400, "unauthorized_client", "The client is not authorized to use the provided grant type."), 1, oauth.Refused, oauth.ReachClient},
		{"grant not served", says(400, "unsupported_grant_type", ""), 1, oauth.Refused, oauth.ReachClient},
		{"DPoP required", says(400, "invalid_dpop_proof", "The DPoP proof JWT header is missing."), 1, oauth.Refused, oauth.ReachClient},
		{"a nonce, for ever", says(400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof."), 1, oauth.Refused, oauth.ReachClient},
		{"not there", fakeokta.Fault{Status: 404}, 1, oauth.Refused, oauth.ReachClient},
		{"words nobody knows", says(400, "invalid_target", "No."), 1, oauth.Refused, oauth.ReachScopes},
		{"clock too far off", fakeokta.Fault{Skew: 20 * time.Minute}, 1, oauth.Refused, oauth.ReachClient},
		{"clock off", fakeokta.Fault{Skew: 8 * time.Minute}, 2, none, 0},
		{"no expires_in", rewrite("expires_in", nil), 1, none, 0},
		{"expires_in as a string", rewrite("expires_in", "3600"), 1, none, 0},
		{"expires_in of 0", rewrite("expires_in", 0), 1, oauth.BadAnswer, oauth.ReachScopes},
		{"expires_in negative", rewrite("expires_in", -1), 1, oauth.BadAnswer, oauth.ReachScopes},
		{"expires_in huge", rewrite("expires_in", 1e18), 1, oauth.BadAnswer, oauth.ReachScopes},
		{"wider scope", rewrite("scope", string(asked)+" okta.users.manage"), 1, oauth.BadAnswer, oauth.ReachScopes},
		{"narrower scope", rewrite("scope", "okta.users.read"), 1, none, 0},
		{"DPoP unasked", rewrite("token_type", "DPoP"), 1, oauth.BadAnswer, oauth.ReachScopes},
		{"BEARER", rewrite("token_type", "BEARER"), 1, none, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.rotate(t)
				w.register(t)
				w.okta.SetFault(tt.fault)
				start := time.Now()
				_, err := w.exchange(t)
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("took %v", took)
				}
				w.wantPosts(t, tt.posts)
				if (err == nil) != (tt.class == none) {
					t.Fatalf("error %v", err)
				}
				if n := w.okta.Counters().ReusedJTI; n != 0 {
					t.Errorf("%d jti were used again", n)
				}
				if err == nil {
					return
				}
				e := explained(t, err)
				if e.Class != tt.class || e.Reach != tt.reach || e.Repeated {
					t.Errorf("class %d, reach %d, repeated %v; want %d and %d: %v", e.Class, e.Reach, e.Repeated, tt.class, tt.reach, e)
				}
				later := tt.class == oauth.Unavailable || tt.class == oauth.TimedOut || tt.reach == oauth.ReachServer
				if later != (e.RetryAfter >= time.Second) || e.RetryAfter > 2*time.Minute {
					t.Errorf("retry after %v", e.RetryAfter)
				}

				// Only what holds for the server keeps the next exchange here.
				if e := w.fails(t); e.Repeated != (tt.reach == oauth.ReachServer) {
					t.Errorf("repeated %v: %v", e.Repeated, e)
				}
				w.okta.ClearFault()
				time.Sleep(e.RetryAfter)
				w.works(t)
				w.works(t)
			})
		})
	}
}

// Servers that are not Okta have other words, and the same reach.
func TestReachElsewhere(t *testing.T) {
	tests := []struct {
		status int
		body   string
		reach  oauth.Reach
	}{
		{429, "", oauth.ReachServer},
		{502, "", oauth.ReachServer},
		{400, refusing("temporarily_unavailable", ""), oauth.ReachServer},
		{401, refusing("invalid_client", ""), oauth.ReachClient},
		{400, refusing("invalid_request", "no key of that kid was found"), oauth.ReachClient},
		{400, refusing("unauthorized_client", ""), oauth.ReachClient},
		{400, refusing("unsupported_grant_type", ""), oauth.ReachClient},
		{401, "", oauth.ReachClient},
		{404, "", oauth.ReachClient},
		{400, refusing("use_dpop_nonce", ""), oauth.ReachClient},
		{400, refusing("invalid_scope", ""), oauth.ReachScopes},
		{403, refusing("access_denied", ""), oauth.ReachScopes},
		{400, refusing("consent_required", ""), oauth.ReachScopes},
		{400, refusing("invalid_request", ""), oauth.ReachScopes},
		{418, "", oauth.ReachScopes},
		{302, "", oauth.ReachServer},
	}
	for _, tt := range tests {
		t.Run(strings.TrimSpace(strconv.Itoa(tt.status)+" "+tt.body), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newClient(t, roundTripper(func(*http.Request) (*http.Response, error) { return answer(tt.status, tt.body), nil }), elsewhere)
				if e := w.fails(t); e.Reach != tt.reach {
					t.Errorf("reach %d, want %d: %v", e.Reach, tt.reach, e)
				}
			})
		})
	}
}
