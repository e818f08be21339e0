package httpapi_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
)

// users is the status that Okta's users resource answers a bearer of the token.
func (r *running) users(t *testing.T, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", issuer+"/api/v1/users", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := r.okta.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// revoke posts a form. send checks that where it is served there is no body.
func (r *running) revoke(t *testing.T, token, rest string, headers ...string) answer {
	t.Helper()
	return r.send(t, "POST", "/revoke", "token="+url.QueryEscape(token)+rest, append(headers, form)...)
}

func TestRevoke(t *testing.T) {
	const other = "/token?scope=okta.groups.read"
	tests := []struct {
		name, rest string
		headers    []string
	}{
		{name: "the token alone"},
		{name: "client_id", rest: "&client_id=default"},
		{name: "Okta's client_id", rest: "&client_id=" + clientID},
		{name: "Basic", headers: []string{"Authorization: Basic ZGVmYXVsdDpzZWNyZXQ="}},
		{name: "a hint", rest: "&token_type_hint=access_token"},
		{name: "a wrong hint", rest: "&token_type_hint=refresh_token"},
		{name: "what nobody knows", rest: "&scope=x&resource=a&resource=b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newWell(t)
				first, stays := r.send(t, "GET", "/token", "").accessToken(t), r.send(t, "GET", other, "").accessToken(t)
				if status := r.users(t, first); status != 200 {
					t.Fatalf("before: Okta answers the token %d", status)
				}
				if got := r.revoke(t, first, tt.rest, tt.headers...); got.status != 200 {
					t.Errorf("status %d: %s", got.status, got.body)
				}
				if status := r.users(t, first); status != 401 {
					t.Errorf("Okta answers the token %d", status)
				}
				second := r.send(t, "GET", "/token", "").accessToken(t)
				if status := r.users(t, second); second == first || status != 200 {
					t.Errorf("the next caller gets the same token: %v; Okta answers it %d", second == first, status)
				}
				if r.send(t, "GET", other, "").accessToken(t) != stays {
					t.Error("another token was dropped as well")
				}
				if got := r.revoke(t, first, tt.rest, tt.headers...); got.status != 200 {
					t.Errorf("again: status %d: %s", got.status, got.body)
				}
				if r.send(t, "GET", "/token", "").accessToken(t) != second || r.okta.Counters().TokensRevoked != 1 {
					t.Errorf("again: something was dropped, or revoked: %d", r.okta.Counters().TokensRevoked)
				}
			})
		})
	}
}

// RFC 7009 section 2.2.
func TestRevokingWhatNobodyKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newWell(t)
		first := r.send(t, "GET", "/token", "").accessToken(t)
		for _, token := range []string{"x", first + "x", first[:len(first)-1], strings.ToLower(first), "käse", "a b", strings.Repeat("x", 8000)} {
			if got := r.revoke(t, token, ""); got.status != 200 {
				t.Errorf("%.20q: status %d: %s", token, got.status, got.body)
			}
		}
		if r.send(t, "GET", "/token", "").accessToken(t) != first || r.users(t, first) != 200 || r.okta.Counters().TokensRevoked != 0 {
			t.Error("a token that was not named is gone")
		}
	})
}

// twoClients is a broker with clients of two servers.
func twoClients(t *testing.T) (r *running, other *fakeokta.Okta) {
	t.Helper()
	p := parts{ring: newRing(t, keys.Config{})}
	p.apps = []app{newApp(t, "default", issuer, clientID, scopes), newApp(t, "other", otherIssuer, otherID, otherScopes)}
	for _, app := range p.apps {
		register(t, app.okta, app.client.ID, activeKey(t, p.ring).JWK())
	}
	return &running{okta: p.apps[0].okta, ring: p.ring, api: p.assemble(t)}, p.apps[1].okta
}

// A token that is held is revoked at the server that gave it.
func TestRevokeFindsTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, other := twoClients(t)
		mine, others := r.send(t, "GET", "/token", "").accessToken(t), r.send(t, "GET", "/token?client=other", "").accessToken(t)
		if got := r.revoke(t, others, ""); got.status != 200 {
			t.Errorf("status %d: %s", got.status, got.body)
		}
		if here, there := r.okta.Counters().Requests[fakeokta.Revoke], other.Counters().TokensRevoked; here != 0 || there != 1 {
			t.Errorf("the default client's server was asked %d times, the other's revoked %d tokens", here, there)
		}
		if r.send(t, "GET", "/token", "").accessToken(t) != mine || r.send(t, "GET", "/token?client=other", "").accessToken(t) == others {
			t.Error("the wrong token was dropped")
		}
	})
}

// One client's share is not another's.
func TestRevokingIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := twoClients(t)
		token := r.send(t, "GET", "/token", "").accessToken(t)
		for range 20 {
			if got := r.revoke(t, "x", ""); got.status != 200 {
				t.Fatalf("status %d: %s", got.status, got.body)
			}
		}
		got := r.revoke(t, token, "")
		if got.status != 429 || got.header.Get("Retry-After") != "1" || got.json(t)["error"] != "temporarily_unavailable" {
			t.Errorf("status %d, Retry-After %q: %s", got.status, got.header.Get("Retry-After"), got.body)
		}
		if got := r.revoke(t, "x", "&client_id=other"); got.status != 200 {
			t.Errorf("another client: status %d: %s", got.status, got.body)
		}
		if r.send(t, "GET", "/token", "").accessToken(t) != token || r.users(t, token) != 200 {
			t.Error("it was revoked, or dropped, all the same")
		}
		time.Sleep(time.Second)
		if got := r.revoke(t, token, ""); got.status != 200 {
			t.Errorf("after Retry-After: status %d: %s", got.status, got.body)
		}
	})
}

// A token that may be good still is kept, and can be revoked later.
func TestRevokeInAnOutage(t *testing.T) {
	tests := map[string]struct {
		fault  fakeokta.Fault
		status int
	}{
		"down":    {fakeokta.Fault{Status: 503}, 503},
		"reset":   {fakeokta.Fault{Reset: true}, 503},
		"limited": {fakeokta.Fault{Status: 429}, 503},
		"slow":    {fakeokta.Fault{Hang: true}, 504},
		"a page":  {fakeokta.Fault{Status: 200, Body: "<html>", ContentType: "text/html"}, 502},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newWell(t)
				first := r.send(t, "GET", "/token", "").accessToken(t)
				r.okta.SetFaultAt(fakeokta.Revoke, tt.fault)
				if got := r.revoke(t, first, ""); got.status != tt.status {
					t.Errorf("status %d, want %d: %s", got.status, tt.status, got.body)
				}
				if r.send(t, "GET", "/token", "").accessToken(t) != first || r.users(t, first) != 200 {
					t.Error("the token is gone")
				}
				r.okta.ClearFault()
				time.Sleep(10 * time.Second)
				if got := r.revoke(t, first, ""); got.status != 200 || r.users(t, first) != 401 {
					t.Errorf("afterwards: status %d: %s", got.status, got.body)
				}
			})
		})
	}
}

// None of the errors, and no log, repeats the token.
func TestRevokeErrors(t *testing.T) {
	const secret = "opaque-very-secret-token.0123456789"
	const basic = "Authorization: Basic bm9ib2R5OnNlY3JldA==" // nobody:secret
	echo := func(r *running) {
		r.okta.SetFaultAt(fakeokta.Revoke, fakeokta.Fault{Status: 400, Body: oauthError(secret, "No token "+secret+" is there.")})
	}
	tests := []struct {
		name, query, body string
		headers           []string
		ail               func(*running)
		status            int
		code, words       string
	}{
		{"no token", "", "token_type_hint=access_token", []string{form}, nil, 400, "invalid_request", "token is missing"},
		{"empty token", "", "token=", []string{form}, nil, 400, "invalid_request", "token is missing"},
		{"empty body", "", "", []string{form}, nil, 400, "invalid_request", "token is missing"},
		{"token twice", "", "token=" + secret + "&token=" + secret, []string{form}, nil, 400, "invalid_request", "twice"},
		{"token in the query", "?token=" + secret, "token=" + secret, []string{form}, nil, 400, "invalid_request", "token belongs in the body"},
		{"client in the query", "?client=default", "token=" + secret, []string{form}, nil, 400, "invalid_request", "client belongs in the body"},
		{"hint in the query", "?token_type_hint=access_token", "token=" + secret, []string{form}, nil, 400, "invalid_request", "token_type_hint belongs in the body"},
		{"GET's client", "", "token=" + secret + "&client=default", []string{form}, nil, 400, "invalid_request", "client_id"},
		{"a tab", "", "token=" + secret + "%09", []string{form}, nil, 400, "invalid_request", "control"},
		{"bad escape", "", "token=" + secret + "%zz", []string{form}, nil, 400, "invalid_request", "form-encoded"},
		{"JSON", "", `{"token":"` + secret + `"}`, []string{"Content-Type: application/json"}, nil, 415, "invalid_request", "x-www-form-urlencoded"},
		{"no content type", "", "token=" + secret, nil, nil, 415, "invalid_request", "x-www-form-urlencoded"},
		{"too large", "", "token=" + strings.Repeat(secret, 16<<10/len(secret)+1), []string{form}, nil, 413, "invalid_request", "16 KiB"},
		{"unknown client", "", "token=" + secret + "&client_id=nobody", []string{form}, nil, 400, "invalid_client", "'nobody'"},
		{"long client", "", "token=" + secret + "&client_id=" + strings.Repeat("x", 1100), []string{form}, nil, 400, "invalid_client", "long"},
		{"Basic: unknown client", "", "token=" + secret, []string{form, basic}, nil, 401, "invalid_client", "'nobody'"},
		{"Bearer", "", "token=" + secret, []string{form, "Authorization: Bearer " + secret}, nil, 401, "invalid_client", "Basic credentials"},
		{"Basic and form differ", "", "token=" + secret + "&client_id=default", []string{form, basic}, nil, 400, "invalid_request", "different"},
		{"a web page", "", "token=" + secret, []string{form, "Origin: https://evil.test"}, nil, 403, "access_denied", "Origin"},
		{"Okta repeats it", "", "token=" + secret, []string{form}, echo, 502, "server_error", "refused the request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newWell(t)
				if tt.ail != nil {
					tt.ail(r)
				}
				got := r.send(t, "POST", "/revoke"+tt.query, tt.body, tt.headers...)
				words, _ := got.json(t)["error_description"].(string)
				if got.status != tt.status || got.json(t)["error"] != tt.code || !strings.Contains(words, tt.words) {
					t.Errorf("status %d: %s", got.status, got.body)
				}
				if logs := r.logs.String(); strings.Contains(got.body, "very-secret") || strings.Contains(logs, "very-secret") {
					t.Errorf("the token is repeated: %s\n%s", got.body, logs)
				}
				if challenge := got.header.Get("WWW-Authenticate"); (tt.status == 401) != (challenge != "") {
					t.Errorf("WWW-Authenticate: %q", challenge)
				}
				if n := r.okta.Counters().Requests[fakeokta.Revoke]; (n > 0) != (tt.ail != nil) {
					t.Errorf("%d requests to Okta", n)
				}
			})
		})
	}
}
