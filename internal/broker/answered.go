package broker

import (
	"context"
	"strings"
	"time"

	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/dpop"
)

// Answer is what a resource server said of the credentials.
type Answer struct {
	Status int
	// Nonce is from DPoP-Nonce, as it came (RFC 9449 section 9). Empty: none. One that
	// is asked for is known to other calls once a Final answer has it.
	Nonce string
	// Date is the time by the server's clock. Zero: it does not say.
	Date time.Time
	// Challenge has the fields of WWW-Authenticate, as they came. Okta gives its reasons
	// there and nowhere else.
	Challenge []string
	// Final says that nothing more is sent, whatever Answered says: all that
	// counts is the nonce.
	Final bool
}

// Answered tells what a resource server said of a call's credentials, and asks
// whether others could help. If so it returns them, and ok; a token that was refused
// has then been replaced, within what the limiter for forced fetches allows.
func (b *Broker) Answered(ctx context.Context, who caller.Caller, req CallRequest, had Credentials, answer Answer) (next Credentials, ok bool) {
	client, key, err := b.tokenKey(who, TokenRequest{Client: req.Client, Scope: req.Scope})
	if err != nil || client.mayCall(req.URL) != nil {
		return Credentials{}, false
	}
	said := dpop.Challenge(answer.Challenge)
	if said.OfProof() && had.Proof == "" {
		b.log.WarnContext(ctx, "a resource wants DPoP proofs, and the client's tokens are not bound to a key: set dpop of the client to required", "client", client.Name, "url", audited(req.URL))
	}
	remedy := client.remedy(req, had, answer, said)
	client.learn(req, had, answer, remedy)
	token := had.Token
	switch {
	case answer.Final, remedy == noRemedy:
		return Credentials{}, false
	case remedy == anotherNonce:
		req.Nonce = answer.Nonce
	case remedy == anotherToken:
		if token, ok = b.tokens.Replace(ctx, key, had.Token); !ok {
			return Credentials{}, false
		}
	}
	next, err = client.credentials(ctx, req, token)
	return next, err == nil
}

// remedy is what may help a call whose credentials were refused: what is new in the next
// ones.
type remedy int

const (
	noRemedy     remedy = iota
	anotherNonce        // the one that came
	otherPath           // the path in its other form
	anotherProof        // its time, or that it was seen before, may have been the reason
	anotherToken
)

// remedy finds what may help after an answer, whether or not there is another attempt.
func (c *Client) remedy(req CallRequest, had Credentials, answer Answer, said dpop.Refusal) remedy {
	switch ofProof := said.OfProof() && had.Proof != ""; {
	case !ofProof && answer.Status != statusUnauthorized:
		return noRemedy
	case !ofProof, had.Token.JKT != c.JKT:
		// For a token that is bound to the key which the client had before it changed,
		// it can make no other proof.
		return anotherToken
	case said.Code == dpop.UseNonce && !dpop.ValidNonce(answer.Nonce):
		return noRemedy
	case said.Code == dpop.UseNonce:
		return anotherNonce
	case said.OfPath() && !strings.Contains(withoutQuery(req.URL), "%"): // there is nothing to decode
		return noRemedy
	case said.OfPath():
		return otherPath
	}
	return anotherProof
}

// learn has the proofs to come be as the server wants them.
func (c *Client) learn(req CallRequest, had Credentials, answer Answer, remedy remedy) {
	if c.Prover == nil {
		return
	}
	said := dpop.Terms{Nonce: answer.Nonce, Final: answer.Final}
	switch remedy {
	case anotherNonce:
		if !answer.Final {
			said.Nonce = "" // it is for this call first: there are servers that take each once
		}
	case otherPath:
		said.Decoded = new(!had.made.Decoded)
	case anotherProof: // which may be for its time
		said.Date = answer.Date
	}
	c.Prover.Learn(req.URL, had.made, said)
}

// statusUnauthorized is net/http's, which is for packages that speak HTTP.
const statusUnauthorized = 401
