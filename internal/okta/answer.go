package okta

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/transport"
)

const (
	// maxAnswer bounds an answer in bytes, after decompression.
	maxAnswer = 64 << 10
	// maxToken bounds an access token in bytes: it has to fit in a header.
	maxToken = 32 << 10
	// defaultLife is for a server that does not say (RFC 6749 section 5.1 only
	// recommends expires_in).
	defaultLife = 5 * time.Minute
	maxLife     = 24 * time.Hour
)

// checker is a RoundTripper that lets x/oauth2 see nothing but a good answer,
// rewritten in canonical form: the library takes a missing expires_in for "for
// ever", lets "Access_Token" override access_token, and puts whole bodies into
// its errors. Every other answer becomes a *failure. One checker serves one
// attempt.
type checker struct {
	server  *Server
	asked   oauth.Scopes
	client  string   // its name in the configuration
	tokens  bool     // the token endpoint is asked: nowhere else could a proof help
	dpop    DPoP     // that the client is set to there
	proof   string   // that is sent in the DPoP header; empty: there is none
	nonce   string   // in it, if the answer to the attempt before brought it
	reprove reprove  // nil: net/http does not repeat the request
	secrets []string // that are sent, as they may come back

	// What a good answer says.
	granted oauth.Scopes
	life    time.Duration
}

// RoundTrip sends the request once and checks the answer.
func (c *checker) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, body, fail := c.send(req)
	if fail != nil {
		return nil, fail
	}
	nonce := nonceOf(resp.Header)
	if isError(resp.StatusCode) {
		fail := c.refusal(resp, body)
		fail.nonce = nonce
		c.learnNonce(nonce, fail.ofProof() && fail.row.class != oauth.Unavailable)
		return nil, fail
	}
	c.learnNonce(nonce, false)
	if resp.StatusCode != http.StatusOK {
		return nil, c.unusable(resp, foreign(fmt.Sprintf("the token endpoint answered status %d, not a token", resp.StatusCode)))
	}
	answer, err := c.accept(resp.Header, body)
	if err != nil {
		return nil, c.unusable(resp, err)
	}
	resp.Header = http.Header{"Content-Type": {"application/json"}}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	resp.ContentLength = int64(len(answer))
	return resp, nil
}

// learnNonce has the next exchanges begin with the newest nonce that may be good: that of
// the answer, else that of the proof.
func (c *checker) learnNonce(nonce string, proofRefused bool) {
	switch {
	case !proofRefused:
		nonce = cmp.Or(nonce, c.nonce)
	case c.nonce == "":
		return // it is for the next attempt, and may be good for one alone
	}
	c.server.terms.change(c.server.forTokens(), func(t *terms) { t.nonce = cmp.Or(nonce, t.nonce) })
}

// send sends a request to an authorization server's endpoint. It does not send one
// that a 429 forbids, wherever that came from since the exchange began.
func (c *checker) send(req *http.Request) (*http.Response, []byte, *failure) {
	if fail := c.server.gate.limit(c.server.now()); fail != nil {
		return nil, nil, fail
	}
	return c.roundTrip(req, maxAnswer)
}

// reprove makes another proof.
type reprove func(context.Context) (string, error)

// onRepeat has a request carry another proof when net/http repeats it by itself: a server
// may take a proof but once (RFC 9449 section 11.1). If there is none, the same goes out
// again.
func (again reprove) onRepeat(ctx context.Context, header http.Header) context.Context {
	return transport.OnRepeat(ctx, func() {
		if proof, err := again(ctx); err == nil {
			header.Set("DPoP", proof)
		}
	})
}

// roundTrip sends a request and reads the answer, of which it returns no more than one
// byte over most.
func (c *checker) roundTrip(req *http.Request, most int64) (*http.Response, []byte, *failure) {
	req = req.Clone(req.Context())
	// Without GetBody net/http cannot send the assertion a second time over a
	// new connection.
	req.GetBody = nil
	if c.proof != "" {
		req.Header.Set("DPoP", c.proof)
	}
	if c.reprove != nil {
		req = req.WithContext(c.reprove.onRepeat(req.Context(), req.Header))
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity") // a token is small, a bomb is not
	req.Header.Set("User-Agent", "okta-token-broker")
	sent := c.server.now()
	resp, err := c.server.transport.RoundTrip(req)
	if err != nil {
		return nil, nil, transportFailure(err)
	}
	defer resp.Body.Close()
	c.server.observe(resp.Header, sent, c.server.now())
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, nil, transportFailure(err)
	}
	return resp, body, nil
}

// foreign is what is wrong with an answer that the authorization server itself
// would hardly give: something in between does, to every client.
type foreign string

func (f foreign) Error() string { return string(f) }

// advised is what is wrong with an answer, and what to do about it.
type advised string

func (a advised) Error() string { return string(a) }

// tokenResponse is RFC 6749 section 5.1.
type tokenResponse struct {
	AccessToken *string        `json:"access_token"`
	TokenType   *string        `json:"token_type"`
	ExpiresIn   jsontext.Value `json:"expires_in"`
	Scope       *string        `json:"scope"`
	Error       jsontext.Value `json:"error"`
}

// accept checks a 200 and returns it in canonical form. Its errors hold no byte
// of the answer.
func (c *checker) accept(header http.Header, body []byte) ([]byte, error) {
	if len(body) > maxAnswer {
		return nil, foreign(fmt.Sprintf("the answer is over %d KiB", maxAnswer>>10))
	}
	if mediaType, _, err := mime.ParseMediaType(header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return nil, foreign("the answer is not application/json")
	}
	var g tokenResponse
	// Duplicate names, invalid UTF-8 and other spellings of a name do not pass.
	if err := json.Unmarshal(body, &g); err != nil {
		return nil, foreign("the answer is not a valid JSON object with the fields of RFC 6749 section 5.1")
	}
	switch {
	case g.Error != nil && g.Error.Kind() != 'n':
		return nil, errors.New("the answer is a 200 with an error in it")
	case g.AccessToken == nil || *g.AccessToken == "":
		return nil, errors.New("the answer has no access_token")
	case len(*g.AccessToken) > maxToken:
		return nil, fmt.Errorf("access_token is over %d KiB", maxToken>>10)
	case strings.ContainsFunc(*g.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, errors.New("access_token has characters that no header can carry")
	case g.TokenType == nil:
		return nil, errors.New("the answer has no token_type")
	}
	kind, err := c.tokenType(*g.TokenType)
	if err != nil {
		return nil, err
	}
	if c.life, err = lifetime(g.ExpiresIn); err != nil {
		return nil, err
	}
	if c.granted, err = grantedScopes(g.Scope, c.asked); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"access_token": *g.AccessToken,
		"token_type":   kind,
		"expires_in":   int64(c.life / time.Second),
		"scope":        string(c.granted),
	})
}

// tokenType reads token_type, which servers write in any case. Only an app that has
// to get a bound token may not get another: one that does not have to gets a Bearer
// token for its proof.
func (c *checker) tokenType(kind string) (string, error) {
	switch {
	case strings.EqualFold(kind, oauth.Bearer) && c.dpop != DPoPRequired:
		return oauth.Bearer, nil
	case strings.EqualFold(kind, oauth.Bearer):
		return "", advised("the token is a Bearer token, and clients." + c.client + ".dpop is required: turn DPoP on for the app, or set dpop to auto")
	case !strings.EqualFold(kind, oauth.DPoP):
		return "", errors.New("token_type is neither Bearer nor DPoP")
	case c.proof == "":
		return "", errors.New("the answer is a DPoP token, and no proof was sent")
	}
	return oauth.DPoP, nil
}

// lifetime reads expires_in, which servers also write as a string or a float.
func lifetime(value jsontext.Value) (time.Duration, error) {
	text := string(value)
	switch value.Kind() {
	case 0, 'n':
		return defaultLife, nil
	case '"':
		text = text[1 : len(text)-1]
	case '0':
	default:
		return 0, errors.New("expires_in is not a number")
	}
	// ParseFloat also reads hexadecimal, NaN and Inf.
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || strings.Trim(text, "0123456789.eE+-") != "" || seconds != math.Trunc(seconds) {
		return 0, errors.New("expires_in is not a whole number of seconds")
	}
	if seconds < 1 || seconds > maxLife.Seconds() {
		return 0, fmt.Errorf("expires_in is not within 1 to %.0f seconds", maxLife.Seconds())
	}
	return time.Duration(seconds) * time.Second, nil
}

// grantedScopes reads scope, which may be left out when it is what was asked
// for. A token that can do more than was asked for is refused. A client that
// asks for no scope takes the server's default.
func grantedScopes(scope *string, asked oauth.Scopes) (oauth.Scopes, error) {
	if scope == nil {
		return asked, nil
	}
	granted, err := oauth.ParseScopes(*scope)
	if err != nil {
		return "", errors.New("scope is not a list of scopes by RFC 6749 section 3.3")
	}
	if asked != "" && !granted.Within(asked) {
		return "", errors.New("scope is wider than what was asked for")
	}
	return granted, nil
}
