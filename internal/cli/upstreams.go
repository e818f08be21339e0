package cli

import (
	"cmp"
	"net/http"
	"net/url"
	"sync"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/proxy"
)

// upstreams are where the proxy sends requests.
type upstreams struct {
	broker *broker.Broker

	mu    sync.RWMutex // the broker's world is that of the routes while it is held
	inUse routes
}

// routes are the upstreams of a configuration, with the connections there. They do
// not change.
type routes struct {
	by         map[broker.Target]*proxy.Upstream
	transports map[string]*http.Transport // by the certificates that verify servers
}

// Upstream implements proxy.Upstreams.
func (u *upstreams) Upstream(who caller.Caller, client, resource string) (*proxy.Upstream, error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	target, err := u.broker.Target(who, client, resource)
	if err != nil {
		return nil, err
	}
	return u.inUse.by[target], nil
}

// routes returns those of clients. Connections of the ones in use stay. Nothing is put
// in force.
func (u *upstreams) routes(clients map[string]builtClient) routes {
	next := routes{by: map[broker.Target]*proxy.Upstream{}, transports: map[string]*http.Transport{}}
	for name, built := range clients {
		roots := built.roots
		transport := cmp.Or(next.transports[roots.pem], u.inUse.transports[roots.pem])
		if transport == nil {
			transport = proxy.NewTransport(roots.pool)
		}
		next.transports[roots.pem] = transport
		for _, target := range built.client.Targets() {
			next.by[target] = &proxy.Upstream{Client: name, Base: mustParse(target.URL), AtOkta: target.AtOkta, Transport: transport}
		}
	}
	return next
}

// swap puts routes in force, and with them the world whose they are.
func (u *upstreams) swap(next routes, world *broker.World) {
	u.mu.Lock()
	old := u.inUse
	u.inUse = next
	u.broker.Swap(world)
	u.mu.Unlock()
	for pem, transport := range old.transports {
		if next.transports[pem] == nil {
			transport.CloseIdleConnections()
		}
	}
}

// mustParse parses a URL that the configuration's check has let through.
func mustParse(raw string) *url.URL {
	u, err := url.Parse(raw)
	if err != nil {
		panic("a checked URL is malformed: " + err.Error())
	}
	return u
}
