package okta

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

// atOnce is n exchanges at the same time, and the errors of those that failed.
func (w *world) atOnce(t *testing.T, n int) []*oauth.Error {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	var failed []*oauth.Error
	for range n {
		all.Go(func() {
			_, err := w.exchange(t)
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			failed = append(failed, explained(t, err))
		})
	}
	all.Wait()
	return failed
}

// wantRepeated checks that of so many failures so many are of earlier requests,
// and that these say so, and when the server is asked again.
func wantRepeated(t *testing.T, failed []*oauth.Error, failures, repeated int) {
	t.Helper()
	got := 0
	for _, e := range failed {
		if e.RetryAfter < time.Second || e.RetryAfter > 2*time.Minute {
			t.Errorf("retry after %v: %v", e.RetryAfter, e)
		}
		clause := fmt.Sprintf("; nothing was sent: the server is asked again in %.0fs", math.Ceil(e.RetryAfter.Seconds()))
		if e.Repeated {
			got++
		}
		if strings.HasSuffix(e.Description, clause) != e.Repeated || strings.Contains(e.Description, "nothing was sent") != e.Repeated {
			t.Errorf("repeated %v, retry after %v: %s", e.Repeated, e.RetryAfter, e.Description)
		}
		if e.Reach != oauth.ReachServer {
			t.Errorf("reach %d: %v", e.Reach, e)
		}
	}
	if len(failed) != failures || got != repeated {
		t.Errorf("%d failures, %d of them repeated; want %d and %d", len(failed), got, failures, repeated)
	}
}

// Fifty exchanges meet an outage together: it is one outage, after which one
// exchange looks whether it is over, and the others wait for what that finds.
func TestOutageOfMany(t *testing.T) {
	const many = 50
	tests := []struct {
		name  string
		fault fakeokta.Fault
		posts int // of an exchange
		class oauth.Class
	}{
		{"reset", fakeokta.Fault{Reset: true}, 2, oauth.Unavailable},
		{"cut", fakeokta.Fault{Truncate: true}, 2, oauth.Unavailable},
		{"503", fakeokta.Fault{Status: 503}, 3, oauth.Unavailable},
		{"502 and a page", fakeokta.Fault{Status: 502, Body: "<html>", ContentType: "text/html"}, 3, oauth.Unavailable},
		{"overloaded", fakeokta.Fault{Status: 400, Body: refusing("temporarily_unavailable", "")}, 3, oauth.Unavailable},
		{"hanging", fakeokta.Fault{Hang: true}, 1, oauth.TimedOut},
		{"a drop at a time", fakeokta.Fault{Drip: time.Second}, 1, oauth.TimedOut},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				tt.fault.Delay = 100 * time.Millisecond // all are on their way when the first fails
				w.okta.SetFault(tt.fault)
				failed := w.atOnce(t, many)
				wantRepeated(t, failed, many, 0)
				w.wantPosts(t, many*tt.posts)
				for _, e := range failed {
					if e.Class != tt.class {
						t.Fatalf("class %d, want %d: %v", e.Class, tt.class, e)
					}
				}
				// The first outage is a second for all of them.
				if wait := w.client.cfg.Server.gate.wait(time.Now()); wait > time.Second {
					t.Errorf("closed for %v after one outage", wait)
				}

				wantRepeated(t, w.atOnce(t, many), many, many)
				w.wantPosts(t, many*tt.posts)

				time.Sleep(time.Second)
				wantRepeated(t, w.atOnce(t, many), many, many-1)
				w.wantPosts(t, (many+1)*tt.posts)

				w.okta.ClearFault()
				time.Sleep(2 * time.Second)
				w.works(t)
				wantRepeated(t, w.atOnce(t, many), 0, 0)
				w.wantPosts(t, (many+1)*tt.posts+1+many)
			})
		})
	}
}

// While one exchange looks whether an outage is over, the others are told at once
// that it is not.
func TestNobodyWaitsForTheProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.okta.SetFault(fakeokta.Fault{Reset: true, Count: 2}, fakeokta.Fault{Delay: 3 * time.Second, Count: 1})
		_ = w.fails(t)
		time.Sleep(time.Second)
		var probe sync.WaitGroup
		probe.Go(func() { w.works(t) })
		synctest.Wait()
		w.wantPosts(t, 3)

		start := time.Now()
		wantRepeated(t, w.atOnce(t, 10), 10, 10)
		if took := time.Since(start); took != 0 {
			t.Errorf("the others took %v", took)
		}
		w.wantPosts(t, 3)
		probe.Wait()
		wantRepeated(t, w.atOnce(t, 10), 0, 0)
	})
}

// Somebody asks ten times a second through half an hour of outage. The server is
// left alone for 1 s first and for a minute at most, and it is noticed within a
// minute that it is back.
func TestLongOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.okta.SetFault(fakeokta.Fault{Status: 503})
		ask := func() (sent bool, e *oauth.Error) {
			before := len(w.wire.sent())
			_, err := w.exchange(t)
			if err == nil {
				return true, nil
			}
			return len(w.wire.sent()) > before, explained(t, err)
		}
		var exchanges []time.Time
		for start := time.Now(); time.Since(start) < 30*time.Minute; time.Sleep(100 * time.Millisecond) {
			sent, e := ask()
			if e == nil || sent == e.Repeated || e.RetryAfter < time.Second || e.RetryAfter > time.Minute {
				t.Fatalf("sent %v, error %+v", sent, e)
			}
			if sent {
				exchanges = append(exchanges, time.Now())
			}
		}
		w.wantPosts(t, 3*len(exchanges))
		for i := range exchanges[1:] {
			// Half a second is for the retries of the second, and a tick.
			wait, most := exchanges[i+1].Sub(exchanges[i]), min(time.Second<<min(i, 6), time.Minute)
			if wait < time.Second || wait > most+time.Second {
				t.Errorf("pause %d is %v, want 1s to %v", i+1, wait, most)
			}
		}
		// A minute at most, half of that by luck, and shorter ones at first.
		if n := len(exchanges); n < 35 || n > 120 {
			t.Errorf("the server was asked %d times in half an hour", n)
		}

		w.okta.ClearFault()
		back := time.Now()
		for sent, e := ask(); !sent || e != nil; sent, e = ask() {
			if time.Since(back) > time.Minute {
				t.Fatalf("not noticed after %v: %v", time.Since(back), e)
			}
			time.Sleep(100 * time.Millisecond)
		}
		wantRepeated(t, w.atOnce(t, 20), 0, 0)

		// What was before is forgotten.
		w.okta.SetFault(fakeokta.Fault{Status: 503})
		_ = w.fails(t)
		if e := w.fails(t); e.RetryAfter != time.Second {
			t.Errorf("the next outage begins with %v", e.RetryAfter)
		}
	})
}
