package keys

import (
	"context"
	"crypto"
	"fmt"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// BenchmarkSign compares Key.Sign with golang-jwt alone, over the claims of a
// client assertion: the way through crypto.Signer is to cost nothing that counts.
// held is a signer of a Holder, which signs in a goroutine of its own.
func BenchmarkSign(b *testing.B) {
	claims := func(n int) map[string]any {
		now := time.Now()
		return map[string]any{
			"iss": "0oa1b2c3d4", "sub": "0oa1b2c3d4", "aud": "https://acme.okta.com/oauth2/v1/token",
			"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": fmt.Sprint(n),
		}
	}
	for _, alg := range []string{"RS256", "ES256"} {
		local := rotate(b, open(b, ringPath(b), Config{Algorithm: alg}), "k")
		held := signs(b, alg, nil)
		method := jwt.GetSigningMethod(alg)
		for _, way := range []struct {
			name string
			sign func(context.Context, map[string]any) (string, error)
		}{
			{"golang-jwt", func(_ context.Context, claims map[string]any) (string, error) {
				token := jwt.NewWithClaims(method, jwt.MapClaims(claims))
				token.Header["kid"] = "k"
				return token.SignedString(local.signer.(crypto.PrivateKey))
			}},
			{"keys", func(ctx context.Context, claims map[string]any) (string, error) {
				return local.Sign(ctx, map[string]any{"typ": "JWT", "kid": "k"}, claims)
			}},
			{"held", func(ctx context.Context, claims map[string]any) (string, error) {
				return held.Sign(ctx, map[string]any{"typ": "JWT", "kid": "k"}, claims)
			}},
		} {
			b.Run(alg+"/"+way.name, func(b *testing.B) {
				b.ReportAllocs()
				for n := 0; b.Loop(); n++ {
					if _, err := way.sign(b.Context(), claims(n)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
