// Package keys keeps the ring of signing keys: it makes them, stores them
// durably as PEM, knows their states, and signs. No private key leaves it.
package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
)

// State is where a key stands in its life.
type State string

// The states. The one active key signs; next and retired keys are published
// and do not sign of themselves.
const (
	Next    State = "next"
	Active  State = "active"
	Retired State = "retired"
)

const (
	// RSA sizes in bits: Okta asks for 2048 at least; above 8192 a signature
	// takes so long that it serves as an attack.
	minRSABits = 2048
	maxRSABits = 8192
	// maxKid is in bytes.
	maxKid = 2 << 10
)

// Algorithms lists the JWS algorithms that keys can be made for: those that
// Okta takes for private_key_jwt.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"}
}

// Key is one key pair of a ring. It does not change and is safe for concurrent
// use.
type Key struct {
	kid        string
	thumbprint string
	alg        string
	signer     crypto.Signer   // held, when the private key is not in this process
	jwk        json.RawMessage // public, under kid
	state      State
	created    time.Time
	activated  time.Time
	proven     time.Time
}

// ID returns the key's kid.
func (k *Key) ID() string { return k.kid }

// Algorithm returns the JWS algorithm that the key signs with.
func (k *Key) Algorithm() string { return k.alg }

// Thumbprint returns the RFC 7638 SHA-256 thumbprint in base64url.
func (k *Key) Thumbprint() string { return k.thumbprint }

// State returns where the key stands.
func (k *Key) State() State { return k.state }

// Created returns when the broker made the key, zero when it was not made here.
func (k *Key) Created() time.Time { return k.created }

// Activated returns when the key began to sign, zero when that is not known.
func (k *Key) Activated() time.Time { return k.activated }

// Proven returns when a token request under the key was first known to work
// for every client of the ring, zero when it is not.
func (k *Key) Proven() time.Time { return k.proven }

// JWK returns the public key (RFC 7517) under the key's own kid.
func (k *Key) JWK() json.RawMessage { return slices.Clone(k.jwk) }

// JWKAs returns the public key under another kid: POST / answers the kid that
// its request names.
func (k *Key) JWKAs(kid string) json.RawMessage {
	if kid == k.kid {
		return k.JWK()
	}
	return k.publicAs(kid)
}

func (k *Key) publicAs(kid string) json.RawMessage {
	out, err := jose.JSONWebKey{Key: k.signer.Public(), KeyID: kid, Algorithm: k.Algorithm(), Use: "sig"}.MarshalJSON()
	if err != nil {
		panic("marshalling a checked public key: " + err.Error())
	}
	return out
}

// with returns a copy of k with a change made.
func (k *Key) with(change func(*Key)) *Key {
	changed := *k
	change(&changed)
	return &changed
}

// newSigner makes a key pair for a JWS algorithm.
func newSigner(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case "RS256", "RS384", "RS512":
		return rsa.GenerateKey(rand.Reader, minRSABits)
	case "ES256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	}
	return nil, fmt.Errorf("unknown algorithm %q: one of %s", algorithm, strings.Join(Algorithms(), ", "))
}

// New makes a key for one of Algorithms that is in no ring, and is gone with the
// process. It is called by its thumbprint.
func New(algorithm string) (*Key, error) {
	signer, err := newSigner(algorithm)
	if err != nil {
		return nil, fmt.Errorf("generating a key: %w", err)
	}
	return newKey(signer, algorithm, "")
}

// newKey checks a key and binds it to an algorithm. An empty algorithm means the
// one that the key implies, RS256 for RSA; an empty kid the thumbprint.
func newKey(signer crypto.Signer, algorithm, kid string) (*Key, error) {
	implied, err := impliedAlgorithm(signer.Public())
	if err != nil {
		return nil, err
	}
	if algorithm == "" {
		algorithm = implied
	}
	if algorithm != implied && (implied != "RS256" || !strings.HasPrefix(algorithm, "RS")) {
		return nil, fmt.Errorf("algorithm %q does not fit the key, which signs with %s", algorithm, implied)
	}
	if !slices.Contains(Algorithms(), algorithm) {
		return nil, fmt.Errorf("unknown algorithm %q", algorithm)
	}
	k := &Key{kid: kid, alg: algorithm, signer: signer}
	sum, err := (&jose.JSONWebKey{Key: signer.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("computing the thumbprint: %w", err)
	}
	k.thumbprint = base64.RawURLEncoding.EncodeToString(sum)
	if k.kid == "" {
		k.kid = k.thumbprint
	}
	if err := CheckKid(k.kid); err != nil {
		return nil, err
	}
	k.jwk = k.publicAs(k.kid)
	return k, nil
}

// impliedAlgorithm returns the algorithm of a public key, of several the usual
// one. It refuses keys that Okta does not take, and weak ones.
func impliedAlgorithm(public crypto.PublicKey) (string, error) {
	switch public := public.(type) {
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return "", fmt.Errorf("RSA key of %d bits: %d to %d are accepted", bits, minRSABits, maxRSABits)
		}
		if public.E != 65537 {
			return "", fmt.Errorf("RSA key with public exponent %d: only 65537 is accepted", public.E)
		}
		return "RS256", nil
	case *ecdsa.PublicKey:
		switch public.Curve {
		case elliptic.P256():
			return "ES256", nil
		case elliptic.P384():
			return "ES384", nil
		case elliptic.P521():
			return "ES512", nil
		}
		return "", fmt.Errorf("EC key on curve %s: P-256, P-384 and P-521 are accepted", public.Curve.Params().Name)
	}
	return "", errors.New("neither an RSA nor an EC key: Okta takes no other for private_key_jwt")
}

// CheckKid refuses what cannot be a kid: empty, over 2 KiB, not UTF-8, or with
// control characters.
func CheckKid(kid string) error {
	switch {
	case kid == "":
		return errors.New("kid is empty")
	case len(kid) > maxKid:
		return fmt.Errorf("kid is over %d bytes", maxKid)
	case !utf8.ValidString(kid):
		return errors.New("kid is not valid UTF-8")
	case strings.ContainsFunc(kid, unicode.IsControl):
		return errors.New("kid has control characters")
	}
	return nil
}

// fingerprint identifies the content of a store.
func fingerprint(data []byte) string {
	sum := sha256.Sum256(data)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
