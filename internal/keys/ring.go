package keys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// pollEvery is how often a ring's store is looked at for changes that
	// others made.
	pollEvery = time.Second
	// writeTimeout bounds a change of the ring, waiting for other writers
	// included.
	writeTimeout = 10 * time.Second
)

// Config is what a Ring needs.
type Config struct {
	// Name is the ring's name in the configuration, for logs and errors.
	Name string
	// Store holds the ring.
	Store Store
	// Kid names a first key that was stored without metadata. Empty: its
	// thumbprint.
	Kid string
	// Algorithm is that of keys to be made, one of Algorithms. Empty: RS256.
	Algorithm string
	// Changed is called when the ring has other keys than before. It must not change
	// the ring itself. Nil: nobody is told.
	Changed func(*Ring)
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Log takes what happens to the ring. Nil: nothing is logged.
	Log *slog.Logger
}

// Ring is a set of keys of which one is active. It is safe for concurrent use;
// reading never waits for a writer.
type Ring struct {
	cfg     Config
	current atomic.Pointer[contents]

	mu          sync.Mutex // held while the ring changes
	lastReadErr string     // what Refresh logged last, "" for none
	lastSaveErr string

	proofs proofs
}

// contents is one immutable state of the ring.
type contents struct {
	keys []*Key // active first, then next and retired, newest first
	rev  string // "" when not known
}

// Open reads the ring. No ring in the store is an empty ring: the first request
// that needs a key makes it. A damaged ring is an error.
func Open(ctx context.Context, cfg Config) (*Ring, error) {
	if cfg.Algorithm == "" {
		cfg.Algorithm = "RS256"
	}
	if !slices.Contains(Algorithms(), cfg.Algorithm) {
		return nil, fmt.Errorf("opening key ring %s: unknown algorithm %q", cfg.Name, cfg.Algorithm)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Ring{cfg: cfg, proofs: newProofs()}
	r.current.Store(&contents{})
	ring, rev, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	r.current.Store(&contents{ring, rev})
	if k := r.active(); k != nil && cfg.Kid != "" && !slices.ContainsFunc(ring, func(k *Key) bool { return k.kid == cfg.Kid }) {
		cfg.Log.Warn("kid in the configuration names no key of the ring; each key keeps the kid stored with it",
			"ring", cfg.Name, "kid", cfg.Kid, "active", k.kid)
	}
	return r, nil
}

// Name returns the ring's name in the configuration.
func (r *Ring) Name() string { return r.cfg.Name }

// Keys returns all keys, the active one first.
func (r *Ring) Keys() []*Key { return slices.Clone(r.current.Load().keys) }

func (r *Ring) active() *Key {
	if ring := r.current.Load().keys; len(ring) > 0 {
		return ring[0]
	}
	return nil
}

// Active returns the key that signs. When there is none it makes one, stores it
// and says so; the new key is called kid, or by its thumbprint when kid is
// empty.
func (r *Ring) Active(ctx context.Context, kid string) (k *Key, made bool, err error) {
	if k := r.active(); k != nil {
		return k, false, nil
	}
	var fresh *Key
	stored, err := r.change(ctx, func(ring []*Key) ([]*Key, error) {
		if len(ring) > 0 {
			return nil, nil // another request or process was first
		}
		if fresh == nil {
			if fresh, err = r.generate(kid); err != nil {
				return nil, err
			}
		}
		return []*Key{fresh}, nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("making the first key of ring %s: %w", r.cfg.Name, err)
	}
	k = stored[0]
	made = fresh != nil && k.thumbprint == fresh.thumbprint
	if made {
		r.cfg.Log.Info("key made", "ring", r.cfg.Name, "kid", k.kid, "alg", k.Algorithm())
	}
	return k, made, nil
}

// Candidates returns the keys to sign with, at most two: the active one, and
// the one that is most likely to be known to a server that has not heard of the
// active one yet: the key with the thumbprint last, which it took the last time,
// else the newest proven key, else the oldest.
func (r *Ring) Candidates(last string) []*Key {
	ring := r.current.Load().keys
	if len(ring) == 0 {
		return nil
	}
	if i := slices.IndexFunc(ring, func(k *Key) bool { return k.state == Retired && k.thumbprint == last }); i >= 0 {
		return []*Key{ring[0], ring[i]}
	}
	if other := fallback(ring); other != nil {
		return []*Key{ring[0], other}
	}
	return ring[:1:1]
}

// fallback returns the newest retired key that is proven, else the oldest.
func fallback(ring []*Key) *Key {
	if i := slices.IndexFunc(ring, func(k *Key) bool { return k.state == Retired && isProven(k) }); i >= 0 {
		return ring[i]
	}
	if i := lastIndex(ring, func(k *Key) bool { return k.state == Retired }); i >= 0 {
		return ring[i]
	}
	return nil
}

// Rotate makes a new active key, called kid or by its thumbprint, and retires
// the old one. The ring keeps at most 8 keys: the oldest retired one that was
// never proven goes first, the newest proven one stays. On an error the old key
// goes on signing; only where the store failed after the new ring was in place
// does the next Refresh take that one up.
func (r *Ring) Rotate(ctx context.Context, kid string) (*Key, error) {
	fresh, err := r.generate(kid)
	if err != nil {
		return nil, fmt.Errorf("rotating ring %s: %w", r.cfg.Name, err)
	}
	_, err = r.change(ctx, func(ring []*Key) ([]*Key, error) {
		rotated := []*Key{fresh}
		for _, k := range ring {
			if k.state == Active {
				k = k.with(func(k *Key) { k.state = Retired })
			}
			rotated = append(rotated, k)
		}
		return shed(rotated), nil
	})
	if err != nil {
		return nil, fmt.Errorf("rotating ring %s: %w", r.cfg.Name, err)
	}
	r.cfg.Log.Info("key rotated", "ring", r.cfg.Name, "kid", fresh.kid, "alg", fresh.Algorithm())
	return fresh, nil
}

// Watch takes up what others change in the store until ctx ends.
func (r *Ring) Watch(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.Refresh(ctx)
		}
	}
}

// Refresh takes up what others changed in the store, and stores proofs. A ring
// that is gone or cannot be read leaves the last good one in force, and the log
// says so once.
func (r *Ring) Refresh(ctx context.Context) {
	before := r.active()
	if err := r.reload(ctx); err != nil || ctx.Err() != nil {
		return
	}
	if after := r.active(); after != nil && (before == nil || before.thumbprint != after.thumbprint) {
		r.cfg.Log.Info("key ring changed", "ring", r.cfg.Name, "active", after.kid)
	}
	pending := r.proofs.pending()
	if pending == 0 {
		return
	}
	// What load reads has the proofs in it; writing it back is all.
	_, err := r.change(ctx, func(ring []*Key) ([]*Key, error) { return ring, nil })
	if err == nil || errors.Is(err, ErrReadOnly) { // which keeps none
		r.proofs.stored(pending)
		err = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report(&r.lastSaveErr, err, "storing that a key is proven; it is known in memory until that works", "the key is stored as proven")
}

// report logs an error when it is another than the last of its kind, and its
// end. The caller holds mu.
func (r *Ring) report(last *string, err error, doing, done string) {
	switch {
	case err == nil && *last != "":
		r.cfg.Log.Info(done, "ring", r.cfg.Name)
		*last = ""
	case err != nil && err.Error() != *last:
		r.cfg.Log.Error(doing, "ring", r.cfg.Name, "err", err)
		*last = err.Error()
	}
}

func (r *Ring) reload(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	ring, rev, err := r.load(ctx)
	if err == nil && len(ring) == 0 && r.active() != nil {
		err = fmt.Errorf("key ring %v is gone", r.cfg.Store)
	}
	r.report(&r.lastReadErr, err, "reading the key ring again; the last good one stays in force", "the key ring can be read again")
	if err != nil {
		return err
	}
	r.take(&contents{ring, rev})
	return nil
}

// take puts other contents in force. The caller holds mu.
func (r *Ring) take(next *contents) {
	before := r.current.Swap(next)
	same := slices.EqualFunc(before.keys, next.keys, func(a, b *Key) bool { return a.thumbprint == b.thumbprint && a.kid == b.kid })
	if !same && r.cfg.Changed != nil {
		r.cfg.Changed(r)
	}
}

// load reads the store. While the content is what is in memory, it is not
// parsed again. The caller holds mu, or is the only one to know the ring.
func (r *Ring) load(ctx context.Context) ([]*Key, string, error) {
	data, rev, err := r.cfg.Store.Load(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	if have := r.current.Load(); rev == have.rev {
		return r.proofs.overlay(have.keys), rev, nil
	}
	ring, err := parseRing(data, r.cfg.Kid)
	if err != nil {
		return nil, "", fmt.Errorf("reading key ring %v: %w", r.cfg.Store, err)
	}
	return r.proofs.overlay(ring), rev, nil
}

// change reads the ring, changes it and stores it, again from the start when
// somebody else wrote in between. A ring that is gone from the store is written
// anew from the last good one. Where to returns nil there is nothing to store. It
// returns the ring that is in force then.
func (r *Ring) change(ctx context.Context, to func([]*Key) ([]*Key, error)) ([]*Key, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		ring, rev, err := r.load(ctx)
		if err != nil {
			return nil, err
		}
		if rev == "" {
			ring = r.proofs.overlay(r.current.Load().keys)
		}
		changed, err := to(ring)
		if err != nil {
			return nil, err
		}
		if changed == nil {
			r.take(&contents{ring, rev})
			return ring, nil
		}
		data, err := formatRing(changed)
		if err != nil {
			return nil, err
		}
		if fingerprint(data) != rev {
			err = r.cfg.Store.Save(ctx, data, rev)
		}
		if errors.Is(err, ErrConflict) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		// The revision is the store's to give: the next look reads it.
		r.take(&contents{keys: changed})
		return changed, nil
	}
}

func (r *Ring) generate(kid string) (*Key, error) {
	k, err := generate(r.cfg.Algorithm, kid)
	if err != nil {
		return nil, err
	}
	now := r.cfg.Now().Truncate(time.Second)
	return k.with(func(k *Key) { k.state, k.created, k.activated = Active, now, now }), nil
}

// shed drops keys until the ring is within its bound.
func shed(ring []*Key) []*Key {
	for len(ring) > maxKeys {
		drop := lastIndex(ring, func(k *Key) bool { return k.state == Retired && !isProven(k) })
		if drop < 0 {
			drop = lastIndex(ring, func(k *Key) bool { return k.state == Retired })
		}
		if drop < 0 {
			drop = len(ring) - 1
		}
		ring = slices.Delete(ring, drop, drop+1)
	}
	return ring
}

func lastIndex(ring []*Key, match func(*Key) bool) int {
	for i, k := range slices.Backward(ring) {
		if match(k) {
			return i
		}
	}
	return -1
}
