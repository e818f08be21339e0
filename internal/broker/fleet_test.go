package broker_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/okta"
)

const issuer = "https://acme.okta.test"

// newFile makes the place of a key ring, which has to be outside a bubble: its
// lock waits on the file system.
func newFile(t *testing.T) *keys.File {
	t.Helper()
	file, err := keys.NewFile(t.Context(), filepath.Join(t.TempDir(), "private_key.pem"), false)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// newFleet makes a broker with as many clients, client0 and so on, at one fake
// Okta that knows their key. It is for a bubble: time is fake, and so are all
// pauses of the tests that use it.
func newFleet(t *testing.T, file *keys.File, clients int, life time.Duration, wire func(http.RoundTripper) http.RoundTripper, prefetch func(i int) bool) (*broker.Broker, *fakeokta.Okta) {
	t.Helper()
	ring, err := keys.Open(t.Context(), keys.Config{Name: "default", Store: file, Algorithm: "ES256"})
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := ring.Active(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	fake, err := fakeokta.New(fakeokta.Config{URL: issuer, TokenLife: life, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	server := okta.NewServer(okta.ServerConfig{Issuer: issuer, Transport: wire(fake.Transport())})
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
			Name: name, ID: name, Issuer: issuer, Ring: ring, Scopes: "okta.users.read", Prefetch: prefetch(i),
			Server: okta.NewClient(okta.ClientConfig{Name: name, ID: name, Server: server, Ring: ring}),
		}
	}
	b := broker.New(broker.Config{World: world})
	t.Cleanup(b.Close)
	return b, fake
}
