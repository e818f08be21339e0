// Package dpop makes the proofs of RFC 9449: what a request is goes in, and a
// signed JWT comes out that says so. The key stays with the signer.
package dpop

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Signer signs a JWT and adds alg to its header.
type Signer interface {
	Sign(ctx context.Context, header, claims map[string]any) (string, error)
}

// Proof is what a proof says of the request that it goes with. It holds no
// secret.
type Proof struct {
	// Method is the request's, as it is sent: methods differ by case.
	Method string
	// URL is where the request goes, as it is sent. Query and fragment do not
	// count.
	URL string
	// Decoded puts the path without its percent-encoding into the proof. That is
	// not what RFC 9449 asks for, but some servers compare with it.
	Decoded bool
	// JWK is the signer's public key.
	JWK json.RawMessage
	// IssuedAt is written in whole seconds. Servers refuse what is of the future by
	// their clock, so it should lie a little back.
	IssuedAt time.Time
	// Nonce is what the server last asked for. Empty: left out.
	Nonce string
	// TokenHash is TokenHash of the access token that the request carries. Empty, as
	// for a token request: left out.
	TokenHash string
}

// TokenHash returns the ath of an access token (RFC 9449 section 4.2). It does not
// give the token away.
func TokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Sign makes the JWT, with a jti of its own: a server takes each jti once, so every
// attempt needs another proof.
func Sign(ctx context.Context, signer Signer, p Proof) (string, error) {
	signed, err := sign(ctx, signer, p)
	if err != nil {
		return "", fmt.Errorf("making a DPoP proof: %w", err)
	}
	return signed, nil
}

func sign(ctx context.Context, signer Signer, p Proof) (string, error) {
	htu, err := p.check()
	if err != nil {
		return "", err
	}
	if err := checkPublic(p.JWK); err != nil {
		return "", err
	}
	header := map[string]any{"typ": "dpop+jwt", "jwk": p.JWK}
	claims := map[string]any{
		"htm": p.Method,
		"htu": htu,
		"iat": p.IssuedAt.Unix(),
		"jti": rand.Text(), // over 128 bits
	}
	if p.Nonce != "" {
		claims["nonce"] = p.Nonce
	}
	if p.TokenHash != "" {
		claims["ath"] = p.TokenHash
	}
	return signer.Sign(ctx, header, claims)
}

// Check says what is wrong with method, URL or nonce, which are a caller's to choose.
func (p Proof) Check() error {
	_, err := p.check()
	return err
}

// check returns the htu.
func (p Proof) check() (string, error) {
	if err := checkMethod(p.Method); err != nil {
		return "", err
	}
	if p.Nonce != "" && !ValidNonce(p.Nonce) {
		return "", errors.New("the nonce must be what the server sent in DPoP-Nonce")
	}
	return targetURI(p.URL, p.Decoded)
}

// maxNonce bounds a nonce, in bytes. Okta's have under 100.
const maxNonce = 1 << 10

// ValidNonce reports whether a server may have sent s as its nonce: of the
// characters of RFC 9449 section 8.1, and of bounded length.
func ValidNonce(s string) bool {
	return s != "" && len(s) <= maxNonce && !strings.ContainsFunc(s, func(r rune) bool {
		return r < 0x21 || r > 0x7e || r == '"' || r == '\\'
	})
}

// maxMethod bounds a method, in bytes. The longest that is registered has 17.
const maxMethod = 64

// checkMethod takes a token of RFC 9110 section 5.6.2.
func checkMethod(method string) error {
	const token = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	if method == "" || len(method) > maxMethod || strings.Trim(method, token) != "" {
		return errors.New("the method must be one of HTTP, such as GET")
	}
	return nil
}

// checkPublic refuses to send the private or the shared key of a signer that was
// mistaken about what a JWK is for (RFC 7518 section 6).
func checkPublic(jwk json.RawMessage) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(jwk, &members); err != nil || members["kty"] == nil {
		return errors.New("the signer's key is not a JWK")
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, there := members[private]; there {
			return errors.New("the signer's JWK is not a public key")
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
