package keys

import (
	"crypto"
	"encoding/json"
	"slices"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

// published reads a ring's JWKS as a server does.
func published(tb testing.TB, ring *Ring) jose.JSONWebKeySet {
	tb.Helper()
	var set jose.JSONWebKeySet
	ok(tb, json.Unmarshal(ring.JWKS(), &set))
	return set
}

func TestJWKS(t *testing.T) {
	twice := func(first, second string) string {
		return meta(t, ecKey(0), "active", first, "ES256", "") + pkcs8(ecKey(0)) +
			meta(t, ecKey(1), "next", "soon", "ES256", "") + pkcs8(ecKey(1)) +
			meta(t, ecKey(2), "retired", second, "ES256", "") + pkcs8(ecKey(2)) +
			meta(t, ecKey(3), "retired", second, "ES256", "") + pkcs8(ecKey(3))
	}
	tests := []struct {
		name, text string
		kids       []string
		keys       []int // ecKey of each
	}{
		{"one key", ringText(t, "A"), []string{"A0"}, []int{0}},
		{"every state", ringText(t, "aNnRr"), []string{"a0", "N1", "n2", "R3", "r4"}, []int{0, 1, 2, 3, 4}},
		{"a full ring", ringText(t, "ANRRRRRR"), []string{"A0", "N1", "R2", "R3", "R4", "R5", "R6", "R7"}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
		{"one kid twice among the retired", twice("now", "same"), []string{"now", "soon", "same"}, []int{0, 1, 2}},
		{"all are called the same", twice("same", "same"), []string{"same", "soon"}, []int{0, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ring := open(t, ringFile(t, tt.text), Config{})
			set := published(t, ring)
			var got []string
			for _, key := range set.Keys {
				got = append(got, key.KeyID)
			}
			if diff := cmp.Diff(tt.kids, got); diff != "" {
				t.Fatalf("kids (-want +got):\n%s", diff)
			}
			for i, key := range set.Keys {
				if !ecKey(tt.keys[i]).PublicKey.Equal(key.Key) {
					t.Errorf("%q is another key", key.KeyID)
				}
				if key.Use != "sig" || key.Algorithm != "ES256" || !key.IsPublic() || !key.Valid() {
					t.Errorf("%q: use %q, alg %q", key.KeyID, key.Use, key.Algorithm)
				}
			}
			// What any key signs that is published under its kid verifies with the set.
			for _, k := range ring.Keys() {
				signed, err := k.Sign(t.Context(), map[string]any{"kid": k.ID()}, map[string]any{"iss": "me"})
				ok(t, err)
				if i := slices.Index(tt.kids, k.ID()); k.Thumbprint() != thumbprint(t, ecKey(tt.keys[i])) {
					continue // the newest is published
				}
				parsed, err := jose.ParseSignedCompact(signed, []jose.SignatureAlgorithm{jose.ES256})
				ok(t, err)
				if _, err := parsed.Verify(set); err != nil {
					t.Errorf("what %s key %q signs does not verify: %v", k.State(), k.ID(), err)
				}
			}
		})
	}
}

// TestJWKSHoldsNothingElse: RFC 7518 section 6 has private members besides.
func TestJWKSHoldsNothingElse(t *testing.T) {
	text := meta(t, rsaKey(), "active", "rsa", "RS512", "") + pkcs8(rsaKey()) + meta(t, p521Key(), "retired", "ec", "ES512", "") + pkcs8(p521Key())
	var set map[string][]map[string]any
	ok(t, json.Unmarshal(open(t, "", Config{Store: NewStatic(text)}).JWKS(), &set))
	want := map[string][]map[string]any{"keys": {
		{"kty": "RSA", "use": "sig", "alg": "RS512", "kid": "rsa", "e": "AQAB", "n": set["keys"][0]["n"]},
		{"kty": "EC", "use": "sig", "alg": "ES512", "kid": "ec", "crv": "P-521", "x": set["keys"][1]["x"], "y": set["keys"][1]["y"]},
	}}
	if diff := cmp.Diff(want, set); diff != "" {
		t.Errorf("JWKS (-want +got):\n%s", diff)
	}
}

func TestJWKSOfAnEmptyRing(t *testing.T) {
	if got, want := string(open(t, ringPath(t), Config{}).JWKS()), `{"keys":[]}`; got != want {
		t.Errorf("JWKS %s, want %s", got, want)
	}
}

// TestJWKSFollowsTheRing: a next key is published before it signs, and a retired
// one until it is taken out. Going back publishes the key that signs, though a
// newer one is called the same.
func TestJWKSFollowsTheRing(t *testing.T) {
	path := ringPath(t)
	ring := open(t, path, Config{})
	want := func(kids ...string) {
		t.Helper()
		for name, ring := range map[string]*Ring{"the ring": ring, "the ring opened anew": open(t, path, Config{})} {
			var got []string
			for _, key := range published(t, ring).Keys {
				got = append(got, key.KeyID)
			}
			if !slices.Equal(got, kids) {
				t.Errorf("%s publishes %q, want %q", name, got, kids)
			}
		}
	}
	first, _, err := ring.Active(t.Context(), "first")
	ok(t, err)
	want("first")
	next, _, err := ring.Stage(t.Context(), "second")
	ok(t, err)
	want("first", "second")
	ok(t, ring.Activate(t.Context(), next))
	want("second", "first")
	ok(t, ring.Retire(t.Context(), first))
	want("second")
	rotate(t, ring, "second")
	want("second")
	ok(t, ring.Activate(t.Context(), next))
	want("second")
	if key := published(t, ring).Keys[0]; !next.signer.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Key) {
		t.Error("the active key is not the one that is published")
	}
}
