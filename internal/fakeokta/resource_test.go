package fakeokta

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// getDPoP calls the resource with a bound token and these DPoP headers.
func getDPoP(tb testing.TB, o *Okta, path, token string, proofs ...string) reply {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, baseURL+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	r.Header.Set("Authorization", "DPoP "+token)
	r.Header["Dpop"] = proofs
	return do(tb, o, r)
}

// callUsers lists the users with a fresh proof, some of its claims changed.
func callUsers(tb testing.TB, o *Okta, token string, changes map[string]any) reply {
	tb.Helper()
	claims := proofClaims("GET", baseURL+usersPath, map[string]any{"ath": hash(token)})
	for name, value := range changes {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return getDPoP(tb, o, usersPath, token, proveWith(tb, jose.ES256, ecKey(), claims))
}

// wantChallenge is a refusal without a body.
func wantChallenge(tb testing.TB, got reply, status int, code, words string) {
	tb.Helper()
	want := fmt.Sprintf(`DPoP algs="RS256 RS384 RS512 ES256 ES384 ES512", realm=%q, error=%q, error_description=%q`, baseURL, code, words)
	if challenge := got.Header.Get("WWW-Authenticate"); got.Status != status || challenge != want || got.JSON != nil {
		tb.Errorf("status %d, body %v, WWW-Authenticate\n%s, want %d and\n%s", got.Status, got.JSON, challenge, status, want)
	}
}

func TestResourceRefusesProofs(t *testing.T) {
	o := newDPoP(t, Config{})
	token, other := boundToken(t, o), boundToken(t, o)
	fitting := func() string { return prove(t, "GET", baseURL+usersPath, map[string]any{"ath": hash(token)}) }

	const wordsATH, wordsHTU = "'ath' claim in the DPoP proof JWT is invalid.", "'htu' claim in the DPoP proof JWT is invalid."
	for name, test := range map[string]struct {
		changes map[string]any
		words   string
	}{
		"no ath":              {map[string]any{"ath": nil}, wordsATH},
		"ath of another":      {map[string]any{"ath": hash(other)}, wordsATH},
		"ath padded":          {map[string]any{"ath": hash(token) + "="}, wordsATH},
		"ath a number":        {map[string]any{"ath": 1}, wordsATH},
		"htm":                 {map[string]any{"htm": "POST"}, "'htm' claim in the DPoP proof JWT is invalid."},
		"htu of token":        {map[string]any{"htu": endpoint}, wordsHTU},
		"htu with the query":  {map[string]any{"htu": baseURL + usersPath + "?limit=2"}, wordsHTU},
		"a nonce, not needed": {map[string]any{"nonce": "x"}, ""},
	} {
		got := callUsers(t, o, token, test.changes)
		if test.words != "" {
			wantChallenge(t, got, 400, "invalid_dpop_proof", test.words)
		} else if got.Status != http.StatusOK || got.Header.Get("DPoP-Nonce") != "" {
			t.Errorf("%s: status %d, DPoP-Nonce %q", name, got.Status, got.Header.Get("DPoP-Nonce"))
		}
	}
	wantChallenge(t, getDPoP(t, o, usersPath, token), 400, "invalid_dpop_proof", "The DPoP proof JWT header is missing.")
	wantChallenge(t, getDPoP(t, o, usersPath, token, fitting(), fitting()), 400, "invalid_dpop_proof",
		"There must be one DPoP proof JWT header, and no more.")
	stolen := proveWith(t, jose.ES256, otherEC(), proofClaims("GET", baseURL+usersPath, map[string]any{"ath": hash(token)}))
	wantChallenge(t, getDPoP(t, o, usersPath, token, stolen), 401, "invalid_token",
		"The access token is bound to another key than the DPoP proof's.")
	wantChallenge(t, getDPoP(t, o, usersPath, "nobodys", fitting()), 401, "invalid_token",
		"The access token is invalid, expired or revoked.")

	wantChallenge(t, get(t, o, usersPath, "Bearer "+token), 401, "invalid_token",
		"The access token is bound to a DPoP key, and must not be sent as a Bearer token.")
	if err := o.SetDPoP(clientID, false); err != nil {
		t.Fatal(err)
	}
	bearer := exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")
	wantChallenge(t, callUsers(t, o, bearer, nil), 401, "invalid_token",
		"The access token is not bound to a DPoP key, and must be sent as a Bearer token.")
}

// The scheme is compared without case (RFC 9110, section 11.1), and the scope is looked at last.
func TestBoundScope(t *testing.T) {
	o := newDPoP(t, Config{})
	nonce := nonceOf(t, o)
	r := tokenRequest(t, form(good(t), "okta.groups.read").Encode())
	r.Header.Set("DPoP", prove(t, "POST", endpoint, map[string]any{"nonce": nonce}))
	groups := do(t, o, r).wantBound(t)
	got := callUsers(t, o, groups, nil)
	if challenge := got.Header.Get("WWW-Authenticate"); got.Status != 403 ||
		challenge != `DPoP error="insufficient_scope", scope="okta.users.read"` {
		t.Errorf("status %d, WWW-Authenticate %q", got.Status, challenge)
	}

	token := boundToken(t, o)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, baseURL+usersPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "dpop "+token)
	r.Header.Set("DPoP", prove(t, "GET", baseURL+usersPath, map[string]any{"ath": hash(token)}))
	if got := do(t, o, r); got.Status != http.StatusOK {
		t.Errorf("dpop in small letters: status %d", got.Status)
	}
}

func TestResourceNonce(t *testing.T) {
	o := newDPoP(t, Config{})
	token := boundToken(t, o)
	o.SetResourceNonce(true)
	// The token endpoint's nonce is not the resource's.
	got := callUsers(t, o, token, map[string]any{"nonce": nonceOf(t, o)})
	wantChallenge(t, got, 401, "use_dpop_nonce", "Resource server requires nonce in DPoP proof.")
	nonce := got.Header.Get("DPoP-Nonce")
	got = callUsers(t, o, token, map[string]any{"nonce": nonce})
	if got.Status != http.StatusOK || got.Header.Get("DPoP-Nonce") != nonce {
		t.Errorf("status %d, DPoP-Nonce %q, want %q", got.Status, got.Header.Get("DPoP-Nonce"), nonce)
	}
	if n := o.Counters().NonceRefusals[Users]; n != 1 {
		t.Errorf("%d nonce refusals", n)
	}
	exchangeDPoP(t, o, prove(t, "POST", endpoint, map[string]any{"nonce": nonce})).
		wantError(t, 400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof.")

	o.SetResourceNonce(false)
	if got := callUsers(t, o, token, nil); got.Status != http.StatusOK {
		t.Errorf("no longer required: status %d", got.Status)
	}
}

// Okta compares htu with a decoded path.
func TestEscapedPath(t *testing.T) {
	o := newDPoP(t, Config{})
	token := boundToken(t, o)
	const wire, decoded = usersPath + "/ada.example%40example.com", usersPath + "/ada.example@example.com"
	proof := func(path string) string { return prove(t, "GET", baseURL+path, map[string]any{"ath": hash(token)}) }
	wantChallenge(t, getDPoP(t, o, wire, token, proof(wire)), 400, "invalid_dpop_proof", "'htu' claim in the DPoP proof JWT is invalid.")
	// Decoded or not, htu has no query.
	wantChallenge(t, getDPoP(t, o, usersPath+"/a%3Fb", token, proof(usersPath+"/a?b")), 400, "invalid_dpop_proof",
		"'htu' claim in the DPoP proof JWT is invalid.")
	for _, path := range []string{wire, decoded} {
		if got := getDPoP(t, o, path, token, proof(decoded)); got.Status != http.StatusOK {
			t.Errorf("%s: status %d, %s", path, got.Status, got.Header.Get("WWW-Authenticate"))
		}
	}
}

// The origin of htu is that of the request, unless Config.Origin names another.
func TestOriginOfHTU(t *testing.T) {
	const public = "https://public.test"
	for _, test := range []struct {
		name, origin, host, htu string
		good                    bool
	}{
		{"the host that was called", "", "acme.okta.test", baseURL, true},
		{"another host was called", "", "evil.test", baseURL, false},
		{"the public origin", public, "internal:8080", public, true},
		{"not the public origin", public, "acme.okta.test", baseURL, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newDPoP(t, Config{Origin: test.origin})
			w := httptest.NewRecorder()
			r := tokenRequest(t, form(good(t), "okta.users.read").Encode())
			r.Host = test.host
			r.Header.Set("DPoP", prove(t, "POST", test.htu+"/oauth2/v1/token", nil))
			o.ServeHTTP(w, r)
			want := "'htu' claim in the DPoP proof JWT is invalid."
			if test.good {
				want = "Authorization server requires nonce in DPoP proof."
			}
			if got := decode(t, w.Result()); got.JSON["error_description"] != want {
				t.Errorf("%v, want %q", got.JSON, want)
			}
		})
	}
}

func TestRevokeToken(t *testing.T) {
	o := newDPoP(t, Config{})
	token, kept := boundToken(t, o), boundToken(t, o)
	works := func(token string) bool { return callUsers(t, o, token, nil).Status == http.StatusOK }
	o.RevokeToken("nobodys")
	o.RevokeToken(token)
	wantChallenge(t, callUsers(t, o, token, nil), 401, "invalid_token", "The access token is invalid, expired or revoked.")
	if !works(kept) {
		t.Error("another token has ended, too")
	}
	o.RevokeTokens("0oaOther")
	if !works(kept) {
		t.Error("ended with another client's")
	}
	o.RevokeTokens(clientID)
	if works(kept) {
		t.Error("the token works after RevokeTokens")
	}
	wantInactive(t, ask(t, o, baseURL+"/oauth2/v1/introspect", url.Values{"token": {kept}}))
	if n := o.Counters().TokensRevoked; n != 0 {
		t.Errorf("%d tokens count as revoked by clients", n)
	}
}

// An app that requires DPoP manages keys with proofs, too.
func TestKeysWithDPoP(t *testing.T) {
	o := newOkta(t, Config{})
	newRotator(t, o, App{HonoursDPoP: true})
	send := func(nonce any) reply {
		assertion := sign(t, jose.RS256, rsaKey(), nil, with(map[string]any{"iss": rotator, "sub": rotator}))
		r := tokenRequest(t, form(assertion, appsRead).Encode())
		r.Header.Set("DPoP", prove(t, "POST", endpoint, map[string]any{"nonce": nonce}))
		return do(t, o, r)
	}
	token := send(send(nil).Header.Get("DPoP-Nonce")).wantBound(t)
	path := "/api/v1/apps/" + clientID + "/credentials/jwks"
	proof := func() string { return prove(t, "GET", baseURL+path, map[string]any{"ath": hash(token)}) }
	if got := getDPoP(t, o, path, token, proof()); got.Status != http.StatusOK {
		t.Errorf("status %d, %s", got.Status, got.Header.Get("WWW-Authenticate"))
	}
	o.SetResourceNonce(true)
	wantChallenge(t, getDPoP(t, o, path, token, proof()), 401, "use_dpop_nonce", "Resource server requires nonce in DPoP proof.")
}
