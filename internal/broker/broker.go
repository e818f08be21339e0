// Package broker is the domain: it decides whether a caller may have what it
// asks for, writes that down, and delegates the work.
package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"okta-token-broker/internal/assertion"
	"okta-token-broker/internal/caller"
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
}

// World is one configuration in force. It does not change.
type World struct {
	Clients map[string]*Client
	Rings   map[string]*keys.Ring
	// SignAny lets Sign serve client ids and audiences that are not configured.
	SignAny bool
}

// Config is what a Broker needs.
type Config struct {
	World  *World
	Tokens *tokens.Store
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Log takes the audit record. Nil: nothing is logged.
	Log *slog.Logger
}

// Broker does what callers ask. It is safe for concurrent use. Its errors are
// *oauth.Error, or those of a context that ended.
type Broker struct {
	world  *World
	byID   map[string][]*Client
	tokens *tokens.Store
	now    func() time.Time
	log    *slog.Logger
}

// New makes a Broker.
func New(cfg Config) *Broker {
	b := &Broker{world: cfg.World, byID: clientsByID(cfg.World), tokens: cfg.Tokens, now: cfg.Now, log: cfg.Log}
	if b.now == nil {
		b.now = time.Now
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	return b
}

// TokenRequest asks for an access token.
type TokenRequest struct {
	// Client is a name in the configuration, or a client_id that only one client
	// has. Empty: DefaultClient.
	Client string
	// Scope is a space-separated subset of the client's scopes. Empty: all.
	Scope string
}

// Token returns an access token that is good for one second at least.
func (b *Broker) Token(ctx context.Context, who caller.Caller, req TokenRequest) (oauth.Token, error) {
	if req.Client == "" {
		req.Client = DefaultClient
	}
	token, err := b.token(ctx, who, req)
	b.audit(ctx, "audit: token", who, err, slog.String("client", req.Client), slog.String("scope", req.Scope))
	return token, err
}

func (b *Broker) token(ctx context.Context, who caller.Caller, req TokenRequest) (oauth.Token, error) {
	if !who.Known() {
		return oauth.Token{}, oauth.Fail(oauth.AccessDenied, "the caller is not known")
	}
	client, err := b.client(req.Client)
	if err != nil {
		return oauth.Token{}, err
	}
	scopes := client.Scopes
	if req.Scope != "" {
		if scopes, err = oauth.ParseScopes(req.Scope); err != nil {
			return oauth.Token{}, oauth.Fail(oauth.InvalidScope, err.Error())
		}
		if wider := scopes.Without(client.Scopes); len(wider) > 0 {
			return oauth.Token{}, oauth.Fail(oauth.InvalidScope, fmt.Sprintf("client %s may not ask for %s: clients.%s.scopes does not list it",
				client.Name, shorten(strings.Join(wider, " "), maxNamed), client.Name))
		}
		if scopes == "" {
			scopes = client.Scopes
		}
	}
	return b.tokens.Get(ctx, tokens.Key{Client: client.Name, Issuer: client.Issuer, ClientID: client.ID, Scopes: scopes})
}

// client finds a client by its name, or by a client_id that it alone has.
func (b *Broker) client(name string) (*Client, error) {
	if len(b.world.Clients) == 0 {
		return nil, oauth.Fail(oauth.InvalidRequest, "no client is configured: set OKTA_CLIENT_ORGURL, OKTA_CLIENT_CLIENTID and OKTA_CLIENT_SCOPES, "+
			"or clients.default.issuer, clients.default.client_id and clients.default.scopes in the configuration file")
	}
	if client := b.world.Clients[name]; client != nil {
		return client, nil
	}
	found := b.byID[name]
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

// SignRequest asks for a client assertion.
type SignRequest struct {
	ClientID, Audience string
	// Kid is answered and written into the JWT. Empty: the active key's for a
	// configured client, else a random one.
	Kid string
	// ValidFor is the assertion's life, an hour at most. 0: 10 minutes.
	ValidFor time.Duration
	// Rotate makes a new key first.
	Rotate bool
}

// maxField bounds what goes into a JWT from a request, in bytes.
const maxField = 2 << 10

const (
	defaultValidFor = 10 * time.Minute
	maxValidFor     = time.Hour
)

// check finds what must not go into a JWT, in the Flask server's style.
func (req SignRequest) check() error {
	fields := []struct{ name, value string }{{"client_id", req.ClientID}, {"audience", req.Audience}, {"kid", req.Kid}}
	for _, field := range fields {
		switch {
		case field.value == "" && field.name != "kid":
			return oauth.Fail(oauth.InvalidRequest, field.name+" must not be empty!")
		case len(field.value) > maxField:
			return oauth.Fail(oauth.InvalidRequest, fmt.Sprintf("%s must not be longer than %d bytes!", field.name, maxField))
		case strings.ContainsFunc(field.value, unicode.IsControl) || !utf8.ValidString(field.value):
			return oauth.Fail(oauth.InvalidRequest, field.name+" must not have control characters!")
		}
	}
	if req.ValidFor < 0 {
		return oauth.Fail(oauth.InvalidRequest, "valid_for must not be negative!")
	}
	if req.ValidFor > maxValidFor { // Okta takes no longer life
		return oauth.Fail(oauth.InvalidRequest, "valid_for must not be higher than 3600 seconds (1 hour)!")
	}
	return nil
}

// Signed is a client assertion with the public key that verifies it.
type Signed struct {
	JWK json.RawMessage
	JWT string
	// KeyChanged says that this request made the key.
	KeyChanged bool
}

// Sign makes a client assertion.
func (b *Broker) Sign(ctx context.Context, who caller.Caller, req SignRequest) (Signed, error) {
	signed, err := b.sign(ctx, who, req)
	b.audit(ctx, "audit: sign", who, err, slog.String("client_id", req.ClientID), slog.String("audience", req.Audience),
		slog.Bool("rotate", req.Rotate), slog.Bool("key_changed", signed.KeyChanged))
	return signed, err
}

func (b *Broker) sign(ctx context.Context, who caller.Caller, req SignRequest) (Signed, error) {
	if !who.Known() {
		return Signed{}, oauth.Fail(oauth.AccessDenied, "the caller is not known")
	}
	if err := req.check(); err != nil {
		return Signed{}, err
	}
	ring, configured, err := b.signer(req)
	if err != nil {
		return Signed{}, err
	}

	// The kid that is answered stays with a key made here, so that registering
	// the answered jwk is all it takes.
	kid := req.Kid
	if kid == "" && !configured {
		kid = uuid.NewString()
	}
	var signed Signed
	var key *keys.Key
	if req.Rotate {
		key, err = ring.Rotate(ctx, kid)
		signed.KeyChanged = err == nil
	} else {
		key, signed.KeyChanged, err = ring.Active(ctx, kid)
	}
	if err != nil {
		return Signed{}, keyError(err)
	}
	if kid == "" {
		kid = key.ID()
	}

	now := b.now()
	signed.JWK = key.JWKAs(kid)
	signed.JWT, err = assertion.Sign(ctx, key, assertion.Assertion{
		ClientID: req.ClientID,
		Audience: req.Audience,
		Kid:      kid,
		Use:      "sig",
		IssuedAt: now,
		Expires:  now.Add(cmp.Or(req.ValidFor, defaultValidFor)),
	})
	if err != nil {
		return Signed{}, &oauth.Error{Class: oauth.Internal, Description: "signing failed", Err: err}
	}
	return signed, nil
}

// signer finds the ring that signs for a client id, and refuses what
// signing.allow does not allow. configured says that the id is a configured
// client's.
func (b *Broker) signer(req SignRequest) (ring *keys.Ring, configured bool, err error) {
	clients := b.byID[req.ClientID]
	for _, client := range clients {
		if slices.Contains(client.Audiences, req.Audience) {
			return client.Ring, true, nil
		}
	}
	switch {
	case b.world.SignAny && len(clients) > 0:
		return clients[0].Ring, true, nil
	case b.world.SignAny:
		return b.world.Rings[DefaultRing], false, nil
	case len(clients) > 0:
		return nil, false, oauth.Fail(oauth.AccessDenied, "audience is not the token, introspection or revocation endpoint of the client, and signing.allow is clients")
	}
	return nil, false, oauth.Fail(oauth.AccessDenied, "client_id is not a configured client's, and signing.allow is clients")
}

// keyError classes an error of a key ring.
func keyError(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &oauth.Error{Class: oauth.NoSpace, Description: "the key ring could not be written: no space is left; the old key, if there is one, goes on signing", Err: err}
	case errors.Is(err, keys.ErrReadOnly):
		return &oauth.Error{Class: oauth.Internal, Description: "the key ring is read-only (keys.NAME.read_only, or a key from the environment); the old key goes on signing", Err: err}
	}
	return &oauth.Error{Class: oauth.Internal, Description: "the key ring could not be written; the old key, if there is one, goes on signing; the broker's log has the reason", Err: err}
}

// Bounds, in bytes, on what a request can put into one field of the audit record,
// and on the reason that it was refused for.
const (
	maxAudited = 256
	maxRefused = 1024
	// maxNamed bounds what an answer repeats of the scopes that were asked for.
	maxNamed = 256
)

func shorten(s string, most int) string {
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// audit writes who got what, or why not.
func (b *Broker) audit(ctx context.Context, message string, who caller.Caller, err error, attrs ...slog.Attr) {
	level := slog.LevelInfo
	gone := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	if class := oauth.ClassOf(err); err != nil && !gone && (class == oauth.Internal || class == oauth.NoSpace) {
		level = slog.LevelError // the answer sends its reader to the log
	}
	record := make([]slog.Attr, 0, 8) // more than there are: it stays on the stack
	for _, attr := range attrs {
		if s := attr.Value.String(); len(s) > maxAudited {
			attr.Value = slog.StringValue(shorten(s, maxAudited))
		}
		record = append(record, attr)
	}
	record = append(record, slog.String("caller", who.String()))
	if err != nil {
		record = append(record, slog.String("refused", shorten(err.Error(), maxRefused)))
	}
	b.log.LogAttrs(ctx, level, message, record...)
}
