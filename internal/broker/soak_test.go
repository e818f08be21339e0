package broker_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/okta"
)

// For a week of fake time a fifth of all token requests fail, in every way, and
// the server is down for eight minutes a day, which is less than what is left of a token
// when it is renewed: nobody who reads a token regularly
// notices, no assertion is sent twice, and the requests are no more than half
// again as many as the tokens that were needed.
func TestSoak(t *testing.T) {
	const (
		clients = 20
		days    = 7
		life    = time.Hour
		faults  = "503@6%,500@2%,reset@4%,reset_after@2%,cut@1%,html@1%,delay=2s@2%,unavailable@1%,expires_in=0@0.5%,429=20s@0.5%"
	)
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
		fake, err := fakeokta.New(fakeokta.Config{URL: "https://acme.okta.test", TokenLife: life, Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		server := okta.NewServer(okta.ServerConfig{Issuer: "https://acme.okta.test", Transport: fake.Transport()})
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
				Name: name, ID: name, Issuer: "https://acme.okta.test", Ring: ring, Scopes: "okta.users.read", Prefetch: i%2 == 0,
				Server: okta.NewClient(okta.ClientConfig{Name: name, ID: name, Server: server, Ring: ring}),
			}
		}
		b := broker.New(broker.Config{World: world})
		defer b.Close()
		read := func(name string) error {
			token, err := b.Token(t.Context(), caller.Local("soak"), broker.TokenRequest{Client: name})
			if err == nil && token.Left(time.Now()) == 0 {
				return fmt.Errorf("a token that ended at %v", token.Expires)
			}
			return err
		}
		for name := range world.Clients {
			if err := read(name); err != nil {
				t.Fatal(err)
			}
		}
		planned, err := fakeokta.ParseFaults(faults)
		if err != nil {
			t.Fatal(err)
		}
		down := []fakeokta.Fault{{Reset: true}}
		before := fake.Counters()
		for minute := range days * 24 * 60 {
			switch minute % (24 * 60) {
			case 600:
				fake.SetFault(down...)
			case 608, 0:
				fake.SetFault(planned...)
			}
			// A minute is a caller's usual pause; half of them read together.
			for i := range clients {
				name := fmt.Sprintf("client%d", i)
				if err := read(name); err != nil {
					t.Fatalf("minute %d, %s: %v", minute, name, err)
				}
			}
			<-time.After(time.Minute)
		}
		after := fake.Counters()
		requests := after.TokenRequests - before.TokenRequests
		needed := float64(clients) * days * 24 * float64(time.Hour) / (0.75 * float64(life))
		t.Logf("%d requests for %.0f tokens that were needed: %.2f; %d faults", requests, needed, float64(requests)/needed, after.Faults[fakeokta.Token])
		if float64(requests) > 1.5*needed || after.ReusedJTI != 0 || after.Faults[fakeokta.Token] < requests/10 {
			t.Errorf("%d requests, %.0f tokens were needed; %d reused assertions; %d faults", requests, needed, after.ReusedJTI, after.Faults[fakeokta.Token])
		}
	})
}
