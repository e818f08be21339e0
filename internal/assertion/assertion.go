// Package assertion makes the client assertion of RFC 7523 section 3: claims
// in, signed JWT out.
package assertion

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Signer signs a JWT and adds alg to its header.
type Signer interface {
	Sign(ctx context.Context, header, claims map[string]any) (string, error)
}

// Assertion is what a client says of itself.
type Assertion struct {
	ClientID string
	// Audience is one URL. It is never a list: that is how one server gets to
	// use an assertion at another (RFC 10070).
	Audience string
	Kid      string
	// Type is the header's typ. Empty: JWT.
	Type string
	// Use is the header's use, which the Flask server set to "sig" and no RFC
	// asks for. Empty: left out.
	Use string
	// IssuedAt and Expires are written in whole seconds.
	IssuedAt, Expires time.Time
}

// Sign makes the JWT, with a jti of its own: a server takes each jti once, so
// every attempt needs another assertion.
func Sign(ctx context.Context, signer Signer, a Assertion) (string, error) {
	jti, err := uuid.NewRandom()
	if err != nil {
		return "", fmt.Errorf("making a jti: %w", err)
	}
	header := map[string]any{"typ": "JWT", "kid": a.Kid}
	if a.Type != "" {
		header["typ"] = a.Type
	}
	if a.Use != "" {
		header["use"] = a.Use
	}
	claims := map[string]any{
		"iss": a.ClientID,
		"sub": a.ClientID,
		"aud": a.Audience,
		"jti": jti.String(),
		"iat": a.IssuedAt.Unix(),
		"exp": a.Expires.Unix(),
	}
	signed, err := signer.Sign(ctx, header, claims)
	if err != nil {
		return "", fmt.Errorf("making a client assertion: %w", err)
	}
	return signed, nil
}
