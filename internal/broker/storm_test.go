package broker_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/okta"
)

// wire notes when requests are sent.
type wire struct {
	http.RoundTripper
	mu   sync.Mutex
	sent []time.Time
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.sent = append(w.sent, time.Now())
	w.mu.Unlock()
	return w.RoundTripper.RoundTrip(r)
}

// busiest is the most requests of any second since a time, and how many there were.
func (w *wire) busiest(since time.Time) (most, all int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var second []time.Time
	for _, at := range w.sent {
		if at.Before(since) {
			continue
		}
		for len(second) > 0 && at.Sub(second[0]) >= time.Second {
			second = second[1:]
		}
		second = append(second, at)
		most, all = max(most, len(second)), all+1
	}
	return most, all
}

// A thousand tokens are kept warm while the server goes down for so long that all
// of them end, and comes back: it is hardly asked meanwhile, never by many at
// once, and once it answers again the tokens come back at twenty a second.
func TestNoStorm(t *testing.T) {
	const clients = 1000
	file, err := keys.NewFile(t.Context(), filepath.Join(t.TempDir(), "private_key.pem"), false)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ring, err := keys.Open(t.Context(), keys.Config{Name: "default", Store: file, Algorithm: "ES256"})
		if err != nil {
			t.Fatal(err)
		}
		key, _, err := ring.Active(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		fake, err := fakeokta.New(fakeokta.Config{URL: "https://acme.okta.test", TokenLife: 10 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		line := &wire{RoundTripper: fake.Transport()}
		server := okta.NewServer(okta.ServerConfig{Issuer: "https://acme.okta.test", Transport: line})
		world := &broker.World{Clients: map[string]*broker.Client{}, Rings: map[string]*keys.Ring{"default": ring}}
		for i := range clients {
			name := fmt.Sprintf("client%d", i)
			if err := fake.AddApp(fakeokta.App{ClientID: name, Scopes: []string{"okta.users.read"}}); err != nil {
				t.Fatal(err)
			}
			if err := fake.RegisterKey(name, key.JWK()); err != nil {
				t.Fatal(err)
			}
			world.Clients[name] = &broker.Client{
				Name: name, ID: name, Issuer: "https://acme.okta.test", Ring: ring, Scopes: "okta.users.read", Prefetch: true,
				Server: okta.NewClient(okta.ClientConfig{Name: name, ID: name, Server: server, Ring: ring}),
			}
		}
		b := broker.New(broker.Config{World: world})
		defer b.Close()
		time.Sleep(2 * time.Minute)
		if n := fake.Counters().TokensIssued; n != clients {
			t.Errorf("%d tokens after two minutes, want %d", n, clients)
		}

		fake.SetFault(fakeokta.Fault{Status: 503})
		down := time.Now()
		time.Sleep(30 * time.Minute)
		if most, all := line.busiest(down); most > 20 || all > 600 {
			t.Errorf("%d requests in an outage of half an hour, %d in one second", all, most)
		} else {
			t.Logf("%d requests in an outage of half an hour, %d in one second at most", all, most)
		}

		fake.ClearFault()
		up, before := time.Now(), fake.Counters().TokensIssued
		for fake.Counters().TokensIssued == before && time.Since(up) < 10*time.Minute {
			time.Sleep(time.Second)
		}
		// The next attempt is allowed within a minute and its jitter.
		if took := time.Since(up); took > 65*time.Second {
			t.Errorf("the first token came after %v", took)
		}
		time.Sleep(2 * time.Minute)
		if n := fake.Counters().TokensIssued - before; n < clients {
			t.Errorf("%d tokens two minutes later, want %d", n, clients)
		}
		if most, _ := line.busiest(up); most > 20 {
			t.Errorf("%d requests in one second", most)
		}
	})
}
