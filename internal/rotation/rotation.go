// Package rotation walks the keys of a ring from next to active to retired, one
// idempotent step at a time. What a step was about to do is found again in the
// ring and at the authorization server, so a walk can end anywhere and go on in
// another process.
package rotation

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"okta-token-broker/internal/keys"
)

const (
	// stepEvery is how often the ring is looked at.
	stepEvery = time.Second
	// leastOverlap is how long a retired key is kept at least: other processes take
	// up a switch within two seconds, and an assertion may be on its way.
	leastOverlap = 3 * time.Second
	// brokenFor is how long a client is refused under every key before it does not
	// hold up the others any more.
	brokenFor = 10 * time.Minute
	// doubtEvery is how often a key that is refused is looked for at Okta.
	doubtEvery = 30 * time.Second
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
	// Refuses reports whether the server did not take the key the last time.
	Refuses(key *keys.Key) bool
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
	// RetireAfter is how long a retired key is kept once the one that followed it is
	// proven and signs, three seconds at least.
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
	// What is known, by thumbprint of a key or by name of a step. Only Run touches it.
	trials     map[string]*trial
	registered map[registration]bool // what was found or made so since Run began
	seen       map[string]sighting   // that the ring has or had
	broken     map[string]outage     // clients by name that are refused under every key
	looked     time.Time             // when what Okta has was doubted last
	fixed      bool                  // the ring cannot be written
}

type registration struct{ client, thumbprint string }

// outage is the time in which a client was refused under every key.
type outage struct{ since, last time.Time }

// sighting is a key with the time when the ring had it last.
type sighting struct {
	key *keys.Key
	at  time.Time
}

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
	return &Walker{cfg: cfg, trials: map[string]*trial{}, registered: map[registration]bool{}, seen: map[string]sighting{},
		broken: map[string]outage{}}
}

// Run walks until ctx ends.
func (w *Walker) Run(ctx context.Context) {
	defer w.cfg.Metrics.forget(w.cfg.Ring.Name())
	tick := time.NewTicker(stepEvery)
	defer tick.Stop()
	for {
		w.safely(func() { w.step(ctx) })
		w.cfg.Metrics.show(w)
		select {
		case <-ctx.Done():
			w.safely(w.listen) // what was heard since the last step
			return
		case <-tick.C:
		}
	}
}

// safely keeps a bug here from ending the process.
func (w *Walker) safely(do func()) {
	defer func() {
		if p := recover(); p != nil {
			w.cfg.Log.Error("panic while rotating", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	do()
}

// step does what can be done now.
func (w *Walker) step(ctx context.Context) {
	ring := w.cfg.Ring
	ring.Refresh(ctx) // others walk it, too, while this process may have slept
	if len(ring.Keys()) == 0 {
		if w.managed() { // else the first request names the key
			w.try(ctx, "stage", nil, func() error {
				_, _, err := ring.Active(ctx, "")
				return err
			})
		}
		if len(ring.Keys()) == 0 {
			return
		}
	}
	w.remember(ring.Keys())
	w.doubt(ring.Keys()[0])
	w.walk(ctx, ring.Keys()[0])
	if next := ring.Next(); next != nil {
		w.walk(ctx, next)
	}
	switch next := ring.Next(); {
	case next != nil && w.walksOn() && !next.Proven().IsZero():
		w.try(ctx, "activate", next, func() error { return ring.Activate(ctx, next) })
	case next == nil && w.due(ring.Keys()[0]):
		w.try(ctx, "stage", nil, func() error {
			// Another process may have been first.
			if ring.Refresh(ctx); !w.due(ring.Keys()[0]) {
				return nil
			}
			_, _, err := ring.Stage(ctx, "")
			return err
		})
	}
	w.retire(ctx)
}

// try does a step of the walk, unless it failed a moment ago. What it is about may
// be nil.
func (w *Walker) try(ctx context.Context, step string, k *keys.Key, do func() error) {
	w.attempt(ctx, w.trial(step), "the rotation does not go on: "+step, k, func() error {
		err := do()
		w.count(step, err)
		return err
	})
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
	return w.cfg.Every > 0 && !active.Proven().IsZero() && w.cfg.Ring.Next() == nil &&
		w.isOver(active.Activated(), w.cfg.Every-w.ahead())
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

// isOver reports whether so much time has passed since. A time that is not known, or
// lies ahead because a clock was set back, is long ago.
func (w *Walker) isOver(since time.Time, d time.Duration) bool {
	now := w.cfg.Now()
	return since.After(now) || !now.Before(since.Add(d))
}

// count counts a step.
func (w *Walker) count(step string, err error) { w.cfg.Metrics.count(w.cfg.Ring.Name(), step, err) }

// register makes sure that Okta has the key, for clients whose keys are registered.
func (w *Walker) register(ctx context.Context, k *keys.Key) error {
	for _, client := range w.cfg.Clients {
		if client.Registry == nil {
			continue
		}
		err := client.Registry.Register(ctx, k)
		w.count("register", err)
		if err != nil {
			return fmt.Errorf("client %s: registering the key: %w", client.Name, err)
		}
		if id := (registration{client.Name, k.Thumbprint()}); !w.registered[id] {
			w.registered[id] = true
			w.cfg.Changed()
		}
	}
	return nil
}

// doubt has the active key registered again where a server refuses it: somebody may
// have removed it at Okta.
func (w *Walker) doubt(active *keys.Key) {
	if w.refused(active) && w.isOver(w.looked, doubtEvery) {
		w.looked = w.cfg.Now()
		w.forget(active)
	}
}

// refused reports whether a client's server does not take the key.
func (w *Walker) refused(k *keys.Key) bool {
	for _, client := range w.cfg.Clients {
		if client.Server.Refuses(k) {
			return true
		}
	}
	return false
}

// forget takes back that a key is registered: what was found is not what holds.
func (w *Walker) forget(k *keys.Key) {
	for _, client := range w.cfg.Clients {
		delete(w.registered, registration{client.Name, k.Thumbprint()})
	}
}

// isRegistered reports whether all that register keys have this one.
func (w *Walker) isRegistered(k *keys.Key) bool {
	for _, client := range w.cfg.Clients {
		if client.Registry != nil && !w.registered[registration{client.Name, k.Thumbprint()}] {
			return false
		}
	}
	return true
}
