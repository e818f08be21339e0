// Package rotation walks the keys of a ring from next to active to retired, one
// idempotent step at a time. What a step was about to do is found again in the
// ring and at the authorization server, so a walk can end anywhere and go on in
// another process.
package rotation

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"okta-token-broker/internal/keys"
)

const (
	// stepEvery is how often the ring is looked at.
	stepEvery = time.Second
	// leastOverlap is how long a retired key is kept at least: other processes take
	// up a switch within two seconds, and an assertion may be on its way.
	leastOverlap = 3 * time.Second
	// proofWindow is how long a server may take to know a key, before that is an
	// error in the log. The key is tried on.
	proofWindow = time.Hour
)

// Server is where one client gets its tokens.
type Server interface {
	// Prove asks for a token under the key alone. The error is an *oauth.Error.
	Prove(ctx context.Context, key *keys.Key) error
	// Works reports whether the client's last token was bought under the key.
	Works(key *keys.Key) bool
}

// Registry holds the public keys of one app at Okta. Both operations are
// idempotent.
type Registry interface {
	Register(ctx context.Context, key *keys.Key) error
	Remove(ctx context.Context, key *keys.Key) error
}

// Client is one client that signs with the ring.
type Client struct {
	// Name is its name in the configuration.
	Name   string
	Server Server
	// Registry is where its keys are registered. Nil: Okta fetches them, or somebody
	// pastes them.
	Registry Registry
	// Fetched says that Okta fetches the keys, from a jwks_uri.
	Fetched bool
}

// Config is what a Walker needs.
type Config struct {
	Ring *keys.Ring
	// Clients are all that sign with the ring.
	Clients []Client
	// Every is the time from one switch to the next. 0: there is no schedule, and
	// unless a client has a registry or fetches, a next key waits for whoever staged
	// it to activate it.
	Every time.Duration
	// PublishAhead is how long a next key is published before it is tried, where
	// Okta fetches keys.
	PublishAhead time.Duration
	// RetireAfter is how long a retired key is kept once the active one is proven
	// and signs, three seconds at least.
	RetireAfter time.Duration
	// Changed is called when the servers may know a key that they did not know. Nil:
	// nobody is told.
	Changed func()
	// Metrics count steps and show what is awaited. Nil: nobody counts.
	Metrics *Metrics
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Log takes what happens. Nil: nothing is logged.
	Log *slog.Logger
}

// Walker walks the keys of one ring.
type Walker struct {
	cfg Config
	// What is known of keys, by thumbprint. Only Run touches it.
	trials   map[string]*trial
	registry map[registration]bool // keys that are registered for sure
	cleaning trial                 // of what is retired
}

type registration struct{ client, thumbprint string }

// New makes a Walker. It does nothing before Run.
func New(cfg Config) *Walker {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	cfg.Log = cfg.Log.With("ring", cfg.Ring.Name())
	return &Walker{cfg: cfg, trials: map[string]*trial{}, registry: map[registration]bool{}}
}

// Ring returns the name of the ring.
func (w *Walker) Ring() string { return w.cfg.Ring.Name() }

// Run walks until ctx ends.
func (w *Walker) Run(ctx context.Context) {
	defer w.cfg.Metrics.forget(w.cfg.Ring.Name())
	tick := time.NewTicker(stepEvery)
	defer tick.Stop()
	for {
		w.step(ctx)
		w.cfg.Metrics.show(w)
		select {
		case <-ctx.Done():
			if w.onlyListens() { // what was heard since the last step
				w.listen(w.cfg.Ring.Keys()[0])
			}
			return
		case <-tick.C:
		}
	}
}

// step does what can be done now.
func (w *Walker) step(ctx context.Context) {
	ring := w.cfg.Ring
	if len(ring.Keys()) == 0 {
		if !w.managed() {
			return // the first request names the key
		}
		if _, _, err := ring.Active(ctx, ""); w.did("stage", err) {
			return
		}
	}
	active := ring.Keys()[0]
	w.walk(ctx, active)
	if next := ring.Next(); next != nil {
		w.walk(ctx, next)
	}
	active = ring.Keys()[0]
	switch next := ring.Next(); {
	case next != nil && w.walksOn() && !next.Proven().IsZero():
		if !w.did("activate", ring.Activate(ctx, next)) {
			w.cfg.Changed()
		}
	case next == nil && w.due(active):
		_, _, err := ring.Stage(ctx, "")
		w.did("stage", err)
	}
	w.retire(ctx)
}

// managed reports whether Okta can learn of a key without anybody's help.
func (w *Walker) managed() bool {
	for _, client := range w.cfg.Clients {
		if client.Registry != nil || client.Fetched {
			return true
		}
	}
	return false
}

// walksOn reports whether a proven next key is activated by itself.
func (w *Walker) walksOn() bool { return w.managed() || w.cfg.Every > 0 }

// due reports whether it is time to stage the next key. A key of unknown age is
// replaced at once.
func (w *Walker) due(active *keys.Key) bool {
	if w.cfg.Every <= 0 || active.Proven().IsZero() {
		return false
	}
	return !w.cfg.Now().Before(active.Activated().Add(w.cfg.Every - w.ahead()))
}

// ahead is how long a next key is published before it is tried.
func (w *Walker) ahead() time.Duration {
	for _, client := range w.cfg.Clients {
		if client.Fetched {
			return w.cfg.PublishAhead
		}
	}
	return 0
}

// retire removes old keys, first at Okta and then from the ring: what the ring
// has forgotten would stay at Okta for ever.
func (w *Walker) retire(ctx context.Context) {
	now, ring := w.cfg.Now(), w.cfg.Ring
	all := ring.Keys()
	active := all[0]
	since := active.Proven()
	if active.Activated().After(since) {
		since = active.Activated()
	}
	if active.Proven().IsZero() || now.Before(since.Add(max(w.cfg.RetireAfter, leastOverlap))) || now.Before(w.cleaning.next) {
		return
	}
	for _, client := range w.cfg.Clients {
		if client.Registry != nil && !w.registry[registration{client.Name, active.Thumbprint()}] {
			return // what is to stay is to be there first
		}
	}
	for _, k := range all {
		if k.State() != keys.Retired {
			continue
		}
		if err := w.remove(ctx, k); err != nil {
			w.cleaning.failed(now, err)
			w.say(&w.cleaning, err, "an old key could not be removed; it is tried again", k)
			return
		}
	}
	w.cleaning = trial{}
}

func (w *Walker) remove(ctx context.Context, k *keys.Key) error {
	for _, client := range w.cfg.Clients {
		if client.Registry == nil {
			continue
		}
		err := client.Registry.Remove(ctx, k)
		if w.did("remove", err) {
			return err
		}
		delete(w.registry, registration{client.Name, k.Thumbprint()})
	}
	err := w.cfg.Ring.Retire(ctx, k)
	if errors.Is(err, keys.ErrReadOnly) {
		return nil // who keeps the file takes old keys out of it
	}
	w.did("retire", err)
	delete(w.trials, k.Thumbprint())
	return err
}

// did counts a step, and reports whether it failed.
func (w *Walker) did(step string, err error) (failed bool) {
	w.cfg.Metrics.count(w.Ring(), step, err)
	return err != nil
}
