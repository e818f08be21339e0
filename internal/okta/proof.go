package okta

import (
	"cmp"
	"context"
	"time"

	"okta-token-broker/internal/dpop"
)

// DPoP says whether a client's tokens are bound to a key (RFC 9449).
type DPoP string

// The settings. Of an app's own setting metadata say nothing.
const (
	// DPoPAuto sends proofs once the server has asked for one.
	DPoPAuto DPoP = "auto"
	// DPoPRequired sends proofs, and refuses tokens that are not bound.
	DPoPRequired DPoP = "required"
	// DPoPOff never sends a proof.
	DPoPOff DPoP = "off"
)

// proofBackDate keeps a proof's iat out of the server's future, which no proof may
// be from.
const proofBackDate = 5 * time.Second

// proves reports whether an attempt of the client to get a token has a proof.
func (c *Client) proves(with variant) bool {
	return c.cfg.DPoP == DPoPRequired || c.cfg.DPoP == DPoPAuto && (with.proving || c.bound.Load())
}

// AsksForProofs reports whether the server has asked the client for a proof, or bound a
// token to its key. It is what DPoPAuto learns.
func (c *Client) AsksForProofs() bool { return c.bound.Load() }

// Proof makes a DPoP proof for a call with a token of the client. It sets key and
// time, where there is no nonce the newest that is known of the server, and Decoded
// as the server wants it. It fails as dpop.Sign does.
func (c *Client) Proof(ctx context.Context, proof dpop.Proof) (signed string, made dpop.Made, err error) {
	return c.prove(ctx, originOf(proof.URL), proof)
}

// Learn takes up what the server of a URL says of a proof. They are dated by the
// authorization server's clock, until a server refuses that.
func (c *Client) Learn(url string, made dpop.Made, said dpop.Terms) {
	server := c.cfg.Server
	server.terms.change(originOf(url), func(t *terms) {
		if dpop.ValidNonce(said.Nonce) {
			t.nonce = said.Nonce
		}
		if said.Decoded != nil {
			t.decoded = *said.Decoded
		}
		if !said.Date.IsZero() {
			t.heed(said.Date.Add(time.Second/2).Sub(server.now()), made.Clock, said.Final)
		}
	})
}

// prove signs a proof with the client's DPoP key, on the terms of the server.
func (c *Client) prove(ctx context.Context, whom string, p dpop.Proof) (signed string, made dpop.Made, err error) {
	server := c.cfg.Server
	known := server.terms.of(whom)
	made = dpop.Made{Decoded: known.decoded, Clock: server.clock.believed()}
	if known.dated {
		made.Clock = known.offset
	}
	p.JWK = c.cfg.ProofKey.JWK()
	p.Nonce = cmp.Or(p.Nonce, known.nonce)
	p.Decoded = made.Decoded
	p.IssuedAt = server.now().Add(made.Clock - proofBackDate)
	signed, err = dpop.Sign(ctx, c.cfg.ProofKey, p)
	return signed, made, err
}
