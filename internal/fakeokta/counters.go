package fakeokta

import (
	"maps"
	"sync"
)

// Counters tell what the server has seen since it was made, or since ResetCounters.
type Counters struct {
	// TokenRequests to the token endpoint, and TokensIssued by it, also where a fault kept the token from the client.
	TokenRequests, TokensIssued int
	// DistinctJTI and ReusedJTI count verified assertions whose jti was new, or had been seen before for that client.
	DistinctJTI, ReusedJTI int
	// PeakConcurrency is the largest number of token requests that were in progress at the same time.
	PeakConcurrency int
	// Refused token requests by OAuth error code. The answers that faults make up do not count.
	Refused map[string]int
	// Kids counts assertions whose signature verified, by the kid of the key.
	Kids map[string]int
	// LastAssertion is the client_assertion of the latest token request that had one, in a form that could be read.
	LastAssertion string
	// ResourceRequests to the protected resource, also those without a valid token.
	ResourceRequests int
}

// Counters returns a copy.
func (o *Okta) Counters() Counters {
	var snapshot Counters
	o.tally.note(func(c *Counters) {
		snapshot = *c
		snapshot.Refused, snapshot.Kids = maps.Clone(c.Refused), maps.Clone(c.Kids)
	})
	return snapshot
}

// ResetCounters starts counting anew. Which jti were used is not forgotten.
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
	}
	change(&t.counters)
}

func (t *tally) enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy++
	t.counters.TokenRequests++
	t.counters.PeakConcurrency = max(t.counters.PeakConcurrency, t.busy)
}

func (t *tally) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy--
}
