package fakeokta

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The bounds of an access token's life on a custom authorization server.
const (
	minTokenLife = 5 * time.Minute
	maxTokenLife = 24 * time.Hour
)

// Server is a custom authorization server: the issuer Config.URL + "/oauth2/" + ID, with scopes of its own.
type Server struct {
	// ID is of letters, digits, '-' and '_'; "default" is the one that Okta makes.
	ID string
	// Scopes that exist here. None may begin with "okta.": those are the org server's.
	Scopes []string
	// TokenLife is how long an access token lives: 5 minutes to 24 hours, in whole seconds. 0: one hour.
	TokenLife time.Duration
	// Audience is the aud of its access tokens. Empty: "api://" + ID.
	Audience string
	// Algorithm that signs its access tokens, RS256 or ES256. Empty: RS256, as on Okta.
	Algorithm string
	// Policies decide who gets which scopes. Without any, nobody gets a token.
	Policies []Policy
}

// Policy is an access policy. Policies and their rules are tried in order.
type Policy struct {
	// Clients that the policy is for, by client id. Empty: all.
	Clients []string
	// Rules let scopes through. A request needs one rule that covers all it asks for.
	Rules []Rule
}

// Rule is a rule of an access policy.
type Rule struct {
	// Scopes that may be requested. Empty: all that the server has.
	Scopes []string
}

// A server is an authorization server: a custom one, or the org's own, which has no id.
type server struct {
	id       string
	issuer   string
	base     string // URL that its endpoints are below
	audience string // of its access tokens
	scopes   []string
	policies []Policy
	life     time.Duration
	public   []jose.JSONWebKey
	signer   jose.Signer // of its access tokens; nil where they are opaque
	tokens   tokenStore
}

// AddServer adds a custom authorization server. Its ID must be new.
func (o *Okta) AddServer(s Server) error {
	added, err := o.newServer(s)
	if err != nil {
		return fmt.Errorf("adding authorization server %q: %w", s.ID, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.servers[s.ID] != nil {
		return fmt.Errorf("adding authorization server %q: already there", s.ID)
	}
	o.servers[s.ID] = added
	return nil
}

func (o *Okta) newServer(s Server) (*server, error) {
	notIDRune := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", r)
	}
	isOkta := func(scope string) bool { return strings.HasPrefix(scope, "okta.") }
	if s.TokenLife == 0 {
		s.TokenLife = time.Hour
	}
	if s.Audience == "" {
		s.Audience = "api://" + s.ID
	}
	switch {
	case s.ID == "" || s.ID == "v1" || strings.ContainsFunc(s.ID, notIDRune): // "v1" would hide the org's own
		return nil, errors.New("the ID must be of letters, digits, '-' and '_', and not v1")
	case slices.ContainsFunc(s.Scopes, isOkta):
		return nil, errors.New("scopes that begin with okta. are the org server's")
	case s.TokenLife < minTokenLife || s.TokenLife > maxTokenLife || s.TokenLife%time.Second != 0:
		return nil, fmt.Errorf("token life %v is not from %v to %v, in whole seconds", s.TokenLife, minTokenLife, maxTokenLife)
	}
	public, signer, err := newSigner(s.Algorithm)
	if err != nil {
		return nil, err
	}
	issuer := o.url + "/oauth2/" + s.ID
	return &server{
		id:       s.ID,
		issuer:   issuer,
		base:     issuer + "/v1",
		audience: s.Audience,
		scopes:   slices.Clone(s.Scopes),
		policies: slices.Clone(s.Policies),
		life:     s.TokenLife,
		public:   []jose.JSONWebKey{public},
		signer:   signer,
	}, nil
}

// newSigner makes the key that an authorization server signs access tokens with.
func newSigner(algorithm string) (public jose.JSONWebKey, signer jose.Signer, err error) {
	var private any
	switch algorithm {
	case "", "RS256":
		algorithm = "RS256"
		private, err = rsa.GenerateKey(rand.Reader, minRSABits)
	case "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		return public, nil, fmt.Errorf("algorithm %q is neither RS256 nor ES256", algorithm)
	}
	if err != nil {
		return public, nil, fmt.Errorf("making its key: %w", err)
	}
	key := jose.JSONWebKey{Key: private, KeyID: rand.Text(), Algorithm: algorithm, Use: "sig"}
	signer, err = jose.NewSigner(
		jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: key},
		new(jose.SignerOptions).WithType("application/okta-internal-at+jwt"))
	return key.Public(), signer, err
}

// server is the custom authorization server of that id, or nil.
func (o *Okta) server(id string) *server {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.servers[id]
}

// allServers are the custom ones and the org's own.
func (o *Okta) allServers() []*server {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append(slices.Collect(maps.Values(o.servers)), o.org)
}

// allow decides about the scopes that a client asks for at a custom server.
func (s *server) allow(clientID string, requested []string) *refusal {
	for _, scope := range requested {
		if !slices.Contains(s.scopes, scope) {
			return badRequest("invalid_scope",
				"One or more scopes are not configured for the authorization server resource.")
		}
	}
	denied := requested // by every rule
	for _, policy := range s.policies {
		if len(policy.Clients) > 0 && !slices.Contains(policy.Clients, clientID) {
			continue
		}
		for _, rule := range policy.Rules {
			missing := rule.lacks(requested)
			if len(missing) == 0 {
				return nil
			}
			denied = slices.DeleteFunc(slices.Clone(denied), func(scope string) bool { return !slices.Contains(missing, scope) })
		}
	}
	// 401 and 400 have both been seen; what Okta says before "Denied scopes" is not known word for word.
	const words = "Policy evaluation failed for this request, please check the policy configurations."
	if len(denied) == 0 || len(denied) == len(requested) {
		return &refusal{http.StatusUnauthorized, "access_denied", words}
	}
	return badRequest("access_denied", words+" Denied scopes: ["+strings.Join(denied, ", ")+"]")
}

// lacks is what the rule does not let through.
func (r Rule) lacks(requested []string) []string {
	if len(r.Scopes) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(requested), func(scope string) bool { return slices.Contains(r.Scopes, scope) })
}

// issue makes the access token of a grant and remembers it: opaque on the org server, a JWT with Okta's claims on a
// custom one.
func (s *server) issue(g grant) string {
	token := rand.Text()
	if s.signer != nil {
		claims := map[string]any{
			"ver": 1, "jti": g.jti, "iss": s.issuer, "aud": s.audience, "sub": g.client, "cid": g.client,
			"iat": g.issued.Unix(), "exp": g.expires.Unix(), "scp": g.scopes,
		}
		if g.jkt != "" {
			claims["cnf"] = confirmation(g.jkt)
		}
		token = s.sign(claims)
	}
	s.tokens.add(token, g)
	return token
}

func (s *server) sign(claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic("fakeokta: claims of its own are not JSON: " + err.Error())
	}
	jws, err := s.signer.Sign(payload)
	if err != nil {
		panic("fakeokta: signing with a key of its own: " + err.Error())
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		panic("fakeokta: writing a JWT of its own: " + err.Error())
	}
	return compact
}

// keys are the public keys that access tokens verify with. The org server has none: its tokens are opaque.
func (s *server) keys() answer {
	return jsonAnswer(http.StatusOK, map[string]any{"keys": append([]jose.JSONWebKey{}, s.public...)})
}

// metadata is the RFC 8414 document, which serves as OpenID Connect discovery too. Of the endpoints it names, those that
// a client_credentials client does not call are not served.
func (s *server) metadata() answer {
	members := map[string]any{
		"issuer":                                           s.issuer,
		"authorization_endpoint":                           s.base + "/authorize",
		"token_endpoint":                                   s.base + "/token",
		"introspection_endpoint":                           s.base + "/introspect",
		"revocation_endpoint":                              s.base + "/revoke",
		"jwks_uri":                                         s.base + "/keys",
		"grant_types_supported":                            []string{grantType},
		"response_types_supported":                         []string{"code"},
		"subject_types_supported":                          []string{"public"},
		"id_token_signing_alg_values_supported":            []string{"RS256"},
		"token_endpoint_auth_methods_supported":            []string{"private_key_jwt"},
		"token_endpoint_auth_signing_alg_values_supported": algorithms(),
		"introspection_endpoint_auth_methods_supported":    []string{"private_key_jwt"},
		"revocation_endpoint_auth_methods_supported":       []string{"private_key_jwt"},
		"dpop_signing_alg_values_supported":                algorithms(), // whatever an app requires
	}
	if len(s.scopes) > 0 {
		members["scopes_supported"] = s.scopes
	}
	return jsonAnswer(http.StatusOK, members)
}
