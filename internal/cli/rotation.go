package cli

import (
	"context"
	"maps"
	"slices"
	"sync"

	"okta-token-broker/api"
	"okta-token-broker/internal/config"
	"okta-token-broker/internal/okta"
	"okta-token-broker/internal/rotation"
)

// registryID tells which world's registry serves the next, with what is known of
// its limits and with the rotator's token.
type registryID struct {
	rotator *okta.Client
	client  string
	app     string
}

// registry is where the public keys of a client's app are registered; nil where
// the configuration does not have the broker do that.
func (b *builder) registry(cfg config.Config, name string) rotation.Registry {
	if appKeys := b.appKeys(cfg, name); appKeys != nil {
		return appKeys
	}
	return nil
}

func (b *builder) appKeys(cfg config.Config, name string) *okta.AppKeys {
	client := cfg.Clients[name]
	if client.Registration != config.RegistrationAPI {
		return nil
	}
	rotator := b.clients[client.Rotator]
	id := registryID{rotator.okta, name, client.App()}
	if b.registries[id] == nil {
		b.registries[id] = okta.NewAppKeys(okta.AppKeysConfig{
			Client:  name,
			AppID:   client.App(),
			Rotator: rotator.okta,
		})
	}
	return b.registries[id]
}

// walkers makes one walker for each ring that clients sign with.
func (b *builder) walkers(cfg config.Config, metrics *rotation.Metrics) []*rotation.Walker {
	var walkers []*rotation.Walker
	for _, ringName := range slices.Sorted(maps.Keys(b.rings)) {
		ring, schedule := b.rings[ringName].ring, cfg.Keys[ringName].Rotation
		var clients []rotation.Client
		for _, name := range slices.Sorted(maps.Keys(cfg.Clients)) {
			if client := cfg.Clients[name]; client.Key == ringName {
				clients = append(clients, rotation.Client{
					Name:     name,
					Server:   b.clients[name].okta,
					Registry: b.registry(cfg, name),
					Fetched:  client.Registration == config.RegistrationJWKSURI,
				})
			}
		}
		if len(clients) == 0 {
			continue // nothing could show that a key is known
		}
		walkers = append(walkers, rotation.New(rotation.Config{
			Ring:         ring,
			Clients:      clients,
			Every:        schedule.Every,
			PublishAhead: schedule.PublishAhead,
			RetireAfter:  schedule.RetireAfter,
			Changed:      func() { b.changed(ring) },
			Metrics:      metrics,
			Log:          b.log,
		}))
	}
	return walkers
}

// walking is a set of walkers that can be replaced by another.
type walking struct {
	mu      sync.Mutex
	walkers []*rotation.Walker
	stop    context.CancelFunc
	running sync.WaitGroup
}

// replace stops the walkers there are, and starts others.
func (w *walking) replace(ctx context.Context, walkers []*rotation.Walker) {
	w.end()
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, w.stop = context.WithCancel(ctx)
	w.walkers = walkers
	for _, walker := range walkers {
		w.running.Go(func() { walker.Run(ctx) })
	}
}

// end stops the walkers.
func (w *walking) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop != nil {
		w.stop()
		w.running.Wait()
	}
	w.walkers = nil
}

// awaited lists the keys that Okta is not known to have.
func (w *walking) awaited() []api.AwaitedKey {
	w.mu.Lock()
	defer w.mu.Unlock()
	var awaited []api.AwaitedKey
	for _, walker := range w.walkers {
		if k, is := walker.Awaited(); is {
			awaited = append(awaited, api.AwaitedKey{Ring: walker.Ring(), Kid: k.ID(), State: string(k.State())})
		}
	}
	return awaited
}
