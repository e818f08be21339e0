package fakeokta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxKeySet = 256 << 10 // bytes of a key set
	fetchTime = 5 * time.Second
)

// A remote is where an app's keys are fetched, and what was found there.
type remote struct {
	uri     string // empty: the app's keys are saved ones
	lag     time.Duration
	refetch bool
	keys    []jose.JSONWebKey // not nil once fetched
	fetched time.Time
}

// SetJWKSURI makes an app take its keys from there, and deletes the saved ones, as Okta does; with an empty uri it makes
// the app take saved keys again, of which it has none then.
func (o *Okta) SetJWKSURI(clientID, uri string) error {
	if err := checkJWKSURI(uri); err != nil {
		return fmt.Errorf("setting jwks_uri of app %q: %w", clientID, err)
	}
	a := o.app(clientID)
	if a == nil {
		return fmt.Errorf("setting jwks_uri of app %q: no such app", clientID)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = nil
	a.remote = remote{uri: uri, lag: a.remote.lag, refetch: a.remote.refetch}
	return nil
}

func checkJWKSURI(uri string) error {
	if uri == "" {
		return nil
	}
	u, err := url.Parse(uri)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("jwks_uri %q is not an absolute http or https URL", uri)
	}
	return nil
}

// remoteKeys are the keys at the app's jwks_uri, fetched or remembered; nil if it has none. Nobody waits for another's
// fetch: a lock held meanwhile would stop fake time.
func (o *Okta) remoteKeys(ctx context.Context, a *app, kid string) ([]jose.JSONWebKey, *refusal) {
	now := o.clock()
	a.mu.Lock()
	r := a.remote
	a.mu.Unlock()
	if r.uri == "" || r.current(kid, now) {
		return r.keys, nil
	}

	o.tally.note(func(n *Counters) { n.JWKSFetches++ })
	keys, err := o.fetchKeys(ctx, r.uri)
	if err != nil {
		return nil, invalidClient("Error retrieving the client JWKSet from jwks_uri.")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.remote.uri == r.uri {
		a.remote.keys, a.remote.fetched = keys, now
	}
	return keys, nil
}

// current tells whether the keys at hand will do for an assertion of this kid.
func (r remote) current(kid string, now time.Time) bool {
	known := kid == "" || slices.ContainsFunc(r.keys, func(k jose.JSONWebKey) bool { return k.KeyID == kid })
	return r.keys != nil && now.Sub(r.fetched) < r.lag && (known || !r.refetch)
}

func (o *Okta) fetchKeys(ctx context.Context, uri string) ([]jose.JSONWebKey, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{
		Transport:     o.fetch,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxKeySet+1))
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("status %d", res.StatusCode)
	case len(body) > maxKeySet:
		return nil, errors.New("too large")
	}
	return parseKeySet(body)
}

// parseKeySet takes the public keys with use=sig and a kid of their own from a JWK Set (RFC 7517, section 5), and passes
// over the others. The result is not nil.
func parseKeySet(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, err
	}
	if set.Keys == nil {
		return nil, errors.New("no keys member")
	}
	all := []jose.JSONWebKey{}
	times := map[string]int{}
	for _, raw := range set.Keys {
		if key, err := publicKey(raw); err == nil && key.Use == "sig" {
			all = append(all, key)
			times[key.KeyID]++
		}
	}
	return slices.DeleteFunc(all, func(k jose.JSONWebKey) bool { return times[k.KeyID] > 1 }), nil
}
