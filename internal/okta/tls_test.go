package okta

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	stdlog "log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"okta-token-broker/internal/oauth"
)

// An assertion goes to nobody whose certificate is not good.
func TestTLSFailsClosed(t *testing.T) {
	const ended = "it ended the handshake: it may want a client certificate, or another version of TLS"
	ca, other := newCA(t), newCA(t)
	now := time.Now()
	tests := []struct {
		name   string
		server *tls.Config
		roots  *x509.CertPool
		says   string
	}{
		{"another host", &tls.Config{Certificates: ca.issue(t, "another.okta.test", nil, now.Add(time.Hour))}, ca.pool(), "its certificate is for another host"},
		{"unknown CA", &tls.Config{Certificates: ca.issue(t, "", loopback(), now.Add(time.Hour))}, other.pool(), "its certificate is from an unknown authority"},
		{"no CA of the system", &tls.Config{Certificates: ca.issue(t, "", loopback(), now.Add(time.Hour))}, nil, "its certificate is from an unknown authority"},
		{"expired", &tls.Config{Certificates: ca.issue(t, "", loopback(), now.Add(-time.Minute))}, ca.pool(), "its certificate has expired or is not valid yet"},
		{"TLS 1.1", &tls.Config{Certificates: ca.issue(t, "", loopback(), now.Add(time.Hour)), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, ca.pool(), ended},
		{"asks for a certificate of ours", &tls.Config{Certificates: ca.issue(t, "", loopback(), now.Add(time.Hour)), ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}, ca.pool(), ended},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, handled := tlsWorld(t, tt.server, tt.roots)
			e := w.fails(t)
			wantUntrusted(t, e, tt.says)
			if n := handled.Load(); n != 0 {
				t.Errorf("%d requests reached the server", n)
			}
		})
	}
	t.Run("good", func(t *testing.T) { // or the others prove nothing
		w, handled := tlsWorld(t, &tls.Config{Certificates: ca.issue(t, "", loopback(), now.Add(time.Hour))}, ca.pool())
		w.works(t)
		if n := handled.Load(); n != 1 {
			t.Errorf("%d requests reached the server, want 1", n)
		}
	})
	t.Run("no TLS", func(t *testing.T) {
		var handled atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { handled.Add(1) }))
		t.Cleanup(server.Close)
		w := newClient(t, nil, on(strings.Replace(server.URL, "http://", "https://", 1)))
		wantUntrusted(t, w.fails(t), "it speaks no TLS there: the port, or https://, may be wrong")
		if n := handled.Load(); n != 0 {
			t.Errorf("%d requests reached the server", n)
		}
	})
}

func wantUntrusted(t *testing.T, e *oauth.Error, cause string) {
	t.Helper()
	if e.Class != oauth.Unavailable || e.Reach != oauth.ReachServer || e.RetryAfter < time.Second || e.Upstream != nil {
		t.Errorf("class %d, reach %d, retry after %v, upstream %+v: %v", e.Class, e.Reach, e.RetryAfter, e.Upstream, e)
	}
	for _, want := range []string{"TLS", "certificate", "clients.billing.ca_file"} {
		if !strings.Contains(e.Description, want) {
			t.Errorf("no %q in: %s", want, e.Description)
		}
	}
	if e.Err.Error() != cause {
		t.Errorf("the cause is %q, want %q", e.Err, cause)
	}
}

// tlsWorld is a client of a server that gives good tokens over TLS.
func tlsWorld(t *testing.T, config *tls.Config, roots *x509.CertPool) (*world, *atomic.Int64) {
	t.Helper()
	handled := &atomic.Int64{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		handled.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, good())
	}))
	server.TLS = config
	server.Config.ErrorLog = stdlog.New(io.Discard, "", 0) // it complains of each handshake
	server.StartTLS()
	t.Cleanup(server.Close)
	w := newClient(t, nil, on(server.URL), func(s *ServerConfig, _ *ClientConfig) { s.RootCAs = roots })
	t.Cleanup(func() { closeIdle(w) })
	return w, handled
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newCA(t *testing.T) authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{certificate, key}
}

func (a authority) pool() *x509.CertPool { return poolOf(a.certificate) }

// issue makes a server's certificate for a name or an address.
func (a authority) issue(t *testing.T, name string, addresses []net.IP, until time.Time) []tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, IPAddresses: addresses,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if name != "" {
		template.DNSNames = []string{name}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
}

func loopback() []net.IP { return []net.IP{net.IPv4(127, 0, 0, 1)} }

func poolOf(certificate *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return pool
}
