package keys

import (
	"slices"
	"sync"
	"time"
)

// proofs remembers which keys are proven until that is stored, and for a ring that
// cannot be written for ever.
type proofs struct {
	mu      sync.Mutex           // held while the ring's contents are swapped, never across I/O
	proven  map[string]time.Time // by thumbprint
	unsaved int                  // proofs that are not in the store yet
}

func newProofs() proofs { return proofs{proven: map[string]time.Time{}} }

// Prove records that a token request under k works for every client of the ring
// that works at all. It does no I/O: the next change or Refresh stores the time.
func (r *Ring) Prove(k *Key) {
	if r.proofs.add(r, k) {
		r.cfg.Log.Info("key proven", "ring", r.cfg.Name, "kid", k.kid)
	}
}

// add puts a proof in force. It reports false when there is nothing to prove.
func (p *proofs) add(r *Ring, k *Key) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	have := r.current.Load()
	if !slices.ContainsFunc(have.keys, func(have *Key) bool { return k.same(have) && !isProven(have) }) {
		return false
	}
	p.proven[k.thumbprint] = r.now()
	p.unsaved++
	r.current.Store(&contents{p.overlaid(have.keys), have.rev})
	return true
}

// swap puts other contents in force, and the proofs that were made since they
// were read. It returns what was in force before.
func (p *proofs) swap(r *Ring, next *contents) (before *contents) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return r.current.Swap(&contents{p.overlaid(next.keys), next.rev})
}

// pending returns how many proofs are to be stored.
func (p *proofs) pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unsaved
}

// stored takes note that so many are, and forgets them: from then on it is for the
// store to say.
func (p *proofs) stored(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unsaved -= n; p.unsaved == 0 {
		clear(p.proven)
	}
}

// kept takes note that so many are kept in memory alone.
func (p *proofs) kept(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsaved -= n
}

// overlay adds the proofs that are known in memory only.
func (p *proofs) overlay(ring []*Key) []*Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.overlaid(ring)
}

// overlaid does that. The caller holds mu.
func (p *proofs) overlaid(ring []*Key) []*Key {
	overlaid := slices.Clone(ring)
	for i, k := range ring {
		if proven := p.proven[k.thumbprint]; k.proven.IsZero() && !proven.IsZero() {
			overlaid[i] = k.with(func(k *Key) { k.proven = proven })
		}
	}
	return overlaid
}

func isProven(k *Key) bool { return !k.proven.IsZero() }
