package keys

import (
	"context"
	"crypto"
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
	// Changed is called when the ring has other keys than before, but for the first one
	// that it made itself. It must not change the ring. Nil: nobody is told.
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
			if fresh, err = r.generate(ctx, kid, Active); err != nil {
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
	switch {
	case err == nil:
		r.proofs.stored(pending)
	case errors.Is(err, ErrReadOnly):
		r.proofs.kept(pending)
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
	// A store that hangs must not keep the ring from changing for ever.
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
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
	before := r.proofs.swap(r, next)
	same := slices.EqualFunc(before.keys, next.keys, func(a, b *Key) bool {
		return a.thumbprint == b.thumbprint && a.kid == b.kid && a.state == b.state
	})
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
	ring, err := parseRing(data, r.cfg.Kid, r.opener(ctx))
	if err != nil {
		return nil, "", fmt.Errorf("reading key ring %v: %w", r.cfg.Store, err)
	}
	return r.proofs.overlay(ring), rev, nil
}

// opener is nil for a store that holds the private keys itself.
func (r *Ring) opener(ctx context.Context) opener {
	holder, ok := r.cfg.Store.(Holder)
	if !ok {
		return nil
	}
	return func(public crypto.PublicKey) (crypto.Signer, error) { return hold(holder.Open(ctx, public)) }
}

// saver is what Store.Save is.
type saver func(ctx context.Context, data []byte, rev string) error

// queue is a Store in which a writer can wait for its turn. Without that, one of
// many writers could come second every time.
type queue interface {
	turn(ctx context.Context) (save saver, done func(), err error)
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
	save := r.cfg.Store.Save
	store, queues := r.cfg.Store.(queue)
	for {
		ring, err := r.tryChange(ctx, to, save)
		if !errors.Is(err, ErrConflict) || ctx.Err() != nil {
			return ring, err
		}
		if queues {
			queues = false // once
			turn, done, err := store.turn(ctx)
			if err != nil {
				return nil, err
			}
			defer done()
			save = turn
		}
	}
}

// tryChange is change, once. The caller holds mu.
func (r *Ring) tryChange(ctx context.Context, to func([]*Key) ([]*Key, error), save saver) ([]*Key, error) {
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
		if err := save(ctx, data, rev); err != nil {
			return nil, err
		}
	}
	// The revision is the store's to give: the next look reads it.
	next := &contents{keys: changed}
	if len(ring) == 0 {
		// Whoever asked for the first key has it from here. To be told of it would set
		// them going once more.
		r.proofs.swap(r, next)
	} else {
		r.take(next)
	}
	return changed, nil
}
