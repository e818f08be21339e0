package okta

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

// limited is a 429 with the reset so far ahead by the server's clock.
func limited(ahead time.Duration) fakeokta.Fault {
	return fakeokta.Fault{
		Count: 1, Status: 429, RetryIn: ahead,
		Body: `{"errorCode":"E0000047","errorSummary":"API call exceeded rate limit due to too many requests."}`,
	}
}

// Before the reset nothing is sent, then one exchange, then all.
func TestNothingIsSentBeforeTheReset(t *testing.T) {
	header := func(name, value string) fakeokta.Fault {
		f := limited(0)
		f.Header = http.Header{name: {value}}
		return f
	}
	tests := []struct {
		name  string
		fault fakeokta.Fault
		ahead time.Duration // of the server's clock
		wait  time.Duration
	}{
		{"42 s", limited(42 * time.Second), 0, 42 * time.Second},
		{"by a clock behind ours", limited(42 * time.Second), -8 * time.Minute, 42 * time.Second},
		{"by a clock ahead of ours", limited(42 * time.Second), 8 * time.Minute, 42 * time.Second},
		{"missing", limited(0), 0, 10 * time.Second},
		{"past", limited(-time.Hour), 0, time.Second},
		{"a day ahead", limited(24 * time.Hour), 0, 2 * time.Minute},
		{"absurd", header("X-Rate-Limit-Reset", "9223372036854775807"), 0, 2 * time.Minute},
		{"no number", header("X-Rate-Limit-Reset", "tomorrow"), 0, 10 * time.Second},
		{"Retry-After", header("Retry-After", "7"), 0, 7 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.okta.SetClockOffset(tt.ahead)
				w.okta.SetFault(tt.fault, fakeokta.Fault{Delay: time.Second, Count: 1})
				start := time.Now()
				if e := w.fails(t); e.Repeated || e.RetryAfter != tt.wait || e.Reach != oauth.ReachServer {
					t.Errorf("repeated %v, retry after %v, reach %d; want %v", e.Repeated, e.RetryAfter, e.Reach, tt.wait)
				}
				for time.Since(start) < tt.wait {
					e := w.fails(t)
					if left := tt.wait - time.Since(start); e.RetryAfter != max(left, time.Second) {
						t.Fatalf("retry after %v, with %v left", e.RetryAfter, left)
					}
					wantRepeated(t, []*oauth.Error{e}, 1, 1)
					if e.Upstream == nil || e.Upstream.Status != 429 {
						t.Fatalf("upstream %+v", e.Upstream)
					}
					time.Sleep(tt.wait / 10)
				}
				w.wantPosts(t, 1)

				var probe sync.WaitGroup
				probe.Go(func() { w.works(t) })
				synctest.Wait()
				wantRepeated(t, w.atOnce(t, 20), 20, 20)
				w.wantPosts(t, 2)
				probe.Wait()
				wantRepeated(t, w.atOnce(t, 20), 0, 0)
				w.wantPosts(t, 22)
			})
		})
	}
}

// Against a limit of ten a minute a request is refused once a minute, however many
// ask, and the ten are made use of.
func TestLimitOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.okta.SetRateLimit(fakeokta.Token, fakeokta.RateLimit{Requests: 10})
		if failed := w.atOnce(t, 50); len(failed) != 40 {
			t.Errorf("%d failures of 50, want 40", len(failed))
		}
		at := w.okta.Counters()
		for start := time.Now(); time.Since(start) < 5*time.Minute; time.Sleep(100 * time.Millisecond) {
			w.atOnce(t, 1)
		}
		seen := w.okta.Counters()
		if n := seen.RateLimited[fakeokta.Token] - at.RateLimited[fakeokta.Token]; n < 4 || n > 5 {
			t.Errorf("%d requests were refused in 5 minutes", n)
		}
		if n := seen.TokensIssued - at.TokensIssued; n < 40 || n > 50 {
			t.Errorf("%d tokens in 5 minutes", n)
		}
	})
}

// A 429 that one exchange meets ends the retries of the others.
func TestLimitStopsRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.okta.SetFault(fakeokta.Fault{Count: 10, Status: 503, Delay: time.Second}, limited(42*time.Second))
		failed := w.atOnce(t, 10)
		w.wantPosts(t, 11)
		wantRepeated(t, failed, 10, 0)
		for _, e := range failed {
			// They heard of it when their pauses ended.
			if e.Upstream == nil || e.Upstream.Status != 429 || e.RetryAfter < 41*time.Second {
				t.Errorf("upstream %+v, retry after %v", e.Upstream, e.RetryAfter)
			}
		}
	})
}

// A correction that a 429 stops is no refusal: what it would have come to is not
// known.
func TestLimitStopsCorrections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		known := w.active().ID()
		w.rotate(t) // to a key that the server does not know
		attempts := 0
		err := w.client.do(t.Context(), func(ctx context.Context, with variant) *failure {
			if attempts++; attempts == 2 {
				w.okta.SetFault(limited(42 * time.Second))
				_ = w.fails(t) // another exchange, meanwhile
			}
			_, fail := w.client.buy(ctx, with, asked)
			return fail
		})
		w.wantPosts(t, 2)
		wantRepeated(t, []*oauth.Error{explained(t, err)}, 1, 0)
		time.Sleep(42 * time.Second)
		if token := w.works(t); token.Kid != known {
			t.Errorf("token of key %q, want %q", token.Kid, known)
		}
	})
}

// A 429 that comes between the gate and the sending keeps the assertion here.
func TestLimitWhileSigning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.okta.SetFault(limited(42 * time.Second))
		err := w.client.do(t.Context(), func(ctx context.Context, with variant) *failure {
			_ = w.fails(t) // another exchange, meanwhile
			_, fail := w.client.buy(ctx, with, asked)
			return fail
		})
		wantRepeated(t, []*oauth.Error{explained(t, err)}, 1, 1)
		w.wantPosts(t, 1)
	})
}

// What began before a 429 knows nothing of its end.
func TestLimitOutlastsLateSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.okta.SetFault(fakeokta.Fault{Count: 1, Delay: 3 * time.Second}, limited(42*time.Second))
		var late sync.WaitGroup
		late.Go(func() { w.works(t) })
		synctest.Wait()
		_ = w.fails(t)
		late.Wait()
		if e := w.fails(t); !e.Repeated || e.RetryAfter != 39*time.Second {
			t.Errorf("repeated %v, retry after %v: %v", e.Repeated, e.RetryAfter, e)
		}
		w.wantPosts(t, 2)
	})
}

// Clients of one server share its limit, in words of their own; those of another
// have nothing to do with it. A client that is refused closes the gate to itself
// at most.
func TestGateIsTheServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := NewClient(ClientConfig{Name: "audit", ID: clientID, Server: w.client.cfg.Server, Ring: w.ring})
		elsewhere := newWorld(t)
		stranger := NewClient(ClientConfig{Name: "stranger", ID: "0oa-unknown", Server: w.client.cfg.Server, Ring: w.ring})
		for range 3 {
			_, err := stranger.Exchange(t.Context(), asked)
			if e := explained(t, err); e.Repeated || e.Reach != oauth.ReachClient {
				t.Errorf("repeated %v, reach %d: %v", e.Repeated, e.Reach, e)
			}
			w.works(t)
		}
		w.okta.SetFault(limited(42 * time.Second))
		_ = w.fails(t)
		_, err := other.Exchange(t.Context(), asked)
		wantRepeated(t, []*oauth.Error{explained(t, err)}, 1, 1)
		elsewhere.works(t)

		down := newClient(t, newOkta(t, issuer).Transport(), on("https://another.okta.test"))
		_ = down.fails(t)
		other = NewClient(ClientConfig{Name: "audit", ID: clientID, Server: down.client.cfg.Server, Ring: w.ring})
		_, err = other.Exchange(t.Context(), asked)
		e := explained(t, err)
		wantRepeated(t, []*oauth.Error{e}, 1, 1)
		if !strings.Contains(e.Description, "clients.audit.issuer") || strings.Contains(e.Description, "billing") {
			t.Errorf("another client's words: %s", e.Description)
		}
	})
}
