// Package oauth has the words that all parts share: scope sets, tokens and
// the classes of errors.
package oauth

import (
	"time"

	"okta-token-broker/internal/secret"
)

// The types of tokens, in the spelling of RFC 6750 and RFC 9449.
const (
	Bearer = "Bearer"
	DPoP   = "DPoP"
)

// Token is an access token as an authorization server issued it.
type Token struct {
	Access secret.Text
	// Type is Bearer or DPoP, in this spelling whatever the server wrote.
	Type string
	// JKT is the RFC 7638 thumbprint of the key that a DPoP token is bound to. Empty:
	// it is a Bearer token.
	JKT string
	// Scopes are the granted ones; they can be fewer than those asked for.
	Scopes Scopes
	// Kid names the key whose assertion bought the token.
	Kid string
	// Expires is when the token ends, counted from when its request was sent.
	// It carries a monotonic clock reading where the platform has one.
	Expires time.Time
	// Life is the whole life, from the sending of the request to Expires.
	Life time.Duration
}

// leastLeft is the life below which a token counts as ended: it would not
// outlive the call that it is fetched for.
const leastLeft = time.Second

// Left returns how long the token is still good, 0 when it has ended.
func (t Token) Left(now time.Time) time.Duration {
	return left(t.Expires.Round(0).Sub(now.Round(0)), t.Expires.Sub(now))
}

// left is the smaller of what the wall clock and what the monotonic clock
// say: a machine that was suspended loses monotonic time, a clock that was set
// back loses wall time, and a token must outlive neither.
func left(wall, mono time.Duration) time.Duration {
	if left := min(wall, mono); left >= leastLeft {
		return left
	}
	return 0
}
