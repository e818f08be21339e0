package cli

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/config"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/okta"
)

// builder makes worlds from configurations. What the next configuration leaves
// as it is goes from one world into the next: rings, with what is known of their
// proofs; servers, with what their answers taught; clients, with their tokens.
type builder struct {
	log     *slog.Logger
	metrics *okta.Metrics
	changed func(*keys.Ring) // is told of a ring with other keys

	rings   map[string]builtRing
	servers map[serverID]*okta.Server
	clients map[string]builtClient

	registries map[registryID]*okta.AppKeys
}

type builtRing struct {
	cfg  config.Key
	ring *keys.Ring
}

type builtClient struct {
	cfg    config.Client
	ring   *keys.Ring
	server *okta.Server
	roots  roots
	okta   *okta.Client
	client *broker.Client
	proof  proofKey
}

// build opens the key rings and connects the parts. It sends nothing. An error
// leaves the builder as it was.
func (b *builder) build(ctx context.Context, cfg config.Config) (*broker.World, error) {
	next := builder{log: b.log, metrics: b.metrics, changed: b.changed,
		rings: map[string]builtRing{}, servers: map[serverID]*okta.Server{}, clients: map[string]builtClient{},
		registries: map[registryID]*okta.AppKeys{}}
	world := &broker.World{
		Clients: map[string]*broker.Client{},
		Rings:   map[string]*keys.Ring{},
		SignAny: cfg.SignAny(),
	}
	rings := map[string]bool{}
	if world.SignAny {
		rings[config.DefaultKey] = true
	}
	for _, client := range cfg.Clients {
		rings[client.Key] = true
	}
	for _, name := range slices.Sorted(maps.Keys(rings)) {
		ring, err := b.ring(ctx, cfg, name)
		if err != nil {
			return nil, err
		}
		next.rings[name] = builtRing{cfg.Keys[name], ring}
		world.Rings[name] = ring
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Clients)) {
		built, err := b.client(ctx, name, cfg.Clients[name], cfg.IsRotator(name), world.Rings[cfg.Clients[name].Key], next.servers)
		if err != nil {
			return nil, err
		}
		next.clients[name] = built
		world.Clients[name] = built.client
	}
	for id, registry := range b.registries {
		if next.clients[cfg.Clients[id.client].Rotator].okta == id.rotator {
			next.registries[id] = registry
		}
	}
	before := b.clients
	*b = next
	b.logChangedProofKeys(before)
	return world, nil
}

func (b *builder) ring(ctx context.Context, cfg config.Config, name string) (*keys.Ring, error) {
	if old, ok := b.rings[name]; ok && old.cfg.Equal(cfg.Keys[name]) {
		return old.ring, nil
	}
	return openRing(ctx, cfg, name, b.log, b.changed)
}

func (b *builder) client(ctx context.Context, name string, cfg config.Client, rotator bool, ring *keys.Ring, servers map[serverID]*okta.Server) (builtClient, error) {
	roots, err := rootsOf(cfg)
	if err != nil {
		return builtClient{}, fmt.Errorf("client %s: %w", name, err)
	}
	server := b.server(cfg, roots, servers)
	proof, err := b.proofKey(ctx, name, cfg)
	if err != nil {
		return builtClient{}, err
	}
	old, ok := b.clients[name]
	if ok && old.cfg.Like(cfg) && old.ring == ring && old.server == server && old.client.Rotator == rotator && old.proof.key == proof.key {
		old.proof = proof
		return old, nil
	}
	scopes, err := oauth.NewScopes(cfg.Scopes...)
	if err != nil {
		return builtClient{}, fmt.Errorf("client %s: %w", name, err)
	}
	built := builtClient{cfg: cfg, ring: ring, server: server, roots: roots, proof: proof}
	built.okta = okta.NewClient(okta.ClientConfig{
		Name:              name,
		ID:                cfg.ClientID,
		Server:            server,
		Ring:              ring,
		Scopes:            scopes,
		AudienceIssuer:    cfg.Audience == config.AudienceIssuer,
		AssertionLifetime: cfg.AssertionLifetime,
		DPoP:              okta.DPoP(cfg.DPoP),
		ProofKey:          proof.key,
		AsksForProofs:     old.isApp(cfg) && old.okta.AsksForProofs(),
	})
	built.client = &broker.Client{
		Name:      name,
		ID:        cfg.ClientID,
		Issuer:    cfg.Issuer,
		Ring:      ring,
		Scopes:    scopes,
		Audiences: audiences(cfg, server.Endpoints()),
		Prefetch:  cfg.Prefetch,
		Rotator:   rotator,
		Server:    built.okta,
		Resources: cfg.Resources,

		OktaOrigin: cfg.OktaOrigin(),
		Org:        cfg.IsOrg(),
	}
	if proof.key != nil {
		built.client.JKT, built.client.Prover = proof.key.Thumbprint(), built.okta
	}
	return built, nil
}

// isApp reports whether a client is one application with that of a configuration.
func (c builtClient) isApp(cfg config.Client) bool {
	return c.okta != nil && c.cfg.ClientID == cfg.ClientID && c.cfg.Issuer == cfg.Issuer && c.cfg.TokenEndpoint == cfg.TokenEndpoint
}

// serverID tells which clients share what a server taught.
type serverID struct{ issuer, tokenEndpoint, roots string }

func (b *builder) server(cfg config.Client, roots roots, servers map[serverID]*okta.Server) *okta.Server {
	id := serverID{issuer: cfg.Issuer, tokenEndpoint: cfg.TokenEndpoint, roots: roots.pem}
	for _, known := range []map[serverID]*okta.Server{servers, b.servers} {
		if server := known[id]; server != nil {
			servers[id] = server
			return server
		}
	}
	var before *okta.Server // of the issuer, reached otherwise
	for _, known := range []map[serverID]*okta.Server{servers, b.servers} {
		for other, server := range known {
			if before == nil && other.issuer == id.issuer {
				before = server
			}
		}
	}
	servers[id] = okta.NewServer(okta.ServerConfig{
		Issuer: cfg.Issuer, TokenEndpoint: cfg.TokenEndpoint, RootCAs: roots.pool, Like: before, Metrics: b.metrics, Log: b.log,
	})
	return servers[id]
}

// roots are the certificates that verify a client's servers. The zero roots are the
// system's.
type roots struct {
	pool *x509.CertPool
	pem  string // that they were read from
}

func rootsOf(cfg config.Client) (roots, error) {
	if cfg.CAFile == "" {
		return roots{}, nil
	}
	text, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return roots{}, fmt.Errorf("reading ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return roots{}, fmt.Errorf("ca_file %s holds no PEM certificate", cfg.CAFile)
	}
	return roots{pool, string(text)}, nil
}

// assemble is for commands that need no running broker. Close the broker.
func (o options) assemble(cmd *cobra.Command) (config.Config, *broker.World, *broker.Broker, error) {
	loaded, log, err := o.load(cmd, commandLog)
	if err != nil {
		return config.Config{}, nil, nil, err
	}
	for name, client := range loaded.Clients {
		client.Prefetch = false
		loaded.Clients[name] = client
	}
	world, err := (&builder{log: log}).build(cmd.Context(), loaded.Config)
	if err != nil {
		return config.Config{}, nil, nil, err
	}
	return loaded.Config, world, broker.New(broker.Config{World: world, Log: log}), nil
}

// openRing opens the ring that the configuration calls name.
func openRing(ctx context.Context, cfg config.Config, name string, log *slog.Logger, changed func(*keys.Ring)) (*keys.Ring, error) {
	key, ok := cfg.Keys[name]
	if !ok {
		return nil, usagef("no key ring %q is configured: see keys in the configuration", name)
	}
	var store keys.Store = keys.NewStatic(key.PEM.Reveal())
	if key.PEM.IsZero() {
		file, err := keys.NewFile(ctx, key.File, key.ReadOnly)
		if err != nil {
			return nil, err
		}
		store = file
	}
	return keys.Open(ctx, keys.Config{
		Name:      name,
		Store:     store,
		Kid:       key.Kid,
		Algorithm: key.Algorithm,
		Changed:   changed,
		Log:       log,
	})
}

// audiences are what POST / signs for a client.
func audiences(client config.Client, endpoints okta.Endpoints) []string {
	list := []string{
		endpoints.Audience(client.Issuer, client.Audience == config.AudienceIssuer),
		endpoints.Token, endpoints.Introspect, endpoints.Revoke,
	}
	return slices.DeleteFunc(list, func(url string) bool { return url == "" })
}
