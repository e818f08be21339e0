package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/oauth"
)

// What an error says is whose fault it is, and nothing that the other side sent.
func TestFault(t *testing.T) {
	const theirs = "l3aky"
	tests := []struct {
		name  string
		err   error
		class oauth.Class
		says  string
		cause string
		retry bool
	}{
		{"time-out", context.DeadlineExceeded, oauth.TimedOut, "did not answer in time", "time-out", true},
		{"nobody listens", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, oauth.Unavailable, "could not be reached: the network, HTTPS_PROXY or clients.a.issuer may be wrong", "dial: connection refused", true},
		{"proxy that refuses", refusedByProxy(t, theirs), oauth.Unavailable, "HTTPS_PROXY", "the proxy answered status 407", true},
		{"no TLS", tls.RecordHeaderError{Msg: theirs}, oauth.Unavailable, "TLS with acme.okta.com failed (it speaks no TLS there: the port, or https://, may be wrong): check the certificate, and clients.a.ca_file", "TLS", true},
		{"status", errStatus, oauth.BadAnswer, "broke, or its answer made no sense", errStatus.Error(), false},
		{"anything else", errors.New(theirs), oauth.BadAnswer, "broke, or its answer made no sense", "the answer could not be read", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, ok := errors.AsType[*oauth.Error](fault(t.Context(), "acme.okta.com", settings{"clients.a.issuer", "clients.a.ca_file"}, tt.err))
			if !ok || e.Class != tt.class {
				t.Fatalf("got %v, want class %d", e, tt.class)
			}
			if !strings.Contains(e.Description, "acme.okta.com") || !strings.Contains(e.Description, tt.says) || strings.Contains(e.Error(), theirs) {
				t.Errorf("the description is %q", e.Description)
			}
			if e.Err == nil || e.Err.Error() != tt.cause || (e.RetryAfter > 0) != tt.retry {
				t.Errorf("cause %v, to be tried again after %s; want %q, %t", e.Err, e.RetryAfter, tt.cause, tt.retry)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := fault(ctx, "acme.okta.com", settings{}, errors.New(theirs)); !errors.Is(err, context.Canceled) {
		t.Errorf("for a caller who has left: %v", err)
	}
}

// refusedByProxy is the error of a request whose proxy does not connect, but says so.
func refusedByProxy(t *testing.T, words string) error {
	t.Helper()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 407 "+words+"\r\n\r\n")
	}))
	defer proxy.Close()
	transport := NewTransport(nil)
	transport.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
	return failing(t, transport, "https://acme.okta.test/api")
}

// An upstream that takes a request and says nothing is given up.
func TestSilentUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		transport := NewTransport(nil)
		transport.Proxy = nil
		transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return ours, nil }
		defer time.AfterFunc(time.Hour, func() { _ = theirs.Close() }).Stop() // of one that is waited for
		start := time.Now()
		err := fault(t.Context(), "acme.okta.test", settings{}, failing(t, transport, "http://acme.okta.test/api"))
		if oauth.ClassOf(err) != oauth.TimedOut || time.Since(start) != answerTimeout {
			t.Errorf("%v after %s; want a time-out after %s", err, time.Since(start), answerTimeout)
		}
		_ = theirs.Close()
		synctest.Wait()
	})
}

// failing makes a request that must fail, and returns its error.
func failing(t *testing.T, transport http.RoundTripper, address string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
		t.Fatal(resp.Status)
	}
	return err
}
