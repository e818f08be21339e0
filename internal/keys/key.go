// Package keys keeps the ring of signing keys: it makes them, stores them
// durably as PEM, knows their states, and signs. No private key leaves it.
package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
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
	"github.com/golang-jwt/jwt/v5"
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
	method     jwt.SigningMethod
	private    crypto.Signer   // *rsa.PrivateKey or *ecdsa.PrivateKey, as golang-jwt wants
	jwk        json.RawMessage // public, under kid
	state      State
	created    time.Time
	activated  time.Time
	proven     time.Time
}

// ID returns the key's kid.
func (k *Key) ID() string { return k.kid }

// Algorithm returns the JWS algorithm that the key signs with.
func (k *Key) Algorithm() string { return k.method.Alg() }

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
	out, err := jose.JSONWebKey{Key: k.private.Public(), KeyID: kid, Algorithm: k.Algorithm(), Use: "sig"}.MarshalJSON()
	if err != nil {
		panic("marshalling a checked public key: " + err.Error())
	}
	return out
}

// Sign returns the compact JWS over claims. It adds alg, which follows from the
// key (RFC 8725 section 3.1), to header.
func (k *Key) Sign(ctx context.Context, header, claims map[string]any) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("signing with key %q: %w", k.kid, err)
	}
	token := jwt.Token{Header: make(map[string]any, len(header)+1), Claims: jwt.MapClaims(claims), Method: k.method}
	for name, value := range header {
		token.Header[name] = value
	}
	token.Header["alg"] = k.method.Alg()
	signed, err := token.SignedString(k.private)
	if err != nil {
		return "", fmt.Errorf("signing with key %q: %w", k.kid, err)
	}
	return signed, nil
}

// with returns a copy of k with a change made.
func (k *Key) with(change func(*Key)) *Key {
	changed := *k
	change(&changed)
	return &changed
}

// generate makes a key for a JWS algorithm. An empty kid means the thumbprint.
func generate(algorithm, kid string) (*Key, error) {
	var private crypto.Signer
	var err error
	switch algorithm {
	case "RS256", "RS384", "RS512":
		private, err = rsa.GenerateKey(rand.Reader, minRSABits)
	case "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	default:
		return nil, fmt.Errorf("unknown algorithm %q: one of %s", algorithm, strings.Join(Algorithms(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("generating an %s key: %w", algorithm, err)
	}
	return newKey(private, algorithm, kid)
}

// newKey checks a private key and binds it to an algorithm. An empty algorithm
// means the one that the key implies, RS256 for RSA; an empty kid the
// thumbprint.
func newKey(private any, algorithm, kid string) (*Key, error) {
	k := &Key{kid: kid}
	var implied string
	switch private := private.(type) {
	case *rsa.PrivateKey:
		if bits := private.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("RSA key of %d bits: %d to %d are accepted", bits, minRSABits, maxRSABits)
		}
		if private.E != 65537 {
			return nil, fmt.Errorf("RSA key with public exponent %d: only 65537 is accepted", private.E)
		}
		implied, k.private = "RS256", private
	case *ecdsa.PrivateKey:
		switch private.Curve {
		case elliptic.P256():
			implied = "ES256"
		case elliptic.P384():
			implied = "ES384"
		case elliptic.P521():
			implied = "ES512"
		default:
			return nil, fmt.Errorf("EC key on curve %s: P-256, P-384 and P-521 are accepted", private.Curve.Params().Name)
		}
		k.private = private
	default:
		return nil, errors.New("neither an RSA nor an EC key: Okta takes no other for private_key_jwt")
	}

	if algorithm == "" {
		algorithm = implied
	}
	if algorithm != implied && (implied != "RS256" || !strings.HasPrefix(algorithm, "RS")) {
		return nil, fmt.Errorf("algorithm %q does not fit the key, which signs with %s", algorithm, implied)
	}
	if k.method = jwt.GetSigningMethod(algorithm); k.method == nil {
		return nil, fmt.Errorf("unknown algorithm %q", algorithm)
	}

	sum, err := (&jose.JSONWebKey{Key: k.private.Public()}).Thumbprint(crypto.SHA256)
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

// parsePrivate reads the DER of a PEM block by its type.
func parsePrivate(blockType string, der []byte) (any, error) {
	switch blockType {
	case "PRIVATE KEY":
		return x509.ParsePKCS8PrivateKey(der)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(der)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(der)
	}
	return nil, fmt.Errorf("a block of type %q is not a private key", blockType)
}

// fingerprint identifies the content of a store.
func fingerprint(data []byte) string {
	sum := sha256.Sum256(data)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
