package fakeokta

import (
	"maps"
	"sync"
)

// Counters tell what the server has seen since it was made, or since ResetCounters.
type Counters struct {
	// Requests of each endpoint. Under the empty name: those that no endpoint serves.
	Requests map[Endpoint]int
	// TokenRequests to the token endpoints, TokensIssued by them, also where a fault kept the token from the client, and
	// TokensRevoked by their clients.
	TokenRequests, TokensIssued, TokensRevoked int
	// DistinctJTI and ReusedJTI count verified assertions whose jti was new, or had been seen before for that client.
	DistinctJTI, ReusedJTI int
	// PeakConcurrency is the largest number of token requests that were in progress at the same time.
	PeakConcurrency int
	// Refused requests of clients for a token, an introspection or a revocation, by OAuth error code. The answers that
	// faults and rate limits make up do not count.
	Refused map[string]int
	// RateLimited counts the requests that SetRateLimit refused, Faults those that met a fault. No request is in both.
	RateLimited, Faults map[Endpoint]int
	// Kids counts assertions whose signature verified, by the kid of the key.
	Kids map[string]int
	// LastAssertion is the client_assertion of the latest request that had one, in a form that could be read.
	LastAssertion string
	// JWKSFetches of the jwks_uri of apps, also those that failed.
	JWKSFetches int
	// BoundTokens are those of TokensIssued that are bound to a proof's key.
	BoundTokens int
	// DistinctProofs and ReusedProofs count DPoP proofs whose signature verified, at any endpoint, and whose jti was new,
	// or had been seen before. Whether the rest of the proof was good does not matter.
	DistinctProofs, ReusedProofs int
	// LastProof is the DPoP header of the latest request that had just one.
	LastProof string
	// NonceRefusals counts the answers use_dpop_nonce.
	NonceRefusals map[Endpoint]int
	// ResourceRequests to the protected resource, also those without a valid token.
	ResourceRequests int
	// ResourceStatus counts what the protected resource answered, by HTTP status, and ResourceRefused the DPoP challenges
	// of the management API, by their error. The answers that faults and rate limits make up do not count.
	ResourceStatus  map[int]int
	ResourceRefused map[string]int
	// UsersCreated at the protected resource.
	UsersCreated int
}

// Counters returns a copy.
func (o *Okta) Counters() Counters {
	var snapshot Counters
	o.tally.note(func(c *Counters) {
		snapshot = *c
		snapshot.Refused, snapshot.Kids = maps.Clone(c.Refused), maps.Clone(c.Kids)
		snapshot.Requests, snapshot.Faults = maps.Clone(c.Requests), maps.Clone(c.Faults)
		snapshot.RateLimited, snapshot.NonceRefusals = maps.Clone(c.RateLimited), maps.Clone(c.NonceRefusals)
		snapshot.ResourceStatus, snapshot.ResourceRefused = maps.Clone(c.ResourceStatus), maps.Clone(c.ResourceRefused)
	})
	return snapshot
}

// ResetCounters starts counting anew. Which jti were used, and which nonces given, is not forgotten.
func (o *Okta) ResetCounters() {
	o.tally.mu.Lock()
	defer o.tally.mu.Unlock()
	o.tally.counters = Counters{PeakConcurrency: o.tally.busy}
}

// tally keeps the counters. The zero tally is ready.
type tally struct {
	mu       sync.Mutex
	counters Counters
	busy     int // token requests in progress
}

func (t *tally) note(change func(*Counters)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counters.Refused == nil {
		t.counters.Refused, t.counters.Kids = map[string]int{}, map[string]int{}
		t.counters.Requests, t.counters.Faults = map[Endpoint]int{}, map[Endpoint]int{}
		t.counters.RateLimited, t.counters.NonceRefusals = map[Endpoint]int{}, map[Endpoint]int{}
		t.counters.ResourceStatus, t.counters.ResourceRefused = map[int]int{}, map[string]int{}
	}
	change(&t.counters)
}

func (t *tally) enter(e Endpoint) {
	t.note(func(c *Counters) {
		c.Requests[e]++
		switch e {
		case Token:
			t.busy++
			c.TokenRequests++
			c.PeakConcurrency = max(c.PeakConcurrency, t.busy)
		case Users:
			c.ResourceRequests++
		}
	})
}

func (t *tally) leave(e Endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e == Token {
		t.busy--
	}
}
