package cli

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/config"
	"okta-token-broker/internal/httpapi"
)

func newServe(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "serve [PORT]",
		Short: "Serve the API (what happens without a command, too)",
		Example: `  okta-token-broker serve
  okta-token-broker serve 8080
  okta-token-broker serve --config /etc/okta-token-broker.yaml`,
		Args: onePort,
		RunE: func(cmd *cobra.Command, args []string) error { return serve(cmd, opts, args) },
	}
}

func serve(cmd *cobra.Command, opts *options, args []string) error {
	loaded, log, err := opts.load(cmd, serverLog)
	if err != nil {
		return err
	}
	cfg := loaded.Config
	if port, err := portArgument(args); err != nil {
		return err
	} else if port >= 0 {
		cfg.Listen = httpapi.WithPort(cfg.Listen, port)
	}
	var listeners listeners
	defer func() { listeners.close() }()
	if listeners.api, err = httpapi.Listen(cmd.Context(), cfg.Listen); err != nil {
		return err
	}
	if cfg.HealthListen != "" {
		if listeners.health, err = httpapi.ListenAnywhere(cmd.Context(), cfg.HealthListen); err != nil {
			return fmt.Errorf("health_listen: %w", err)
		}
	}
	return run(cmd.Context(), cfg, listeners, log)
}

// listeners are those that are configured.
type listeners struct{ api, health net.Listener }

func (l listeners) close() {
	for _, listener := range []net.Listener{l.api, l.health} {
		if listener != nil {
			_ = listener.Close()
		}
	}
}

// run serves on the listeners until ctx ends.
func run(ctx context.Context, cfg config.Config, listeners listeners, log *slog.Logger) error {
	parts, err := assemble(ctx, cfg, log)
	if err != nil {
		return err
	}
	logPolicy(cfg, log)

	var watchers sync.WaitGroup
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx)) // on while requests are finished
	defer func() {
		stopWatching()
		watchers.Wait()
		for _, ring := range parts.rings {
			ring.Refresh(context.WithoutCancel(ctx)) // stores a proof of the last second
		}
	}()
	for _, ring := range parts.rings {
		watchers.Go(func() { ring.Watch(watching) })
	}
	watchers.Go(func() { prefetch(watching, cfg, parts) })

	api := httpapi.New(httpapi.Config{Broker: parts.broker, Hosts: cfg.Hosts, Log: log})
	if listeners.health != nil {
		log.Info("serving health", "listen", listeners.health.Addr().String())
		watchers.Go(func() {
			if err := httpapi.ServeHealth(watching, listeners.health, api); err != nil {
				log.Error("health is not served any more", "err", err)
			}
		})
	}
	log.Info("serving", "listen", listeners.api.Addr().String(), "clients", len(cfg.Clients), "keys", slices.Sorted(maps.Keys(parts.rings)))
	if err := httpapi.Serve(ctx, listeners.api, api); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// prefetch gets the first tokens of the clients that want it.
func prefetch(ctx context.Context, cfg config.Config, parts *parts) {
	var fetches errgroup.Group
	fetches.SetLimit(4)
	for _, name := range slices.Sorted(maps.Keys(cfg.Clients)) {
		if ctx.Err() != nil {
			break
		}
		// Without a key there is nothing that Okta could know, and POST / may be
		// about to make one under a kid of its own.
		if ring := parts.rings[cfg.Clients[name].Key]; !cfg.Clients[name].Prefetch || len(ring.Keys()) == 0 {
			continue
		}
		fetches.Go(func() error {
			if ctx.Err() == nil {
				_, _ = parts.broker.Token(ctx, caller.Local("prefetch"), broker.TokenRequest{Client: name}) // the log has it
			}
			return nil
		})
	}
	_ = fetches.Wait()
}

// logPolicy says what POST / signs, and why.
func logPolicy(cfg config.Config, log *slog.Logger) {
	policy, why := config.AllowClients, "signing.allow says so"
	if cfg.SignAny() {
		policy = config.AllowAny
	}
	if cfg.Signing.Allow == "" {
		why = fmt.Sprintf("signing.allow is not set and %d clients are configured", len(cfg.Clients))
	}
	log.Info("signing policy for POST /", "allow", policy, "because", why)
}
