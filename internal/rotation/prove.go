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

// trial finds what is known of a key or of a step.
func (w *Walker) trial(name string) *trial {
	t := w.trials[name]
	if t == nil {
		t = &trial{}
		w.trials[name] = t
	}
	return t
}

// errNotHeard says that there was no reason to ask a server yet.
var errNotHeard = errors.New("no token was asked for yet")

// attempt does something, unless it failed a moment ago, and says so when it fails.
func (w *Walker) attempt(ctx context.Context, t *trial, what string, k *keys.Key, do func() error) {
	if w.cfg.Now().Before(t.next) {
		return
	}
	switch err := do(); {
	case ctx.Err() != nil, errors.Is(err, errNotHeard):
	case err != nil:
		t.failed(w.cfg.Now(), err)
		w.report(t, err, what, k)
	default:
		*t = trial{}
	}
}

// walk registers the active or the next key where that is needed, and proves it.
func (w *Walker) walk(ctx context.Context, k *keys.Key) {
	if w.isRegistered(k) && !k.Proven().IsZero() {
		return
	}
	what := "the key is not proven yet; until then the one that Okta knows goes on signing for /token"
	if !k.Proven().IsZero() {
		what = "it is not known whether Okta still has the key"
	}
	w.attempt(ctx, w.trial(k.Thumbprint()), what, k, func() error {
		if !w.isRegistered(k) {
			if err := w.register(ctx, k); err != nil {
				return err
			}
		}
		if !k.Proven().IsZero() || !w.isPublished(k) {
			return nil
		}
		if w.onlyListens() {
			if w.listen(); w.cfg.Ring.Keys()[0].Proven().IsZero() {
				return errNotHeard
			}
			return nil
		}
		if err := w.prove(ctx, k); err != nil {
			w.forget(k) // Okta may have taken it, and not kept it
			return err
		}
		w.cfg.Ring.Prove(k)
		w.cfg.Changed()
		return nil
	})
}

// isPublished reports whether the key has been published for as long as it takes
// until Okta has fetched it. An active one signs already.
func (w *Walker) isPublished(k *keys.Key) bool {
	return k.State() == keys.Active || w.isOver(k.Created(), w.ahead())
}

// onlyListens reports whether there is no other key that could sign instead, so
// that nothing is to be decided. What the clients ask for then shows whether the
// key works.
func (w *Walker) onlyListens() bool { return len(w.cfg.Ring.Keys()) == 1 && !w.managed() }

// listen proves the only key if a client has a token by it.
func (w *Walker) listen() {
	if !w.onlyListens() {
		return
	}
	only := w.cfg.Ring.Keys()[0]
	for _, client := range w.cfg.Clients {
		if client.Server.Works(only) {
			w.cfg.Ring.Prove(only)
		}
	}
}

// prove finds out whether a token request under the key works for every client
// that works with another key of the ring. That one worked a while ago says nothing.
func (w *Walker) prove(ctx context.Context, k *keys.Key) error {
	proven := false
	var refused error
	for _, client := range w.cfg.Clients {
		err := client.Server.Prove(ctx, k)
		w.count("prove", err)
		if err == nil {
			proven = true
			delete(w.broken, client.Name)
			continue
		}
		err = fmt.Errorf("client %s: %w", client.Name, err)
		if !isRefusal(err) {
			return err
		}
		works, otherwise := w.worksWithAnother(ctx, client, k)
		if works || otherwise != nil || !w.isBroken(client) {
			return errors.Join(err, otherwise)
		}
		refused = err // it cannot be told by this client
	}
	if !proven {
		return refused
	}
	return nil
}

// isBroken reports whether a client that was refused under every key has been for so
// long that it does not count. A server may refuse all for a moment.
func (w *Walker) isBroken(client Client) bool {
	now := w.cfg.Now()
	o, known := w.broken[client.Name]
	if !known || now.Sub(o.last) >= brokenFor { // nobody knows what was in between
		o.since = now
	}
	o.last = now
	w.broken[client.Name] = o
	return now.Sub(o.since) >= brokenFor
}

// worksWithAnother reports whether the client works with another key that may sign
// for it. The error says why that could not be found out.
func (w *Walker) worksWithAnother(ctx context.Context, client Client, k *keys.Key) (bool, error) {
	for _, other := range w.cfg.Ring.Candidates("") {
		if other.Thumbprint() == k.Thumbprint() {
			continue
		}
		err := client.Server.Prove(ctx, other)
		if err == nil {
			delete(w.broken, client.Name)
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
	e, ok := errors.AsType[*oauth.Error](err)
	if !ok || e.Reach == oauth.ReachServer {
		return false
	}
	return e.Class == oauth.Refused || e.Class == oauth.InvalidScope || e.Class == oauth.BadAnswer
}

// report writes down why something does not work, once for each reason, and once
// more when the window is over. k may be nil.
func (w *Walker) report(t *trial, err error, what string, k *keys.Key) {
	if e, ok := errors.AsType[*oauth.Error](err); ok && e.Repeated {
		return // it was said before
	}
	log := w.cfg.Log
	if k != nil {
		log = log.With("kid", k.ID(), "state", k.State())
	}
	since := w.cfg.Now().Sub(t.since)
	switch {
	case since >= proofWindow && !t.late:
		t.late = true
		log.Error(what+", and its window of time is over", "for", since.Round(time.Second).String(), "err", err)
	case err.Error() != t.said:
		log.Warn(what, "err", err)
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
	if active := all[0]; active.Proven().IsZero() || w.refused(active) {
		return active, true
	}
	if next := w.cfg.Ring.Next(); next != nil && next.Proven().IsZero() && w.isPublished(next) {
		return next, true
	}
	return nil, false
}
