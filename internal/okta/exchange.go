package okta

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/secret"
)

// RFC 7523 section 2.2.
const assertionTypeJWT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// Exchange buys an access token for the scopes. The error is an *oauth.Error.
func (c *Client) Exchange(ctx context.Context, scopes oauth.Scopes) (oauth.Token, error) {
	var token oauth.Token
	err := c.do(ctx, func(ctx context.Context, with variant) (fail *failure) {
		if token, fail = c.buy(ctx, with, scopes); fail == nil {
			c.last.Store(with.key.Thumbprint())
		}
		return fail
	})
	if err != nil {
		return oauth.Token{}, err
	}
	return token, nil
}

// Prove asks for a token with the client's scopes under one key of the ring, whatever
// its state, and forgets the token. It shows that the server knows the key. The
// error is an *oauth.Error; that the server said no is of the class Refused,
// InvalidScope or BadAnswer, that it said nothing Unavailable or TimedOut.
func (c *Client) Prove(ctx context.Context, key *keys.Key) error {
	return c.signedBy(ctx, key, []*keys.Key{key}, true, func(ctx context.Context, with variant) *failure {
		_, fail := c.buy(ctx, with, c.cfg.Scopes)
		return fail
	})
}

// Works reports whether the server took the key the last time that the client
// asked for a token.
func (c *Client) Works(key *keys.Key) bool {
	last, _ := c.last.Load().(string)
	return last == key.Thumbprint()
}

// Refuses reports whether the server did not take the key the last time that it was
// tried.
func (c *Client) Refuses(key *keys.Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused[key.Thumbprint()]
}

// heard notes whether the server took the key.
func (c *Client) heard(key *keys.Key, fail *failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case fail == nil:
		delete(c.refused, key.Thumbprint())
	case fail.refusesKeys():
		if len(c.refused) > mostRefused {
			clear(c.refused)
		}
		c.refused[key.Thumbprint()] = true
	}
}

// mostRefused bounds the keys that are remembered as refused: a ring has fewer.
const mostRefused = 16

// buy makes one request for a token, and notes what that says of the key.
func (c *Client) buy(ctx context.Context, with variant, scopes oauth.Scopes) (token oauth.Token, fail *failure) {
	token, fail = c.ask(ctx, with, scopes)
	c.heard(with.key, fail)
	return token, fail
}

// ask makes one assertion, one proof where the client has to prove that it holds a
// key, and one POST to the token endpoint.
func (c *Client) ask(ctx context.Context, with variant, scopes oauth.Scopes) (oauth.Token, *failure) {
	server, endpoint := c.cfg.Server, c.cfg.Server.endpoints.Token
	made, fail := c.sign(ctx, with.key, endpoint)
	if fail != nil {
		return oauth.Token{}, fail
	}
	check := &checker{server: server, asked: scopes, client: c.cfg.Name, tokens: true, dpop: c.cfg.DPoP, secrets: asSent(made.jwt)}
	var proof dpop.Made
	if c.proves(with) {
		var err error
		check.nonce = with.nonce
		check.proof, proof, err = c.prove(ctx, server.forTokens(), dpop.Proof{Method: http.MethodPost, URL: endpoint, Nonce: with.nonce})
		if err != nil {
			return oauth.Token{}, &failure{kind: signing, err: err}
		}
		check.secrets = append(check.secrets, asSent(check.proof)...)
	}
	config := clientcredentials.Config{
		ClientID:       server.formClientID(c.cfg.ID),
		TokenURL:       server.endpoints.Token,
		Scopes:         scopes.List(),
		EndpointParams: url.Values{"client_assertion_type": {assertionTypeJWT}, "client_assertion": {made.jwt}},
		// The default style sends the same assertion twice, to find out.
		AuthStyle: oauth2.AuthStyleInParams,
	}
	client := &http.Client{
		Transport: check,
		// A 307 would carry the assertion to another place.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		fail, ok := errors.AsType[*failure](err)
		if !ok {
			fail = transportFailure(err)
		}
		fail.decoded = proof.Decoded
		return oauth.Token{}, made.heed(server, fail)
	}
	bought := oauth.Token{
		Access:  secret.New(token.AccessToken),
		Type:    token.TokenType,
		Scopes:  check.granted,
		Kid:     with.key.ID(),
		Expires: made.at.Add(check.life), // x/oauth2 counts from the arrival, but the server began earlier
		Life:    check.life,
	}
	if bought.Type == oauth.DPoP {
		bought.JKT = c.cfg.ProofKey.Thumbprint()
		c.bound.Store(true)
	}
	return bought, nil
}
