package proxy_test

import (
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/proxy"
	"okta-token-broker/internal/transport/transporttest"
)

// givenUp is how long after the last that came over it a connection is given up that
// loses all that is sent.
const givenUp = 15 * time.Second

// Calls over a kept connection that loses all that is sent fail for as long as it
// takes to find out, and no longer.
func TestLostConnection(t *testing.T) {
	t.Run("in a call", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			network, call := lossyUpstream(t, 0)
			if err := call(); err != nil {
				t.Fatal(err)
			}
			network.Lose()
			start := time.Now()
			if err := call(); err == nil || time.Since(start) != givenUp {
				t.Errorf("error %v after %v, want one after %v", err, time.Since(start), givenUp)
			}
			if err := call(); err != nil || network.Dials() != 2 {
				t.Errorf("error %v, %d connections; want none and 2", err, network.Dials())
			}
		})
	})
	t.Run("between two", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			network, call := lossyUpstream(t, 0)
			if err := call(); err != nil {
				t.Fatal(err)
			}
			network.Lose()
			time.Sleep(givenUp + time.Millisecond)
			if err := call(); err != nil || network.Dials() != 2 {
				t.Errorf("error %v, %d connections; want none and 2", err, network.Dials())
			}
		})
	})
}

// Slow is not lost, neither in an answer nor between two.
func TestSlowConnectionIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, call := lossyUpstream(t, 2*givenUp-time.Second)
		for range 2 {
			if err := call(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * givenUp)
		}
		if network.Dials() != 1 {
			t.Errorf("%d connections, want 1", network.Dials())
		}
	})
}

// lossyUpstream is an upstream that speaks HTTP/2 and takes its time, in a test's own
// time. call makes a call to it.
func lossyUpstream(t *testing.T, takes time.Duration) (n *transporttest.Network, call func() error) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(takes)
		_, _ = io.WriteString(w, r.Proto)
	}))
	n = transporttest.Start(t, server)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	transport := proxy.NewTransport(roots)
	transport.DialContext = n.Dial
	t.Cleanup(transport.CloseIdleConnections)
	return n, func() error {
		resp, err := transport.RoundTrip(request(t, "GET", server.URL, nil))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if proto, err := io.ReadAll(resp.Body); err != nil || string(proto) != "HTTP/2.0" {
			t.Errorf("answered over %q, %v", proto, err)
		}
		return nil
	}
}
