package fakeokta

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxKeys    = 50   // Okta's limit per app
	minRSABits = 2048 // Okta refuses less, with E0000001
)

// App is an API Services application: a client id and the okta.* scopes an administrator granted it.
type App struct {
	ClientID string
	// ID in the paths of the management API. Empty: the client id, as on Okta.
	ID string
	// Scopes of the org server.
	Scopes []string
	// SuperAdmin tells whether the app has that role. Without it no app may change the keys of one.
	SuperAdmin bool
	// JWKSURI, where set, is where the app's keys are fetched, instead of those saved.
	JWKSURI string
	// JWKSLag is how long a fetched key set is used before the next assertion makes Okta look again. 0: not at all.
	JWKSLag time.Duration
	// JWKSRefetch makes Okta look again at once for a kid that is not in the set it holds. What Okta does is not known.
	JWKSRefetch bool
	// DPoP tells whether the app requires it (RFC 9449): no token without a proof, and each bound to the proof's key.
	DPoP bool
	// HonoursDPoP makes an app that does not require DPoP get a bound token where it sends a proof. Okta reportedly
	// ignores such a proof, and answers with a Bearer token.
	HonoursDPoP bool
}

type app struct {
	id         string // client id
	appID      string
	granted    []string
	superAdmin bool
	honours    bool // a proof, also where dpop is not required

	mu     sync.Mutex // guards what follows
	dpop   bool       // required
	keys   []*savedKey
	remote remote
	jtis   memory
}

// AddApp adds an app, which has no saved key yet. The client id and the ID must be new.
func (o *Okta) AddApp(a App) error {
	if a.ClientID == "" {
		return errors.New("adding app: no client id")
	}
	for _, scope := range a.Scopes {
		if !strings.HasPrefix(scope, "okta.") {
			return fmt.Errorf("adding app %q: scope %q: the org server has okta.* scopes alone", a.ClientID, scope)
		}
	}
	if err := checkJWKSURI(a.JWKSURI); err != nil {
		return fmt.Errorf("adding app %q: %w", a.ClientID, err)
	}
	if a.ID == "" {
		a.ID = a.ClientID
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	for _, other := range o.apps {
		if other.id == a.ClientID || other.appID == a.ID {
			return fmt.Errorf("adding app %q: already there", a.ClientID)
		}
	}
	o.apps[a.ClientID] = &app{
		id: a.ClientID, appID: a.ID, granted: slices.Clone(a.Scopes), superAdmin: a.SuperAdmin,
		dpop: a.DPoP, honours: a.HonoursDPoP,
		remote: remote{uri: a.JWKSURI, lag: a.JWKSLag, refetch: a.JWKSRefetch},
	}
	return nil
}

// RegisterKey gives the app one more public key, as an administrator does. It refuses what Okta refuses: a kid the app
// already has, more than 50 keys, RSA under 2048 bits, and, louder than Okta, a JWK with any private member, and a key
// for an app that has a jwks_uri.
func (o *Okta) RegisterKey(clientID string, jwk json.RawMessage) error {
	key, err := publicKey(jwk)
	if err != nil {
		return fmt.Errorf("registering key for app %q: %w", clientID, err)
	}
	a := o.app(clientID)
	if a == nil {
		return fmt.Errorf("registering key for app %q: no such app", clientID)
	}
	if _, err := a.add(key, true, o.now()); err != nil {
		return fmt.Errorf("registering key %q for app %q: %w", key.KeyID, clientID, err)
	}
	return nil
}

// RemoveKey takes a saved key from the app, whatever its status. A key or an app that is not there is no error.
func (o *Okta) RemoveKey(clientID, kid string) {
	a := o.app(clientID)
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = slices.DeleteFunc(a.keys, func(k *savedKey) bool { return k.KeyID == kid })
}

// SetDPoP makes the app require DPoP from the next token request on, or no longer, as an administrator does. Tokens that
// were issued stay what they are.
func (o *Okta) SetDPoP(clientID string, required bool) error {
	a := o.app(clientID)
	if a == nil {
		return fmt.Errorf("setting DPoP of app %q: no such app", clientID)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dpop = required
	return nil
}

// app is the app of that client id, or nil.
func (o *Okta) app(clientID string) *app {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.apps[clientID]
}

// keyOf finds the key that an assertion of this kid must be signed with.
func (o *Okta) keyOf(ctx context.Context, a *app, kid string) (jose.JSONWebKey, *refusal) {
	keys, refused := o.remoteKeys(ctx, a, kid)
	if keys == nil && refused == nil {
		keys, refused = a.activeKeys()
	}
	if refused != nil {
		return jose.JSONWebKey{}, refused
	}
	if kid == "" && len(keys) == 1 {
		return keys[0], nil
	}
	// Without a kid several keys are a guess, and Okta does not guess. No key has an empty kid.
	i := slices.IndexFunc(keys, func(k jose.JSONWebKey) bool { return k.KeyID == kid })
	if i < 0 {
		return jose.JSONWebKey{}, invalidClient("The client_assertion JWT kid is invalid.")
	}
	return keys[i], nil
}

// use consumes a jti until the given second of the Unix epoch, and tells whether it was new.
func (a *app) use(jti string, until, now int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.jtis.add(jti, until, now)
}

// publicKey reads a JWK (RFC 7517) and refuses what no app may hold.
func publicKey(jwk json.RawMessage) (jose.JSONWebKey, error) {
	key, err := verifyingKey(jwk)
	if err == nil && key.KeyID == "" {
		err = errors.New("no kid")
	}
	return key, err
}

// verifyingKey reads a public JWK that signatures verify with, in an algorithm that Okta takes.
func verifyingKey(jwk json.RawMessage) (jose.JSONWebKey, error) {
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
