package keys

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

// verify checks a JWS with nothing but a published JWK.
func verify(tb testing.TB, signed string, jwk json.RawMessage, alg string) (header, claims map[string]any) {
	tb.Helper()
	var key jose.JSONWebKey
	ok(tb, json.Unmarshal(jwk, &key))
	if !key.Valid() || !key.IsPublic() {
		tb.Fatalf("not a public key: %s", jwk)
	}
	parsed, err := jose.ParseSignedCompact(signed, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		tb.Fatal(err)
	}
	payload, err := parsed.Verify(key)
	if err != nil {
		tb.Fatalf("verifying with go-jose: %v", err)
	}
	ok(tb, json.Unmarshal(payload, &claims))
	head, err := base64.RawURLEncoding.DecodeString(signed[:strings.Index(signed, ".")])
	ok(tb, err)
	ok(tb, json.Unmarshal(head, &header))
	return header, claims
}

func TestSign(t *testing.T) {
	for _, alg := range Algorithms() {
		t.Run(alg, func(t *testing.T) {
			ring := open(t, ringPath(t), Config{Algorithm: alg})
			k, _, err := ring.Active(t.Context(), "my key")
			ok(t, err)
			header := map[string]any{"alg": "none", "typ": "JWT", "kid": k.ID()}
			given := maps.Clone(header)
			claims := map[string]any{"iss": "me", "aud": "you", "exp": 1234567890.0}
			signed, err := k.Sign(t.Context(), header, claims)
			ok(t, err)

			gotHeader, gotClaims := verify(t, signed, k.JWK(), alg)
			if diff := cmp.Diff(map[string]any{"alg": alg, "typ": "JWT", "kid": "my key"}, gotHeader); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(claims, gotClaims); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(given, header); diff != "" {
				t.Errorf("the caller's header was changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestSignRefused(t *testing.T) {
	k := active(t, open(t, ringFile(t, ringText(t, "A")), Config{}))
	signed, err := k.Sign(canceled(t), nil, map[string]any{"iss": "me"})
	wantError(t, err, `signing with key "A0"`, "canceled")
	if !errors.Is(err, context.Canceled) || signed != "" {
		t.Errorf("signed %q, error %v", signed, err)
	}
	if signed, err = k.Sign(t.Context(), nil, map[string]any{"no JSON": func() {}}); err == nil || signed != "" {
		t.Errorf("signed %q, error %v", signed, err)
	}
}

// TestRetiredKeysSign: the exchange falls back to them.
func TestRetiredKeysSign(t *testing.T) {
	ring := open(t, ringFile(t, ringText(t, "Ar")), Config{})
	for _, k := range ring.Candidates("") {
		signed, err := k.Sign(t.Context(), map[string]any{"kid": k.ID()}, map[string]any{"iss": "me"})
		ok(t, err)
		verify(t, signed, k.JWK(), "ES256")
	}
}

func TestJWK(t *testing.T) {
	tests := []struct {
		name    string
		private any
		alg     string
		kty     string
		more    []string // members besides kty, use, alg, kid
	}{
		{"RSA", rsaKey(), "RS256", "RSA", []string{"e", "n"}},
		{"RSA for RS512", rsaKey(), "RS512", "RSA", []string{"e", "n"}},
		{"P-256", ecKey(0), "ES256", "EC", []string{"crv", "x", "y"}},
		{"P-384", p384Key(), "ES384", "EC", []string{"crv", "x", "y"}},
		{"P-521", p521Key(), "ES512", "EC", []string{"crv", "x", "y"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := meta(t, tt.private, "active", `Schlüssel "1"`, tt.alg, "") + pkcs8(tt.private)
			k := active(t, open(t, "", Config{Store: NewStatic(text)}))
			for kid, raw := range map[string]json.RawMessage{`Schlüssel "1"`: k.JWK(), "another": k.JWKAs("another")} {
				var jwk map[string]any
				ok(t, json.Unmarshal(raw, &jwk))
				// Exactly these: d, p, q, dp, dq and qi are private.
				want := slices.Sorted(slices.Values(append([]string{"kty", "use", "alg", "kid"}, tt.more...)))
				if diff := cmp.Diff(want, slices.Sorted(maps.Keys(jwk))); diff != "" {
					t.Errorf("members (-want +got):\n%s", diff)
				}
				got := map[string]any{"kty": jwk["kty"], "use": jwk["use"], "alg": jwk["alg"], "kid": jwk["kid"]}
				if diff := cmp.Diff(map[string]any{"kty": tt.kty, "use": "sig", "alg": tt.alg, "kid": kid}, got); diff != "" {
					t.Errorf("values (-want +got):\n%s", diff)
				}
				var key jose.JSONWebKey
				ok(t, json.Unmarshal(raw, &key))
				public, isPublic := key.Key.(interface{ Equal(crypto.PublicKey) bool })
				if !isPublic || !public.Equal(k.signer.Public()) {
					t.Error("it is the public half of another key")
				}
			}
		})
	}
}

// TestNothingPrintsAKey prints what is at hand in every way that comes to mind.
func TestNothingPrintsAKey(t *testing.T) {
	pem := pkcs1(rsaKey())
	store := NewStatic(pem)
	ring := open(t, "", Config{Store: store})
	start, d := []byte(pem[:30]), rsaKey().D
	secrets := map[string]string{
		"PEM": strings.Split(pem, "\n")[1], "PEM in base64": base64.StdEncoding.EncodeToString(start),
		"PEM as bytes": strings.Trim(fmt.Sprintf("%d", start), "[]"), "PEM in Go syntax": strings.Trim(fmt.Sprintf("%#v", start), "[]byte{}"),
		"PEM in hex": hex.EncodeToString(start), "number": d.String(), "number in hex": d.Text(16), "number as words": strings.Trim(fmt.Sprint(d.Bits()[:2]), "[]"),
	}
	values := map[string]any{"key": active(t, ring), "keys": ring.Keys(), "ring": ring, "store": store}
	for name, value := range values {
		var log strings.Builder
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "value", value)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "value", value)
		fmt.Fprintf(&log, "%v %+v %#v %s %q %x", value, value, value, value, value, value)
		if text, err := json.Marshal(value); err == nil {
			log.Write(text)
		}
		for form, secret := range secrets {
			if strings.Contains(log.String(), secret) {
				t.Errorf("printing the %s shows the private key (%s)", name, form)
			}
		}
	}
}
