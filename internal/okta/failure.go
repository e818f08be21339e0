package okta

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"okta-token-broker/internal/oauth"
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
	signing                 // nothing was sent
)

// failure is what became of an attempt. Its texts are safe for a log.
type failure struct {
	kind        kind
	status      int
	code        string // RFC 6749's error or Okta's errorCode
	description string
	requestID   string
	retryAfter  time.Duration
	clockMoved  bool // the answer showed that the assertion's clock was off
	err         error
}

func (f *failure) Error() string {
	if f.err != nil {
		return f.err.Error()
	}
	return fmt.Sprintf("status %d, error %q: %s", f.status, f.code, f.description)
}

func (f *failure) Unwrap() error { return f.err }

// refusesClient reports whether the server did not accept who we say we are.
// Servers that are not Okta also say so with unauthorized_client, or with no
// word at all.
func (f *failure) refusesClient() bool {
	return f.kind == refused && (f.code == "invalid_client" || f.status == http.StatusUnauthorized && (f.code == "unauthorized_client" || f.code == ""))
}

// transportFailure sorts an error of net/http.
func transportFailure(err error) *failure {
	if fail, ok := errors.AsType[*failure](err); ok {
		return fail
	}
	fail := &failure{kind: broken, err: err}
	var netErr net.Error
	opErr, isOp := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		fail.kind = tooSlow
	case isTLS(err):
		fail.kind = untrusted
	case isOp && (opErr.Op == "dial" || opErr.Op == "proxyconnect"):
		fail.kind = unreachable
	}
	return fail
}

func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return true
	}
	opErr, ok := errors.AsType[*net.OpError](err)
	return ok && (opErr.Op == "remote error" || opErr.Op == "local error") // crypto/tls names its alerts so
}

// refusal reads an answer that is not a 200.
func (c *checker) refusal(resp *http.Response, body []byte) *failure {
	fail := &failure{kind: refused, status: resp.StatusCode, requestID: requestID(resp.Header)}
	if resp.StatusCode < 400 {
		fail.kind = badAnswer
		fail.err = fmt.Errorf("the token endpoint answered status %d, not a token", resp.StatusCode)
		return fail
	}
	var words struct {
		Error        string `json:"error"`
		Description  string `json:"error_description"`
		ErrorCode    string `json:"errorCode"` // Okta's management form
		ErrorSummary string `json:"errorSummary"`
	}
	if json.Unmarshal(body, &words) == nil {
		fail.code, fail.description = words.Error, words.Description
		if fail.code == "" {
			fail.code, fail.description = words.ErrorCode, words.ErrorSummary
		}
	}
	fail.code = identifier(fail.code)
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
	wait := usual
	date, dateErr := http.ParseTime(header.Get("Date"))
	reset, resetErr := strconv.ParseInt(header.Get("X-Rate-Limit-Reset"), 10, 64)
	if dateErr == nil && resetErr == nil {
		wait = time.Duration(min(max(reset-date.Unix(), 0), int64(most/time.Second))) * time.Second
	}
	if seconds, err := strconv.ParseUint(header.Get("Retry-After"), 10, 31); err == nil {
		wait = max(wait, time.Duration(seconds)*time.Second)
	}
	return min(max(wait, least), most)
}

const (
	maxIdentifier  = 128
	maxDescription = 300
)

// identifier lets an error code or a request id through if it is one.
func identifier(s string) string {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r) {
			return ""
		}
	}
	if len(s) > maxIdentifier || strings.HasPrefix(s, "eyJ") {
		return ""
	}
	return s
}

func requestID(header http.Header) string {
	return identifier(header.Get("X-Okta-Request-Id"))
}

// clean makes a server's description fit for callers and logs: the characters
// of RFC 6749 section 5.2, one line, bounded, and nothing of the assertion or
// of any other JWT that a server might quote.
func (c *checker) clean(s string) string {
	for _, part := range append([]string{c.assertion}, strings.Split(c.assertion, ".")...) {
		s = strings.ReplaceAll(s, part, "[redacted]")
	}
	words := strings.FieldsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' })
	for i, word := range words {
		if strings.Contains(word, "eyJ") { // {" in base64url: how a JWT begins
			words[i] = "[redacted]"
		}
	}
	s = strings.ReplaceAll(strings.Join(words, " "), `"`, "'")
	if len(s) > maxDescription {
		s = s[:maxDescription]
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
