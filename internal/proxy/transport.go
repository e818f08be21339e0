package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"time"

	"okta-token-broker/internal/oauth"
)

const (
	// connectTimeout leaves room for a SYN that is lost: it is sent again after a
	// second (RFC 6298).
	connectTimeout = 5 * time.Second
	tlsTimeout     = 5 * time.Second
	// answerTimeout is how long the header of an answer may take, from when all of
	// the request was sent.
	answerTimeout = 30 * time.Second
	// continueTimeout is how long Expect: 100-continue waits for the upstream.
	continueTimeout = time.Second
	maxAnswerHeader = 64 << 10
	// maxIdle is how many connections to an upstream are kept.
	maxIdle     = 256
	idleTimeout = time.Minute
	// A connection over which no more packets come fails its calls for as long as TCP
	// keeps it, which is a quarter of an hour. So HTTP/2's health check asks, also
	// between calls: after pingAfter without a frame, for an answer within pingTimeout.
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// NewTransport returns what an Upstream is reached with. roots verify certificates.
// Nil: the system's.
func NewTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  answerTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        idleTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		DisableCompression:     true, // what the caller did not ask for is not unpacked for it
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode != http.StatusOK {
				return oauth.ProxyRefusal(answer.StatusCode)
			}
			return nil
		},
	}
}
