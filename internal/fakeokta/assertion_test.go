package fakeokta

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

const (
	wordsAlgorithm = "The client_assertion signing algorithm is invalid."
	wordsParsing   = "The parsing of the client_assertion failed."
	wordsKid       = "The client_assertion JWT kid is invalid."
	wordsSignature = "The client_assertion signature is invalid."
	wordsNoKeys    = "The client does not have a JWKSet configured, but the client_assertion requires one."
	wordsClientID  = "Invalid value for 'client_id' parameter."
	wordsSubject   = "The issuer and the subject claim for client_assertion must both be the client_id."
	wordsAudience  = "The audience claim for client_assertion must be the endpoint invoked for the request."
	wordsExp       = "The expiration claim for client_assertion must be an integer."
	wordsTooFar    = "The client_assertion token has an expiration too far into the future."
	wordsExpired   = "The client_assertion token is expired."
	wordsIssued    = "The client_assertion token must be issued before the current time."
	wordsNotYet    = "The client_assertion token is not valid yet."
	wordsUsed      = "The client_assertion token has already been used."
	wordsJKU       = "The client_assertion JWT header must not have a jku."
)

func TestGoodAssertions(t *testing.T) {
	for alg, key := range map[jose.SignatureAlgorithm]any{
		jose.RS256: rsaKey(), jose.RS384: rsaKey(), jose.RS512: rsaKey(),
		jose.ES256: ecKey(),
		jose.ES384: must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		jose.ES512: must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)),
	} {
		t.Run(string(alg), func(t *testing.T) {
			o := newOkta(t, Config{})
			if key, ok := key.(*ecdsa.PrivateKey); ok {
				o.RemoveKey(clientID, "k1")
				register(t, o, "k1", &key.PublicKey)
			}
			exchange(t, o, sign(t, alg, key, map[string]any{"kid": "k1"}, goodClaims()), "okta.users.read").
				wantToken(t, "okta.users.read")
			// A single key needs no kid; iat, nbf and jti are optional.
			bare := with(map[string]any{"iat": nil, "jti": nil})
			exchange(t, o, sign(t, alg, key, nil, bare), "okta.users.read").wantToken(t, "okta.users.read")
		})
	}
}

func TestRefusedClaims(t *testing.T) {
	now := time.Now().Unix()
	for _, test := range []struct {
		name   string
		change map[string]any
		words  string
	}{
		{"issuer unknown", map[string]any{"iss": "0oaNobody", "sub": "0oaNobody"}, wordsClientID},
		{"issuer missing", map[string]any{"iss": nil}, wordsClientID},
		{"issuer a list", map[string]any{"iss": []string{clientID}}, wordsClientID},
		{"subject another", map[string]any{"sub": "0oaNobody"}, wordsSubject},
		{"subject missing", map[string]any{"sub": nil}, wordsSubject},
		{"audience missing", map[string]any{"aud": nil}, wordsAudience},
		{"audience the issuer", map[string]any{"aud": baseURL}, wordsAudience},
		{"audience a list", map[string]any{"aud": []string{endpoint}}, wordsAudience},
		{"audience with a slash", map[string]any{"aud": endpoint + "/"}, wordsAudience},
		{"audience in other case", map[string]any{"aud": strings.ToUpper(endpoint)}, wordsAudience},
		{"exp missing", map[string]any{"exp": nil}, wordsExp},
		{"exp a string", map[string]any{"exp": "1893456000"}, wordsExp},
		{"exp a fraction", map[string]any{"exp": float64(now) + 300.5}, wordsExp},
		{"exp 1e30", map[string]any{"exp": 1e30}, wordsExp},
		{"exp over an hour ahead", map[string]any{"exp": now + 3660}, wordsTooFar},
		{"exp in 292 billion years", map[string]any{"exp": int64(1<<63 - 1)}, wordsTooFar},
		{"exp past", map[string]any{"exp": now - 1}, wordsExpired},
		{"exp at the start of time", map[string]any{"exp": int64(-1 << 63)}, wordsExpired},
		{"iat in the future", map[string]any{"iat": now + 60}, wordsIssued},
		{"iat a string", map[string]any{"iat": "yesterday"}, wordsParsing},
		{"nbf in the future", map[string]any{"nbf": now + 60}, wordsNotYet},
		{"nbf a string", map[string]any{"nbf": "tomorrow"}, wordsParsing},
		{"jti a number", map[string]any{"jti": 1}, wordsParsing},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOkta(t, Config{})
			assertion := sign(t, jose.RS256, rsaKey(), map[string]any{"kid": "k1"}, with(test.change))
			exchange(t, o, assertion, "okta.users.read").
				wantError(t, http.StatusUnauthorized, "invalid_client", test.words)
		})
	}
}

func TestExpiryLimits(t *testing.T) {
	now := time.Date(2030, 5, 1, 12, 0, 0, 500_000_000, time.UTC)
	o := newOkta(t, Config{Now: func() time.Time { return now }})
	for _, test := range []struct {
		exp   int64 // seconds from now
		words string
	}{
		{-1, wordsExpired},
		{0, wordsExpired},
		{1, ""},
		{3600, ""},
		{3601, wordsTooFar},
	} {
		change := map[string]any{"iat": now.Unix(), "exp": now.Unix() + test.exp}
		got := exchange(t, o, sign(t, jose.RS256, rsaKey(), nil, with(change)), "okta.users.read")
		if test.words == "" {
			got.wantToken(t, "okta.users.read")
		} else {
			got.wantError(t, http.StatusUnauthorized, "invalid_client", test.words)
		}
	}
}

func TestClockOffset(t *testing.T) {
	o := newOkta(t, Config{})
	o.SetClockOffset(-time.Minute)
	exchange(t, o, good(t), "okta.users.read").wantError(t, http.StatusUnauthorized, "invalid_client", wordsIssued)
	o.SetClockOffset(10 * time.Minute)
	exchange(t, o, good(t), "okta.users.read").wantError(t, http.StatusUnauthorized, "invalid_client", wordsExpired)
}

func TestRefusedSignatures(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k1 := map[string]any{"kid": "k1"}
	secret := []byte(jwk(t, "k1", &rsaKey().PublicKey)) // the classic confusion: the public key as an HMAC secret
	valid := strings.Split(good(t), ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"k1"}`))

	for _, test := range []struct{ name, assertion, words string }{
		{"none", none + "." + valid[1] + ".", wordsAlgorithm},
		{"HS256", sign(t, jose.HS256, secret, k1, goodClaims()), wordsAlgorithm},
		{"PS256", sign(t, jose.PS256, rsaKey(), k1, goodClaims()), wordsAlgorithm},
		{"EdDSA", sign(t, jose.EdDSA, edKey, k1, goodClaims()), wordsAlgorithm},
		{"ES256 for an RSA key", sign(t, jose.ES256, ecKey(), k1, goodClaims()), wordsAlgorithm},
		{"another key", sign(t, jose.RS256, otherRSA(), k1, goodClaims()), wordsSignature},
		{"signature of other claims", valid[0] + "." + strings.Split(good(t), ".")[1] + "." + valid[2], wordsSignature},
		{"unknown kid", sign(t, jose.RS256, rsaKey(), map[string]any{"kid": "k2"}, goodClaims()), wordsKid},
		{"jku", sign(t, jose.RS256, rsaKey(), map[string]any{"kid": "k1", "jku": baseURL}, goodClaims()), wordsJKU},
		{"empty", "", wordsParsing},
		{"two parts", valid[0] + "." + valid[1], wordsParsing},
		{"JSON serialization", `{"payload":"` + valid[1] + `"}`, wordsParsing},
		{"claims not JSON", signBytes(t, jose.RS256, rsaKey(), k1, []byte("hello")), wordsParsing},
		{"claims not an object", signBytes(t, jose.RS256, rsaKey(), k1, []byte("[]")), wordsParsing},
		{"a claim twice", signBytes(t, jose.RS256, rsaKey(), k1, []byte(`{"iss":"a","iss":"b"}`)), wordsParsing},
	} {
		t.Run(test.name, func(t *testing.T) {
			exchange(t, newOkta(t, Config{}), test.assertion, "okta.users.read").
				wantError(t, http.StatusUnauthorized, "invalid_client", test.words)
		})
	}
}

func TestSeveralKeysNeedAKid(t *testing.T) {
	o := newOkta(t, Config{})
	register(t, o, "k2", &ecKey().PublicKey)

	exchange(t, o, sign(t, jose.RS256, rsaKey(), nil, goodClaims()), "okta.users.read").
		wantError(t, http.StatusUnauthorized, "invalid_client", wordsKid)
	exchange(t, o, sign(t, jose.RS256, rsaKey(), map[string]any{"kid": "k2"}, goodClaims()), "okta.users.read").
		wantError(t, http.StatusUnauthorized, "invalid_client", wordsAlgorithm)
	exchange(t, o, sign(t, jose.ES256, ecKey(), map[string]any{"kid": "k2"}, goodClaims()), "okta.users.read").
		wantToken(t, "okta.users.read")

	o.RemoveKey(clientID, "k2")
	exchange(t, o, sign(t, jose.ES256, ecKey(), map[string]any{"kid": "k2"}, goodClaims()), "okta.users.read").
		wantError(t, http.StatusUnauthorized, "invalid_client", wordsKid)
	o.RemoveKey(clientID, "k1")
	o.RemoveKey(clientID, "k1")
	o.RemoveKey("0oaNobody", "k1")
	exchange(t, o, good(t), "okta.users.read").
		wantError(t, http.StatusUnauthorized, "invalid_client", wordsNoKeys)
}

// A key that names its algorithm is good for that one alone.
func TestAlgorithmOfTheKey(t *testing.T) {
	o := newOkta(t, Config{})
	o.RemoveKey(clientID, "k1")
	key, err := jose.JSONWebKey{Key: &rsaKey().PublicKey, KeyID: "k1", Algorithm: "RS512"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.RegisterKey(clientID, key); err != nil {
		t.Fatal(err)
	}
	exchange(t, o, good(t), "okta.users.read").
		wantError(t, http.StatusUnauthorized, "invalid_client", wordsAlgorithm)
	exchange(t, o, sign(t, jose.RS512, rsaKey(), nil, goodClaims()), "okta.users.read").wantToken(t, "okta.users.read")
}

// Each of these requests must use up the jti, so that the same jti in a flawless request is a replay.
func TestJTIIsConsumed(t *testing.T) {
	signed := func(tb testing.TB, claims map[string]any) string { return sign(tb, jose.RS256, rsaKey(), nil, claims) }
	for _, test := range []struct {
		name  string
		spend func(*testing.T, *Okta, map[string]any)
	}{
		{"success", func(t *testing.T, o *Okta, c map[string]any) {
			exchange(t, o, signed(t, c), "okta.users.read").wantToken(t, "okta.users.read")
		}},
		{"bad scope", func(t *testing.T, o *Okta, c map[string]any) { exchange(t, o, signed(t, c), "") }},
		{"bad audience", func(t *testing.T, o *Okta, c map[string]any) {
			c["aud"] = baseURL
			exchange(t, o, signed(t, c), "okta.users.read")
		}},
		{"expired", func(t *testing.T, o *Okta, c map[string]any) {
			c["exp"] = time.Now().Unix() - 5
			exchange(t, o, signed(t, c), "okta.users.read")
		}},
		{"exp absurd", func(t *testing.T, o *Okta, c map[string]any) {
			c["exp"] = int64(1<<63 - 1)
			exchange(t, o, signed(t, c), "okta.users.read")
		}},
		{"bad grant type", func(t *testing.T, o *Okta, c map[string]any) {
			f := form(signed(t, c), "okta.users.read")
			f.Set("grant_type", "password")
			do(t, o, tokenRequest(t, f.Encode()))
		}},
		{"fault", func(t *testing.T, o *Okta, c map[string]any) {
			o.SetFault(Fault{Status: 500, Body: "{}", Count: 1})
			exchange(t, o, signed(t, c), "okta.users.read")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOkta(t, Config{})
			flawless := goodClaims()
			test.spend(t, o, with(map[string]any{"jti": flawless["jti"]}))
			exchange(t, o, signed(t, flawless), "okta.users.read").
				wantError(t, http.StatusUnauthorized, "invalid_client", wordsUsed)
			if c := o.Counters(); c.DistinctJTI != 1 || c.ReusedJTI != 1 {
				t.Errorf("distinct %d, reused %d; want 1, 1", c.DistinctJTI, c.ReusedJTI)
			}
		})
	}
}

// Nobody but the holder of the key can use up a jti, and each app has its own.
func TestJTIIsNotConsumed(t *testing.T) {
	o := newOkta(t, Config{})
	if err := o.AddApp(App{ClientID: "0oaOther", Scopes: []string{"okta.users.read"}}); err != nil {
		t.Fatal(err)
	}
	if err := o.RegisterKey("0oaOther", jwk(t, "k1", &otherRSA().PublicKey)); err != nil {
		t.Fatal(err)
	}
	c := goodClaims()
	exchange(t, o, sign(t, jose.RS256, otherRSA(), nil, c), "okta.users.read").
		wantError(t, http.StatusUnauthorized, "invalid_client", wordsSignature)
	other := with(map[string]any{"iss": "0oaOther", "sub": "0oaOther", "jti": c["jti"]})
	exchange(t, o, sign(t, jose.RS256, otherRSA(), nil, other), "okta.users.read").wantToken(t, "okta.users.read")
	exchange(t, o, sign(t, jose.RS256, rsaKey(), nil, c), "okta.users.read").wantToken(t, "okta.users.read")
}

func TestMemoryForgets(t *testing.T) {
	var m memory
	for i, step := range []struct {
		id         string
		until, now int64
		fresh      bool
	}{
		{"a", 100, 0, true},
		{"a", 100, 99, false},
		{"b", 1000, 99, true},
		{"a", 300, 100, true},
		{"b", 1000, 999, false},
	} {
		if fresh := m.add(step.id, step.until, step.now); fresh != step.fresh {
			t.Errorf("step %d: fresh %t", i, fresh)
		}
	}
	if diff := cmp.Diff(map[string]int64{"b": 1000}, m.until); diff != "" {
		t.Errorf("remembered (-want +got):\n%s", diff)
	}
}
