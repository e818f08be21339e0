package fakeokta

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestRefusedProofs(t *testing.T) {
	const (
		wordsParse = "The parsing of the DPoP proof JWT failed."
		wordsTyp   = "The 'typ' in the DPoP proof JWT header must be 'dpop+jwt'."
		wordsJWK   = "The 'jwk' in the DPoP proof JWT header is invalid."
		wordsAlg   = "The DPoP proof JWT signing algorithm is invalid."
		wordsCrit  = "The 'crit' in the DPoP proof JWT header is not supported."
		wordsOne   = "There must be one DPoP proof JWT header, and no more."
		wordsPast  = "The DPoP proof JWT was issued more than five minutes in the past."
		wordsAhead = "The DPoP proof JWT is issued in the future."
	)
	claim := func(name string) string { return "'" + name + "' claim in the DPoP proof JWT is invalid." }
	now := time.Now().Unix()
	public := jose.JSONWebKey{Key: &ecKey().PublicKey}
	members := func(change map[string]any) map[string]any {
		var m map[string]any
		if err := json.Unmarshal(must(public.MarshalJSON()), &m); err != nil {
			t.Fatal(err)
		}
		maps.Copy(m, change)
		return m
	}
	edit := func(change map[string]any) func(*testing.T, string) []string {
		return func(t *testing.T, nonce string) []string {
			c := proofClaims("POST", endpoint, map[string]any{"nonce": nonce})
			maps.Copy(c, change)
			maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
			return []string{proveWith(t, jose.ES256, ecKey(), c)}
		}
	}
	signed := func(alg jose.SignatureAlgorithm, key any, header map[string]any) func(*testing.T, string) []string {
		return func(t *testing.T, nonce string) []string {
			return []string{sign(t, alg, key, header, proofClaims("POST", endpoint, map[string]any{"nonce": nonce}))}
		}
	}
	withJWK := func(jwk any) func(*testing.T, string) []string {
		return signed(jose.ES256, ecKey(), map[string]any{"typ": "dpop+jwt", "jwk": jwk})
	}
	withTyp := func(typ any) func(*testing.T, string) []string {
		return signed(jose.ES256, ecKey(), map[string]any{"typ": typ, "jwk": public})
	}
	header := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	raw := func(proofs ...string) func(*testing.T, string) []string {
		return func(*testing.T, string) []string { return proofs }
	}
	jwkText := string(must(public.MarshalJSON()))
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		name   string
		proofs func(t *testing.T, nonce string) []string
		words  string
	}{
		{"two headers", func(t *testing.T, nonce string) []string {
			return append(edit(nil)(t, nonce), edit(nil)(t, nonce)...)
		}, wordsOne},
		{"empty", raw(""), wordsParse},
		{"not a JWT", raw("proof"), wordsParse},
		{"two in one header", func(t *testing.T, nonce string) []string {
			return []string{edit(nil)(t, nonce)[0] + ", " + edit(nil)(t, nonce)[0]}
		}, wordsParse},
		{"unsigned", raw(header(`{"typ":"dpop+jwt","alg":"none","jwk":`+jwkText+`}`) + ".e30."), wordsAlg},
		{"a header member twice", raw(header(`{"typ":"dpop+jwt","typ":"dpop+jwt","alg":"ES256","jwk":`+jwkText+`}`) + ".e30.AA"), wordsParse},
		{"HMAC", signed(jose.HS256, []byte(strings.Repeat("k", 32)), typed(&ecKey().PublicKey)), wordsAlg},
		{"PS256", signed(jose.PS256, rsaKey(), typed(&rsaKey().PublicKey)), wordsAlg},
		{"EdDSA", signed(jose.EdDSA, edwards, typed(edwards.Public())), wordsJWK},
		{"a small RSA key", signed(jose.RS256, small, typed(&small.PublicKey)), wordsJWK},
		{"an algorithm of another key", signed(jose.ES256, ecKey(), typed(&rsaKey().PublicKey)), wordsAlg},
		{"an algorithm that the jwk denies", withJWK(members(map[string]any{"alg": "ES384"})), wordsJWK},
		{"another key's signature", signed(jose.ES256, otherEC(), typed(&ecKey().PublicKey)),
			"The DPoP proof JWT signature is invalid."},
		{"no typ", withTyp(nil), wordsTyp},
		{"typ JWT", withTyp("JWT"), wordsTyp},
		{"typ in capitals", withTyp("DPOP+JWT"), wordsTyp},
		{"typ application/dpop+jwt", withTyp("application/dpop+jwt"), wordsTyp},
		{"typ a number", withTyp(1), wordsTyp},
		{"crit", signed(jose.ES256, ecKey(), map[string]any{"typ": "dpop+jwt", "jwk": public, "crit": []string{"b64"}, "b64": true}), wordsCrit},
		{"no jwk", signed(jose.ES256, ecKey(), map[string]any{"typ": "dpop+jwt"}), wordsJWK},
		{"jwk a string", withJWK("key"), wordsJWK},
		{"a private jwk", withJWK(jose.JSONWebKey{Key: ecKey()}), wordsJWK},
		{"a jwk with a private member", withJWK(members(map[string]any{"p": "AA"})), wordsJWK},
		{"a jwk for encryption", withJWK(members(map[string]any{"use": "enc"})), wordsJWK},
		{"claims a list", func(t *testing.T, _ string) []string {
			return []string{signBytes(t, jose.ES256, ecKey(), typed(&ecKey().PublicKey), []byte(`[]`))}
		}, wordsParse},
		{"no jti", edit(map[string]any{"jti": nil}), claim("jti")},
		{"jti a number", edit(map[string]any{"jti": 7}), claim("jti")},
		{"no htm", edit(map[string]any{"htm": nil}), claim("htm")},
		{"htm GET", edit(map[string]any{"htm": "GET"}), claim("htm")},
		{"htm post", edit(map[string]any{"htm": "post"}), claim("htm")},
		{"no htu", edit(map[string]any{"htu": nil}), claim("htu")},
		{"htu the issuer", edit(map[string]any{"htu": baseURL}), claim("htu")},
		{"htu of http", edit(map[string]any{"htu": "http" + strings.TrimPrefix(endpoint, "https")}), claim("htu")},
		{"htu of another host", edit(map[string]any{"htu": "https://evil.test/oauth2/v1/token"}), claim("htu")},
		{"htu of a longer host", edit(map[string]any{"htu": baseURL + ".evil.test/oauth2/v1/token"}), claim("htu")},
		{"htu a path", edit(map[string]any{"htu": "/oauth2/v1/token"}), claim("htu")},
		{"htu with a slash", edit(map[string]any{"htu": endpoint + "/"}), claim("htu")},
		{"htu with a query", edit(map[string]any{"htu": endpoint + "?"}), claim("htu")},
		{"htu with a fragment", edit(map[string]any{"htu": endpoint + "#x"}), claim("htu")},
		{"htu in other case", edit(map[string]any{"htu": baseURL + "/OAuth2/v1/token"}), claim("htu")},
		{"htu a list", edit(map[string]any{"htu": []string{endpoint}}), claim("htu")},
		{"no iat", edit(map[string]any{"iat": nil}), claim("iat")},
		{"iat a string", edit(map[string]any{"iat": "now"}), claim("iat")},
		{"iat in the future", edit(map[string]any{"iat": now + 60}), wordsAhead},
		{"iat too old", edit(map[string]any{"iat": now - 302}), wordsPast},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newDPoP(t, Config{})
			nonce := nonceOf(t, o)
			exchangeDPoP(t, o, test.proofs(t, nonce)...).wantError(t, 400, "invalid_dpop_proof", test.words)
			if c := o.Counters(); c.TokensIssued != 0 || c.Refused["invalid_dpop_proof"] != 1 {
				t.Errorf("%d issued, refused %v", c.TokensIssued, c.Refused)
			}
		})
	}
}

func TestProofAlgorithms(t *testing.T) {
	o := newDPoP(t, Config{})
	nonce := nonceOf(t, o)
	for alg, key := range map[jose.SignatureAlgorithm]any{
		jose.RS256: rsaKey(), jose.RS384: rsaKey(), jose.RS512: rsaKey(),
		jose.ES256: ecKey(),
		jose.ES384: must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		jose.ES512: must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)),
	} {
		proof := proveWith(t, alg, key, proofClaims("POST", endpoint, map[string]any{"nonce": nonce}))
		exchangeDPoP(t, o, proof).wantBound(t)
	}
}

// The host of htu is compared without case (RFC 3986, section 6.2.2.1).
func TestHostOfHTU(t *testing.T) {
	o := newDPoP(t, Config{})
	htu := strings.Replace(endpoint, "acme.okta.test", "ACME.okta.test", 1)
	exchangeDPoP(t, o, prove(t, "POST", htu, map[string]any{"nonce": nonceOf(t, o)})).wantBound(t)
}

func TestProofAge(t *testing.T) {
	now := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	o := newDPoP(t, Config{Now: func() time.Time { return now }})
	try := func(iat any) reply {
		assertion := with(map[string]any{"iat": now.Unix() - 30, "exp": now.Unix() + 300})
		r := tokenRequest(t, form(sign(t, jose.RS256, rsaKey(), nil, assertion), "okta.users.read").Encode())
		r.Header.Set("DPoP", prove(t, "POST", endpoint, map[string]any{"iat": iat}))
		return do(t, o, r)
	}
	for _, test := range []struct {
		age   time.Duration
		words string
	}{
		{-time.Second, "The DPoP proof JWT is issued in the future."},
		{0, ""},
		{300 * time.Second, ""},
		{301 * time.Second, "The DPoP proof JWT was issued more than five minutes in the past."},
	} {
		got := try(now.Add(-test.age).Unix())
		if test.words == "" {
			got.wantError(t, 400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof.")
		} else {
			got.wantError(t, 400, "invalid_dpop_proof", test.words)
		}
	}
	// By the server's clock, as a fault sets it.
	o.SetFault(Fault{Skew: -time.Second, Count: 1})
	try(now.Unix()).wantError(t, 400, "invalid_dpop_proof", "The DPoP proof JWT is issued in the future.")
}
