package fakeokta

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

// wantInactive is the same for every token that is not a living one of the client.
func wantInactive(tb testing.TB, got reply) {
	tb.Helper()
	if diff := cmp.Diff(map[string]any{"active": false}, got.JSON); got.Status != http.StatusOK || diff != "" {
		tb.Errorf("status %d, body (-want +got):\n%s", got.Status, diff)
	}
}

func wantRevoked(tb testing.TB, got reply) {
	tb.Helper()
	if got.Status != http.StatusOK || got.JSON != nil {
		tb.Errorf("status %d, %v", got.Status, got.JSON)
	}
}

func TestIntrospectAndRevoke(t *testing.T) {
	for _, test := range []struct{ name, issuer, base, audience, scope string }{
		{"org", baseURL, baseURL + "/oauth2/v1", baseURL, "okta.users.read"},
		{"custom", baseURL + "/oauth2/one", baseURL + "/oauth2/one/v1", "api://one", "orders.read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := time.Now().Truncate(time.Second)
			o := newOkta(t, Config{Now: func() time.Time { return now }})
			addServer(t, o, openServer("one"))
			if err := o.AddApp(App{ClientID: "0oaOther"}); err != nil {
				t.Fatal(err)
			}
			if err := o.RegisterKey("0oaOther", jwk(t, "k1", &otherRSA().PublicKey)); err != nil {
				t.Fatal(err)
			}
			introspect, revoke := test.base+"/introspect", test.base+"/revoke"
			fetch := func() url.Values {
				token, _ := ask(t, o, test.base+"/token", url.Values{"scope": {test.scope}}).JSON["access_token"].(string)
				return url.Values{"token": {token}, "token_type_hint": {"access_token"}}
			}
			token, kept := fetch(), fetch()

			want := map[string]any{
				"active": true, "token_type": "Bearer", "scope": test.scope, "client_id": clientID, "sub": clientID,
				"iss": test.issuer, "aud": test.audience, "iat": float64(now.Unix()), "exp": float64(now.Unix() + 3600),
			}
			got := ask(t, o, introspect, token)
			delete(got.JSON, "jti")
			if diff := cmp.Diff(want, got.JSON); diff != "" {
				t.Errorf("introspection (-want +got):\n%s", diff)
			}
			wantInactive(t, ask(t, o, introspect, url.Values{"token": {"nobodys"}}))
			ask(t, o, introspect, nil).wantError(t, 400, "invalid_request", "The token parameter is missing.")

			// Another client learns nothing and ends nothing.
			wantInactive(t, askAs(t, o, "0oaOther", otherRSA(), introspect, token))
			wantRevoked(t, askAs(t, o, "0oaOther", otherRSA(), revoke, token))
			if got := ask(t, o, introspect, token); got.JSON["active"] != true {
				t.Errorf("revoked by another client: %v", got.JSON)
			}

			for range 2 { // the second finds it dead
				wantRevoked(t, ask(t, o, revoke, token))
				wantInactive(t, ask(t, o, introspect, token))
			}
			wantRevoked(t, ask(t, o, revoke, url.Values{"token": {"nobodys"}}))
			if c := o.Counters(); c.TokensRevoked != 1 {
				t.Errorf("%d revoked", c.TokensRevoked)
			}
			if test.issuer == baseURL {
				if got := get(t, o, usersPath, "Bearer "+token.Get("token")); got.Status != http.StatusUnauthorized {
					t.Errorf("the resource answers %d to a revoked token", got.Status)
				}
			}

			if got := ask(t, o, introspect, kept); got.JSON["active"] != true {
				t.Errorf("another token: %v", got.JSON)
			}
			o.SetClockOffset(time.Hour)
			assertion := sign(t, jose.RS256, rsaKey(), nil, with(map[string]any{"aud": introspect, "exp": now.Unix() + 3700}))
			wantInactive(t, askWith(t, o, assertion, introspect, kept))
		})
	}
}

func TestIntrospectTakesItsOwnAssertions(t *testing.T) {
	for _, path := range []string{"/introspect", "/revoke"} {
		o := newOkta(t, Config{})
		at := baseURL + "/oauth2/v1" + path
		token := url.Values{"token": {"x"}}
		askWith(t, o, good(t), at, token).wantError(t, 401, "invalid_client", wordsAudience)
		assertion := sign(t, jose.RS256, rsaKey(), nil, with(map[string]any{"aud": at}))
		if got := askWith(t, o, assertion, at, token); got.Status != http.StatusOK {
			t.Errorf("%s: status %d, %v", path, got.Status, got.JSON)
		}
		askWith(t, o, assertion, at, token).wantError(t, 401, "invalid_client", wordsUsed)
		ask(t, o, at, url.Values{"token": {"x"}, "client_secret": {"s"}}).wantError(t, 401, "invalid_client", wordsCredential)
		if c := o.Counters(); c.DistinctJTI != 2 || c.ReusedJTI != 1 || c.TokenRequests != 0 {
			t.Errorf("%s: counters %+v", path, c)
		}
	}
}
