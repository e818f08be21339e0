package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"okta-token-broker/internal/oauth"
)

// fault sorts an error of an http.RoundTripper by whose it is. Its text can quote
// what the host sent, so none of it is passed on.
func fault(ctx context.Context, host string, err error) error {
	opErr, isOp := errors.AsType[*net.OpError](err)
	_, isProxy := errors.AsType[*proxyRefusal](err)
	var netErr net.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &netErr) && netErr.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return &oauth.Error{Class: oauth.TimedOut, Description: host + " did not answer in time", RetryAfter: time.Second, Err: cause(reason(err))}
	case isOp && (opErr.Op == "dial" || opErr.Op == "proxyconnect"), isProxy:
		return &oauth.Error{
			Class:       oauth.Unavailable,
			Description: host + " could not be reached: the network, HTTPS_PROXY or the address in the configuration may be wrong",
			RetryAfter:  time.Second, Err: cause(reason(err)),
		}
	case isTLS(err):
		return &oauth.Error{Class: oauth.BadAnswer, Description: host + " is not trusted: " + reason(err), Err: cause("TLS")}
	}
	return &oauth.Error{Class: oauth.BadAnswer, Description: "the connection to " + host + " broke, or its answer made no sense", Err: cause(reason(err))}
}

// cause is why a request had no answer.
type cause string

func (c cause) Error() string { return string(c) }

// reason is what can be said of an error without repeating anybody's words.
func reason(err error) string {
	opErr, isOp := errors.AsType[*net.OpError](err)
	errno, isErrno := errors.AsType[syscall.Errno](err)
	proxyErr, isProxy := errors.AsType[*proxyRefusal](err)
	var dnsErr *net.DNSError
	var netErr net.Error
	switch {
	case isProxy:
		return proxyErr.Error()
	case errors.As(err, &dnsErr) && dnsErr.IsNotFound:
		return "the host's name is not known"
	case errors.As(err, &dnsErr):
		return "the host's name could not be looked up"
	case isTLS(err):
		return reasonTLS(err)
	case isErrno && isOp:
		return opErr.Op + ": " + errno.Error()
	case errors.As(err, &netErr) && netErr.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "time-out"
	case errors.Is(err, errStatus):
		return errStatus.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection ended before the answer did"
	}
	return "the answer could not be read"
}

func reasonTLS(err error) string {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "its certificate has expired or is not valid yet"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "its certificate is for another host"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "its certificate is from an unknown authority: ca_file may be wrong"
	}
	return "TLS failed"
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
	opErr, ok := errors.AsType[*net.OpError](err)
	return ok && (opErr.Op == "remote error" || opErr.Op == "local error") // crypto/tls names its alerts so
}

var errStatus = errors.New("the answer has a status that it must not have")

// proxyRefusal is a proxy that does not connect.
type proxyRefusal struct{ status int }

func (e *proxyRefusal) Error() string { return fmt.Sprintf("the proxy answered status %d", e.status) }
