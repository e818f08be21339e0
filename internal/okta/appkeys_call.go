package okta

import (
	"bytes"
	"context"
	"fmt"
	"mime"
	"net/http"
	"net/url"

	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/oauth"
)

const (
	// rotatorScopes are what the key API asks for: the one to list, the other to
	// change.
	rotatorScopes = oauth.Scopes("okta.apps.manage okta.apps.read")

	// maxKeyAnswer bounds an answer of the key API in bytes: 50 RSA keys of 8192
	// bits, with room for what else Okta says of each.
	maxKeyAnswer = 512 << 10

	// Okta's errorCodes.
	invalid   = "E0000001"
	forbidden = "E0000006"
	notFound  = "E0000007"
)

// keysURL is where an org has the public keys of an app.
func keysURL(org, appID string) string {
	return org + "/api/v1/apps/" + url.PathEscape(appID) + "/credentials/jwks"
}

// reply is an answer of the key API that is no error.
type reply struct {
	check *checker
	resp  *http.Response // its body is read
	body  []byte
}

func (r *reply) unusable(err error) *failure { return r.check.unusable(r.resp, err) }

// call makes a request. Where the API wants another proof, with its nonce (RFC 9449
// section 9) or by its clock, it makes another once. Where it refuses the rotator's
// token, as one that was revoked, it makes another with a new token, once in an
// operation.
func (op *operation) call(ctx context.Context, method, target string, body []byte) (*reply, *failure) {
	server := op.cfg.Rotator.cfg.Server
	proved := false
	for {
		if op.limited != nil && server.now().Before(op.until) {
			return nil, &failure{kind: held, earlier: op.limited}
		}
		if op.token.Left(server.now()) == 0 {
			token, err := op.cfg.Rotator.Exchange(ctx, rotatorScopes)
			if err != nil {
				return nil, &failure{kind: noToken, err: err}
			}
			op.token = token
		}
		got, fail := op.send(ctx, method, target, body, proved)
		switch {
		case fail != nil && !proved && fail.ofProof() && (fail.code != dpop.UseNonce || fail.nonce != ""):
			proved = true
		case fail != nil && fail.status == http.StatusUnauthorized && !fail.ofProof() && !op.renewed:
			op.renewed, op.token = true, oauth.Token{}
		default:
			return got, fail
		}
	}
}

// send makes one request with the token at hand. final says that no other proof follows
// its own.
func (op *operation) send(caller context.Context, method, target string, body []byte, final bool) (*reply, *failure) {
	ctx, cancel := context.WithTimeout(caller, exchangeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, &failure{kind: signing, err: err}
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	rotator, token := op.cfg.Rotator, op.token.Access.Reveal()
	req.Header.Set("Authorization", op.token.Type+" "+token)
	check := &checker{server: rotator.cfg.Server, secrets: asSent(token)}
	var made dpop.Made
	if op.token.Type == oauth.DPoP {
		check.reprove = func(ctx context.Context) (proof string, err error) {
			proof, made, err = rotator.Proof(ctx, dpop.Proof{Method: method, URL: target, TokenHash: dpop.TokenHash(token)})
			check.secrets = append(check.secrets, asSent(proof)...)
			return proof, err
		}
		if check.proof, err = check.reprove(ctx); err != nil {
			return nil, &failure{kind: signing, err: err}
		}
	}
	resp, answer, fail := check.roundTrip(req, maxKeyAnswer) //nolint:bodyclose // roundTrip has closed it
	if fail == nil {
		rotator.Learn(target, made, dpop.Terms{Nonce: resp.Header.Get("DPoP-Nonce")})
	}
	switch {
	case fail != nil && caller.Err() != nil:
		fail.kind = abandoned
		return nil, fail
	case fail != nil:
		return nil, fail
	case isError(resp.StatusCode):
		fail := check.words(resp, answer)
		fail.nonce = nonceOf(resp.Header)
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil && fail.code == dpop.InvalidProof {
			rotator.Learn(target, made, dpop.Terms{Date: date, Final: final})
		}
		return nil, op.refused(fail)
	}
	got := &reply{check, resp, answer}
	if err := got.sound(); err != nil {
		return nil, got.unusable(err)
	}
	return got, nil
}

// sound checks that an answer is the API's, and not that of something in between.
func (r *reply) sound() error {
	mediaType, _, _ := mime.ParseMediaType(r.resp.Header.Get("Content-Type"))
	switch status := r.resp.StatusCode; {
	case status == http.StatusNoContent:
		return nil
	case status != http.StatusOK && status != http.StatusCreated:
		return foreign(fmt.Sprintf("the key API answered status %d", status))
	case len(r.body) > maxKeyAnswer:
		return foreign(fmt.Sprintf("the answer is over %d KiB", maxKeyAnswer>>10))
	case mediaType != "application/json":
		return foreign("the answer is not application/json")
	}
	return nil
}

// refused finds what a refusal means, and heeds a limit.
func (op *operation) refused(fail *failure) *failure {
	fail.row = meaning(appKeyRows(), fail)
	if fail.code == forbidden && len(rotatorScopes.Without(op.token.Scopes)) > 0 {
		fail.row.advice = scopesAdvice
	}
	if fail.retryAfter > 0 {
		op.limited, op.until = fail, op.cfg.Rotator.cfg.Server.now().Add(fail.retryAfter)
	}
	return fail
}

// gone reports whether the API says that what a request names is not there.
func (f *failure) gone() bool {
	return f != nil && f.status == http.StatusNotFound && f.code == notFound
}
