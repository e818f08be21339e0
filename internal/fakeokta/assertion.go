package fakeokta

import (
	"errors"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // refuses duplicate members, which encoding/json takes
)

const (
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

	maxAhead  = 3600      // seconds that exp may lie in the future
	minMemory = 3600      // seconds that a jti is remembered at least, also where its exp has passed
	maxMemory = 24 * 3600 // and at most, whatever exp says
)

// authenticate finds out which app is asking, by private_key_jwt (RFC 7523, section 2.2). The org server takes nothing
// else, and no app here has a secret.
func (o *Okta) authenticate(c *call) (*app, *refusal) {
	if c.form == nil {
		return nil, c.refused
	}
	if c.form.Has("client_assertion") {
		o.tally.note(func(n *Counters) { n.LastAssertion = c.form.Get("client_assertion") })
	}
	switch {
	case c.Header.Get("Authorization") != "" || c.form.Has("client_secret") || !c.form.Has("client_assertion"):
		if c.server == o.org && c.endpoint == Token {
			return nil, invalidClient("Client Credentials requests to the Org Authorization Server must use the " +
				"private_key_jwt token_endpoint_auth_method.")
		}
		return nil, invalidClient("Client authentication failed. Either the client or the client credentials are invalid.")
	case c.form.Get("client_assertion_type") != assertionType:
		return nil, invalidClient("The client_assertion_type is invalid.")
	}
	a, refused := o.verify(c)
	if refused != nil {
		return nil, refused
	}
	// RFC 7521, section 4.2: client_id is optional beside an assertion, and must name the same client.
	if c.form.Has("client_id") && c.form.Get("client_id") != a.id {
		return nil, invalidClient("Invalid value for 'client_id' parameter.")
	}
	return a, nil
}

// verify checks a client assertion: the signature first, so that nobody else can use up an app's jti; then the jti is
// consumed, whatever the claims turn out to be, as Okta does; then the claims.
func (o *Okta) verify(c *call) (*app, *refusal) {
	jws, err := jose.ParseSignedCompact(c.form.Get("client_assertion"), algorithms())
	if _, is := errors.AsType[*jose.ErrUnexpectedSignatureAlgorithm](err); is {
		return nil, wrongAlgorithm()
	}
	if err != nil {
		return nil, unparsable()
	}
	header := jws.Signatures[0].Protected
	if _, there := header.ExtraHeaders["jku"]; there {
		return nil, invalidClient("The client_assertion JWT header must not have a jku.")
	}
	var payload claims
	if err := json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &payload); err != nil {
		return nil, unparsable()
	}

	a := o.app(payload.text("iss"))
	if a == nil {
		return nil, invalidClient("Invalid value for 'client_id' parameter.")
	}
	key, refused := o.keyOf(c.Context(), a, header.KeyID)
	if refused != nil {
		return nil, refused
	}
	// The key decides about the algorithm, not the header (RFC 8725, section 3.1).
	algorithm := jose.SignatureAlgorithm(header.Algorithm)
	if !slices.Contains(algorithmsOf(key.Key), algorithm) || (key.Algorithm != "" && key.Algorithm != header.Algorithm) {
		return nil, wrongAlgorithm()
	}
	if _, err := jws.Verify(key.Key); err != nil {
		return nil, invalidClient("The client_assertion signature is invalid.")
	}
	o.tally.note(func(n *Counters) { n.Kids[key.KeyID]++ })

	fresh := o.consume(a, payload, o.now().Unix())
	// Okta takes one audience, the URL of the endpoint that is called.
	if refused := payload.check(a.id, c.server.base+"/"+string(c.endpoint), c.now); refused != nil {
		return nil, refused
	}
	if !fresh {
		return nil, invalidClient("The client_assertion token has already been used.")
	}
	return a, nil
}

// consume uses up the assertion's jti, if it has one, and tells whether it was new. It is remembered until the assertion
// expires, within bounds: an absurd exp must not fill the memory, and one in the past not hide a replay. Now is
// without a fault's skew, which is for one request.
func (o *Okta) consume(a *app, payload claims, now int64) bool {
	jti := payload.text("jti")
	if jti == "" {
		return true
	}
	until := now + minMemory
	if exp, err := read[int64](payload, "exp"); err == nil && exp != nil {
		until = min(max(*exp, until), now+maxMemory)
	}
	fresh := a.use(jti, until, now)
	o.tally.note(func(n *Counters) {
		if fresh {
			n.DistinctJTI++
		} else {
			n.ReusedJTI++
		}
	})
	return fresh
}

// claims are the members of the payload, each still as it was sent.
type claims map[string]json.RawMessage

// read decodes one claim; nil where it is missing or null, an error where it is of another type.
func read[T any](c claims, name string) (*T, error) {
	raw, there := c[name]
	if !there {
		return nil, nil
	}
	var v *T
	err := json.Unmarshal(raw, &v)
	return v, err
}

// text is a claim that must be a string; empty where it is not.
func (c claims) text(name string) string {
	v, err := read[string](c, name)
	if err != nil || v == nil {
		return ""
	}
	return *v
}

// check compares the claims with Okta's rules, apart from single use.
func (c claims) check(clientID, endpoint string, now time.Time) *refusal {
	exp, expErr := read[int64](c, "exp")
	iat, iatErr := read[float64](c, "iat")
	nbf, nbfErr := read[float64](c, "nbf")
	_, jtiErr := read[string](c, "jti")
	seconds := float64(now.UnixNano()) / 1e9

	switch {
	case c.text("sub") != clientID:
		return invalidClient("The issuer and the subject claim for client_assertion must both be the client_id.")
	case c.text("aud") != endpoint: // a list is refused too, even with the endpoint in it
		return invalidClient("The audience claim for client_assertion must be the endpoint invoked for the request.")
	case expErr != nil || exp == nil:
		return invalidClient("The expiration claim for client_assertion must be an integer.")
	case *exp > now.Unix()+maxAhead:
		return invalidClient("The client_assertion token has an expiration too far into the future.")
	case *exp <= now.Unix():
		return invalidClient("The client_assertion token is expired.")
	case iatErr != nil || nbfErr != nil || jtiErr != nil:
		return unparsable()
	case iat != nil && *iat > seconds:
		return invalidClient("The client_assertion token must be issued before the current time.")
	case nbf != nil && *nbf > seconds:
		return invalidClient("The client_assertion token is not valid yet.")
	}
	return nil
}

func wrongAlgorithm() *refusal {
	return invalidClient("The client_assertion signing algorithm is invalid.")
}

func unparsable() *refusal {
	return invalidClient("The parsing of the client_assertion failed.")
}
