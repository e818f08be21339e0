package okta

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/transport"
)

// kind says at which point an attempt failed.
type kind int

const (
	refused     kind = iota // the server answered, with an error
	badAnswer               // the server answered nonsense
	broken                  // the connection broke
	unreachable             // there was no connection
	untrusted               // TLS failed
	tooSlow                 // a time-out
	abandoned               // whoever asked has left
	signing                 // there was no assertion to send
	held                    // the gate was closed
	noToken                 // the client that a call is made for has no token
)

// failure is what became of an attempt. Its texts are safe for a log.
type failure struct {
	kind        kind
	status      int
	code        string // RFC 6749's error or Okta's errorCode
	description string
	requestID   string
	retryAfter  time.Duration
	row         row      // what the server's words mean
	endpoint    string   // that was asked
	clockMoved  bool     // another clock is to be tried
	proved      bool     // a DPoP proof was sent
	decoded     bool     // that was the form of the path in it
	nonce       string   // for the next proof
	late        bool     // other attempts of the exchange went before
	earlier     *failure // that closed the gate
	err         error
}

func (f *failure) Error() string {
	switch {
	case f.kind == held:
		return "not sent: " + f.earlier.Error()
	case f.err != nil:
		return f.err.Error()
	}
	return fmt.Sprintf("status %d, error %q: %s", f.status, f.code, f.description)
}

func (f *failure) Unwrap() error { return f.err }

// reach says for what else than its request a failure holds. Nil is a success.
func (f *failure) reach() oauth.Reach {
	switch {
	case f == nil:
		return oauth.ReachRequest
	case f.kind == refused:
		return f.row.reach
	case f.kind == badAnswer:
		if _, is := errors.AsType[foreign](f.err); is {
			return oauth.ReachServer
		}
		return oauth.ReachScopes
	case f.tellsNothing():
		return oauth.ReachRequest
	}
	return oauth.ReachServer
}

// unsent reports whether no request left.
func (f *failure) unsent() bool {
	return f != nil && (f.kind == signing || f.kind == held)
}

// tellsNothing reports whether a failure says nothing about the server.
func (f *failure) tellsNothing() bool {
	return f.unsent() || f != nil && f.kind == abandoned
}

// refusesClient reports whether the server did not accept who we say we are, by a
// code that may mean that, or without a code.
func (f *failure) refusesClient() bool {
	return f.kind == refused && f.row.fix == byState && (f.row.code != "" || f.code == "")
}

// transportFailure sorts an error of net/http, whose text can quote what the
// server sent, the echo of a request included.
func transportFailure(err error) *failure {
	if errors.Is(err, context.Canceled) {
		return &failure{kind: tooSlow, err: context.Canceled}
	}
	outage, words := transport.OutageOf(err)
	fail := &failure{kind: broken, err: errors.New(words)}
	switch outage {
	case transport.TooSlow:
		fail.kind = tooSlow
	case transport.Unreachable:
		fail.kind = unreachable
	case transport.Untrusted:
		fail.kind = untrusted
	}
	return fail
}

// isError reports whether a status is one of an error.
func isError(status int) bool { return status >= 400 && status <= 599 }

// unusable is for an answer that no server gives at the endpoint. Its status, which
// can be 000 or 999, is shown as the nearest one there is.
func (c *checker) unusable(resp *http.Response, err error) *failure {
	return &failure{kind: badAnswer, status: min(max(resp.StatusCode, 100), 599), requestID: c.requestID(resp.Header), err: err}
}

// refusal reads an error of an authorization server's endpoint.
func (c *checker) refusal(resp *http.Response, body []byte) *failure {
	fail := c.words(resp, body)
	fail.row = meaning(c.server.rows(), fail)
	fail.proved = c.proof != ""
	if fail.row.class == oauth.Unavailable || !fail.ofProof() && fail.row.fix != useProof {
		return fail
	}
	switch {
	case !c.tokens:
		fail.row.class, fail.row.advice = oauth.Refused, noProofAdvice
	case c.dpop == DPoPOff:
		fail.row.class, fail.row.reach, fail.row.advice = oauth.Refused, oauth.ReachClient, offAdvice
	}
	return fail
}

// words reads an answer that is an error.
func (c *checker) words(resp *http.Response, body []byte) *failure {
	fail := &failure{kind: refused, status: resp.StatusCode, requestID: c.requestID(resp.Header)}
	var words struct {
		Error        string `json:"error"`
		Description  string `json:"error_description"`
		ErrorCode    string `json:"errorCode"` // Okta's management form
		ErrorSummary string `json:"errorSummary"`
		ErrorCauses  []struct {
			ErrorSummary string `json:"errorSummary"`
		} `json:"errorCauses"`
	}
	if json.Unmarshal(body, &words) == nil {
		fail.code, fail.description = words.Error, words.Description
		if fail.code == "" {
			said := []string{words.ErrorSummary}
			for _, cause := range words.ErrorCauses {
				said = append(said, cause.ErrorSummary)
			}
			fail.code, fail.description = words.ErrorCode, strings.Join(said, "; ")
		}
	}
	// Where a proof is concerned Okta's resources, and others, have their reasons in the
	// challenge, and no body.
	if said := dpop.Challenge(resp.Header["Www-Authenticate"]); said.OfProof() {
		fail.code, fail.description = said.Code, cmp.Or(said.Description, fail.description)
	}
	fail.code = c.identifier(fail.code)
	fail.description = c.clean(fail.description)
	if resp.StatusCode == http.StatusTooManyRequests {
		fail.retryAfter = untilReset(resp.Header)
	}
	return fail
}

// untilReset says when a limited request may be repeated. X-Rate-Limit-Reset is
// in seconds since 1970 by the server's clock, so it counts from the answer's
// Date; it can be missing, past or absurd.
func untilReset(header http.Header) time.Duration {
	const least, most, usual = time.Second, 2 * time.Minute, 10 * time.Second
	date, dateErr := http.ParseTime(header.Get("Date"))
	reset, resetErr := strconv.ParseInt(header.Get("X-Rate-Limit-Reset"), 10, 64)
	seconds, secondsErr := strconv.ParseUint(header.Get("Retry-After"), 10, 31)
	at, atErr := http.ParseTime(header.Get("Retry-After"))
	var waits []time.Duration
	if dateErr == nil && resetErr == nil {
		now := date.Unix()
		waits = append(waits, time.Duration(min(max(reset, now)-now, int64(most/time.Second)))*time.Second)
	}
	if secondsErr == nil {
		waits = append(waits, time.Duration(seconds)*time.Second)
	}
	if dateErr == nil && atErr == nil {
		waits = append(waits, at.Sub(date))
	}
	if waits == nil {
		return usual
	}
	return min(max(slices.Max(waits), least), most)
}

// Bounds in bytes on what is passed on of a server's words.
const (
	maxIdentifier  = 128
	maxDescription = 300
	// leastSecret is how long a piece of a secret must be to matter.
	leastSecret = 16
)

// identifier lets an error code or a request id through if it is one.
func (c *checker) identifier(s string) string {
	if len(s) > maxIdentifier || strings.ContainsFunc(s, notIdentifierRune) || c.holdsSecret(s) || c.holdsSecret(alphanumeric(s)) {
		return ""
	}
	return s
}

func (c *checker) requestID(header http.Header) string {
	return c.identifier(header.Get("X-Okta-Request-Id"))
}

// holdsSecret reports whether a word is, or holds, a piece of what was sent or of
// any other JWT, whatever is glued to it.
func (c *checker) holdsSecret(word string) bool {
	return strings.Contains(word, "eyJ") || c.echoes(word) // {" in base64url: how a JWT begins
}

// echoes reports whether a word is, or holds, a piece of what was sent.
func (c *checker) echoes(word string) bool {
	for i := leastSecret; i <= len(word); i++ {
		piece := word[i-leastSecret : i]
		if slices.ContainsFunc(c.secrets, func(secret string) bool { return strings.Contains(secret, piece) }) {
			return true
		}
	}
	return false
}

// asSent returns the forms in which something that was sent may come back: as it
// is, form-encoded, and in pieces.
func asSent(sent ...string) (forms []string) {
	for _, s := range sent {
		forms = append(forms, s, url.QueryEscape(s), alphanumeric(s))
	}
	return forms
}

// alphanumeric leaves out what can stand between the pieces of something.
func alphanumeric(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, s)
}

func notIdentifierRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
}

// clean makes a server's description fit for callers and logs: the characters
// of RFC 6749 section 5.2, one line, bounded, and no secret.
func (c *checker) clean(s string) string {
	var clean strings.Builder
	for word := range strings.FieldsFuncSeq(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }) {
		if clean.Len() > maxDescription {
			break
		}
		if c.holdsSecret(word) {
			word = "[redacted]"
		}
		clean.WriteString(" " + word)
	}
	s = strings.ReplaceAll(strings.TrimPrefix(clean.String(), " "), `"`, "'")
	if s = s[:min(len(s), maxDescription)]; c.holdsSecret(alphanumeric(s)) {
		return "[redacted]" // it comes in pieces
	}
	return s
}

// upstream is the part of a failure that callers see.
func (f *failure) upstream() *oauth.Upstream {
	if f.status == 0 {
		return nil
	}
	return &oauth.Upstream{Status: f.status, Code: f.code, Description: f.description, RequestID: f.requestID}
}
