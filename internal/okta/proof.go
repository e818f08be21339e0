package okta

import (
	"context"
	"net/http"
	"net/url"
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
func (c *Client) proves(try try) bool {
	return c.cfg.DPoP == DPoPRequired || c.cfg.DPoP == DPoPAuto && (try.proving || c.bound.Load())
}

// Proof makes a DPoP proof for a call with a token of the client. It sets key and
// time, where there is no nonce the newest that is known of the server, and Decoded
// as the server wants it. It fails as dpop.Sign does.
func (c *Client) Proof(ctx context.Context, proof *dpop.Proof) (string, error) {
	server, whom := c.cfg.Server, originOf(proof.URL)
	if proof.Nonce == "" {
		proof.Nonce = server.nonces.of(whom)
	}
	_, proof.Decoded = server.decoding.Load(whom)
	return c.prove(ctx, *proof)
}

// Nonce takes up what a resource server wants in the next proofs (RFC 9449 section
// 9). One that cannot be a nonce changes nothing.
func (c *Client) Nonce(url, nonce string) { c.cfg.Server.nonces.learn(originOf(url), nonce) }

// Decode takes up whether a resource server compares a proof's htu with the decoded
// path, as Okta does. Until it is known the path stands there as it is sent.
func (c *Client) Decode(url string, decoded bool) {
	if whom := originOf(url); decoded {
		c.cfg.Server.decoding.Store(whom, true)
	} else {
		c.cfg.Server.decoding.Delete(whom)
	}
}

// prove signs a proof with the client's DPoP key.
func (c *Client) prove(ctx context.Context, p dpop.Proof) (string, error) {
	server := c.cfg.Server
	p.JWK = c.cfg.ProofKey.JWK()
	p.IssuedAt = server.now().Add(server.clock.believed() - proofBackDate)
	return dpop.Sign(ctx, c.cfg.ProofKey, p)
}

// tokenRequests is where nonces of the token endpoint are kept. They are not those
// of the resource at the same origin.
const tokenRequests = ""

// mostNonces bounds the origins of which a nonce is kept. Those of a configuration
// are fewer.
const mostNonces = 4096

// nonces are the newest that servers gave. The zero nonces are ready.
type nonces struct {
	mu sync.Mutex
	by map[string]string
}

func (n *nonces) of(whom string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.by[whom]
}

// learn reports whether the nonce is one.
func (n *nonces) learn(whom, nonce string) bool {
	if !dpop.ValidNonce(nonce) {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by == nil || len(n.by) >= mostNonces && n.by[whom] == "" {
		n.by = map[string]string{}
	}
	n.by[whom] = nonce
	return true
}

// learnFrom takes the nonce of an answer, if it brings one.
func (n *nonces) learnFrom(whom string, header http.Header) bool {
	return n.learn(whom, header.Get("DPoP-Nonce"))
}

// originOf returns the origin of a URL, or all of what is none.
func originOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	return u.Scheme + "://" + u.Host
}
