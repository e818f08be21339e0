package okta

import (
	"cmp"
	"context"
	"net/http"
	"sync"
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

// terms are what is known of the proofs that a server takes.
type terms struct {
	nonce   string
	decoded bool          // the path is compared without its percent-encoding
	dated   bool          // by a clock of its own:
	offset  time.Duration // of that against ours
}

// leastStep is how much a Date header has to differ to make a difference. It has whole
// seconds.
const leastStep = time.Second

// heed takes up the clock by which the server refused a proof that was dated by
// another. One that was dated so already may have been refused for something else; if it
// was the last of its call, the header is not the clock's, and is not believed any more.
func (t *terms) heed(offset, used time.Duration, final bool) {
	switch {
	case (offset - used).Abs() > leastStep:
		t.dated, t.offset = offset.Abs() <= mostOffset, offset
	case final && (t.offset-used).Abs() <= leastStep:
		t.dated = false
	}
}

// book has the terms of servers: of token endpoints by their URL, of resources by their
// origin. The two are apart where they share an origin, too. The zero book is ready, and
// safe for concurrent use.
type book struct {
	mu sync.Mutex
	by map[string]terms
}

func (b *book) of(whom string) terms {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.by[whom]
}

func (b *book) change(whom string, change func(*terms)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by == nil {
		b.by = map[string]terms{}
	}
	known := b.by[whom]
	change(&known)
	b.by[whom] = known
}

// nonceOf returns the nonce of an answer. Empty: it has none.
func nonceOf(header http.Header) string {
	if nonce := header.Get("DPoP-Nonce"); dpop.ValidNonce(nonce) {
		return nonce
	}
	return ""
}

// forTokens is whose terms those of the token endpoint are.
func (s *Server) forTokens() string { return "token endpoint " + s.endpoints.Token }
