package keys

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Candidates returns the keys to sign with, at most two: the one that the server
// is most likely to know, and one to fall back to when it does not. While the
// active key is not proven that is the key with the thumbprint last, which the
// server took the last time, else the newest retired key that is proven; so a
// rotation costs no refused request.
func (r *Ring) Candidates(last string) []*Key {
	ring := r.current.Load().keys
	if len(ring) == 0 {
		return nil
	}
	active, other := ring[0], fallback(ring, last)
	switch {
	case other == nil:
		return []*Key{active}
	case !isProven(active) && active.thumbprint != last && (isProven(other) || other.thumbprint == last):
		return []*Key{other, active}
	}
	return []*Key{active, other}
}

// fallback returns the retired key with the thumbprint last, else the newest
// retired key that is proven, else the oldest.
func fallback(ring []*Key, last string) *Key {
	var oldest, proven *Key
	for _, k := range slices.Backward(ring) {
		switch {
		case k.state != Retired:
		case k.thumbprint == last:
			return k
		default:
			if oldest == nil || k.created.Before(oldest.created) {
				oldest = k
			}
			if isProven(k) {
				proven = k
			}
		}
	}
	if proven != nil {
		return proven
	}
	return oldest
}

// Rotate makes a new active key, called kid or by its thumbprint, and retires
// the old one, and a next one. The ring keeps at most 8 keys: the oldest retired one
// that was never proven goes first, but never the one to fall back to. On an error
// the old key goes on signing; only where the store failed after the new ring was in
// place does the next Refresh take that one up.
func (r *Ring) Rotate(ctx context.Context, kid string) (*Key, error) {
	fresh, err := r.generate(ctx, kid, Active)
	if err != nil {
		return nil, fmt.Errorf("rotating ring %s: %w", r.cfg.Name, err)
	}
	_, err = r.change(ctx, func(ring []*Key) ([]*Key, error) {
		rotated := promote(ring, fresh)
		for i, k := range rotated {
			if k.state == Next { // it would take over from the newer one
				rotated[i] = k.with(func(k *Key) { k.state = Retired })
			}
		}
		return shed(rotated), nil
	})
	if err != nil {
		return nil, fmt.Errorf("rotating ring %s: %w", r.cfg.Name, err)
	}
	r.cfg.Log.Info("key rotated", "ring", r.cfg.Name, "kid", fresh.kid, "alg", fresh.Algorithm())
	return fresh, nil
}

// Stage makes a next key, called kid or by its thumbprint: it is published, and
// does not sign. When there is a next key already, that is the one, and made is
// false. The first key of an empty ring is active at once.
func (r *Ring) Stage(ctx context.Context, kid string) (k *Key, made bool, err error) {
	var fresh *Key
	_, err = r.change(ctx, func(ring []*Key) ([]*Key, error) {
		if k = nextOf(ring); k != nil {
			return nil, nil
		}
		if kid != "" && find(ring, kid) != nil {
			return nil, fmt.Errorf("a key of the ring is called %q already", kid)
		}
		if fresh == nil {
			if fresh, err = r.generate(ctx, kid, Next); err != nil {
				return nil, err
			}
		}
		ring, k = r.add(ring, fresh)
		return ring, nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("staging a key of ring %s: %w", r.cfg.Name, err)
	}
	if made = fresh != nil && k.thumbprint == fresh.thumbprint; made {
		r.cfg.Log.Info("key staged", "ring", r.cfg.Name, "kid", k.kid, "alg", k.Algorithm())
	}
	return k, made, nil
}

// Import takes a key that was made elsewhere into the ring, as the next one, or
// as the active one of an empty ring. text is PEM as Open reads it, with one key.
// An empty kid means the one that is written there, else the thumbprint.
func (r *Ring) Import(ctx context.Context, text []byte, kid string) (k *Key, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("importing a key into ring %s: %w", r.cfg.Name, err)
		}
	}()
	if _, ok := r.cfg.Store.(Holder); ok {
		return nil, fmt.Errorf("%v holds no private keys: import it where they are", r.cfg.Store)
	}
	found, err := parseRing(text, kid, nil)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("the file holds %d keys: give one at a time", len(found))
	}
	imported := found[0]
	if kid != "" && kid != imported.kid {
		imported, err = newKey(imported.signer, imported.alg, kid)
	}
	if err != nil {
		return nil, err
	}
	imported = imported.with(func(k *Key) { k.state, k.created, k.activated, k.proven = Next, r.now(), time.Time{}, time.Time{} })
	_, err = r.change(ctx, func(ring []*Key) ([]*Key, error) {
		switch {
		case slices.ContainsFunc(ring, imported.same):
			return nil, errors.New("the ring holds this key already")
		case find(ring, imported.kid) != nil:
			return nil, fmt.Errorf("a key of the ring is called %q already: give another kid", imported.kid)
		case nextOf(ring) != nil:
			return nil, fmt.Errorf("key %q is staged already: activate or retire it first", nextOf(ring).kid)
		}
		ring, k = r.add(ring, imported)
		return ring, nil
	})
	if err != nil {
		return nil, err
	}
	r.cfg.Log.Info("key imported", "ring", r.cfg.Name, "kid", k.kid, "alg", k.Algorithm(), "state", k.state)
	return k, nil
}

// Activate lets a key of the ring sign from now on, and retires the one that did. A key that is active already is no error, one that is gone is.
func (r *Ring) Activate(ctx context.Context, k *Key) error {
	done := false
	_, err := r.change(ctx, func(ring []*Key) ([]*Key, error) {
		i := slices.IndexFunc(ring, k.same)
		switch {
		case i < 0:
			return nil, errors.New("it is not in the ring any more")
		case ring[i].state == Active:
			return nil, nil
		}
		promoted := ring[i].with(func(k *Key) { k.state, k.activated = Active, r.now() })
		done = true
		return promote(slices.Concat(ring[:i], ring[i+1:]), promoted), nil
	})
	if err != nil {
		return fmt.Errorf("activating key %q of ring %s: %w", k.kid, r.cfg.Name, err)
	}
	if done {
		r.cfg.Log.Info("key activated", "ring", r.cfg.Name, "kid", k.kid)
	}
	return nil
}

// Retire takes a key out of the ring for good. The active one stays: that is an
// error. A key that is gone already is none.
func (r *Ring) Retire(ctx context.Context, k *Key) error {
	done := false
	_, err := r.change(ctx, func(ring []*Key) ([]*Key, error) {
		i := slices.IndexFunc(ring, k.same)
		switch {
		case i < 0:
			return nil, nil
		case ring[i].state == Active:
			return nil, errors.New("it is the one that signs: activate another first")
		}
		done = true
		return slices.Concat(ring[:i], ring[i+1:]), nil
	})
	if err != nil {
		return fmt.Errorf("retiring key %q of ring %s: %w", k.kid, r.cfg.Name, err)
	}
	if done {
		r.cfg.Log.Info("key retired", "ring", r.cfg.Name, "kid", k.kid)
	}
	return nil
}

// Find returns the newest key of the ring that is called kid or has that
// thumbprint, nil when there is none.
func (r *Ring) Find(kid string) *Key { return find(r.current.Load().keys, kid) }

func find(ring []*Key, kid string) *Key {
	for _, k := range ring {
		if k.kid == kid || k.thumbprint == kid {
			return k
		}
	}
	return nil
}

// Next returns the key that is to become active, nil when there is none.
func (r *Ring) Next() *Key { return nextOf(r.current.Load().keys) }

func nextOf(ring []*Key) *Key {
	for _, k := range ring {
		if k.state == Next {
			return k
		}
	}
	return nil
}

// promote puts an active key in front and retires the one that was there.
func promote(ring []*Key, active *Key) []*Key {
	promoted := []*Key{active}
	for _, k := range ring {
		if k.state == Active {
			k = k.with(func(k *Key) { k.state = Retired })
		}
		promoted = append(promoted, k)
	}
	return promoted
}

// add puts a next key behind the active one. In an empty ring it is the active
// one.
func (r *Ring) add(ring []*Key, k *Key) ([]*Key, *Key) {
	if len(ring) == 0 {
		k = k.with(func(k *Key) { k.state, k.activated = Active, r.now() })
		return []*Key{k}, k
	}
	return shed(slices.Insert(slices.Clone(ring), 1, k)), k
}

func (r *Ring) now() time.Time { return r.cfg.Now().Truncate(time.Second) }

// generate makes a key in the state active or next.
func (r *Ring) generate(ctx context.Context, kid string, state State) (*Key, error) {
	var signer crypto.Signer
	var err error
	if holder, ok := r.cfg.Store.(Holder); ok {
		signer, err = hold(holder.Generate(ctx, r.cfg.Algorithm))
	} else {
		signer, err = newSigner(r.cfg.Algorithm)
	}
	if err != nil {
		return nil, fmt.Errorf("generating an %s key: %w", r.cfg.Algorithm, err)
	}
	k, err := newKey(signer, r.cfg.Algorithm, kid)
	if err != nil {
		return nil, err
	}
	return k.with(func(k *Key) {
		k.state, k.created = state, r.now()
		if state == Active {
			k.activated = k.created
		}
	}), nil
}

// same reports whether both are one key, whatever is known of them.
func (k *Key) same(other *Key) bool { return k.thumbprint == other.thumbprint }

// shed drops keys until the ring is within its bound: retired ones that were
// never proven first, the oldest of them, but not the one to fall back to.
func shed(ring []*Key) []*Key {
	for len(ring) > maxKeys {
		other := fallback(ring, "")
		drop := lastIndex(ring, func(k *Key) bool { return k.state == Retired && !isProven(k) && k != other })
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
