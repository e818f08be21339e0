package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"time"
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
		DisableCompression:     true, // what the caller did not ask for is not unpacked for it
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode != http.StatusOK {
				return &proxyRefusal{answer.StatusCode}
			}
			return nil
		},
	}
}
