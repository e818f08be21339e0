package tokens

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/oauth"
)

func refusedClient() error {
	return &oauth.Error{Class: oauth.Refused, Reach: oauth.ReachClient, Description: "register the key"}
}

// What is remembered of a failure, and for whom: others' requests go through, and
// so does the first one after a while.
func TestFailuresAreRemembered(t *testing.T) {
	other := func(change func(*Key)) Key {
		key := aKey()
		change(&key)
		return key
	}
	scopes := other(func(k *Key) { k.Scopes = "c" })
	bound := other(func(k *Key) { k.JKT = "thumbprint" })
	client := other(func(k *Key) { k.Client = "payments" })
	tests := []struct {
		name    string
		failure *oauth.Error
		again   time.Duration // when the same request is sent again
		refused []Key         // besides
		free    []Key
	}{
		{"client", &oauth.Error{Class: oauth.Refused, Reach: oauth.ReachClient}, 30 * time.Second, []Key{scopes}, []Key{client, bound}},
		{"scopes", &oauth.Error{Class: oauth.InvalidScope, Reach: oauth.ReachScopes}, 30 * time.Second, nil, []Key{scopes, client, bound}},
		{"bad answer", &oauth.Error{Class: oauth.BadAnswer, Reach: oauth.ReachScopes}, time.Second, nil, []Key{scopes, client, bound}},
		// Who speaks to the server remembers it.
		{"server", &oauth.Error{Class: oauth.Unavailable, Reach: oauth.ReachServer, RetryAfter: time.Minute}, 0, nil, []Key{scopes, client, bound}},
		{"request", &oauth.Error{Class: oauth.Internal}, 0, nil, []Key{scopes, client, bound}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: time.Hour}
				b.serve = func(_ context.Context, key Key, n int) error {
					if key == aKey() && n == 1 {
						return tt.failure
					}
					return nil
				}
				s := open(t, Config{Exchanger: b})
				if err := refuse(t, s, aKey(), Want{}); err != tt.failure {
					t.Errorf("got %v, want what the exchanger said", err)
				}
				for _, key := range append(tt.refused, aKey()) {
					if tt.again == 0 {
						continue
					}
					for range 3 {
						asked := time.Now()
						err := refuse(t, s, key, Want{})
						if err.Class != tt.failure.Class || !err.Repeated || time.Since(asked) != 0 {
							t.Errorf("%q got %v, repeated %t, after %v, want the same at once", key.Scopes, err, err.Repeated, time.Since(asked))
						}
					}
				}
				wantFetches(t, b, 1)
				for _, key := range tt.free {
					get(t, s, key)
				}
				n := 1 + len(tt.free)
				wantFetches(t, b, n)
				if tt.again > 0 {
					time.Sleep(tt.again - 1)
					_ = refuse(t, s, aKey(), Want{})
					time.Sleep(time.Nanosecond)
				}
				get(t, s, aKey())
				wantFetches(t, b, n+1)
			})
		})
	}
}

// A client that is refused asks again every 30 seconds, for one of its callers. A
// refused key takes no place.
func TestRefusedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(context.Context, Key, int) error { return refusedClient() }
		s := open(t, Config{Exchanger: b})
		start := time.Now()
		var want []time.Duration
		for after := time.Duration(0); after < 10*time.Minute; after += time.Second {
			until(start, after)
			for _, key := range numbered(20) {
				_ = refuse(t, s, key, Want{})
			}
			if after%refusedFor == 0 {
				want = append(want, after)
			}
			if n := s.Len(); n != 0 {
				t.Fatalf("%d entries after %v, want none", n, after)
			}
		}
		wantBegun(t, b, start, want)
	})
}

// A held token is served whatever is remembered of the client.
func TestHeldTokenOutlivesRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(_ context.Context, _ Key, n int) error {
			if n > 1 {
				return refusedClient()
			}
			return nil
		}
		s := open(t, Config{Exchanger: b})
		start := time.Now()
		for after := time.Duration(0); after <= 59*time.Minute; after += time.Minute {
			until(start, after)
			get(t, s, aKey())
		}
		until(start, time.Hour)
		if err := refuse(t, s, aKey(), Want{}); err.Class != oauth.Refused {
			t.Errorf("got %v, want class Refused", err)
		}
	})
}

// In the background a refusal is tried again after 30 seconds, then twice as long
// each time, up to five minutes: for all keys of a client together.
func TestBackgroundBacksOff(t *testing.T) {
	const m = time.Minute
	tests := []struct {
		name    string
		failure error
		keys    int
	}{
		{"scopes", &oauth.Error{Class: oauth.InvalidScope, Reach: oauth.ReachScopes}, 1},
		{"client", refusedClient(), 50},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: time.Hour}
				b.serve = func(context.Context, Key, int) error { return tt.failure }
				s := open(t, Config{Exchanger: b})
				start := time.Now()
				s.Keep(numbered(tt.keys))
				until(start, 20*m)
				wantBegun(t, b, start, []time.Duration{0, m / 2, m/2 + m, m/2 + 3*m, m/2 + 7*m, m/2 + 12*m, m/2 + 17*m})
			})
		})
	}
}

// The repeated answer says how long it still holds, where the first one did.
func TestRepeatedRetryAfter(t *testing.T) {
	for _, first := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			b := &bank{life: time.Hour}
			failure := &oauth.Error{Class: oauth.InvalidScope, Reach: oauth.ReachScopes, RetryAfter: first}
			b.serve = func(context.Context, Key, int) error { return failure }
			s := open(t, Config{Exchanger: b})
			_ = refuse(t, s, aKey(), Want{})
			time.Sleep(10 * time.Second)
			want := map[bool]time.Duration{true: 20 * time.Second}[first > 0]
			if got := refuse(t, s, aKey(), Want{}).RetryAfter; got != want {
				t.Errorf("RetryAfter is %v, want %v", got, want)
			}
			if failure.RetryAfter != first || failure.Repeated {
				t.Error("the exchanger's own error was changed")
			}
		})
	}
}

func TestForgive(t *testing.T) {
	for _, reach := range []oauth.Reach{oauth.ReachClient, oauth.ReachScopes} {
		synctest.Test(t, func(t *testing.T) {
			b := &bank{life: time.Hour}
			b.serve = func(_ context.Context, _ Key, n int) error {
				if n == 1 {
					return &oauth.Error{Class: oauth.Refused, Reach: reach}
				}
				return nil
			}
			s := open(t, Config{Exchanger: b})
			one, other := aKey(), aKey()
			other.Client = "payments"
			_ = refuse(t, s, one, Want{})
			_ = refuse(t, s, other, Want{})
			s.Forgive(func(key Key) bool { return key.Client == one.Client })
			get(t, s, one)
			_ = refuse(t, s, other, Want{})
			wantFetches(t, b, 3)
		})
	}
}

// A fetch that began before Forgive and fails is tried again: nobody is told, and
// nothing is remembered, of what was refused before.
func TestForgiveDuringAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(ctx context.Context, _ Key, n int) error {
			if n == 1 {
				return errors.Join(wait(ctx, time.Second), refusedClient())
			}
			return nil
		}
		s := open(t, Config{Exchanger: b})
		got := make(chan int)
		go func() { got <- get(t, s, aKey()) }()
		synctest.Wait()
		s.Forgive(func(Key) bool { return true })
		if n := <-got; n != 2 {
			t.Errorf("token %d, want the 2nd", n)
		}
		wantFetches(t, b, 2)
	})
}

// A fetch that began before Drop is of another world: its failure says nothing
// about this one.
func TestDropDuringAFailingFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(ctx context.Context, _ Key, n int) error {
			if n == 1 {
				return errors.Join(wait(ctx, time.Second), refusedClient())
			}
			return nil
		}
		s := open(t, Config{Exchanger: b})
		failed := make(chan error)
		go func() {
			_, err := s.Get(t.Context(), aKey(), Want{})
			failed <- err
		}()
		synctest.Wait()
		s.Drop(func(Key, oauth.Token) bool { return true })
		s.Forgive(func(Key) bool { return true })
		if err := <-failed; oauth.ClassOf(err) != oauth.Refused {
			t.Errorf("who asked before got %v", err)
		}
		get(t, s, aKey())
		wantFetches(t, b, 2)
	})
}

// Fetches that are refused together count as one: the background tries again in
// 30 seconds.
func TestRefusedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(ctx context.Context, _ Key, _ int) error {
			return errors.Join(wait(ctx, time.Second), refusedClient())
		}
		s := open(t, Config{Exchanger: b})
		start := time.Now()
		for _, key := range numbered(10) {
			go func() { _, _ = s.Get(t.Context(), key, Want{}) }()
		}
		until(start, time.Second)
		s.Keep([]Key{aKey()})
		until(start, 31*time.Second-1)
		wantFetches(t, b, 10)
		until(start, 31*time.Second)
		wantFetches(t, b, 11)
	})
}

// Brokers that are told the same moment do not come back together.
func TestBrokersReturnApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var banks []*bank
		for range 20 {
			b := &bank{life: time.Hour}
			b.serve = func(_ context.Context, _ Key, n int) error {
				if n == 1 {
					return &oauth.Error{Class: oauth.Unavailable, Reach: oauth.ReachServer, RetryAfter: 10 * time.Second}
				}
				return nil
			}
			open(t, Config{Exchanger: b}).Keep([]Key{aKey()})
			banks = append(banks, b)
		}
		until(start, 12*time.Second)
		returns := map[time.Duration]bool{}
		for _, b := range banks {
			after := b.times()[1].Sub(start)
			if returns[after] = true; after < 10*time.Second || after > 11*time.Second {
				t.Errorf("tried again after %v, want 10s to 11s", after)
			}
		}
		if len(returns) < 10 {
			t.Errorf("20 brokers came back at %d times", len(returns))
		}
	})
}

// Close ends what Forgive would have tried again.
func TestCloseDuringAForgivenFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(ctx context.Context, _ Key, _ int) error {
			return errors.Join(wait(ctx, time.Second), refusedClient())
		}
		s := open(t, Config{Exchanger: b})
		failed := make(chan error)
		go func() {
			_, err := s.Get(t.Context(), aKey(), Want{})
			failed <- err
		}()
		synctest.Wait()
		s.Forgive(func(Key) bool { return true })
		s.Close()
		if err := <-failed; oauth.ClassOf(err) != oauth.Refused {
			t.Errorf("got %v, want class Refused", err)
		}
		wantFetches(t, b, 1)
	})
}
