// Package broker is the domain: it decides whether a caller may have what it
// asks for, writes that down, and delegates the work.
package broker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/tokens"
)

// DefaultClient is the client that is meant when a request names none, and
// DefaultRing the ring that signs for client ids that are not configured.
const (
	DefaultClient = "default"
	DefaultRing   = "default"
)

// Client is a configured client.
type Client struct {
	// Name is its name in the configuration, ID its client_id at Issuer.
	Name, ID, Issuer string
	// Ring signs for it.
	Ring *keys.Ring
	// Scopes are asked for by default, and the most that can be asked for.
	Scopes oauth.Scopes
	// Audiences are the URLs that an assertion of the client may be for.
	Audiences []string
	// Prefetch keeps the token with Scopes warm.
	Prefetch bool
	// Rotator says that the client registers keys at Okta. No caller may use it: it
	// could add a key of its own to an app.
	Rotator bool
	// Server is where its tokens come from.
	Server Server
	// JKT is the RFC 7638 thumbprint of the key that its tokens are bound to, if they
	// are. Empty: none is.
	JKT string
	// Prover has that key. Nil: there is none.
	Prover Prover
	// OktaOrigin is the origin of the Okta org that has its authorization server, be it the
	// org's own or a custom one. What is below /oauth2/ there is not called, by whichever
	// name. Empty: the server is not Okta's.
	OktaOrigin string
	// Org says that it may call what else is there: its server is the org's own.
	Org bool
	// Resources are base URLs that it may call, by name, without a slash at the end.
	Resources map[string]string
}

// Server sells and revokes the tokens of one client. Its errors should be of type
// *oauth.Error.
type Server interface {
	Exchange(ctx context.Context, scopes oauth.Scopes) (oauth.Token, error)
	Revoke(ctx context.Context, token string) error
}

// World is one configuration in force. It does not change.
type World struct {
	Clients map[string]*Client
	Rings   map[string]*keys.Ring
	// SignAny lets Sign serve client ids and audiences that are not configured.
	SignAny bool

	byID map[string][]*Client // set by New and Swap
}

// Config is what a Broker needs.
type Config struct {
	World *World
	// MaxTokens bounds the tokens kept. 0: 10,000.
	MaxTokens int
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Log takes the audit record. Nil: nothing is logged.
	Log *slog.Logger
}

// Broker does what callers ask. It is safe for concurrent use. Its errors are
// *oauth.Error, or those of a context that ended.
type Broker struct {
	world  atomic.Pointer[World]
	tokens *tokens.Store
	now    func() time.Time
	log    *slog.Logger
}

// New makes a Broker, and begins to fetch what is kept warm. Close ends it.
func New(cfg Config) *Broker {
	b := &Broker{now: cfg.Now, log: cfg.Log}
	if b.now == nil {
		b.now = time.Now
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.tokens = tokens.New(tokens.Config{Exchanger: b, Most: cfg.MaxTokens, Now: cfg.Now, Log: b.log})
	b.Swap(cfg.World)
	return b
}

// Swap puts another World in force. A fetch that has begun ends in the old one.
// The tokens of clients that are gone or are not the same *Client any more are
// dropped, and what was refused may be asked for again.
func (b *Broker) Swap(world *World) {
	world.byID = clientsByID(world)
	old := b.world.Swap(world)
	if old != nil {
		same := func(client string) bool { return old.Clients[client] == world.Clients[client] }
		// What is dropped is not to be fetched for the client that is gone.
		b.tokens.Keep(slices.DeleteFunc(warm(world), func(key tokens.Key) bool { return !same(key.Client) }))
		b.tokens.Drop(func(key tokens.Key, _ oauth.Token) bool { return !same(key.Client) })
		b.tokens.Forgive(func(tokens.Key) bool { return true })
	}
	b.tokens.Keep(warm(world))
}

// warm are the tokens that are kept warm.
func warm(world *World) (keys []tokens.Key) {
	for _, client := range world.Clients {
		// Without a key there is nothing that the server could know, nor right after
		// POST / has made the first one, under a kid of its own.
		if client.Prefetch && !client.Rotator && len(client.Ring.Keys()) > 0 {
			keys = append(keys, client.key(client.Scopes))
		}
	}
	return keys
}

// Forgive lets what was refused to the clients of a ring be asked for again: the
// ring has changed.
func (b *Broker) Forgive(ring *keys.Ring) {
	clients := b.world.Load().Clients
	b.tokens.Forgive(func(key tokens.Key) bool {
		return clients[key.Client] != nil && clients[key.Client].Ring == ring
	})
}

// Close ends what happens in the background.
func (b *Broker) Close() { b.tokens.Close() }

// Client finds a client by its name, or by a client_id that it alone has, in a World
// that is or was in force. Empty: DefaultClient. The error is an *oauth.Error.
func (world *World) Client(name string) (*Client, error) {
	name = cmp.Or(name, DefaultClient)
	if len(world.Clients) == 0 {
		return nil, oauth.Fail(oauth.InvalidRequest, "no client is configured: set OKTA_CLIENT_ORGURL, OKTA_CLIENT_CLIENTID and OKTA_CLIENT_SCOPES, "+
			"or clients.default.issuer, clients.default.client_id and clients.default.scopes in the configuration file")
	}
	if client := world.Clients[name]; client != nil {
		return client, nil
	}
	found := world.byID[name]
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, oauth.Fail(oauth.UnknownClient, fmt.Sprintf("no client %q is configured", name))
	}
	return nil, oauth.Fail(oauth.UnknownClient, fmt.Sprintf("several clients have the client_id %q: ask for one by its name in the configuration", name))
}

// clientsByID lists the clients that have a client_id, by name. At different
// issuers several may have the same.
func clientsByID(world *World) map[string][]*Client {
	byID := make(map[string][]*Client, len(world.Clients))
	for _, name := range slices.Sorted(maps.Keys(world.Clients)) {
		client := world.Clients[name]
		byID[client.ID] = append(byID[client.ID], client)
	}
	return byID
}
