package fakeokta

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxKeys    = 50   // Okta's limit per app
	minRSABits = 2048 // Okta refuses less, with E0000001
)

// App is an API Services application: a client id and the okta.* scopes an administrator granted it.
type App struct {
	ClientID string
	Scopes   []string
}

type app struct {
	id      string
	granted []string

	mu   sync.Mutex // guards what follows
	keys []jose.JSONWebKey
	jtis memory
}

// AddApp adds an app, which has no key yet. The client id must be new.
func (o *Okta) AddApp(a App) error {
	if a.ClientID == "" {
		return errors.New("adding app: no client id")
	}
	for _, scope := range a.Scopes {
		if !strings.HasPrefix(scope, "okta.") {
			return fmt.Errorf("adding app %q: scope %q: the org server has okta.* scopes alone", a.ClientID, scope)
		}
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	if o.apps[a.ClientID] != nil {
		return fmt.Errorf("adding app %q: already there", a.ClientID)
	}
	o.apps[a.ClientID] = &app{id: a.ClientID, granted: slices.Clone(a.Scopes)}
	return nil
}

// RegisterKey gives the app one more public key. It refuses what Okta refuses: a kid the app already has, more than 50
// keys, RSA under 2048 bits, and, louder than Okta, a JWK with any private member.
func (o *Okta) RegisterKey(clientID string, jwk json.RawMessage) error {
	key, err := publicKey(jwk)
	if err != nil {
		return fmt.Errorf("registering key for app %q: %w", clientID, err)
	}
	a := o.app(clientID)
	if a == nil {
		return fmt.Errorf("registering key for app %q: no such app", clientID)
	}
	if err := a.add(key); err != nil {
		return fmt.Errorf("registering key %q for app %q: %w", key.KeyID, clientID, err)
	}
	return nil
}

// RemoveKey takes a key from the app. A key or an app that is not there is no error.
func (o *Okta) RemoveKey(clientID, kid string) {
	a := o.app(clientID)
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = slices.DeleteFunc(a.keys, func(k jose.JSONWebKey) bool { return k.KeyID == kid })
}

// app is the app of that client id, or nil.
func (o *Okta) app(clientID string) *app {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.apps[clientID]
}

func (a *app) add(key jose.JSONWebKey) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.keys) >= maxKeys {
		return fmt.Errorf("the app holds %d keys, the most it may", maxKeys)
	}
	if slices.ContainsFunc(a.keys, func(k jose.JSONWebKey) bool { return k.KeyID == key.KeyID }) {
		return errors.New("the app already holds a key of this kid")
	}
	a.keys = append(a.keys, key)
	return nil
}

// key finds the key that a JWS of this header must be signed with.
func (a *app) key(header jose.Header) (jose.JSONWebKey, *refusal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.keys) == 0 {
		return jose.JSONWebKey{}, invalidClient(
			"The client does not have a JWKSet configured, but the client_assertion requires one.")
	}
	if header.KeyID == "" && len(a.keys) == 1 {
		return a.keys[0], nil
	}
	// Without a kid several keys are a guess, and Okta does not guess. No key has an empty kid.
	i := slices.IndexFunc(a.keys, func(k jose.JSONWebKey) bool { return k.KeyID == header.KeyID })
	if i < 0 {
		return jose.JSONWebKey{}, invalidClient("The client_assertion JWT kid is invalid.")
	}
	return a.keys[i], nil
}

// use consumes a jti until the given second of the Unix epoch, and tells whether it was new.
func (a *app) use(jti string, until, now int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.jtis.add(jti, until, now)
}

// publicKey reads a JWK (RFC 7517) and refuses what no app may hold.
func publicKey(jwk json.RawMessage) (jose.JSONWebKey, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(jwk, &members); err != nil {
		return jose.JSONWebKey{}, errors.New("not a JSON object")
	}
	// RFC 7518, sections 6.2.2, 6.3.2 and 6.4.1. The decoder below would take a JWK with `p` but no `d` as public.
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, there := members[private]; there {
			return jose.JSONWebKey{}, fmt.Errorf("member %q is private: send the public key alone", private)
		}
	}

	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(jwk); err != nil {
		return jose.JSONWebKey{}, fmt.Errorf("reading JWK: %w", err)
	}
	fitting := algorithmsOf(key.Key)
	switch {
	case len(fitting) == 0 || !key.Valid():
		return jose.JSONWebKey{}, errors.New("not an RSA key of 2048 bits or more, nor a P-256, P-384 or P-521 key")
	case key.KeyID == "":
		return jose.JSONWebKey{}, errors.New("no kid")
	case key.Use != "" && key.Use != "sig":
		return jose.JSONWebKey{}, fmt.Errorf("use %q is not sig", key.Use)
	case key.Algorithm != "" && !slices.Contains(fitting, jose.SignatureAlgorithm(key.Algorithm)):
		return jose.JSONWebKey{}, fmt.Errorf("algorithm %q does not fit the key", key.Algorithm)
	}
	return key, nil
}

// algorithms are those Okta verifies client assertions with: no PS*, no EdDSA, and never a symmetric one.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512}
}

// algorithmsOf are those of algorithms that a public key can verify (RFC 7518, sections 3.3 and 3.4); none where Okta
// does not take the key at all.
func algorithmsOf(key any) []jose.SignatureAlgorithm {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() >= minRSABits {
			return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512}
		}
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			return []jose.SignatureAlgorithm{jose.ES256}
		case 384:
			return []jose.SignatureAlgorithm{jose.ES384}
		case 521:
			return []jose.SignatureAlgorithm{jose.ES512}
		}
	}
	return nil
}

// A memory holds identifiers until their time has come, in seconds of the Unix epoch. Its owner's lock guards it.
type memory struct {
	until map[string]int64
	sweep int64 // when to look for dead entries again
}

// add remembers id and tells whether it was new.
func (m *memory) add(id string, until, now int64) bool {
	if m.until == nil {
		m.until = map[string]int64{}
	}
	if now >= m.sweep {
		maps.DeleteFunc(m.until, func(_ string, end int64) bool { return end <= now })
		m.sweep = now + 60
	}
	if m.until[id] > now {
		return false
	}
	m.until[id] = until
	return true
}
