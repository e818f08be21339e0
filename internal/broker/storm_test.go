package broker_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
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
	file := newFile(t)
	synctest.Test(t, func(t *testing.T) { // so that all sleeps here take no time
		line := &wire{}
		_, fake := newFleet(t, file, clients, 10*time.Minute, func(under http.RoundTripper) http.RoundTripper {
			line.RoundTripper = under
			return line
		}, func(int) bool { return true })
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
