package rotation

import (
	"context"
	"errors"
	"fmt"

	"okta-token-broker/internal/keys"
)

// retire removes old keys, first at Okta and then from the ring: what the ring
// has forgotten would stay at Okta for ever.
func (w *Walker) retire(ctx context.Context) {
	if dropped := w.dropped(); len(dropped) > 0 {
		w.attempt(ctx, w.trial("remove"), "keys that the ring has dropped stay at Okta for now", nil, func() error {
			return w.removeAll(ctx, dropped)
		})
	}
	old := w.old()
	if len(old) == 0 {
		return
	}
	active := w.cfg.Ring.Keys()[0]
	w.attempt(ctx, w.trial("retire"), "old keys stay for now", active, func() error {
		// An old key may be the only one that Okta still takes, however well the active
		// one was proven once: somebody may have removed that.
		if err := w.register(ctx, active); err != nil {
			return err
		}
		if err := w.prove(ctx, active); err != nil {
			return err
		}
		return w.removeAll(ctx, old)
	})
}

func (w *Walker) removeAll(ctx context.Context, all []*keys.Key) error {
	for _, k := range all {
		if err := w.remove(ctx, k); err != nil {
			return fmt.Errorf("removing key %q: %w", k.ID(), err)
		}
	}
	return nil
}

// old lists the retired keys whose time is over.
func (w *Walker) old() (old []*keys.Key) {
	all := w.cfg.Ring.Keys()
	if all[0].Proven().IsZero() || w.fixed {
		return nil
	}
	for _, k := range all {
		if k.State() == keys.Retired && w.isOverlapped(all, k) {
			old = append(old, k)
		}
	}
	return old
}

// dropped lists the keys that the ring does not have any more, with which nobody
// signs. A full ring drops a key for each new one, and whoever removed one by hand
// may have come before it was registered.
func (w *Walker) dropped() (dropped []*keys.Key) {
	has := map[string]bool{}
	for _, k := range w.cfg.Ring.Keys() {
		has[k.Thumbprint()] = true
	}
	for thumbprint, last := range w.seen {
		if !has[thumbprint] && w.isOver(last.at, leastOverlap) {
			dropped = append(dropped, last.key)
		}
	}
	return dropped
}

// isOverlapped reports whether the key that followed this one has been proven and
// has signed for long enough.
func (w *Walker) isOverlapped(all []*keys.Key, k *keys.Key) bool {
	successor := all[0]
	for _, other := range all {
		if other.State() == keys.Retired && !other.Proven().IsZero() &&
			other.Activated().After(k.Activated()) && other.Activated().Before(successor.Activated()) {
			successor = other
		}
	}
	since := successor.Proven()
	if successor.Activated().After(since) {
		since = successor.Activated()
	}
	return w.isOver(since, max(w.cfg.RetireAfter, leastOverlap))
}

// remember notes which keys the ring has, where they may be registered.
func (w *Walker) remember(all []*keys.Key) {
	for _, client := range w.cfg.Clients {
		if client.Registry == nil {
			continue
		}
		for _, k := range all {
			w.seen[k.Thumbprint()] = sighting{k, w.cfg.Now()}
		}
	}
}

func (w *Walker) remove(ctx context.Context, k *keys.Key) error {
	w.cfg.Ring.Refresh(ctx)
	if now := w.cfg.Ring.Find(k.Thumbprint()); now != nil && now.State() != keys.Retired {
		return nil // somebody has taken it back meanwhile
	}
	for _, client := range w.cfg.Clients {
		if client.Registry == nil {
			continue
		}
		err := client.Registry.Remove(ctx, k)
		w.count("remove", err)
		if err != nil {
			return err
		}
		delete(w.registered, registration{client.Name, k.Thumbprint()})
	}
	err := w.cfg.Ring.Retire(ctx, k)
	if errors.Is(err, keys.ErrReadOnly) {
		w.fixed = true // who keeps the file takes old keys out of it
		return nil
	}
	w.count("retire", err)
	if err != nil {
		w.forget(k) // it may be the active one now
	} else {
		delete(w.trials, k.Thumbprint())
		delete(w.seen, k.Thumbprint())
	}
	return err
}
