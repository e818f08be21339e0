package okta

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/transport/transporttest"
)

// An exchange over a kept connection that loses all that is sent finds another in
// its own 5 seconds, whenever it comes.
func TestLostConnection(t *testing.T) {
	tests := map[string]time.Duration{ // from the last answer
		"at once":              0,
		"before the ping":      pingAfter - time.Millisecond,
		"after the ping":       pingAfter + time.Millisecond,
		"once it was given up": pingAfter + pingTimeout + time.Millisecond,
	}
	for name, idle := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, network := lossyWorld(t)
				w.works(t)
				network.Lose()
				time.Sleep(idle)
				start := time.Now()
				w.works(t)
				if took, most := time.Since(start), max(pingAfter+pingTimeout-idle, 0)+retryPause; took > most {
					t.Errorf("took %v, want %v at most", took, most)
				}
				w.works(t)
				if network.Dials() != 2 {
					t.Errorf("%d connections, want 2", network.Dials())
				}
			})
		})
	}
}

// Slow is not lost, neither in an answer nor between two.
func TestSlowConnectionIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, network := lossyWorld(t)
		w.works(t)
		time.Sleep(50 * time.Second)
		w.okta.SetFault(fakeokta.Fault{Delay: 4900 * time.Millisecond})
		w.works(t)
		if network.Dials() != 1 {
			t.Errorf("%d connections, want 1", network.Dials())
		}
	})
}

// lossyWorld is a client of a fake Okta behind a real server and the Server's own
// transport, in a test's own time.
func lossyWorld(t *testing.T) (*world, *transporttest.Network) {
	t.Helper()
	var network *transporttest.Network
	var server *httptest.Server
	start := func(s *httptest.Server) { network, server = transporttest.Start(t, s), s }
	w, _, _ := realWorld(t, start, func(s *ServerConfig, _ *ClientConfig) { s.RootCAs = poolOf(server.Certificate()) })
	w.client.cfg.Server.transport.(*http.Transport).DialContext = network.Dial
	return w, network
}
