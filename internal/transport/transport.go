// Package transport is how other servers are reached over HTTP, and what it means when
// they are not.
package transport

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
	maxAnswerHeader = 64 << 10 // bytes
	idleTimeout     = time.Minute
	// continueTimeout is how long Expect: 100-continue waits for the server.
	continueTimeout = time.Second
)

// Config is in what one transport differs from another. A bound that is zero is
// net/http's, which for times is none.
type Config struct {
	// Roots verify certificates. Nil: the system's.
	Roots *x509.CertPool
	// Wrap returns what is used in the place of a connection that was made, below TLS.
	// It is called by many goroutines at once. Nil: the connection itself.
	Wrap func(net.Conn) net.Conn

	// ConnectTimeout is how long it may take to connect, and TLSTimeout what TLS needs
	// then.
	ConnectTimeout, TLSTimeout time.Duration
	// AnswerTimeout is how long the header of an answer may take, from when all of the
	// request was sent.
	AnswerTimeout time.Duration
	// A connection over which no more packets come fails its requests for as long as TCP
	// keeps it, which is a quarter of an hour. So HTTP/2's health check asks, also
	// between requests: after PingAfter without a frame, for an answer within
	// PingTimeout.
	PingAfter, PingTimeout time.Duration

	// MaxIdle is how many connections to a host are kept.
	MaxIdle int
	// MaxUnread is how much of an answer HTTP/2 takes before it is read, in bytes.
	MaxUnread int
}

// New makes a transport. It goes through the proxy that the environment names.
func New(cfg Config) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            cfg.dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots},
		TLSHandshakeTimeout:    cfg.TLSTimeout,
		ResponseHeaderTimeout:  cfg.AnswerTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		MaxIdleConnsPerHost:    cfg.MaxIdle,
		IdleConnTimeout:        idleTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: cfg.PingAfter, PingTimeout: cfg.PingTimeout, MaxReceiveBufferPerStream: cfg.MaxUnread},
		DisableCompression:     true, // what nobody asked for is not unpacked
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode != http.StatusOK {
				return proxyRefusal(answer.StatusCode)
			}
			return nil
		},
	}
}

func (cfg Config) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: cfg.ConnectTimeout}).DialContext(ctx, network, address)
	if err != nil || cfg.Wrap == nil {
		return conn, err
	}
	return cfg.Wrap(conn), nil
}
