// Package fakeokta is a hostile little Okta for the sandbox and the tests: authorization servers that refuse what Okta
// refuses, in Okta's words, the API of an app's public keys, one more protected resource, and faults on demand.
//
// It shares no code with the rest of the module, the JWT library included, so that it cannot share its mistakes. Serve
// it as an [http.Handler], or use [Okta.Transport] where no socket may be opened, as in a testing/synctest bubble.
package fakeokta

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Config says what a new Okta is.
type Config struct {
	// URL is the base URL that clients use, for example "https://acme.okta.test". It is the issuer of the org's own
	// authorization server, and what the audience of an assertion begins with: scheme and host, no path, no trailing
	// slash.
	URL string
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// TokenLife is how long an access token of the org's own server lives, in whole seconds. 0: one hour, as on Okta.
	TokenLife time.Duration
	// Fetch is the way to the jwks_uri of apps. Nil: http.DefaultTransport.
	Fetch http.RoundTripper
	// KeyList is the form in which the key API lists an app's keys.
	KeyList KeyList
	// Origin is the scheme and host that the resource's Link headers and the htu of proofs begin with. Empty: the scheme
	// of URL and the Host of each request.
	Origin string
	// NoncePeriod is how long a DPoP nonce is the newest. It works for three such periods. 0: a day, as on Okta.
	NoncePeriod time.Duration
	// Seed decides which requests meet the faults that have a Share: the same seed, the same decisions.
	Seed uint64
}

// Okta is one org. It starts without apps, custom authorization servers and faults. All methods may be called
// at any time, from any goroutine.
type Okta struct {
	url     string
	origin  string // empty: that of each request
	clock   func() time.Time
	fetch   http.RoundTripper
	keyList KeyList
	seed    uint64
	org     *server
	limits  limiter
	tally   tally
	nonces  nonces
	proofs  replays
	people  directory

	mu      sync.Mutex // guards what follows
	offset  time.Duration
	apps    map[string]*app    // by client id
	servers map[string]*server // by id, the custom ones
	plans   map[Endpoint]*plan
	// resourceNonce tells whether the management API wants a nonce in a proof, too.
	resourceNonce bool
}

// New makes an Okta.
func New(c Config) (*Okta, error) {
	if err := checkOrigin(c.URL); err != nil {
		return nil, fmt.Errorf("base URL: %w", err)
	}
	if c.Origin != "" {
		if err := checkOrigin(c.Origin); err != nil {
			return nil, fmt.Errorf("origin: %w", err)
		}
	}
	if c.NoncePeriod < 0 {
		return nil, fmt.Errorf("nonce period %v is negative", c.NoncePeriod)
	}
	if c.NoncePeriod == 0 {
		c.NoncePeriod = 24 * time.Hour
	}
	if c.TokenLife < 0 || c.TokenLife%time.Second != 0 {
		return nil, fmt.Errorf("token life %v is not a positive number of whole seconds", c.TokenLife)
	}
	if c.TokenLife == 0 {
		c.TokenLife = time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Fetch == nil {
		c.Fetch = http.DefaultTransport
	}
	o := &Okta{
		url:     c.URL,
		origin:  c.Origin,
		clock:   c.Now,
		fetch:   c.Fetch,
		keyList: c.KeyList,
		seed:    c.Seed,
		org:     &server{issuer: c.URL, base: c.URL + "/oauth2/v1", life: c.TokenLife, audience: c.URL},
		apps:    map[string]*app{},
		servers: map[string]*server{},
		plans:   map[Endpoint]*plan{},
		nonces:  nonces{period: c.NoncePeriod},
	}
	o.SetUsers(defaultUsers)
	o.SetRateLimit(Users, RateLimit{Requests: usersLimit})
	return o, nil
}

func checkOrigin(origin string) error {
	u, err := url.Parse(origin)
	if err != nil {
		return err
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || origin != u.Scheme+"://"+u.Host {
		return fmt.Errorf("%q is not of the form https://host, without a path", origin)
	}
	return nil
}

// SetClockOffset makes the server's clock, and with it the Date header, run ahead of Config.Now by d; behind it where d
// is negative.
func (o *Okta) SetClockOffset(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.offset = d
}

func (o *Okta) now() time.Time {
	o.mu.Lock()
	offset := o.offset
	o.mu.Unlock()
	return o.clock().Add(offset)
}

// handle is the whole server, between the wire and the in-memory transport. An error means that there is no answer: the
// connection is dropped, or the client has gone.
func (o *Okta) handle(r *http.Request) (answer, error) {
	c, served := o.route(r)
	o.tally.enter(c.endpoint)
	defer o.tally.leave(c.endpoint)
	if !served {
		return apiError(http.StatusNotFound, "E0000022", "The endpoint does not support the provided HTTP method"), nil
	}
	c.read() // before any wait: only then does net/http notice that a client goes
	rate := o.limits.enter(c.bucket(), o.now())
	defer o.limits.leave(c.bucket())
	var fault Fault
	if !rate.refused {
		fault = o.nextFault(c.endpoint)
	}
	c.now = o.now().Add(fault.Skew)
	if c.endpoint.takesAssertion() {
		// Every request consumes its jti, whatever comes of it, so that no retry gets by with the old one.
		c.client, c.refused = o.authenticate(c)
	}
	if c.endpoint.takesProof() {
		c.proof, c.unproven = o.verifyProof(c)
	}
	if rate.refused {
		o.tally.note(func(n *Counters) { n.RateLimited[c.endpoint]++ })
		return rate.answer(), nil
	}

	if !fault.After {
		if err := fault.wait(r.Context()); err != nil {
			return answer{}, err
		}
	}
	var a answer
	if !fault.replacesWork() {
		a = c.work(c)
		rate.show(a.header)
		c.showNonce(a.header)
	}
	if fault.After {
		if err := fault.wait(r.Context()); err != nil {
			return answer{}, err
		}
	}
	return fault.apply(r.Context(), a, o.now().Add(fault.Skew))
}

// pause waits for d, or until the client goes. It is a timer and not a sleep, so that it also runs on fake time.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
