package okta

import (
	"crypto"
	"encoding/base64"
	stdjson "encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"okta-token-broker/internal/keys"
)

// The states of a saved key.
const (
	statusActive   = "ACTIVE"
	statusInactive = "INACTIVE"
)

// AppKey is a public key that Okta has saved for an app.
type AppKey struct {
	// ID is Okta's own name of the key, which paths have; empty where it is not fit
	// for one.
	ID string
	// Kid is empty where the key has none, or one that no key of a ring can have.
	Kid string
	// Status is ACTIVE, as long as Okta verifies with the key, or INACTIVE.
	Status string
	// Thumbprint is the RFC 7638 SHA-256 thumbprint in base64url, empty for a key
	// that cannot be one of a ring.
	Thumbprint string

	use string
}

// Is reports whether a saved key is the ring's: the kid alone does not tell.
func (k AppKey) Is(key *keys.Key) bool {
	return k.Kid == key.ID() && k.Thumbprint == key.Thumbprint()
}

// Active reports whether Okta verifies with the key.
func (k AppKey) Active() bool { return k.Status == statusActive }

// verifies reports whether the app can go on with the key when others are gone.
func (k AppKey) verifies() bool { return k.Active() && k.use != "enc" }

// savedKey is an AppKey as Okta writes it. Members that are not here are not
// looked at.
type savedKey struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	publicJWK
}

// publicJWK is the part of a JWK (RFC 7517) that names a key for signing.
type publicJWK struct {
	Kid string `json:"kid"`
	Use string `json:"use"`
	Kty string `json:"kty"`
	N   string `json:"n"`
	E   string `json:"e"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
}

// errNotKeys holds no byte of the answer.
var errNotKeys = errors.New("the answer is not a JSON list of an app's keys")

// keys reads a list in one of the three forms in which Okta writes it: an array, or
// one below keys, which can be below jwks.
func (r *reply) keys() ([]AppKey, error) {
	list := r.body
	if jsontext.Value(list).Kind() == '{' {
		type set struct {
			Keys jsontext.Value `json:"keys"`
		}
		var object struct {
			set
			JWKS *set `json:"jwks"`
		}
		if err := json.Unmarshal(list, &object); err != nil || (object.Keys == nil) == (object.JWKS == nil) {
			return nil, errNotKeys
		}
		if list = object.Keys; object.JWKS != nil {
			list = object.JWKS.Keys
		}
	}
	var saved []savedKey
	if err := json.Unmarshal(list, &saved); err != nil || saved == nil {
		return nil, errNotKeys
	}
	listed := make([]AppKey, 0, len(saved))
	for _, k := range saved {
		listed = append(listed, r.appKey(k))
	}
	return listed, nil
}

// key reads an answer that is one key.
func (r *reply) key() (AppKey, error) {
	var saved savedKey
	if err := json.Unmarshal(r.body, &saved); err != nil {
		return AppKey{}, errors.New("the answer is not the JSON of a key")
	}
	return r.appKey(saved), nil
}

// appKey takes up what Okta says of a key, fit for a table. A ring's own kid passes
// unchanged.
func (r *reply) appKey(saved savedKey) AppKey {
	k := AppKey{ID: saved.ID, Kid: saved.Kid, Status: saved.Status, Thumbprint: saved.thumbprint(), use: saved.Use}
	if !isKeyID(k.ID) || r.check.echoes(k.ID) {
		k.ID = ""
	}
	if keys.CheckKid(k.Kid) != nil || r.check.echoes(k.Kid) {
		k.Kid = ""
	}
	if k.Status != statusInactive {
		k.Status = statusActive // which is Okta's default
	}
	return k
}

// thumbprint is that of a key for signing with RSA or EC, else empty.
func (jwk publicJWK) thumbprint() string {
	// Okta takes keys with more members than these, which can be wrong.
	text, err := json.Marshal(map[string]string{"kty": jwk.Kty, "n": jwk.N, "e": jwk.E, "crv": jwk.Crv, "x": jwk.X, "y": jwk.Y})
	if err != nil || jwk.Kty != "RSA" && jwk.Kty != "EC" {
		return ""
	}
	var key jose.JSONWebKey
	if err := stdjson.Unmarshal(text, &key); err != nil || !key.Valid() {
		return ""
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

// isKeyID reports whether a text is a key's id. It keeps an answer from choosing
// which URL is called next.
func isKeyID(id string) bool {
	return id != "" && len(id) <= maxIdentifier && !strings.ContainsFunc(id, func(r rune) bool { return r == '.' || notIdentifierRune(r) })
}

// nextQuery is the query of the next page's URL (RFC 8288), empty on the last page.
func nextQuery(header http.Header) string {
	for _, links := range header.Values("Link") {
		for link := range strings.SplitSeq(links, ",") {
			target, params, _ := strings.Cut(strings.TrimSpace(link), ">")
			next := strings.ReplaceAll(strings.ReplaceAll(params, `"`, ""), " ", "")
			u, err := url.Parse(strings.TrimPrefix(target, "<"))
			if err == nil && strings.Contains(next+";", ";rel=next;") {
				return u.Query().Encode()
			}
		}
	}
	return ""
}
