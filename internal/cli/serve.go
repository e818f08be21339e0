package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
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
	"okta-token-broker/internal/proxy"
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
	listeners, err := openListeners(cmd.Context(), cfg)
	defer listeners.close()
	if err != nil {
		return err
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

// service is a broker that serves, and follows its configuration.
type service struct {
	log     *slog.Logger
	builder builder
	broker  *broker.Broker
	api     *httpapi.API
	cfg     config.Config            // at the start
	clients map[string]config.Client // now

	upstreams *upstreams
	calls     *proxy.Proxy
	rotation  *rotation.Metrics
	walkers   rotation.Group
	watchers  sync.WaitGroup
	rings     map[*keys.Ring]context.CancelFunc // ends the watch of each
}

// run serves on the listeners until ctx ends. reload, if it is not nil, loads the
// configuration anew.
func run(ctx context.Context, cfg config.Config, listeners listeners, log *slog.Logger, reload *reloader) error {
	hangups := make(chan os.Signal, 1)
	if reload != nil {
		signal.Notify(hangups, syscall.SIGHUP)
		defer signal.Stop(hangups)
	}
	s, world, err := newService(ctx, cfg, log)
	if err != nil {
		return err
	}
	serving, stopServing := context.WithCancel(ctx)                          // the others end when one listener fails
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx)) // on while requests are finished
	reloading, stopReloading := context.WithCancel(watching)
	var reloads sync.WaitGroup
	defer func() {
		stopServing()
		stopReloading()
		reloads.Wait()
		s.walkers.End() // rings store then what the walkers have found out
		stopWatching()
		s.watchers.Wait()
		s.broker.Close()
	}()
	s.watch(watching, world)
	s.walkers.Replace(watching, s.builder.walkers(cfg, s.rotation))
	s.serveBeside(serving, watching, listeners)
	if reload != nil {
		reload.stale = func() string { return s.builder.stale(reloading) }
		reloads.Go(func() {
			reload.watch(reloading, hangups, func(cfg config.Config) error { return s.swap(reloading, watching, cfg) }, log)
		})
	}
	log.Info("serving", "listen", listeners.api.Addr().String(), "clients", len(cfg.Clients), "keys", slices.Sorted(maps.Keys(world.Rings)))
	if err := httpapi.Serve(serving, listeners.api, s.api); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// newService connects the parts of a configuration. Nothing happens yet, but for what
// the broker fetches ahead.
func newService(ctx context.Context, cfg config.Config, log *slog.Logger) (*service, *broker.World, error) {
	registry, metrics := telemetry.Registry()
	s := &service{log: log, cfg: cfg, clients: cfg.Clients, rings: map[*keys.Ring]context.CancelFunc{}}
	s.rotation = rotation.NewMetrics(registry)
	s.builder = builder{log: log, metrics: okta.NewMetrics(registry), changed: func(ring *keys.Ring) { s.broker.Forgive(ring) }}
	world, err := s.builder.build(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	s.upstreams = &upstreams{}
	s.upstreams.inUse = s.upstreams.routes(s.builder.clients)
	logPolicy(cfg, log)
	s.broker = broker.New(broker.Config{World: world, MaxTokens: cfg.MaxTokens, Log: log})
	s.upstreams.broker = s.broker
	s.calls = proxy.New(proxy.Config{
		Broker: s.broker, Upstreams: s.upstreams, Who: httpapi.Who, Log: log,
		Error: func(w http.ResponseWriter, r *http.Request, err error) { s.api.WriteError(w, r, err) },
	})
	s.api = httpapi.New(httpapi.Config{Broker: s.broker, Hosts: cfg.Hosts, Metrics: metrics, JWKSMaxAge: cfg.JWKSMaxAge,
		Awaited: awaited(&s.walkers), Proxy: s.calls.Under("/proxy"), Log: log})
	return s, world, nil
}

// serveBeside serves on the listeners beside the API's. Calls end as the API does, with
// serving; health and public keys are served while requests are finished, until
// watching ends.
func (s *service) serveBeside(serving, watching context.Context, listeners listeners) {
	serve := func(what string, listener net.Listener, serve func() error, attrs ...any) {
		log := s.log.With("listen", listener.Addr().String()).With(attrs...)
		log.Info("serving " + what)
		s.watchers.Go(func() {
			if err := serve(); err != nil {
				log.Error("not serving "+what+" any more", "err", err)
			}
		})
	}
	if l := listeners.health; l != nil {
		serve("health", l, func() error { return httpapi.ServeHealth(watching, l, s.api) })
	}
	if l := listeners.jwks; l != nil {
		serve("public keys", l, func() error { return httpapi.ServeJWKS(watching, l, s.api) })
	}
	for _, l := range listeners.proxies {
		serve("calls", l, func() error { return httpapi.ServeProxy(serving, l.Listener, s.api, s.calls.For(l.client)) }, "client", l.client)
	}
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

// swap puts another configuration in force. What it waits for ends with reading, and
// what it starts goes on until watching ends.
func (s *service) swap(reading, watching context.Context, cfg config.Config) error {
	if len(cfg.Clients) == 0 && len(s.clients) > 0 {
		return errors.New("it has no client any more, as a file that is being written: restart the broker if that is meant")
	}
	world, err := s.builder.build(reading, cfg)
	if err != nil {
		return err
	}
	routes := s.upstreams.routes(s.builder.clients)
	s.clients = cfg.Clients
	if !maps.Equal(s.cfg.ProxyListen, cfg.ProxyListen) {
		s.log.Warn("a changed setting needs a restart", "setting", "proxy_listen")
	}
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
	s.upstreams.swap(routes, world)
	s.api.SetHosts(cfg.Hosts)
	s.api.SetJWKSMaxAge(cfg.JWKSMaxAge)
	s.walkers.End()
	s.watch(watching, world)
	s.walkers.Replace(watching, s.builder.walkers(cfg, s.rotation))
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
