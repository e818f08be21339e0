package cli

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"okta-token-broker/internal/config"
)

// When the API's listener fails the others end, too, and so does the process: half a
// broker would look like a whole one.
func TestListenersEndTogether(t *testing.T) {
	cfg := config.Default()
	cfg.Keys = map[string]config.Key{config.DefaultKey: {File: filepath.Join(t.TempDir(), "ring.pem"), Algorithm: "ES256"}}
	cfg.Clients = map[string]config.Client{"default": {
		Issuer: "http://127.0.0.1:1", ClientID: "c", Key: config.DefaultKey, DPoP: config.DPoPAuto, AssertionLifetime: time.Minute,
	}}
	cfg.Listen, cfg.HealthListen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.ProxyListen = map[string]string{"127.0.0.1:0": "default"}
	listeners, err := openListeners(t.Context(), cfg)
	defer listeners.close()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, cfg, listeners, slog.New(slog.DiscardHandler), nil) }()
	// It serves: all of them.
	for _, l := range []net.Listener{listeners.api, listeners.health} {
		resp, err := http.Get("http://" + l.Addr().String() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	calls := listeners.proxies[0].Addr().String()
	resp, err := http.Get("http://" + calls + "/api/v1/users")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	if err := listeners.api.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a listener that fails is no error")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the others go on")
	}
	for _, address := range []string{calls, listeners.health.Addr().String()} {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			t.Errorf("somebody listens at %s", address)
		}
	}
}
