package httpapi_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
)

// wantDiscarded drops a token. send checks that there is no body, and no cache.
func (r *running) wantDiscarded(t *testing.T, query string) {
	t.Helper()
	if got := r.send(t, "DELETE", "/token"+query, ""); got.status != 204 {
		t.Errorf("DELETE /token%s: status %d: %s", query, got.status, got.body)
	}
}

func TestDiscard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newWell(t)
		r.wantDiscarded(t, "") // nothing is held
		first := r.send(t, "GET", "/token", "").accessToken(t)
		var waited time.Duration
		for _, tt := range []struct {
			age        time.Duration
			retryAfter string
		}{{0, "10"}, {4500 * time.Millisecond, "6"}, {10*time.Second - time.Nanosecond, "1"}} {
			time.Sleep(tt.age - waited)
			waited = tt.age
			got := r.send(t, "DELETE", "/token", "")
			if got.status != 429 || got.header.Get("Retry-After") != tt.retryAfter || got.json(t)["error"] != "temporarily_unavailable" {
				t.Errorf("after %v: status %d, Retry-After %q: %s", tt.age, got.status, got.header.Get("Retry-After"), got.body)
			}
		}
		if r.send(t, "GET", "/token", "").accessToken(t) != first {
			t.Error("it was dropped all the same")
		}
		time.Sleep(time.Nanosecond)
		r.wantDiscarded(t, "")
		second := r.send(t, "GET", "/token", "").accessToken(t)
		if second == first || r.send(t, "GET", "/token", "").accessToken(t) != second {
			t.Error("the next callers do not get another token")
		}
		if got := r.send(t, "DELETE", "/token", ""); got.status != 429 {
			t.Errorf("and again: status %d: %s", got.status, got.body)
		}
		if c := r.okta.Counters(); c.TokenRequests != 2 || c.TokensRevoked != 0 {
			t.Errorf("%d tokens were asked for, %d revoked", c.TokenRequests, c.TokensRevoked)
		}
	})
}

// Who may force a token with no-cache or min_ttl shares the limit with DELETE.
func TestDiscardAfterAForcedFetch(t *testing.T) {
	for _, want := range []request{{path: "/token", headers: []string{"Cache-Control: no-cache"}}, {path: "/token?min_ttl=2700"}} {
		synctest.Test(t, func(t *testing.T) {
			r := newWell(t)
			first := r.send(t, "GET", "/token", "").accessToken(t)
			time.Sleep(20 * time.Minute)
			if r.send(t, "GET", want.path, "", want.headers...).accessToken(t) == first {
				t.Error("the same token")
			}
			time.Sleep(9 * time.Second)
			if got := r.send(t, "DELETE", "/token", ""); got.status != 429 || got.header.Get("Retry-After") != "1" {
				t.Errorf("%+v: status %d: %s", want, got.status, got.body)
			}
		})
	}
}

// Only the token that is named goes, by whatever name.
func TestDiscardsOneToken(t *testing.T) {
	tests := []struct{ drop, gone, stays string }{
		{"", "/token", "/token?scope=okta.users.read"},
		{"?client=default", "/token", "/token?scope=okta.users.read"},
		{"?client=" + clientID + "&scope=", "/token", "/token?scope=okta.users.read"},
		{"?scope=okta.users.read+okta.groups.read", "/token", "/token?scope=okta.users.read"},
		{"?scope=okta.users.read", "/token?scope=okta.users.read", "/token"},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			r := newWell(t)
			gone, stays := r.send(t, "GET", tt.gone, "").accessToken(t), r.send(t, "GET", tt.stays, "").accessToken(t)
			time.Sleep(10 * time.Second)
			r.wantDiscarded(t, tt.drop)
			if r.send(t, "GET", tt.gone, "").accessToken(t) == gone || r.send(t, "GET", tt.stays, "").accessToken(t) != stays {
				t.Errorf("DELETE /token%s: not %s, or %s as well", tt.drop, tt.gone, tt.stays)
			}
		})
	}
}

// A token that is kept warm is fetched before anybody asks.
func TestDiscardOfATokenThatIsKeptWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrg(t, upstreamError{by: func(_ *testing.T, o *org) { o.prefetch = true }}).broker(t)
		synctest.Wait()
		first := r.send(t, "GET", "/token", "").accessToken(t)
		time.Sleep(10 * time.Second)
		r.wantDiscarded(t, "")
		time.Sleep(time.Second) // the background has its pace
		if n := r.okta.Counters().TokenRequests; n != 2 {
			t.Errorf("%d requests to Okta before anybody asked, want 2", n)
		}
		if r.send(t, "GET", "/token", "").accessToken(t) == first {
			t.Error("the same token")
		}
		if n := r.okta.Counters().TokenRequests; n != 2 {
			t.Errorf("%d requests to Okta, want 2", n)
		}
	})
}

// In an outage there is no other, and the token that is there serves.
func TestDiscardInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := justFetched(t)
		first := r.send(t, "GET", "/token", "").accessToken(t)
		time.Sleep(time.Minute)
		r.okta.SetFault(fakeokta.Fault{Reset: true})
		r.wantDiscarded(t, "")
		if got := r.send(t, "GET", "/token", "").accessToken(t); got != first {
			t.Errorf("token %s", got)
		}
		r.okta.ClearFault()
		time.Sleep(time.Minute)
		if got := r.send(t, "GET", "/token", "").accessToken(t); got == first {
			t.Error("the discarded token is still there after the outage")
		}
	})
}

func TestDiscardErrors(t *testing.T) {
	tests := []struct {
		name, query string
		headers     []string
		status      int
		code, words string
	}{
		{"unknown client", "?client=nobody", nil, 400, "invalid_client", "'nobody'"},
		{"unknown client, with credentials", "?client=nobody", []string{"Authorization: Bearer x"}, 401, "invalid_client", "'nobody'"},
		{"long client", "?client=" + strings.Repeat("x", 1100), nil, 400, "invalid_client", "long"},
		{"wider scope", "?scope=okta.users.manage", nil, 400, "invalid_scope", "okta.users.manage"},
		{"scope with a quote", "?scope=a%22b", nil, 400, "invalid_scope", "character"},
		{"unknown parameter", "?scopes=okta.users.read", nil, 400, "invalid_request", "'scopes': client and scope are known"},
		{"GET's parameter", "?min_ttl=60", nil, 400, "invalid_request", "'min_ttl': client and scope are known"},
		{"twice", "?client=default&client=default", nil, 400, "invalid_request", "twice"},
		{"NUL", "?client=a%00b", nil, 400, "invalid_request", "control"},
		{"bad escape", "?scope=%zz", nil, 400, "invalid_request", "form-encoded"},
		{"a web page", "", []string{"Origin: https://evil.test"}, 403, "access_denied", "Origin"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newWell(t)
				first := r.send(t, "GET", "/token", "").accessToken(t)
				time.Sleep(10 * time.Second)
				got := r.send(t, "DELETE", "/token"+tt.query, "", tt.headers...)
				words, _ := got.json(t)["error_description"].(string)
				if got.status != tt.status || got.json(t)["error"] != tt.code || !strings.Contains(words, tt.words) {
					t.Errorf("status %d: %s", got.status, got.body)
				}
				if r.send(t, "GET", "/token", "").accessToken(t) != first {
					t.Error("it was dropped all the same")
				}
			})
		})
	}
}
