// Package api is what goes over the wire: the OpenAPI description and the types
// that it describes.
package api

import (
	_ "embed"
	"encoding/json"
)

//go:embed openapi.yaml
var openAPI []byte

// OpenAPI returns openapi.yaml, the contract.
func OpenAPI() []byte { return openAPI }

// Token answers GET /token and POST /token (RFC 6749 section 5.1).
type Token struct {
	AccessToken string `json:"access_token"`
	// TokenType is Bearer or DPoP.
	TokenType string `json:"token_type"`
	// ExpiresIn counts down, in seconds.
	ExpiresIn int64  `json:"expires_in"`
	Scope     string `json:"scope"`
	// Confirmation is of DPoP tokens alone.
	Confirmation *Confirmation `json:"cnf,omitempty"`
}

// Confirmation says which key a token is bound to (RFC 7800 section 3.1).
type Confirmation struct {
	// JKT is the key's RFC 7638 thumbprint (RFC 9449 section 6.1).
	JKT string `json:"jkt"`
}

// Credentials answers POST /dpop: two headers of one call.
type Credentials struct {
	Authorization string `json:"authorization"`
	// DPoP is for DPoP tokens alone.
	DPoP string `json:"dpop,omitempty"`
}

// Signed answers POST /.
type Signed struct {
	JWK               json.RawMessage `json:"jwk"`
	JWT               string          `json:"jwt"`
	PrivateKeyChanged bool            `json:"private_key_changed"`
}

// Error answers every request that fails (RFC 6749 section 5.2), but POST / and calls.
type Error struct {
	Error       string    `json:"error"`
	Description string    `json:"error_description"`
	Upstream    *Upstream `json:"upstream,omitempty"`
}

// CallError answers a call that fails. Okta's SDKs show what Okta's errors have, and
// nothing of the others.
type CallError struct {
	Error
	// Code is the error again.
	Code string `json:"errorCode"`
	// Summary is the description again.
	Summary string `json:"errorSummary"`
}

// Upstream is what the authorization server said, where it was asked.
type Upstream struct {
	Status      int    `json:"status"`
	Error       string `json:"error,omitempty"`
	Description string `json:"error_description,omitempty"`
	RequestID   string `json:"request_id,omitempty"`
}

// SignError answers a POST / that fails, as the Flask server did.
type SignError struct {
	Error string `json:"Error"`
}

// Health answers /healthz and /readyz.
type Health struct {
	Status string `json:"status"`
	// Awaited are keys that Okta is not known to have. It is for /readyz alone.
	Awaited []AwaitedKey `json:"awaited,omitempty"`
}

// AwaitedKey is a key that somebody still has to add to an app in Okta, or that
// Okta has not fetched yet.
type AwaitedKey struct {
	Ring string `json:"ring"`
	Kid  string `json:"kid"`
	// State is active or next.
	State string `json:"state"`
}
