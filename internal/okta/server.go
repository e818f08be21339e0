// Package okta speaks to an authorization server: it exchanges client
// assertions for access tokens through x/oauth2, trusts no answer before it is
// checked, and tries again where Okta's words say that this helps.
package okta

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

const (
	connectTimeout = time.Second
	// leastOffset is the clock difference up to which an assertion's own slack
	// (back-dated iat, exp well ahead) covers it. A Date header has whole
	// seconds.
	leastOffset = 5 * time.Second
	// mostOffset is the difference beyond which a Date header is not believed.
	mostOffset = 10 * time.Minute
)

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Issuer string
	// TokenEndpoint is for servers that are not Okta. Empty: derived from
	// Issuer.
	TokenEndpoint string
	// RootCAs verify the server's certificate. Nil: the system's.
	RootCAs *x509.CertPool
	// Transport is used instead of one of its own, with fake servers.
	Transport http.RoundTripper
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Log takes what happens. Nil: nothing is logged.
	Log *slog.Logger
}

// Server is an authorization server, with what its answers have taught. It is
// shared by all clients of the issuer and safe for concurrent use.
type Server struct {
	issuer    string
	isOkta    bool
	endpoints Endpoints
	transport http.RoundTripper
	now       func() time.Time
	log       *slog.Logger
	offset    atomic.Int64 // of the server's Date against our clock, in nanoseconds
	lying     atomic.Bool  // the Date is not the clock that assertions are checked by
}

// NewServer makes a Server. It sends nothing.
func NewServer(cfg ServerConfig) *Server {
	s := &Server{
		issuer:    cfg.Issuer,
		isOkta:    cfg.TokenEndpoint == "",
		endpoints: EndpointsOf(cfg.Issuer, cfg.TokenEndpoint),
		transport: cfg.Transport,
		now:       cfg.Now,
		log:       cfg.Log,
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.transport == nil {
		s.transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs},
			TLSHandshakeTimeout:    exchangeTimeout,
			ForceAttemptHTTP2:      true,
			MaxResponseHeaderBytes: 64 << 10,
			IdleConnTimeout:        time.Minute,
			OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
				if answer.StatusCode != http.StatusOK {
					return &proxyRefusal{answer.StatusCode}
				}
				return nil
			},
		}
	}
	return s
}

// Endpoints returns the URLs that a client assertion can be for.
func (s *Server) Endpoints() Endpoints { return s.endpoints }

// formClientID is the client_id parameter. Next to an assertion it is optional
// (RFC 7521 section 4.2), and Okta's form has none, but there are servers that
// refuse a request without it.
func (s *Server) formClientID(id string) string {
	if s.isOkta {
		return ""
	}
	return id
}

// correction is what to add to our clock for assertions, 0 while the server's
// is close enough or not to be believed.
func (s *Server) correction() time.Duration {
	offset := time.Duration(s.offset.Load())
	if abs := offset.Abs(); abs <= leastOffset || abs > mostOffset || s.lying.Load() {
		return 0
	}
	return offset
}

// uncorrected is a difference between the clocks that is too large to be
// corrected, else 0.
func (s *Server) uncorrected() time.Duration {
	if offset := time.Duration(s.offset.Load()); offset.Abs() > mostOffset {
		return offset.Abs().Round(time.Second)
	}
	return 0
}

// observe takes the server's clock from a Date header.
func (s *Server) observe(header http.Header, sent, received time.Time) {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return
	}
	// The header was cut to a whole second at some time between the two.
	ours := sent.Add(received.Sub(sent) / 2)
	offset := date.Add(time.Second / 2).Sub(ours)
	before := time.Duration(s.offset.Swap(int64(offset)))
	if (offset - before).Abs() <= leastOffset {
		return
	}
	s.lying.Store(false)
	if offset.Abs() > leastOffset {
		s.log.Warn("the authorization server's clock and ours differ: synchronise this machine's clock",
			"issuer", s.issuer, "offset", offset.Round(time.Second), "corrected", offset.Abs() <= mostOffset)
	}
}
