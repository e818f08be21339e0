package broker

import (
	"cmp"
	"context"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"strings"

	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/tokens"
)

// Want is what a caller asks for beyond a token that has not ended.
type Want = tokens.Want

// TokenRequest asks for an access token.
type TokenRequest struct {
	// Client is a name in the configuration, or a client_id that only one client
	// has. Empty: DefaultClient.
	Client string
	// Scope is a space-separated subset of the client's scopes. Empty: all.
	Scope string
	// Want is what the token must be beyond good.
	Want Want
}

// Token returns an access token that is good for one second at least.
func (b *Broker) Token(ctx context.Context, who caller.Caller, req TokenRequest) (oauth.Token, error) {
	_, token, err := b.fetch(ctx, who, req, func(*Client) error { return nil })
	b.audit(ctx, "audit: token", who, err, slog.String("client", cmp.Or(req.Client, DefaultClient)), slog.String("scope", req.Scope))
	return token, err
}

// fetch returns a token and the client whose it is, if may has nothing against that.
func (b *Broker) fetch(ctx context.Context, who caller.Caller, req TokenRequest, may func(*Client) error) (*Client, oauth.Token, error) {
	for {
		world := b.world.Load()
		client, key, err := b.tokenKey(who, req)
		if err == nil {
			err = may(client)
		}
		if err != nil {
			return nil, oauth.Token{}, err
		}
		token, err := b.tokens.Get(ctx, key, req.Want)
		// What was the client's key when the request began may be no more.
		if err != nil && oauth.ClassOf(err) == oauth.UnknownClient && b.world.Load() != world {
			continue
		}
		return client, token, err
	}
}

// Discard drops the token that Token would return, so that the next caller gets
// another one.
func (b *Broker) Discard(ctx context.Context, who caller.Caller, req TokenRequest) error {
	_, key, err := b.tokenKey(who, req)
	if err == nil {
		err = b.tokens.Discard(key)
	}
	b.audit(ctx, "audit: discard", who, err, slog.String("client", cmp.Or(req.Client, DefaultClient)), slog.String("scope", req.Scope))
	return err
}

// tokenKey finds the client and the token that a request is about, if the caller
// may have it.
func (b *Broker) tokenKey(who caller.Caller, req TokenRequest) (*Client, tokens.Key, error) {
	if !who.Known() {
		return nil, tokens.Key{}, oauth.Fail(oauth.AccessDenied, "the caller is not known")
	}
	client, err := b.world.Load().Client(req.Client)
	if err != nil {
		return nil, tokens.Key{}, err
	}
	if client.Rotator {
		return nil, tokens.Key{}, rotatorRefused()
	}
	scopes := client.Scopes
	if req.Scope != "" {
		if scopes, err = oauth.ParseScopes(req.Scope); err != nil {
			return nil, tokens.Key{}, oauth.Fail(oauth.InvalidScope, err.Error())
		}
		if wider := scopes.Without(client.Scopes); len(wider) > 0 {
			return nil, tokens.Key{}, oauth.Fail(oauth.InvalidScope, fmt.Sprintf("client %s may not ask for %s: clients.%s.scopes does not list it",
				client.Name, shorten(strings.Join(wider, " "), maxNamed), client.Name))
		}
		if scopes == "" {
			scopes = client.Scopes
		}
	}
	return client, client.key(scopes), nil
}

func rotatorRefused() error {
	return oauth.Fail(oauth.AccessDenied, "the client registers keys (clients.NAME.rotator), and serves no caller")
}

// key is where a token of the client is kept.
func (c *Client) key(scopes oauth.Scopes) tokens.Key {
	return tokens.Key{Client: c.Name, Issuer: c.Issuer, ClientID: c.ID, JKT: c.JKT, Scopes: scopes}
}

// Exchange buys a token from the client's server. It implements tokens.Exchanger.
func (b *Broker) Exchange(ctx context.Context, key tokens.Key) (oauth.Token, error) {
	client := b.world.Load().Clients[key.Client]
	if client == nil || client.Rotator || client.key(key.Scopes) != key {
		return oauth.Token{}, oauth.Fail(oauth.UnknownClient, "the client is not configured any more")
	}
	return client.Server.Exchange(ctx, key.Scopes)
}

// RevokeRequest asks for the end of an access token.
type RevokeRequest struct {
	Token string
	// Client is a name in the configuration, or a client_id that only one client
	// has. Empty: the client whose token it is, as far as the broker holds it,
	// else DefaultClient.
	Client string
}

// Revoke revokes a token at its server and drops it here. A token that nobody
// knows is no error (RFC 7009 section 2.2).
func (b *Broker) Revoke(ctx context.Context, who caller.Caller, req RevokeRequest) error {
	client, err := b.revoke(ctx, who, req)
	b.audit(ctx, "audit: revoke", who, err, slog.String("client", client))
	return err
}

func (b *Broker) revoke(ctx context.Context, who caller.Caller, req RevokeRequest) (client string, err error) {
	same := func(_ tokens.Key, held oauth.Token) bool {
		return subtle.ConstantTimeCompare([]byte(held.Access.Reveal()), []byte(req.Token)) == 1
	}
	client = cmp.Or(req.Client, DefaultClient)
	if req.Token == "" {
		return client, oauth.Fail(oauth.InvalidRequest, "token is missing")
	}
	holder, held := b.tokens.Find(same)
	if held && req.Client == "" {
		client = holder.Client
	}
	of, _, err := b.tokenKey(who, TokenRequest{Client: client})
	if err != nil {
		if !held && req.Client == "" && oauth.ClassOf(err) == oauth.UnknownClient {
			err = oauth.Fail(oauth.InvalidRequest, "the broker does not hold this token: name its client by client_id")
		}
		return client, err
	}
	if held && of.Name != holder.Client { // RFC 7009 section 2.1
		return client, oauth.Fail(oauth.InvalidRequest, "the token is not this client's")
	}
	if err := b.tokens.MayForce(of.Name); err != nil {
		return client, err
	}
	if err := of.Server.Revoke(ctx, req.Token); err != nil {
		return client, err
	}
	b.tokens.Drop(same)
	return client, nil
}
