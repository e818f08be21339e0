package fakeokta

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

const (
	wordsPolicy     = "Policy evaluation failed for this request, please check the policy configurations."
	wordsUnknown    = "One or more scopes are not configured for the authorization server resource."
	wordsCredential = "Client authentication failed. Either the client or the client credentials are invalid."
)

// openServer lets every client have its scopes.
func openServer(id string) Server {
	return Server{ID: id, Scopes: []string{"orders.read", "orders.write"}, Algorithm: "ES256", Policies: []Policy{{Rules: []Rule{{}}}}}
}

func addServer(tb testing.TB, o *Okta, s Server) {
	tb.Helper()
	if err := o.AddServer(s); err != nil {
		tb.Fatal(err)
	}
}

// ask posts a form with a fresh assertion under k1, whose audience is the endpoint.
func ask(tb testing.TB, o *Okta, endpoint string, f url.Values) reply {
	tb.Helper()
	return askAs(tb, o, clientID, rsaKey(), endpoint, f)
}

func askAs(tb testing.TB, o *Okta, client string, key any, endpoint string, f url.Values) reply {
	tb.Helper()
	claims := with(map[string]any{"iss": client, "sub": client, "aud": endpoint})
	return askWith(tb, o, sign(tb, jose.RS256, key, map[string]any{"kid": "k1"}, claims), endpoint, f)
}

func askWith(tb testing.TB, o *Okta, assertion, endpoint string, f url.Values) reply {
	tb.Helper()
	all := form(assertion, "")
	for name, values := range f {
		all[name] = values
	}
	r := tokenRequest(tb, all.Encode())
	at, err := url.Parse(endpoint)
	if err != nil {
		tb.Fatal(err)
	}
	r.URL = at
	return do(tb, o, r)
}

func TestCustomServer(t *testing.T) {
	const issuer = baseURL + "/oauth2/orders"
	for _, algorithm := range []string{"", "ES256"} {
		t.Run("algorithm "+algorithm, func(t *testing.T) {
			now := time.Now().Truncate(time.Second)
			o := newOkta(t, Config{Now: func() time.Time { return now }})
			s := openServer("orders")
			s.Algorithm, s.TokenLife = algorithm, 5*time.Minute
			addServer(t, o, s)

			got := ask(t, o, issuer+"/v1/token", url.Values{"scope": {"orders.write orders.read orders.read"}})
			token, _ := got.JSON["access_token"].(string)
			want := map[string]any{
				"token_type": "Bearer", "expires_in": 300.0, "scope": "orders.write orders.read", "access_token": token,
			}
			if diff := cmp.Diff(want, got.JSON); got.Status != http.StatusOK || diff != "" {
				t.Fatalf("status %d, body (-want +got):\n%s", got.Status, diff)
			}

			if algorithm == "" {
				algorithm = "RS256"
			}
			jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(algorithm)})
			if err != nil {
				t.Fatal(err)
			}
			header := jws.Signatures[0].Protected
			if typ := header.ExtraHeaders["typ"]; typ != "application/okta-internal-at+jwt" {
				t.Errorf("typ %v", typ)
			}
			payload, err := jws.Verify(publishedKey(t, o, "/oauth2/orders/v1/keys", header.KeyID))
			if err != nil {
				t.Fatal(err)
			}
			var claims map[string]any
			if err := json.Unmarshal(payload, &claims); err != nil {
				t.Fatal(err)
			}
			if jti, _ := claims["jti"].(string); len(jti) < 20 {
				t.Errorf("jti %q", jti)
			}
			delete(claims, "jti")
			wantClaims := map[string]any{
				"ver": 1.0, "iss": issuer, "aud": "api://orders", "sub": clientID, "cid": clientID,
				"iat": float64(now.Unix()), "exp": float64(now.Unix() + 300), "scp": []any{"orders.write", "orders.read"},
			}
			if diff := cmp.Diff(wantClaims, claims); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
			if got := get(t, o, usersPath, "Bearer "+token); got.Status != http.StatusUnauthorized {
				t.Errorf("the org's API answers %d to a custom server's token", got.Status)
			}
		})
	}
}

func publishedKey(t *testing.T, o *Okta, path, kid string) jose.JSONWebKey {
	t.Helper()
	body, err := json.Marshal(get(t, o, path, "").JSON)
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	keys := set.Key(kid)
	if len(keys) != 1 || !keys[0].IsPublic() {
		t.Fatalf("%d keys of kid %q in %s", len(keys), kid, body)
	}
	return keys[0]
}

func TestPolicies(t *testing.T) {
	rules := func(scopes ...[]string) []Rule {
		var list []Rule
		for _, s := range scopes {
			list = append(list, Rule{Scopes: s})
		}
		return list
	}
	for _, test := range []struct {
		name     string
		policies []Policy
		scope    string
		status   int
		code     string
		words    string
	}{
		{"no policy", nil, "a", 401, "access_denied", wordsPolicy},
		{"no rule", []Policy{{}}, "a", 401, "access_denied", wordsPolicy},
		{"another client's", []Policy{{Clients: []string{"0oaOther"}, Rules: rules(nil)}}, "a", 401, "access_denied", wordsPolicy},
		{"another scope's", []Policy{{Rules: rules([]string{"b"})}}, "a", 401, "access_denied", wordsPolicy},
		{"a part denied", []Policy{{Rules: rules([]string{"b"})}}, "a b c", 400, "access_denied", wordsPolicy + " Denied scopes: [a, c]"},
		{"each by another rule", []Policy{{Rules: rules([]string{"a"}, []string{"b"})}}, "a b", 401, "access_denied", wordsPolicy},
		{"second rule", []Policy{{Rules: rules([]string{"a"}, []string{"a", "b"})}}, "a b", 200, "", ""},
		{"second policy", []Policy{{Clients: []string{"0oaOther"}}, {Clients: []string{clientID}, Rules: rules([]string{"a"})}}, "a", 200, "", ""},
		{"all scopes", []Policy{{Rules: rules(nil)}}, "c b a", 200, "", ""},
		{"unknown scope", []Policy{{Rules: rules(nil)}}, "a d", 400, "invalid_scope", wordsUnknown},
		{"Okta's scope", []Policy{{Rules: rules(nil)}}, "okta.users.read", 400, "invalid_scope", wordsUnknown},
		{"openid", []Policy{{Rules: rules(nil)}}, "a openid", 400, "invalid_scope", wordsOpenID},
		{"no scope", []Policy{{Rules: rules(nil)}}, "", 400, "invalid_scope", "No scopes were requested."},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOkta(t, Config{})
			addServer(t, o, Server{ID: "s", Scopes: []string{"a", "b", "c"}, Algorithm: "ES256", Policies: test.policies})
			got := ask(t, o, baseURL+"/oauth2/s/v1/token", url.Values{"scope": {test.scope}})
			if test.status != http.StatusOK {
				got.wantError(t, test.status, test.code, test.words)
			} else if got.Status != http.StatusOK || got.JSON["scope"] != test.scope {
				t.Errorf("status %d, %v", got.Status, got.JSON)
			}
		})
	}
}

func TestAudienceIsTheServersOwn(t *testing.T) {
	o := newOkta(t, Config{})
	addServer(t, o, openServer("one"))
	addServer(t, o, openServer("two"))
	const one = baseURL + "/oauth2/one/v1/token"
	for _, audience := range []string{endpoint, baseURL + "/oauth2/one", baseURL + "/oauth2/two/v1/token", baseURL + "/oauth2/one/v1/introspect"} {
		assertion := sign(t, jose.RS256, rsaKey(), nil, with(map[string]any{"aud": audience}))
		askWith(t, o, assertion, one, url.Values{"scope": {"orders.read"}}).wantError(t, 401, "invalid_client", wordsAudience)
	}
	// A jti is the client's, at whichever server it was used.
	assertion := sign(t, jose.RS256, rsaKey(), nil, with(map[string]any{"aud": one, "jti": "once"}))
	if got := askWith(t, o, assertion, one, url.Values{"scope": {"orders.read"}}); got.Status != http.StatusOK {
		t.Fatalf("status %d, %v", got.Status, got.JSON)
	}
	exchange(t, o, sign(t, jose.RS256, rsaKey(), nil, with(map[string]any{"jti": "once"})), "okta.users.read").
		wantError(t, 401, "invalid_client", wordsUsed)
}

func TestSecretAtACustomServer(t *testing.T) {
	o := newOkta(t, Config{})
	addServer(t, o, openServer("one"))
	ask(t, o, baseURL+"/oauth2/one/v1/token", url.Values{"client_secret": {"s"}}).wantError(t, 401, "invalid_client", wordsCredential)
}

func TestCustomMetadata(t *testing.T) {
	o := newOkta(t, Config{})
	addServer(t, o, openServer("one"))
	const issuer = baseURL + "/oauth2/one"
	for _, path := range []string{
		"/oauth2/one/.well-known/oauth-authorization-server", "/oauth2/one/.well-known/openid-configuration",
		"/.well-known/oauth-authorization-server/oauth2/one", "/.well-known/openid-configuration/oauth2/one",
	} {
		got := get(t, o, path, "")
		for name, want := range map[string]any{
			"issuer": issuer, "token_endpoint": issuer + "/v1/token", "introspection_endpoint": issuer + "/v1/introspect",
			"revocation_endpoint": issuer + "/v1/revoke", "jwks_uri": issuer + "/v1/keys",
			"scopes_supported": []any{"orders.read", "orders.write"},
		} {
			if diff := cmp.Diff(want, got.JSON[name]); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", path, name, diff)
			}
		}
	}
	for _, path := range []string{"/oauth2/two/.well-known/openid-configuration", "/.well-known/nothing", "/oauth2/one/v1/nothing"} {
		if got := get(t, o, path, ""); got.Status != http.StatusNotFound {
			t.Errorf("%s: status %d", path, got.Status)
		}
	}
}

func TestAddServerRefuses(t *testing.T) {
	o := newOkta(t, Config{})
	addServer(t, o, openServer("one"))
	for _, s := range []Server{
		{},
		{ID: "v1"},
		{ID: "a/b"},
		{ID: "one"},
		{ID: "s", Scopes: []string{"okta.users.read"}},
		{ID: "s", TokenLife: 5*time.Minute - time.Second},
		{ID: "s", TokenLife: 24*time.Hour + time.Second},
		{ID: "s", TokenLife: time.Hour + time.Millisecond},
		{ID: "s", Algorithm: "HS256"},
	} {
		if s.Algorithm == "" {
			s.Algorithm = "ES256"
		}
		if err := o.AddServer(s); err == nil {
			t.Errorf("%+v: no error", s)
		}
	}
}
