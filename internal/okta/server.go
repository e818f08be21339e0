// Package okta speaks to an authorization server: it exchanges client
// assertions for access tokens through x/oauth2, trusts no answer before it is
// checked, and tries again where Okta's words say that this helps.
package okta

import (
	"crypto/x509"
	"log/slog"
	"net/http"
	"time"

	"okta-token-broker/internal/transport"
)

const (
	connectTimeout = time.Second
	// pingAfter and pingTimeout together leave the exchange that meets a connection over
	// which no more packets come time to try again over another.
	pingAfter   = 2 * time.Second
	pingTimeout = 2 * time.Second
)

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Issuer string
	// TokenEndpoint is for servers that are not Okta. Empty: derived from
	// Issuer.
	TokenEndpoint string
	// RootCAs verify the server's certificate. Nil: the system's.
	RootCAs *x509.CertPool
	// Like is a Server of the same issuer that is reached in another way. What is
	// known of its clock, its limits and its proofs is shared. Nil: nothing is known.
	Like *Server
	// Transport is used instead of one of its own, with fake servers.
	Transport http.RoundTripper
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Metrics count requests and show the clock's offset. Nil: nobody counts.
	Metrics *Metrics
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
	metrics   *Metrics
	clock     *clock
	gate      *gate
	terms     *book
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
		metrics:   cfg.Metrics,
		clock:     &clock{},
		gate:      &gate{},
		terms:     &book{},
	}
	if cfg.Like != nil {
		s.clock, s.gate, s.terms = cfg.Like.clock, cfg.Like.gate, cfg.Like.terms
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.transport == nil {
		s.transport = transport.New(transport.Config{
			Roots:          cfg.RootCAs,
			ConnectTimeout: connectTimeout,
			TLSTimeout:     exchangeTimeout,
			PingAfter:      pingAfter,
			PingTimeout:    pingTimeout,
		})
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
