package rotation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

const (
	// leastPause doubles to mostPause while a key is in its window; behind it the
	// pause is latePause.
	leastPause = time.Second
	mostPause  = time.Minute
	latePause  = 5 * time.Minute
)

// trial is what is known of something that is tried again and again.
type trial struct {
	since    time.Time // of the first time
	attempts int
	next     time.Time
	said     string // in the log, last
	late     bool   // the log says that the window is over
}

// failed notes a failure, and when to try again.
func (t *trial) failed(now time.Time, err error) {
	if t.since.IsZero() {
		t.since = now
	}
	pause := latePause
	if now.Sub(t.since) < proofWindow {
		pause = mostPause
		if t.attempts < 6 {
			pause = leastPause << t.attempts
		}
	}
	pause = pause/2 + rand.N(pause/2) // so that several processes do not try in step
	if e, ok := errors.AsType[*oauth.Error](err); ok {
		pause = max(pause, e.RetryAfter)
	}
	t.attempts++
	t.next = now.Add(pause)
}

// walk registers the active or the next key where that is needed, and proves it.
func (w *Walker) walk(ctx context.Context, k *keys.Key) {
	now := w.cfg.Now()
	t := w.trials[k.Thumbprint()]
	if t == nil {
		t = &trial{}
		w.trials[k.Thumbprint()] = t
	}
	if now.Before(t.next) {
		return
	}
	err := w.register(ctx, k)
	if err == nil && k.Proven().IsZero() && w.isPublished(k) {
		err = w.prove(ctx, k)
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		*t = trial{}
	case errors.Is(err, errNotHeard):
	default:
		t.failed(now, err)
		w.say(t, err, "the key is not proven yet; until then the one that Okta knows goes on signing for /token", k)
	}
}

// isPublished reports whether the key has been published for as long as it takes
// until Okta has fetched it. An active one signs already.
func (w *Walker) isPublished(k *keys.Key) bool {
	return k.State() == keys.Active || !w.cfg.Now().Before(k.Created().Add(w.ahead()))
}

// register makes sure that Okta has the key, for clients whose keys are registered.
func (w *Walker) register(ctx context.Context, k *keys.Key) error {
	for _, client := range w.cfg.Clients {
		id := registration{client.Name, k.Thumbprint()}
		if client.Registry == nil || w.registry[id] {
			continue
		}
		if err := client.Registry.Register(ctx, k); w.did("register", err) {
			return fmt.Errorf("client %s: registering the key: %w", client.Name, err)
		}
		w.registry[id] = true
		w.cfg.Changed()
	}
	return nil
}

// errNotHeard says that there was no reason to ask a server yet.
var errNotHeard = errors.New("no token was asked for yet")

// prove finds out whether a token request under the key works for every client
// that works with another key of the ring.
func (w *Walker) prove(ctx context.Context, k *keys.Key) error {
	if w.onlyListens() {
		if !w.listen(k) {
			return errNotHeard
		}
		return nil
	}
	proven := false
	var refused error
	for _, client := range w.cfg.Clients {
		if client.Server.Works(k) {
			proven = true
			continue
		}
		err := client.Server.Prove(ctx, k)
		w.did("prove", err)
		if err == nil {
			proven = true
			continue
		}
		err = fmt.Errorf("client %s: %w", client.Name, err)
		if !isRefusal(err) {
			return err
		}
		works, otherwise := w.worksWithAnother(ctx, client, k)
		if works || otherwise != nil {
			return errors.Join(err, otherwise)
		}
		refused = err // under every key: it cannot be told by this client
	}
	if !proven {
		return refused
	}
	w.cfg.Ring.Prove(k)
	w.cfg.Changed()
	return nil
}

// onlyListens reports whether there is no other key that could sign instead, so
// that nothing is to be decided. What the clients ask for then shows whether the
// key works.
func (w *Walker) onlyListens() bool { return len(w.cfg.Ring.Keys()) == 1 && !w.managed() }

// listen proves a key that a client has a token by.
func (w *Walker) listen(k *keys.Key) bool {
	for _, client := range w.cfg.Clients {
		if client.Server.Works(k) {
			w.cfg.Ring.Prove(k)
			return true
		}
	}
	return false
}

// worksWithAnother reports whether the client works with another key that signs or
// has signed. The error says why that could not be found out.
func (w *Walker) worksWithAnother(ctx context.Context, client Client, k *keys.Key) (bool, error) {
	for _, other := range w.cfg.Ring.Keys() {
		if other.State() == keys.Next || other.Thumbprint() == k.Thumbprint() {
			continue
		}
		if client.Server.Works(other) {
			return true, nil
		}
		err := client.Server.Prove(ctx, other)
		if err == nil {
			return true, nil
		}
		if !isRefusal(err) {
			return false, err
		}
	}
	return false, nil
}

// isRefusal reports whether the server said no. Otherwise it said nothing, and
// nothing follows from that.
func isRefusal(err error) bool {
	switch oauth.ClassOf(err) {
	case oauth.Refused, oauth.InvalidScope, oauth.BadAnswer:
		return true
	}
	return false
}

// say writes down why something does not work, once for each reason, and once more
// when the window is over.
func (w *Walker) say(t *trial, err error, what string, k *keys.Key) {
	late := w.cfg.Now().Sub(t.since) >= proofWindow
	switch {
	case late && !t.late:
		t.late = true
		w.cfg.Log.Error(what+", and its window of time is over", "kid", k.ID(), "state", k.State(), "for", w.cfg.Now().Sub(t.since).Round(time.Second), "err", err)
	case err.Error() != t.said:
		w.cfg.Log.Warn(what, "kid", k.ID(), "state", k.State(), "err", err)
	}
	t.said = err.Error()
}

// Awaited returns the key that Okta is not known to have, though it should: an
// active one, or a next one that was published for long enough. ok is false where
// there is none.
func (w *Walker) Awaited() (k *keys.Key, ok bool) {
	all := w.cfg.Ring.Keys()
	if len(all) == 0 {
		return nil, false
	}
	if active := all[0]; active.Proven().IsZero() {
		return active, true
	}
	if next := w.cfg.Ring.Next(); next != nil && next.Proven().IsZero() && w.isPublished(next) {
		return next, true
	}
	return nil, false
}
