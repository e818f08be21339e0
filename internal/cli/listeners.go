package cli

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"

	"okta-token-broker/internal/config"
	"okta-token-broker/internal/httpapi"
)

// listeners are those that are configured.
type listeners struct {
	api, health, jwks net.Listener
	proxies           []proxyListener
}

// proxyListener is for one client's calls.
type proxyListener struct {
	net.Listener
	client string
}

func (l listeners) close() {
	for _, listener := range []net.Listener{l.api, l.health, l.jwks} {
		if listener != nil {
			_ = listener.Close()
		}
	}
	for _, listener := range l.proxies {
		_ = listener.Close()
	}
}

// openListeners opens the listeners of a configuration. On an error those that are
// open are returned, too.
func openListeners(ctx context.Context, cfg config.Config) (l listeners, err error) {
	if l.api, err = httpapi.Listen(ctx, cfg.Listen); err != nil {
		return l, err
	}
	if cfg.HealthListen != "" {
		if l.health, err = httpapi.ListenAnywhere(ctx, cfg.HealthListen); err != nil {
			return l, fmt.Errorf("health_listen: %w", err)
		}
	}
	if cfg.JWKSListen != "" {
		if l.jwks, err = httpapi.ListenAnywhere(ctx, cfg.JWKSListen); err != nil {
			return l, fmt.Errorf("jwks_listen: %w", err)
		}
	}
	for _, address := range slices.Sorted(maps.Keys(cfg.ProxyListen)) {
		listener, err := httpapi.Listen(ctx, address)
		if err != nil {
			return l, fmt.Errorf("proxy_listen: %w", err)
		}
		l.proxies = append(l.proxies, proxyListener{listener, cfg.ProxyListen[address]})
	}
	return l, nil
}
