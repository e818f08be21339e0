package cli

import (
	"maps"
	"slices"

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

// appKeys are the public keys of the app of a client with registration api.
func (b *builder) appKeys(cfg config.Config, name string) *okta.AppKeys {
	client := cfg.Clients[name]
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
	changed := b.changed
	for _, name := range slices.Sorted(maps.Keys(b.rings)) {
		ring, schedule, clients := b.rings[name].ring, cfg.Keys[name].Rotation, b.signers(cfg, name)
		if len(clients) == 0 {
			continue // nothing could show that a key is known
		}
		walkers = append(walkers, rotation.New(rotation.Config{
			Ring:         ring,
			Clients:      clients,
			Every:        schedule.Every,
			PublishAhead: schedule.PublishAhead,
			RetireAfter:  schedule.RetireAfter,
			Changed:      func() { changed(ring) },
			Metrics:      metrics,
			Log:          b.log,
		}))
	}
	return walkers
}

// signers are the clients that sign with a ring.
func (b *builder) signers(cfg config.Config, ring string) (signers []rotation.Client) {
	for _, name := range slices.Sorted(maps.Keys(cfg.Clients)) {
		client := cfg.Clients[name]
		if client.Key != ring {
			continue
		}
		signer := rotation.Client{Name: name, Server: b.clients[name].okta, Fetched: client.Registration == config.RegistrationJWKSURI}
		if client.Registration == config.RegistrationAPI {
			signer.Registry = b.appKeys(cfg, name)
		}
		signers = append(signers, signer)
	}
	return signers
}

// awaited lists the keys that Okta is not known to have.
func awaited(group *rotation.Group) func() []api.AwaitedKey {
	return func() (keys []api.AwaitedKey) {
		for _, k := range group.Awaited() {
			keys = append(keys, api.AwaitedKey(k))
		}
		return keys
	}
}
