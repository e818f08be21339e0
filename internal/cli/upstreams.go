package cli

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"sync"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/config"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/proxy"
)

// upstreams are where the proxy sends requests.
type upstreams struct {
	broker *broker.Broker

	mu    sync.RWMutex
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
	target, err := u.broker.Target(who, client, resource)
	if err != nil {
		return nil, err
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	if upstream := u.inUse.by[target]; upstream != nil {
		return upstream, nil
	}
	return nil, oauth.Fail(oauth.Unavailable, "the configuration is changing: ask again")
}

// routes returns those of a configuration, which has been checked. Connections of
// the one in use stay. Nothing is put in force.
func (u *upstreams) routes(cfg config.Config) (routes, error) {
	next := routes{by: map[broker.Target]*proxy.Upstream{}, transports: map[string]*http.Transport{}}
	for name, client := range cfg.Clients {
		roots, pem, err := rootsOf(client)
		if err != nil {
			return routes{}, err
		}
		transport := cmp.Or(next.transports[pem], u.inUse.transports[pem])
		if transport == nil {
			transport = proxy.NewTransport(roots)
		}
		next.transports[pem] = transport
		org := ""
		if client.IsOrg() {
			org = client.Issuer
			next.by[broker.Target{Client: name, URL: org, Org: true}] = &proxy.Upstream{Base: mustParse(org), Org: true, Transport: transport}
		}
		for _, resource := range client.Resources {
			inOrg := org != "" && broker.Within(resource, org)
			next.by[broker.Target{Client: name, URL: resource, Org: inOrg}] = &proxy.Upstream{Base: mustParse(resource), Org: inOrg, Transport: transport}
		}
	}
	return next, nil
}

// add puts further routes in force, so that calls find theirs while one configuration
// takes the place of the other. One at a time may change what is in force.
func (u *upstreams) add(further routes) {
	both := routes{by: maps.Clone(u.inUse.by), transports: maps.Clone(u.inUse.transports)}
	maps.Copy(both.by, further.by)
	maps.Copy(both.transports, further.transports)
	u.replace(both)
}

// replace leaves these routes alone in force.
func (u *upstreams) replace(next routes) {
	u.mu.Lock()
	old := u.inUse
	u.inUse = next
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
