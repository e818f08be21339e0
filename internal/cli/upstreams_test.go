package cli

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/config"
	"okta-token-broker/internal/proxy"
)

// While one configuration takes the place of another, every call finds its way: at no
// moment is a resource there and the way is not. Connections stay.
func TestUpstreamsOfAChangingConfiguration(t *testing.T) {
	const org, below = "https://acme.okta.test", "https://acme.okta.test/api/v1/users"
	b := broker.New(broker.Config{World: &broker.World{}})
	defer b.Close()
	u := &upstreams{broker: b}
	take := func(moving string) {
		client := &broker.Client{Name: "default", OktaOrigin: org, Org: true, Resources: map[string]string{"users": below, "moving": moving}}
		u.swap(u.routes(map[string]builtClient{"default": {client: client}}), &broker.World{Clients: map[string]*broker.Client{"default": client}})
	}
	take("https://r.test")
	transport := u.inUse.transports[""]
	if found, err := u.Upstream(commandLine(), "default", "users"); err != nil || found.Base.String() != below || !found.AtOkta {
		t.Errorf("a resource at the org: %+v, %v", found, err)
	}

	var stop atomic.Bool
	var calls sync.WaitGroup
	defer calls.Wait()
	defer stop.Store(true)
	for range 2 {
		calls.Go(func() {
			for !stop.Load() {
				if found, err := u.Upstream(commandLine(), "default", "moving"); err != nil || found == nil || found.AtOkta {
					t.Errorf("the resource: %+v, %v", found, err)
					return
				}
				if found, err := u.Upstream(commandLine(), "default", ""); err != nil || found == nil || found.Base.String() != org || !found.AtOkta {
					t.Errorf("the org: %+v, %v", found, err)
					return
				}
			}
		})
	}
	for i := range 3000 {
		base := fmt.Sprintf("https://r%d.test/base", i)
		take(base)
		found, err := u.Upstream(commandLine(), "default", "moving")
		if err != nil || found.Base.String() != base || found.AtOkta || found.Transport != transport {
			t.Fatalf("resource %d: %+v, %v", i, found, err)
		}
	}
}

// Connections that only a configuration before needed are closed, and no others.
func TestUpstreamsThatAreGone(t *testing.T) {
	var made atomic.Int64
	closed := make(chan struct{}, 2)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			made.Add(1)
		case http.StateClosed:
			closed <- struct{}{}
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	ours, theirs := proxy.NewTransport(nil), proxy.NewTransport(nil)
	world := &broker.World{}
	b := broker.New(broker.Config{World: world})
	defer b.Close()
	u := &upstreams{broker: b}
	u.swap(routes{transports: map[string]*http.Transport{"ours": ours, "theirs": theirs}}, world)
	reach(t, ours, server.URL)
	reach(t, theirs, server.URL)
	u.swap(routes{transports: map[string]*http.Transport{"ours": ours}}, world)
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("a connection is kept that nobody needs")
	}
	if reach(t, ours, server.URL); made.Load() != 2 {
		t.Errorf("%d connections were made, want 2", made.Load())
	}
}

// An upstream that only ca_file trusts is reached.
func TestUpstreamOfAnAuthority(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	roots, err := rootsOf(config.Client{CAFile: file})
	if err != nil {
		t.Fatal(err)
	}
	client := &broker.Client{Name: "default", Resources: map[string]string{"api": server.URL}}
	next := (&upstreams{}).routes(map[string]builtClient{"default": {client: client, roots: roots}})
	reach(t, next.by[broker.Target{Client: "default", URL: server.URL}].Transport, server.URL)
}

// reach makes a call that must be answered, and leaves its connection to be kept.
func reach(t *testing.T, transport http.RoundTripper, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s, %v", resp.Status, err)
	}
}
