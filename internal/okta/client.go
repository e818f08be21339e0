package okta

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"okta-token-broker/internal/assertion"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/secret"
)

const (
	// exchangeTimeout and maxPosts bound one exchange with all its corrections.
	exchangeTimeout = 5 * time.Second
	maxPosts        = 5
	// backDate keeps iat out of the server's future when our clock runs fast.
	backDate = 30 * time.Second
	// retryPause is the most that is waited before the first retry after a
	// server error; it doubles.
	retryPause = 200 * time.Millisecond

	// RFC 7523 section 2.2.
	assertionTypeJWT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// ClientConfig is what a Client needs.
type ClientConfig struct {
	// Name is the client's name in the configuration.
	Name string
	// ID is the client_id that the server knows it by.
	ID     string
	Server *Server
	Ring   *keys.Ring
	// AudienceIssuer makes the issuer the assertion's audience, as RFC 10070
	// asks, instead of the endpoint, as Okta does.
	AudienceIssuer bool
	// AssertionLifetime is how far ahead exp lies. 0: 5 minutes.
	AssertionLifetime time.Duration
}

// Client is one application registered at a Server. It is safe for concurrent
// use.
type Client struct {
	cfg  ClientConfig
	last atomic.Value // of string: thumbprint of the key that the server took last
}

// NewClient makes a Client.
func NewClient(cfg ClientConfig) *Client {
	if cfg.AssertionLifetime == 0 {
		cfg.AssertionLifetime = 5 * time.Minute
	}
	return &Client{cfg: cfg}
}

// Exchange buys an access token for the scopes. It signs with the ring's active
// key, tries again where that can help, each time with a fresh assertion, and
// falls back to one other key when the server does not know the active one. The
// error is an *oauth.Error.
func (c *Client) Exchange(ctx context.Context, scopes oauth.Scopes) (oauth.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	ring := c.cfg.Ring
	if _, _, err := ring.Active(ctx, ""); err != nil {
		return oauth.Token{}, &oauth.Error{Class: oauth.Internal, Description: "the signing key is not available: the broker's log has the reason", Err: err}
	}
	last, _ := c.last.Load().(string)
	candidates := ring.Candidates(last)
	active := candidates[0]
	var done corrections
	for posts := 1; ; posts++ {
		key := candidates[0]
		token, fail := c.attempt(ctx, key, scopes)
		if fail == nil {
			c.last.Store(key.Thumbprint())
			ring.Worked(c.cfg.Name, key)
			return token, nil
		}
		fix := done.choose(fail, len(candidates) > 1)
		if posts == maxPosts {
			fix = giveUp
		}
		switch fix {
		case giveUp:
			if fail.refusesKeys() {
				ring.Refused(c.cfg.Name)
			}
			return oauth.Token{}, c.explain(fail, active)
		case otherKey:
			candidates = candidates[1:]
		case waitAndRetry:
			if !pause(ctx, retryPause<<(done.waits-1)) {
				return oauth.Token{}, c.explain(fail, active)
			}
		}
		c.cfg.Server.log.Info("asking again with a fresh assertion", "client", c.cfg.Name, "because", fail.Error(), "correction", fix)
	}
}

// attempt makes one assertion and one POST.
func (c *Client) attempt(ctx context.Context, key *keys.Key, scopes oauth.Scopes) (oauth.Token, *failure) {
	server := c.cfg.Server
	sent := server.now()
	clock := server.correction()
	claims := assertion.Assertion{
		ClientID: c.cfg.ID,
		Audience: server.endpoints.Audience(server.issuer, c.cfg.AudienceIssuer),
		Kid:      key.ID(),
		IssuedAt: sent.Add(clock - backDate),
		Expires:  sent.Add(clock + c.cfg.AssertionLifetime),
	}
	if c.cfg.AudienceIssuer {
		claims.Type = "client-authentication+jwt"
	}
	signed, err := assertion.Sign(ctx, key, claims)
	if err != nil {
		fail := &failure{kind: signing, err: err}
		if ctx.Err() != nil {
			fail.kind = tooSlow
		}
		return oauth.Token{}, fail
	}

	check := &checker{server: server, asked: scopes, assertion: signed}
	config := clientcredentials.Config{
		ClientID:       server.formClientID(c.cfg.ID),
		TokenURL:       server.endpoints.Token,
		Scopes:         scopes.List(),
		EndpointParams: url.Values{"client_assertion_type": {assertionTypeJWT}, "client_assertion": {signed}},
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
			fail = check.transportFailure(err)
		}
		fail.clockMoved = (server.correction() - clock).Abs() > leastOffset
		if fail.row.fix == useClock && clock != 0 && !fail.clockMoved {
			// Refused for the clock that the Date header says it has: a proxy
			// may have written that header.
			server.lying.Store(true)
			fail.clockMoved = true
		}
		return oauth.Token{}, fail
	}

	return oauth.Token{
		Access:  secret.New(token.AccessToken),
		Type:    token.TokenType,
		Scopes:  check.granted,
		Kid:     key.ID(),
		Expires: sent.Add(check.life), // x/oauth2 counts from the arrival, but the server began earlier
		Life:    check.life,
	}, nil
}

// pause waits up to most, by chance, so that many brokers do not retry in step.
// It reports false when ctx ends first.
func pause(ctx context.Context, most time.Duration) bool {
	timer := time.NewTimer(rand.N(most))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
