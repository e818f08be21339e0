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
	"okta-token-broker/internal/tokens"
)

// parts is the broker put together from a configuration.
type parts struct {
	broker *broker.Broker
	rings  map[string]*keys.Ring
}

// exchangers finds the okta.Client of a token's key.
type exchangers map[string]*okta.Client

// Exchange implements tokens.Exchanger.
func (e exchangers) Exchange(ctx context.Context, key tokens.Key) (oauth.Token, error) {
	return e[key.Client].Exchange(ctx, key.Scopes)
}

// assemble opens the key rings and connects the parts. It sends nothing.
func assemble(ctx context.Context, cfg config.Config, log *slog.Logger) (*parts, error) {
	world := &broker.World{
		Clients: map[string]*broker.Client{},
		Rings:   map[string]*keys.Ring{},
		SignAny: cfg.SignAny(),
	}
	if world.SignAny {
		ring, err := openRing(ctx, cfg, config.DefaultKey, log)
		if err != nil {
			return nil, err
		}
		world.Rings[config.DefaultKey] = ring
	}
	servers := map[serverID]*okta.Server{}
	exchangers := exchangers{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Clients)) {
		client := cfg.Clients[name]
		ring := world.Rings[client.Key]
		if ring == nil {
			var err error
			if ring, err = openRing(ctx, cfg, client.Key, log); err != nil {
				return nil, err
			}
			world.Rings[client.Key] = ring
		}
		server, err := openServer(servers, client, log)
		if err != nil {
			return nil, fmt.Errorf("client %s: %w", name, err)
		}
		scopes, err := oauth.NewScopes(client.Scopes...)
		if err != nil {
			return nil, fmt.Errorf("client %s: %w", name, err)
		}
		exchangers[name] = okta.NewClient(okta.ClientConfig{
			Name:              name,
			ID:                client.ClientID,
			Server:            server,
			Ring:              ring,
			AudienceIssuer:    client.Audience == config.AudienceIssuer,
			AssertionLifetime: client.AssertionLifetime,
		})
		world.Clients[name] = &broker.Client{
			Name:      name,
			ID:        client.ClientID,
			Issuer:    client.Issuer,
			Ring:      ring,
			Scopes:    scopes,
			Audiences: audiences(client, server.Endpoints()),
		}
	}
	store := tokens.New(tokens.Config{Exchanger: exchangers, Log: log})
	return &parts{
		broker: broker.New(broker.Config{World: world, Tokens: store, Log: log}),
		rings:  world.Rings,
	}, nil
}

// assemble is for commands that need no running broker.
func (o options) assemble(cmd *cobra.Command) (config.Config, *parts, error) {
	loaded, log, err := o.load(cmd, commandLog)
	if err != nil {
		return config.Config{}, nil, err
	}
	parts, err := assemble(cmd.Context(), loaded.Config, log)
	return loaded.Config, parts, err
}

// openRing opens the ring that the configuration calls name.
func openRing(ctx context.Context, cfg config.Config, name string, log *slog.Logger) (*keys.Ring, error) {
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
		Log:       log,
	})
}

// serverID tells which clients share what a server taught.
type serverID struct{ issuer, tokenEndpoint, caFile string }

func openServer(servers map[serverID]*okta.Server, client config.Client, log *slog.Logger) (*okta.Server, error) {
	id := serverID{client.Issuer, client.TokenEndpoint, client.CAFile}
	if server := servers[id]; server != nil {
		return server, nil
	}
	var roots *x509.CertPool
	if client.CAFile != "" {
		pem, err := os.ReadFile(client.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading ca_file: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s holds no PEM certificate", client.CAFile)
		}
	}
	servers[id] = okta.NewServer(okta.ServerConfig{Issuer: client.Issuer, TokenEndpoint: client.TokenEndpoint, RootCAs: roots, Log: log})
	return servers[id], nil
}

// audiences are what POST / signs for a client.
func audiences(client config.Client, endpoints okta.Endpoints) []string {
	list := []string{
		endpoints.Audience(client.Issuer, client.Audience == config.AudienceIssuer),
		endpoints.Token, endpoints.Introspect, endpoints.Revoke,
	}
	return slices.DeleteFunc(list, func(url string) bool { return url == "" })
}
