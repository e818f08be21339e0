package okta

import (
	"cmp"
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"okta-token-broker/internal/assertion"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
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
)

// ClientConfig is what a Client needs.
type ClientConfig struct {
	// Name is the client's name in the configuration.
	Name string
	// ID is the client_id that the server knows it by.
	ID     string
	Server *Server
	Ring   *keys.Ring
	// Scopes are those that Prove asks for.
	Scopes oauth.Scopes
	// AudienceIssuer makes the issuer the assertion's audience, as RFC 10070
	// asks, instead of the endpoint, as Okta does.
	AudienceIssuer bool
	// DPoP says whether tokens are bound to ProofKey. Empty: DPoPOff.
	DPoP DPoP
	// ProofKey signs DPoP proofs. It is another than those of the ring, so that no
	// rotation makes tokens useless. It is needed unless DPoP is off.
	ProofKey *keys.Key
	// AsksForProofs says that the server has asked for proofs before.
	AsksForProofs bool
	// AssertionLifetime is how far ahead exp lies. 0: 5 minutes.
	AssertionLifetime time.Duration
}

// Client is one application registered at a Server. It is safe for concurrent
// use.
type Client struct {
	cfg   ClientConfig
	last  atomic.Value // of string: thumbprint of the key that the server took last
	bound atomic.Bool  // the server has asked for a DPoP proof, or bound a token

	mu      sync.Mutex
	refused map[string]bool // thumbprints of keys that the server did not take the last time
}

// NewClient makes a Client.
func NewClient(cfg ClientConfig) *Client {
	if cfg.AssertionLifetime == 0 {
		cfg.AssertionLifetime = 5 * time.Minute
	}
	if cfg.DPoP == "" {
		cfg.DPoP = DPoPOff
	}
	c := &Client{cfg: cfg, refused: map[string]bool{}}
	c.bound.Store(cfg.AsksForProofs)
	return c
}

// do sends what attempt sends, each time with a fresh assertion. It signs with
// the ring's key that the server is most likely to know, tries again where that can
// help, and falls back to one other key when the server does not know the first.
func (c *Client) do(ctx context.Context, attempt attempt) error {
	ring := c.cfg.Ring
	active, _, err := ring.Active(ctx, "")
	if err != nil {
		return &oauth.Error{Class: oauth.Internal, Description: "the signing key is not available: the broker's log has the reason", Err: err}
	}
	last, _ := c.last.Load().(string)
	return c.signedBy(ctx, active, ring.Candidates(last), false, attempt)
}

// An attempt is one request, with an assertion that the key signs.
type attempt func(context.Context, variant) *failure

// variant is what an attempt differs in from the one before.
type variant struct {
	key *keys.Key
	// proving asks for a DPoP proof also where it is not known that one is needed.
	proving bool
	// nonce is the last that an answer brought in this exchange. Another exchange may
	// have used up a newer one. Empty: the newest.
	nonce string
}

// signedBy makes attempts with the candidates, one after the other. While the
// server limits us or is down it sends nothing. proof is for a request that is made
// for the key's sake alone. The error is an *oauth.Error, with
// advice about the key that matters.
func (c *Client) signedBy(caller context.Context, matters *keys.Key, candidates []*keys.Key, proof bool, attempt attempt) error {
	ctx, cancel := context.WithTimeout(caller, exchangeTimeout)
	defer cancel()
	server := c.cfg.Server
	pass, closed := server.gate.enter(server.now())
	if closed != nil {
		return c.explain(closed, matters)
	}
	defer server.gate.release(pass) // also after a panic
	fail := c.correct(ctx, candidates, attempt)
	if fail != nil && fail.status == 0 && caller.Err() != nil {
		fail.kind = abandoned
	}
	// A server that fails over a key that it does not know is not down for that.
	if !proof || fail == nil || fail.retryAfter > 0 {
		server.gate.learn(pass, fail, server.now())
	}
	if fail == nil {
		return nil
	}
	return c.explain(fail, matters)
}

// correct makes attempts until one succeeds or nothing helps.
func (c *Client) correct(ctx context.Context, candidates []*keys.Key, attempt attempt) *failure {
	server := c.cfg.Server
	var done corrections
	nonce := ""
	for posts := 1; ; posts++ {
		fail := attempt(ctx, variant{candidates[0], done.tried[useProof], nonce})
		server.metrics.posted(server.issuer, fail)
		if fail == nil {
			return nil
		}
		fail.late, nonce = posts > 1, cmp.Or(fail.nonce, nonce)
		fix := giveUp
		if posts < maxPosts {
			fix = done.choose(fail, len(candidates) > 1, c.cfg.DPoP != DPoPOff && fail.endpoint == server.endpoints.Token)
		}
		switch fix {
		case giveUp:
			return fail
		case otherKey:
			candidates = candidates[1:]
		case decodePath: // also for the exchanges to come
			server.terms.change(server.forTokens(), func(t *terms) { t.decoded = !fail.decoded })
		case useProof:
			if fail.ofProof() {
				c.bound.Store(true) // else it shows in the token
			}
		case waitAndRetry:
			if !pause(ctx, retryPause<<(done.waits-1)) {
				return fail
			}
		}
		server.log.Info("asking again with a fresh assertion", "client", c.cfg.Name, "because", fail.Error(), "correction", fix)
	}
}

// signed is an assertion, with what it was made for.
type signed struct {
	jwt      string
	endpoint string
	at       time.Time
	clock    time.Duration // that was added to ours
}

// sign makes an assertion for an endpoint.
func (c *Client) sign(ctx context.Context, key *keys.Key, endpoint string) (signed, *failure) {
	server := c.cfg.Server
	made := signed{endpoint: endpoint, at: server.now(), clock: server.clock.correction()}
	claims := assertion.Assertion{
		ClientID: c.cfg.ID,
		Audience: c.audience(endpoint),
		Kid:      key.ID(),
		IssuedAt: made.at.Add(made.clock - backDate),
		Expires:  made.at.Add(made.clock + c.cfg.AssertionLifetime),
	}
	if c.cfg.AudienceIssuer {
		claims.Type = "client-authentication+jwt"
	}
	var err error
	if made.jwt, err = assertion.Sign(ctx, key, claims); err != nil {
		return signed{}, &failure{kind: signing, err: err}
	}
	return made, nil
}

// audience is who an assertion for an endpoint is made for.
func (c *Client) audience(endpoint string) string {
	if c.cfg.AudienceIssuer {
		return c.cfg.Server.issuer
	}
	return endpoint
}

// heed adds to a failure what it says of the assertion.
func (made signed) heed(server *Server, fail *failure) *failure {
	fail.endpoint = made.endpoint
	fail.clockMoved = server.clock.heed(made.clock, fail.row.fix == useClock)
	return fail
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
