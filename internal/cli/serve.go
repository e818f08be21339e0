package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/config"
	"okta-token-broker/internal/httpapi"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/okta"
	"okta-token-broker/internal/rotation"
	"okta-token-broker/internal/telemetry"
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
	port, err := portArgument(args)
	if err != nil {
		return err
	}
	if port >= 0 {
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
	if cfg.JWKSListen != "" {
		if listeners.jwks, err = httpapi.ListenAnywhere(cmd.Context(), cfg.JWKSListen); err != nil {
			return fmt.Errorf("jwks_listen: %w", err)
		}
	}
	reload := &reloader{file: loaded.File, text: loaded.Text, load: func() (*config.Loaded, error) {
		// The file that was found at the start, also when it is gone for a moment.
		again, err := options{configFile: loaded.File}.read()
		if err == nil && port >= 0 {
			again.Listen = cfg.Listen // a PORT goes before the file
		}
		return again, err
	}}
	return run(cmd.Context(), cfg, listeners, log, reload)
}

// listeners are those that are configured.
type listeners struct{ api, health, jwks net.Listener }

func (l listeners) close() {
	for _, listener := range []net.Listener{l.api, l.health, l.jwks} {
		if listener != nil {
			_ = listener.Close()
		}
	}
}

// service is a broker that serves, and follows its configuration.
type service struct {
	log     *slog.Logger
	builder builder
	broker  *broker.Broker
	api     *httpapi.API
	cfg     config.Config            // at the start
	clients map[string]config.Client // now

	rotation *rotation.Metrics
	walkers  rotation.Group
	watchers sync.WaitGroup
	rings    map[*keys.Ring]context.CancelFunc // ends the watch of each
}

// run serves on the listeners until ctx ends. reload, if it is not nil, loads the
// configuration anew.
func run(ctx context.Context, cfg config.Config, listeners listeners, log *slog.Logger, reload *reloader) error {
	hangups := make(chan os.Signal, 1)
	if reload != nil {
		signal.Notify(hangups, syscall.SIGHUP)
		defer signal.Stop(hangups)
	}
	registry, metrics := telemetry.Registry()
	s := &service{log: log, cfg: cfg, clients: cfg.Clients, rings: map[*keys.Ring]context.CancelFunc{}}
	s.rotation = rotation.NewMetrics(registry)
	s.builder = builder{log: log, metrics: okta.NewMetrics(registry), changed: func(ring *keys.Ring) { s.broker.Forgive(ring) }}
	world, err := s.builder.build(ctx, cfg)
	if err != nil {
		return err
	}
	logPolicy(cfg, log)
	s.broker = broker.New(broker.Config{World: world, MaxTokens: cfg.MaxTokens, Log: log})
	s.api = httpapi.New(httpapi.Config{Broker: s.broker, Hosts: cfg.Hosts, Metrics: metrics, JWKSMaxAge: cfg.JWKSMaxAge,
		Awaited: awaited(&s.walkers), Log: log})

	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx)) // on while requests are finished
	reloading, stopReloading := context.WithCancel(watching)
	var reloads sync.WaitGroup
	defer func() {
		stopReloading()
		reloads.Wait()
		s.walkers.End() // rings store then what the walkers have found out
		stopWatching()
		s.watchers.Wait()
		s.broker.Close()
	}()
	s.watch(watching, world)
	s.walkers.Replace(watching, s.builder.walkers(cfg, s.rotation))
	if listeners.health != nil {
		log.Info("serving health", "listen", listeners.health.Addr().String())
		s.watchers.Go(func() {
			if err := httpapi.ServeHealth(watching, listeners.health, s.api); err != nil {
				log.Error("health is not served any more", "err", err)
			}
		})
	}
	if listeners.jwks != nil {
		log.Info("serving public keys", "listen", listeners.jwks.Addr().String())
		s.watchers.Go(func() {
			if err := httpapi.ServeJWKS(watching, listeners.jwks, s.api); err != nil {
				log.Error("public keys are not served any more", "err", err)
			}
		})
	}
	if reload != nil {
		reloads.Go(func() {
			reload.watch(reloading, hangups, func(cfg config.Config) error { return s.swap(watching, cfg) }, log)
		})
	}
	log.Info("serving", "listen", listeners.api.Addr().String(), "clients", len(cfg.Clients), "keys", slices.Sorted(maps.Keys(world.Rings)))
	if err := httpapi.Serve(ctx, listeners.api, s.api); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// watch follows the files of a world's rings, and leaves those of the one before
// alone.
func (s *service) watch(ctx context.Context, world *broker.World) {
	now := map[*keys.Ring]bool{}
	for _, ring := range world.Rings {
		now[ring] = true
		if s.rings[ring] == nil {
			watching, stop := context.WithCancel(ctx)
			s.rings[ring] = stop
			s.watchers.Go(func() {
				ring.Watch(watching)
				ring.Refresh(context.WithoutCancel(ctx)) // stores a proof of the last second
			})
		}
	}
	for ring, stop := range s.rings {
		if !now[ring] {
			stop()
			delete(s.rings, ring)
		}
	}
}

// swap puts another configuration in force.
func (s *service) swap(ctx context.Context, cfg config.Config) error {
	if len(cfg.Clients) == 0 && len(s.clients) > 0 {
		return errors.New("it has no client any more, as a file that is being written: restart the broker if that is meant")
	}
	world, err := s.builder.build(ctx, cfg)
	if err != nil {
		return err
	}
	s.clients = cfg.Clients
	for _, setting := range []struct {
		name        string
		before, now any
	}{
		{"listen", s.cfg.Listen, cfg.Listen},
		{"health_listen", s.cfg.HealthListen, cfg.HealthListen},
		{"jwks_listen", s.cfg.JWKSListen, cfg.JWKSListen},
		{"max_tokens", s.cfg.MaxTokens, cfg.MaxTokens},
		{"log", s.cfg.Log, cfg.Log},
	} {
		if setting.before != setting.now {
			s.log.Warn("a changed setting needs a restart", "setting", setting.name)
		}
	}
	s.broker.Swap(world)
	s.api.SetHosts(cfg.Hosts)
	s.api.SetJWKSMaxAge(cfg.JWKSMaxAge)
	s.walkers.End()
	s.watch(ctx, world)
	s.walkers.Replace(ctx, s.builder.walkers(cfg, s.rotation))
	logPolicy(cfg, s.log)
	s.log.Info("the configuration was taken up", "clients", len(cfg.Clients), "keys", slices.Sorted(maps.Keys(world.Rings)))
	return nil
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
