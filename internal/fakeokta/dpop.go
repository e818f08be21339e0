package fakeokta

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // refuses duplicate members, which encoding/json takes
)

const (
	proofType     = "dpop+jwt"
	maxProofAge   = 300             // seconds; Okta: five minutes
	proofMemory   = 2 * maxProofAge // seconds that the jti of a proof is remembered
	wordsNoProof  = "The DPoP proof JWT header is missing."
	wordsASNonce  = "Authorization server requires nonce in DPoP proof."
	wordsRSNonce  = "Resource server requires nonce in DPoP proof."
	wordsUnparsed = "The parsing of the DPoP proof JWT failed."
)

// A proof is a DPoP proof (RFC 9449, section 4) that is good for its request, so far as the request alone can tell.
type proof struct {
	jkt   string // RFC 7638 thumbprint of its key, in SHA-256
	nonce string
	ath   string
}

func invalidProof(words string) *refusal { return badRequest("invalid_dpop_proof", words) }

func invalidClaim(name string) *refusal {
	return invalidProof("'" + name + "' claim in the DPoP proof JWT is invalid.")
}

// confirmation is the cnf of a bound token (RFC 9449, section 6.1).
func confirmation(jkt string) map[string]any { return map[string]any{"jkt": jkt} }

// bind finds the key that the client's token is to be bound to; none where a Bearer token is due.
func (o *Okta) bind(c *call) (jkt string, refused *refusal) {
	sent := len(c.Header.Values("DPoP")) > 0
	if !c.client.binds(sent) {
		return "", nil
	}
	if sent {
		c.nonce = o.nonces.newest(c.server.issuer, o.now())
	}
	if c.unproven != nil {
		return "", c.unproven
	}
	if refused := o.checkNonce(c, c.server.issuer, wordsASNonce); refused != nil {
		return "", refused
	}
	return c.proof.jkt, nil
}

// binds tells whether the app's tokens are bound, by whether it sent a proof.
func (a *app) binds(sent bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dpop || (a.honours && sent)
}

// checkBinding finds out whether a token that is sent with the DPoP scheme comes from the holder of its key (RFC 9449,
// section 7.1).
func (o *Okta) checkBinding(c *call, token string, g grant, alive bool) *refusal {
	wantsNonce := o.needsResourceNonce()
	if wantsNonce {
		c.nonce = o.nonces.newest(resourceNonces, o.now())
	}
	sum := sha256.Sum256([]byte(token))
	switch {
	case !alive:
		return invalidToken("The access token is invalid, expired or revoked.")
	case g.jkt == "":
		return invalidToken("The access token is not bound to a DPoP key, and must be sent as a Bearer token.")
	case c.unproven != nil:
		return c.unproven
	case c.proof.jkt != g.jkt:
		return invalidToken("The access token is bound to another key than the DPoP proof's.")
	case c.proof.ath != base64.RawURLEncoding.EncodeToString(sum[:]):
		return invalidClaim("ath")
	case !wantsNonce:
		return nil
	}
	if refused := o.checkNonce(c, resourceNonces, wordsRSNonce); refused != nil {
		return &refusal{http.StatusUnauthorized, refused.code, refused.words} // as in RFC 9449, section 9
	}
	return nil
}

// verifyProof checks the request's proof, apart from what a token and a nonce have to do with it: the signature, then the
// jti, which is consumed whatever the claims turn out to be, then the claims.
func (o *Okta) verifyProof(c *call) (*proof, *refusal) {
	sent := c.Header.Values("DPoP")
	switch len(sent) {
	case 0:
		return nil, invalidProof(wordsNoProof)
	case 1:
	default: // RFC 9449, section 4.3, number 1
		return nil, invalidProof("There must be one DPoP proof JWT header, and no more.")
	}
	o.tally.note(func(n *Counters) { n.LastProof = sent[0] })
	payload, key, refused := readProof(sent[0])
	if refused != nil {
		return nil, refused
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, invalidProof("The 'jwk' in the DPoP proof JWT header is invalid.")
	}
	jkt := base64.RawURLEncoding.EncodeToString(sum)

	fresh := o.consumeProof(c.client, jkt, payload.text("jti"))
	if refused := payload.checkProof(c.Method, o.originOf(c), c.URL.Path, c.now); refused != nil {
		return nil, refused
	}
	if !fresh {
		return nil, invalidProof("The DPoP proof JWT has already been used.")
	}
	return &proof{jkt: jkt, nonce: payload.text("nonce"), ath: payload.text("ath")}, nil
}

// readProof reads a proof and verifies it with the key in its header.
func readProof(compact string) (claims, jose.JSONWebKey, *refusal) {
	invalid := func(words string) (claims, jose.JSONWebKey, *refusal) {
		return nil, jose.JSONWebKey{}, invalidProof(words)
	}

	header, err := headerOf(compact)
	if err != nil {
		return invalid(wordsUnparsed)
	}
	if header.text("typ") != proofType {
		return invalid("The 'typ' in the DPoP proof JWT header must be 'dpop+jwt'.")
	}
	if _, there := header["crit"]; there { // nothing that could stand there is known to Okta
		return invalid("The 'crit' in the DPoP proof JWT header is not supported.")
	}
	key, err := verifyingKey([]byte(header["jwk"]))
	if err != nil {
		return invalid("The 'jwk' in the DPoP proof JWT header is invalid.")
	}
	algorithm := header.text("alg")
	if !slices.Contains(algorithmsOf(key.Key), jose.SignatureAlgorithm(algorithm)) ||
		(key.Algorithm != "" && key.Algorithm != algorithm) {
		return invalid("The DPoP proof JWT signing algorithm is invalid.")
	}

	jws, err := jose.ParseSignedCompact(compact, algorithms())
	if err != nil {
		return invalid(wordsUnparsed)
	}
	body, err := jws.Verify(key.Key)
	if err != nil {
		return invalid("The DPoP proof JWT signature is invalid.")
	}
	var payload claims
	if err := json.Unmarshal(body, &payload); err != nil {
		return invalid(wordsUnparsed)
	}
	return payload, key, nil
}

// headerOf decodes the header of a JWT, each member still as it was sent: go-jose keeps no private member of a jwk.
func headerOf(compact string) (claims, error) {
	encoded, _, _ := strings.Cut(compact, ".")
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return nil, err
	}
	var header claims
	err = json.Unmarshal(raw, &header)
	return header, err
}

// consumeProof uses up the jti of a proof, and tells whether it was new: for its key, and for the client, whose
// assertions must not have it either. The client is nil where no assertion is taken, or none was good.
func (o *Okta) consumeProof(client *app, jkt, jti string) bool {
	if jti == "" {
		return true // the claims are refused for it
	}
	now := o.now().Unix()
	fresh := o.proofs.use(jkt+" "+jti, now+proofMemory, now)
	o.tally.note(func(n *Counters) {
		if fresh {
			n.DistinctProofs++
		} else {
			n.ReusedProofs++
		}
	})
	if client != nil && !client.use(jti, now+minMemory, now) {
		return false
	}
	return fresh
}

// checkProof compares the claims with Okta's rules, apart from single use, nonce and ath.
func (c claims) checkProof(method, origin, path string, now time.Time) *refusal {
	iat, iatErr := read[float64](c, "iat")
	seconds := float64(now.UnixNano()) / 1e9
	switch {
	case c.text("jti") == "":
		return invalidClaim("jti")
	case c.text("htm") != method:
		return invalidClaim("htm")
	case !isURL(c.text("htu"), origin, path):
		return invalidClaim("htu")
	case iatErr != nil || iat == nil:
		return invalidClaim("iat")
	case *iat > seconds:
		return invalidProof("The DPoP proof JWT is issued in the future.")
	case seconds-*iat > maxProofAge:
		return invalidProof("The DPoP proof JWT was issued more than five minutes in the past.")
	}
	return nil
}

// isURL tells whether htu is the URL that was called, without query and fragment. Okta compares it, as it was sent, with
// a path that is decoded: where the client escaped a character, the escaped URL is refused.
func isURL(htu, origin, path string) bool {
	return !strings.ContainsAny(htu, "?#") && len(htu) >= len(origin) &&
		strings.EqualFold(htu[:len(origin)], origin) && htu[len(origin):] == path
}

// replays remembers the proofs that were used. The zero value is ready.
type replays struct {
	mu   sync.Mutex
	seen memory
}

// use consumes a proof until the given second of the Unix epoch, and tells whether it was new.
func (r *replays) use(id string, until, now int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen.add(id, until, now)
}
