// Package fakeokta is a hostile little Okta for the sandbox and the tests: an org authorization server that refuses
// what Okta refuses, in Okta's words, plus one protected resource, and faults on demand.
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

const (
	tokenPath = "/oauth2/v1/token"
	keysPath  = "/oauth2/v1/keys"
	usersPath = "/api/v1/users"
)

// Config says what a new Okta is.
type Config struct {
	// URL is the base URL that clients use, for example "https://acme.okta.test". It is the issuer, and what the
	// audience of an assertion is compared with: scheme and host, no path, no trailing slash.
	URL string
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// TokenLife is how long an access token lives, in whole seconds. 0: one hour, as on Okta's org server.
	TokenLife time.Duration
}

// Okta is one org. It starts without apps and without faults. All methods may be called at any time, from any goroutine.
type Okta struct {
	url    string
	clock  func() time.Time
	life   time.Duration
	tokens tokenStore
	tally  tally

	mu     sync.Mutex // guards what follows
	offset time.Duration
	apps   map[string]*app
	faults []Fault
}

// New makes an Okta.
func New(c Config) (*Okta, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("base URL: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || c.URL != u.Scheme+"://"+u.Host {
		return nil, fmt.Errorf("base URL %q is not of the form https://host, without a path", c.URL)
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
	return &Okta{url: c.URL, clock: c.Now, life: c.TokenLife, apps: map[string]*app{}}, nil
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
	switch r.Method + " " + r.URL.Path {
	case "POST " + tokenPath:
		return o.token(r)
	case "GET /.well-known/oauth-authorization-server", "GET /.well-known/openid-configuration":
		return o.metadata(), nil
	case "GET " + keysPath:
		// The org server's tokens are opaque, so nobody needs its keys.
		return jsonAnswer(http.StatusOK, map[string]any{"keys": []any{}}), nil
	case "GET " + usersPath:
		return o.users(r), nil
	}
	return apiError(http.StatusNotFound, "E0000022", "The endpoint does not support the provided HTTP method"), nil
}

// metadata is the RFC 8414 document, which serves as OpenID Connect discovery too. Of the endpoints it names, those that
// a client_credentials client does not call are not served.
func (o *Okta) metadata() answer {
	return jsonAnswer(http.StatusOK, map[string]any{
		"issuer":                                           o.url,
		"authorization_endpoint":                           o.url + "/oauth2/v1/authorize",
		"token_endpoint":                                   o.url + tokenPath,
		"jwks_uri":                                         o.url + keysPath,
		"grant_types_supported":                            []string{grantType},
		"response_types_supported":                         []string{"code"},
		"subject_types_supported":                          []string{"public"},
		"id_token_signing_alg_values_supported":            []string{"RS256"},
		"token_endpoint_auth_methods_supported":            []string{"private_key_jwt"},
		"token_endpoint_auth_signing_alg_values_supported": algorithms(),
	})
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
