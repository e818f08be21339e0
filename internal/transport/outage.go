package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strconv"
	"syscall"
)

// Outage is what stood between a request and its answer.
type Outage int

// The outages.
const (
	// Broken: the connection broke, or what came over it was no answer.
	Broken Outage = iota
	// TooSlow: the time was up.
	TooSlow
	// Unreachable: there was no connection, or a proxy made none.
	Unreachable
	// Untrusted: TLS failed with the host itself.
	Untrusted
)

// OutageOf sorts an error of an http.RoundTripper, or of reading the body that came
// from it. Its text can quote what the other side sent, the echo of a request
// included. The string repeats nobody's words: it is fit for callers and logs.
// That a context was cancelled is no outage, and for the caller to find out first.
func OutageOf(err error) (Outage, string) {
	return outageOf(err), reason(err)
}

func outageOf(err error) Outage {
	opErr, isOp := errors.AsType[*net.OpError](err)
	_, isProxy := errors.AsType[proxyRefusal](err)
	switch {
	case isTimeout(err):
		return TooSlow
	case isProxy, isOp && (opErr.Op == "dial" || opErr.Op == "proxyconnect"):
		return Unreachable
	case isTLS(err):
		return Untrusted
	}
	return Broken
}

// reason is what can be said of an error without repeating anybody's words.
func reason(err error) string {
	opErr, isOp := errors.AsType[*net.OpError](err)
	dnsErr, isDNS := errors.AsType[*net.DNSError](err)
	errno, isErrno := errors.AsType[syscall.Errno](err)
	refusal, isProxy := errors.AsType[proxyRefusal](err)
	switch {
	case isProxy:
		return refusal.Error()
	case isDNS && dnsErr.IsNotFound:
		return "the host's name is not known"
	case isDNS:
		return "the host's name could not be looked up"
	case isTLS(err):
		return reasonTLS(err)
	case isErrno && isOp:
		return opErr.Op + ": " + errno.Error()
	case isTimeout(err):
		return "time-out"
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
		return "its certificate is from an unknown authority"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "it speaks no TLS there: the port, or https://, may be wrong"
	}
	if opErr, ok := errors.AsType[*net.OpError](err); ok && opErr.Op == "remote error" {
		return "it ended the handshake: it may want a client certificate, or another version of TLS"
	}
	return "the handshake failed"
}

func isTimeout(err error) bool {
	netErr, ok := errors.AsType[net.Error](err)
	return ok && netErr.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
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

// proxyRefusal is the status that a proxy answered CONNECT with, instead of
// connecting: net/http's own error is the proxy's words.
type proxyRefusal int

func (status proxyRefusal) Error() string {
	return "the proxy answered status " + strconv.Itoa(int(status))
}
