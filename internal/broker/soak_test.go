package broker_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/fakeokta"
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
	file := newFile(t)
	synctest.Test(t, func(t *testing.T) {
		b, fake := newFleet(t, file, clients, life,
			func(wire http.RoundTripper) http.RoundTripper { return wire }, func(i int) bool { return i%2 == 0 })
		read := func(name string) error {
			token, err := b.Token(t.Context(), caller.Local("soak"), broker.TokenRequest{Client: name})
			if err == nil && token.Left(time.Now()) == 0 {
				return fmt.Errorf("a token that ended at %v", token.Expires)
			}
			return err
		}
		for i := range clients {
			if err := read(fmt.Sprintf("client%d", i)); err != nil {
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
