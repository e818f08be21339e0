package keys

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// proofs remembers which keys the authorization servers took.
type proofs struct {
	mu      sync.Mutex           // never held across I/O
	worked  map[string]string    // by client: thumbprint of the key that its server took last, "" for none
	proven  map[string]time.Time // by thumbprint
	unsaved int                  // proofs that are not in the store yet
}

func newProofs() proofs {
	return proofs{worked: map[string]string{}, proven: map[string]time.Time{}}
}

// Worked records that client's authorization server took an assertion under k.
// Once that holds for every client that signs with the ring and works at all, k
// is proven.
// It does no I/O: the next Refresh stores the time.
func (r *Ring) Worked(client string, k *Key) { r.heard(client, k.thumbprint) }

// Refused records that client's authorization server took no key of the ring,
// so that this client holds up no proof.
func (r *Ring) Refused(client string) { r.heard(client, "") }

func (r *Ring) heard(client, thumbprint string) {
	p := &r.proofs
	p.mu.Lock()
	defer p.mu.Unlock()
	p.worked[client] = thumbprint
	common := p.common()
	if !p.proven[common].IsZero() {
		return
	}
	for _, k := range r.current.Load().keys {
		if k.thumbprint == common && !isProven(k) {
			p.proven[common] = r.cfg.Now().Truncate(time.Second)
			p.unsaved++
			r.cfg.Log.Info("key proven", "ring", r.cfg.Name, "kid", k.kid)
		}
	}
}

// common returns the thumbprint of the one key that works for each client that
// works, "" when there is none. A client that nobody asks for must not hold up
// the others, so one that was not heard of does not count.
func (p *proofs) common() string {
	common := ""
	for _, thumbprint := range p.worked {
		if thumbprint != "" && common != "" && thumbprint != common {
			return ""
		}
		common = cmp.Or(common, thumbprint)
	}
	return common
}

// pending returns how many proofs are to be stored.
func (p *proofs) pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unsaved
}

// stored takes note that so many are.
func (p *proofs) stored(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsaved -= n
}

// overlay adds the proofs that are known in memory only.
func (p *proofs) overlay(ring []*Key) []*Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	overlaid := slices.Clone(ring)
	for i, k := range ring {
		if proven := p.proven[k.thumbprint]; k.proven.IsZero() && !proven.IsZero() {
			overlaid[i] = k.with(func(k *Key) { k.proven = proven })
		}
	}
	return overlaid
}

func isProven(k *Key) bool { return !k.proven.IsZero() }
