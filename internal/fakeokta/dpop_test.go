package fakeokta

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

const wordsProofUsed = "The DPoP proof JWT has already been used."

var otherEC = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })

// newDPoP is newOkta with an app that requires DPoP.
func newDPoP(tb testing.TB, c Config) *Okta {
	tb.Helper()
	o := newOkta(tb, c)
	if err := o.SetDPoP(clientID, true); err != nil {
		tb.Fatal(err)
	}
	return o
}

// proofClaims are what a well-behaved client sends, with some changed; nil removes one.
func proofClaims(method, htu string, changes map[string]any) map[string]any {
	c := map[string]any{"htm": method, "htu": htu, "iat": time.Now().Unix() - 5, "jti": rand.Text()}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// prove makes a proof with ecKey, or with the key given.
func prove(tb testing.TB, method, htu string, changes map[string]any) string {
	tb.Helper()
	return proveWith(tb, jose.ES256, ecKey(), proofClaims(method, htu, changes))
}

func proveWith(tb testing.TB, alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	tb.Helper()
	return sign(tb, alg, key, typed(key.(crypto.Signer).Public()), claims)
}

// typed is the header of a proof.
func typed(public any) map[string]any {
	return map[string]any{"typ": "dpop+jwt", "jwk": jose.JSONWebKey{Key: public}}
}

// thumbprint is computed by the letter of RFC 7638, section 3.
func thumbprint(key *ecdsa.PrivateKey) string {
	point := must(key.PublicKey.Bytes())[1:] // behind the mark of an uncompressed point
	encode := base64.RawURLEncoding.EncodeToString
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, encode(point[:32]), encode(point[32:])))
	return encode(sum[:])
}

func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// exchangeDPoP asks for a token with a fresh assertion and these DPoP headers.
func exchangeDPoP(tb testing.TB, o *Okta, proofs ...string) reply {
	tb.Helper()
	r := tokenRequest(tb, form(good(tb), "okta.users.read").Encode())
	r.Header["Dpop"] = proofs
	return do(tb, o, r)
}

// nonceOf is a good nonce of the org's token endpoint.
func nonceOf(tb testing.TB, o *Okta) string {
	tb.Helper()
	got := exchangeDPoP(tb, o, prove(tb, "POST", endpoint, nil))
	got.wantError(tb, 400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof.")
	nonce := got.Header.Get("DPoP-Nonce")
	if nonce == "" {
		tb.Fatal("no DPoP-Nonce")
	}
	return nonce
}

// boundToken is an access token bound to ecKey.
func boundToken(tb testing.TB, o *Okta) string {
	tb.Helper()
	got := exchangeDPoP(tb, o, prove(tb, "POST", endpoint, map[string]any{"nonce": nonceOf(tb, o)}))
	return got.wantBound(tb)
}

func (r reply) wantBound(tb testing.TB) string {
	tb.Helper()
	token, _ := r.JSON["access_token"].(string)
	if r.Status != http.StatusOK || r.JSON["token_type"] != "DPoP" || token == "" {
		tb.Fatalf("status %d, %v; want a token of type DPoP", r.Status, r.JSON)
	}
	return token
}

// The whole of RFC 9449, as a client goes through it.
func TestDPoP(t *testing.T) {
	o := newDPoP(t, Config{})

	got := exchange(t, o, good(t), "okta.users.read")
	got.wantError(t, 400, "invalid_dpop_proof", "The DPoP proof JWT header is missing.")
	if nonce := got.Header.Get("DPoP-Nonce"); nonce != "" {
		t.Errorf("DPoP-Nonce %q, though no proof was sent", nonce)
	}

	first := good(t)
	claims := proofClaims("POST", endpoint, nil)
	r := tokenRequest(t, form(first, "okta.users.read").Encode())
	r.Header.Set("DPoP", proveWith(t, jose.ES256, ecKey(), claims))
	got = do(t, o, r)
	got.wantError(t, 400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof.")
	claims["nonce"] = got.Header.Get("DPoP-Nonce")

	// Both jti are consumed.
	exchange(t, o, first, "okta.users.read").wantError(t, 401, "invalid_client", wordsUsed)
	exchangeDPoP(t, o, proveWith(t, jose.ES256, ecKey(), claims)).wantError(t, 400, "invalid_dpop_proof", wordsProofUsed)

	claims["jti"] = rand.Text()
	got = exchangeDPoP(t, o, proveWith(t, jose.ES256, ecKey(), claims))
	token := got.wantBound(t)
	if nonce := got.Header.Get("DPoP-Nonce"); nonce != claims["nonce"] {
		t.Errorf("a success brings the nonce %q, want %q", nonce, claims["nonce"])
	}
	about := ask(t, o, baseURL+"/oauth2/v1/introspect", url.Values{"token": {token}})
	wantCnf := map[string]any{"jkt": thumbprint(ecKey())}
	if diff := cmp.Diff(wantCnf, about.JSON["cnf"]); diff != "" || about.JSON["token_type"] != "DPoP" {
		t.Errorf("introspection: token_type %v, cnf (-want +got):\n%s", about.JSON["token_type"], diff)
	}

	proof := prove(t, "GET", baseURL+usersPath, map[string]any{"ath": hash(token)})
	if got := getDPoP(t, o, usersPath, token, proof); got.Status != http.StatusOK {
		t.Errorf("the resource answers %d, %q", got.Status, got.Header.Get("WWW-Authenticate"))
	}
	wantChallenge(t, getDPoP(t, o, usersPath, token, proof), 400, "invalid_dpop_proof", wordsProofUsed)

	c := o.Counters()
	if c.BoundTokens != 1 || c.DistinctProofs != 3 || c.ReusedProofs != 2 || c.LastProof != proof {
		t.Errorf("%d bound, %d proofs and %d again, the last %q", c.BoundTokens, c.DistinctProofs, c.ReusedProofs, c.LastProof)
	}
	if diff := cmp.Diff(map[Endpoint]int{Token: 1}, c.NonceRefusals); diff != "" {
		t.Errorf("nonce refusals (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[int]int{200: 1, 400: 1}, c.ResourceStatus); diff != "" {
		t.Errorf("what the resource answered (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"invalid_dpop_proof": 1}, c.ResourceRefused); diff != "" {
		t.Errorf("what the resource refused (-want +got):\n%s", diff)
	}
}

// The assertion and the proof share a memory: neither may have the jti of the other.
func TestSharedJTI(t *testing.T) {
	o := newDPoP(t, Config{})
	nonce := nonceOf(t, o)
	proof := func(jti string) string { return prove(t, "POST", endpoint, map[string]any{"jti": jti, "nonce": nonce}) }
	send := func(assertionJTI, proof string) reply {
		assertion := sign(t, jose.RS256, rsaKey(), nil, with(map[string]any{"jti": assertionJTI}))
		r := tokenRequest(t, form(assertion, "okta.users.read").Encode())
		r.Header.Set("DPoP", proof)
		return do(t, o, r)
	}
	send("same", proof("same")).wantError(t, 400, "invalid_dpop_proof", wordsProofUsed)
	send("a", proof("b")).wantBound(t)
	send("b", proof("c")).wantError(t, 401, "invalid_client", wordsUsed)
	send("d", proof("a")).wantError(t, 400, "invalid_dpop_proof", wordsProofUsed)
}

// The assertion is checked first, and a refused one still consumes the jti of the proof.
func TestAssertionBeforeProof(t *testing.T) {
	o := newDPoP(t, Config{})
	proof := prove(t, "POST", endpoint, map[string]any{"nonce": nonceOf(t, o)})
	r := tokenRequest(t, form(sign(t, jose.RS256, otherRSA(), nil, goodClaims()), "okta.users.read").Encode())
	r.Header.Set("DPoP", proof)
	do(t, o, r).wantError(t, 401, "invalid_client", wordsSignature)
	exchangeDPoP(t, o, proof).wantError(t, 400, "invalid_dpop_proof", wordsProofUsed)
}

// A proof whose signature does not verify uses nothing up.
func TestForgedProofConsumesNothing(t *testing.T) {
	o := newDPoP(t, Config{})
	claims := proofClaims("POST", endpoint, map[string]any{"nonce": nonceOf(t, o)})
	forged := sign(t, jose.ES256, otherEC(), typed(&ecKey().PublicKey), claims)
	exchangeDPoP(t, o, forged).wantError(t, 400, "invalid_dpop_proof", "The DPoP proof JWT signature is invalid.")
	exchangeDPoP(t, o, proveWith(t, jose.ES256, ecKey(), claims)).wantBound(t)
}

func TestProofToAnAppWithoutDPoP(t *testing.T) {
	o := newOkta(t, Config{})
	for _, proof := range []string{prove(t, "POST", endpoint, nil), "nonsense"} {
		got := exchangeDPoP(t, o, proof)
		got.wantToken(t, "okta.users.read")
		if nonce := got.Header.Get("DPoP-Nonce"); nonce != "" {
			t.Errorf("DPoP-Nonce %q", nonce)
		}
	}

	const honouring = "0oaHonours"
	if err := o.AddApp(App{ClientID: honouring, Scopes: []string{"okta.users.read"}, HonoursDPoP: true}); err != nil {
		t.Fatal(err)
	}
	if err := o.RegisterKey(honouring, jwk(t, "k1", &rsaKey().PublicKey)); err != nil {
		t.Fatal(err)
	}
	send := func(proofs ...string) reply {
		claims := with(map[string]any{"iss": honouring, "sub": honouring})
		r := tokenRequest(t, form(sign(t, jose.RS256, rsaKey(), nil, claims), "okta.users.read").Encode())
		r.Header["Dpop"] = proofs
		return do(t, o, r)
	}
	send().wantToken(t, "okta.users.read")
	send("nonsense").wantError(t, 400, "invalid_dpop_proof", "The parsing of the DPoP proof JWT failed.")
	nonce := send(prove(t, "POST", endpoint, nil)).Header.Get("DPoP-Nonce")
	send(prove(t, "POST", endpoint, map[string]any{"nonce": nonce})).wantBound(t)
}

func TestSetDPoP(t *testing.T) {
	o := newOkta(t, Config{})
	if err := o.AddApp(App{ClientID: "0oaBound", DPoP: true}); err != nil {
		t.Fatal(err)
	}
	if err := o.RegisterKey("0oaBound", jwk(t, "k1", &rsaKey().PublicKey)); err != nil {
		t.Fatal(err)
	}
	askAs(t, o, "0oaBound", rsaKey(), endpoint, url.Values{"scope": {"okta.users.read"}}).
		wantError(t, 400, "invalid_dpop_proof", "The DPoP proof JWT header is missing.")

	if err := o.SetDPoP("0oaNobody", true); err == nil {
		t.Error("no error for an app that is not there")
	}
	for _, required := range []bool{true, false} {
		if err := o.SetDPoP(clientID, required); err != nil {
			t.Fatal(err)
		}
		if got := exchange(t, o, good(t), "okta.users.read"); (got.Status == http.StatusOK) == required {
			t.Errorf("required %t: status %d", required, got.Status)
		}
	}
}

func TestDPoPAtACustomServer(t *testing.T) {
	o := newDPoP(t, Config{})
	addServer(t, o, openServer("one"))
	const token = baseURL + "/oauth2/one/v1/token"
	send := func(nonce any) reply {
		assertion := sign(t, jose.RS256, rsaKey(), nil, with(map[string]any{"aud": token}))
		r := tokenRequest(t, form(assertion, "orders.read").Encode())
		r.URL = must(url.Parse(token))
		r.Header.Set("DPoP", prove(t, "POST", token, map[string]any{"nonce": nonce}))
		return do(t, o, r)
	}
	got := send(nonceOf(t, o)) // the org's nonce is not the custom server's
	got.wantError(t, 400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof.")
	access := send(got.Header.Get("DPoP-Nonce")).wantBound(t)

	jws, err := jose.ParseSignedCompact(access, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &claims); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"jkt": thumbprint(ecKey())}, claims["cnf"]); diff != "" {
		t.Errorf("cnf (-want +got):\n%s", diff)
	}
}

// What a fault or a limit answers in place of the work has consumed the proof all the same.
func TestFaultsConsumeProofs(t *testing.T) {
	o := newDPoP(t, Config{})
	nonce := nonceOf(t, o)
	for name, hurt := range map[string]func(){
		"fault": func() { o.SetFault(Fault{Status: 503, Count: 1}) },
		"limit": func() { o.SetRateLimit(Token, RateLimit{Requests: 1}); exchange(t, o, "x", "") },
	} {
		hurt()
		proof := prove(t, "POST", endpoint, map[string]any{"nonce": nonce})
		got := exchangeDPoP(t, o, proof)
		if got.Status != 503 && got.Status != 429 || got.Header.Get("DPoP-Nonce") != "" {
			t.Errorf("%s: status %d, DPoP-Nonce %q", name, got.Status, got.Header.Get("DPoP-Nonce"))
		}
		o.SetRateLimit(Token, RateLimit{})
		exchangeDPoP(t, o, proof).wantError(t, 400, "invalid_dpop_proof", wordsProofUsed)
	}
}

// Every setter may be called while bound calls run; the race detector looks on.
func TestConcurrentDPoP(t *testing.T) {
	o := newDPoP(t, Config{})
	token := boundToken(t, o)
	const callers = 8
	requests := make([]*http.Request, callers)
	for i := range requests {
		requests[i] = must(http.NewRequestWithContext(t.Context(), http.MethodGet, baseURL+usersPath, nil))
		requests[i].Header.Set("Authorization", "DPoP "+token)
		requests[i].Header.Set("DPoP", prove(t, "GET", baseURL+usersPath, map[string]any{"ath": hash(token)}))
	}
	var group sync.WaitGroup
	for i, request := range requests {
		group.Go(func() {
			if res, err := o.Transport().RoundTrip(request); err != nil || res.StatusCode != http.StatusOK {
				t.Errorf("call %d: %v, %v", i, res, err)
			}
			o.SetNonceRefusal(i)
			o.ExpireNonces()
			o.SetUsers(i)
			o.RevokeTokens("0oaOther")
			if err := o.SetDPoP(clientID, i%2 == 0); err != nil {
				t.Error(err)
			}
			o.SetResourceNonce(false)
			o.Counters()
		})
	}
	group.Wait()
	if c := o.Counters(); c.ResourceStatus[200] != callers || c.DistinctProofs != callers+2 {
		t.Errorf("%v, %d distinct proofs", c.ResourceStatus, c.DistinctProofs)
	}
}
