package assertion

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// trivial signs nothing: it gives header and claims as JSON, between dots.
type trivial struct{}

func (trivial) Sign(_ context.Context, header, claims map[string]any) (string, error) {
	header = maps.Clone(header)
	header["alg"] = "XX256"
	var parts []string
	for _, part := range []map[string]any{header, claims} {
		text, err := json.Marshal(part)
		if err != nil {
			return "", err
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(text))
	}
	return strings.Join(append(parts, "signature"), "."), nil
}

// decode reads a JWT's header and claims, as text: 1 is not 1.0.
func decode(t *testing.T, token string) (header, claims string) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is not a JWT", token)
	}
	for i, into := range []*string{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		*into = string(text)
	}
	return header, claims
}

func jtiOf(t *testing.T, claims string) string {
	t.Helper()
	var read struct{ JTI string }
	if err := json.Unmarshal([]byte(claims), &read); err != nil {
		t.Fatal(err)
	}
	return read.JTI
}

func TestSign(t *testing.T) {
	at := time.Date(2026, 5, 17, 10, 30, 0, 999_999_999, time.FixedZone("", 3600))
	tests := []struct {
		name   string
		change func(*Assertion)
		header string
	}{
		{"plain", func(*Assertion) {}, `{"alg":"XX256","kid":"k1","typ":"JWT"}`},
		{"type", func(a *Assertion) { a.Type = "client-authentication+jwt" }, `{"alg":"XX256","kid":"k1","typ":"client-authentication+jwt"}`},
		{"use", func(a *Assertion) { a.Use = "sig" }, `{"alg":"XX256","kid":"k1","typ":"JWT","use":"sig"}`},
		{"both", func(a *Assertion) { a.Type, a.Use = "x+jwt", "sig" }, `{"alg":"XX256","kid":"k1","typ":"x+jwt","use":"sig"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := Assertion{
				ClientID: "0oa1", Audience: "https://acme.okta.test/oauth2/v1/token", Kid: "k1",
				IssuedAt: at, Expires: at.Add(5 * time.Minute),
			}
			tt.change(&a)
			signed, err := Sign(t.Context(), trivial{}, a)
			if err != nil {
				t.Fatal(err)
			}
			header, claims := decode(t, signed)
			if diff := cmp.Diff(tt.header, header); diff != "" {
				t.Errorf("header (-want +got)\n%s", diff)
			}
			jti := jtiOf(t, claims)
			want := `{"aud":"https://acme.okta.test/oauth2/v1/token","exp":1779010500,"iat":1779010200,"iss":"0oa1","jti":"` + jti + `","sub":"0oa1"}`
			if diff := cmp.Diff(want, claims); diff != "" {
				t.Errorf("claims (-want +got)\n%s", diff)
			}
			if id, err := uuid.Parse(jti); err != nil || id.Version() != 4 || id.Variant() != uuid.RFC4122 || id.String() != jti {
				t.Errorf("jti %q is not a UUID v4 in its usual form", jti)
			}
		})
	}
}

// The JWT holds as such with a real signature, and with no other key.
func TestSignedForReal(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signed, err := Sign(t.Context(), ecSigner{key}, Assertion{
		ClientID: "0oa1", Audience: "https://acme.okta.test/oauth2/v1/token", Kid: "k1",
		IssuedAt: now.Add(-30 * time.Second), Expires: now.Add(time.Minute),
	})
	if err != nil {
		t.Fatal(err)
	}
	parse := func(public *ecdsa.PublicKey) error {
		_, err := jwt.Parse(signed, func(*jwt.Token) (any, error) { return public, nil },
			jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer("0oa1"), jwt.WithSubject("0oa1"), jwt.WithIssuedAt(),
			jwt.WithAudience("https://acme.okta.test/oauth2/v1/token"), jwt.WithExpirationRequired())
		return err
	}
	if err := parse(&key.PublicKey); err != nil {
		t.Error(err)
	}
	if err := parse(&other.PublicKey); !errors.Is(err, jwt.ErrTokenSignatureInvalid) {
		t.Errorf("verified with another key: %v", err)
	}
}

type ecSigner struct{ key *ecdsa.PrivateKey }

func (s ecSigner) Sign(_ context.Context, header, claims map[string]any) (string, error) {
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims(claims))
	maps.Copy(token.Header, header)
	return token.SignedString(s.key)
}

func TestEveryAssertionIsItsOwn(t *testing.T) {
	const many = 100_000
	seen := make(map[string]bool, many)
	signer := collecting{seen}
	for range many {
		if _, err := Sign(t.Context(), signer, Assertion{ClientID: "0oa1"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != many {
		t.Errorf("%d distinct jti in %d assertions", len(seen), many)
	}
}

type collecting struct{ ids map[string]bool }

func (c collecting) Sign(_ context.Context, _, claims map[string]any) (string, error) {
	id, _ := claims["jti"].(string)
	c.ids[id] = true
	return "", nil
}

func TestSignFails(t *testing.T) {
	broken := errors.New("the key is gone")
	signed, err := Sign(t.Context(), failing{broken}, Assertion{ClientID: "0oa1"})
	if !errors.Is(err, broken) || signed != "" {
		t.Errorf("got %q, %v; want the signer's error", signed, err)
	}
}

type failing struct{ err error }

func (f failing) Sign(context.Context, map[string]any, map[string]any) (string, error) {
	return "half", f.err
}
