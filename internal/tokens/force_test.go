package tokens

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/oauth"
)

func TestForce(t *testing.T) {
	const m = time.Minute
	down := &oauth.Error{Class: oauth.TimedOut, Reach: oauth.ReachServer, RetryAfter: 7 * time.Second, Description: "too slow"}
	tests := []struct {
		name  string
		age   time.Duration // of an hour's token, the first
		want  Want
		fails error // the fetch that is forced
		token int   // 0: none
		asks  int   // fetches in all
		class oauth.Class
		says  string
		retry time.Duration
	}{
		{name: "nothing wanted", age: 40 * m, token: 1, asks: 1},
		{name: "fresh", age: 20 * m, want: Want{Fresh: true}, token: 2, asks: 2},
		{name: "fresh, fetched just before", age: 10*time.Second - 1, want: Want{Fresh: true}, token: 1, asks: 1},
		{name: "fresh, fetched before", age: 10 * time.Second, want: Want{Fresh: true}, token: 2, asks: 2},
		{name: "fresh in an outage", age: 20 * m, want: Want{Fresh: true}, fails: down, token: 1, asks: 2},
		{name: "min_ttl met", age: 20 * m, want: Want{MinTTL: 40 * m}, token: 1, asks: 1},
		{name: "min_ttl not met", age: 20*m + 1, want: Want{MinTTL: 40 * m}, token: 2, asks: 2},
		{name: "min_ttl met in an outage", age: 20 * m, want: Want{MinTTL: 40 * m}, fails: down, token: 1, asks: 1},
		{name: "min_ttl not met in an outage", age: 20*m + 1, want: Want{MinTTL: 40 * m}, fails: down, asks: 2,
			class: oauth.Unavailable, says: "min_ttl, and cannot be renewed now: too slow", retry: 7 * time.Second},
		{name: "fresh and min_ttl in an outage", age: 20 * m, want: Want{Fresh: true, MinTTL: 40 * m}, fails: down, token: 1, asks: 2},
		{name: "three quarters of its life", age: m, want: Want{MinTTL: 45 * m}, token: 1, asks: 1},
		{name: "more than three quarters", age: m, want: Want{MinTTL: 45*m + 1}, asks: 1, class: oauth.InvalidRequest, says: "2700 at most"},
		{name: "more than its life", age: m, want: Want{MinTTL: 24 * 60 * m}, asks: 1, class: oauth.InvalidRequest, says: "2700 at most"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: time.Hour}
				b.serve = func(_ context.Context, _ Key, n int) error {
					if n > 1 {
						return tt.fails
					}
					return nil
				}
				s := open(t, Config{Exchanger: b})
				get(t, s, aKey())
				time.Sleep(tt.age)
				if tt.token > 0 {
					if got := getWith(t, s, aKey(), tt.want); got != tt.token {
						t.Errorf("token %d, want %d", got, tt.token)
					}
				} else if err := refuse(t, s, aKey(), tt.want); err.Class != tt.class || !strings.Contains(err.Error(), tt.says) || err.RetryAfter != tt.retry {
					t.Errorf("got class %d, %q, RetryAfter %v, want class %d, %q, %v", err.Class, err, err.RetryAfter, tt.class, tt.says, tt.retry)
				}
				wantFetches(t, b, tt.asks)
			})
		})
	}
}

// A cold key cannot know how long its tokens live: the fetch is made, its token
// kept, and the request refused.
func TestMinTTLOfAColdKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := open(t, Config{Exchanger: b})
		if err := refuse(t, s, aKey(), Want{MinTTL: 46 * time.Minute}); err.Class != oauth.InvalidRequest {
			t.Errorf("got %v, want class InvalidRequest", err)
		}
		get(t, s, aKey())
		getWith(t, s, numbered(1)[0], Want{MinTTL: 45 * time.Minute})
		wantFetches(t, b, 2)
	})
}

// Where the server's tokens have become shorter, that is found out.
func TestMinTTLOfAShorterToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := open(t, Config{Exchanger: b})
		get(t, s, aKey())
		time.Sleep(35 * time.Minute)
		b.life = 20 * time.Minute
		if err := refuse(t, s, aKey(), Want{MinTTL: 30 * time.Minute}); err.Class != oauth.InvalidRequest || !strings.Contains(err.Error(), "900 at most") {
			t.Errorf("got %v, want class InvalidRequest and 900 at most", err)
		}
		getWith(t, s, aKey(), Want{MinTTL: 15 * time.Minute})
		wantFetches(t, b, 2)
	})
}

// Many who force at the same time share one fetch, and a renewal that is under
// way serves them too.
func TestManyForceOneFetch(t *testing.T) {
	for _, want := range []Want{{Fresh: true}, {MinTTL: 40 * time.Minute}} {
		for _, age := range []time.Duration{30 * time.Minute, ripe} {
			t.Run(fmt.Sprintf("%v at %v", want, age), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := &bank{life: time.Hour, takes: time.Second}
					s := open(t, Config{Exchanger: b})
					start := time.Now()
					get(t, s, aKey())
					until(start, age)
					var callers sync.WaitGroup
					for range 100 {
						callers.Go(func() {
							if got := getWith(t, s, aKey(), want); got != 2 {
								t.Errorf("token %d, want 2", got)
							}
						})
					}
					callers.Wait()
					wantFetches(t, b, 2)
				})
			})
		}
	}
}

// However often it is forced, a key is fetched every ten seconds at most, whether
// the fetches succeed or not.
func TestForcedEveryTenSeconds(t *testing.T) {
	for _, fails := range []error{nil, &oauth.Error{Class: oauth.Unavailable}} {
		t.Run(fmt.Sprint(fails), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: time.Hour}
				b.serve = func(_ context.Context, _ Key, n int) error {
					if n > 1 {
						return fails
					}
					return nil
				}
				s := open(t, Config{Exchanger: b})
				start := time.Now()
				for after := time.Duration(0); after < time.Minute; after += 250 * time.Millisecond {
					until(start, after)
					getWith(t, s, aKey(), Want{Fresh: true})
				}
				const sec = time.Second
				wantBegun(t, b, start, []time.Duration{0, 10 * sec, 20 * sec, 30 * sec, 40 * sec, 50 * sec})
			})
		})
	}
}

// All that forces a fetch takes from one bucket per client: 20, and one more each
// second.
func TestForcedPerClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := open(t, Config{Exchanger: b})
		keys := numbered(60)
		other := aKey()
		other.Client = "payments"
		for _, key := range append(keys, other) {
			get(t, s, key)
		}
		time.Sleep(time.Minute)
		forced := func(keys []Key) (n int) {
			for _, key := range keys {
				n += getWith(t, s, key, Want{Fresh: true}) - 1
			}
			return n
		}
		if err := s.MayForce(aKey().Client); err != nil {
			t.Error(err)
		}
		if err := s.Discard(keys[59]); err != nil {
			t.Error(err)
		}
		if n := forced(keys[:30]); n != 18 {
			t.Errorf("%d of 30 were forced, want 18: the 20 without the two before", n)
		}
		for what, err := range map[string]error{"MayForce": s.MayForce(aKey().Client), "Discard": s.Discard(keys[58])} {
			if oauth.ClassOf(err) != oauth.TooMany {
				t.Errorf("%s: got %v, want class TooMany", what, err)
			}
		}
		if n := forced([]Key{other}); n != 1 {
			t.Error("another client's was not forced")
		}
		time.Sleep(5 * time.Second)
		if n := forced(keys[30:58]); n != 5 {
			t.Errorf("%d of 28 were forced after 5 seconds, want 5", n)
		}
	})
}

// What a limiter refuses, and what is refused for another reason, is not counted.
func TestRefusedForceCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(_ context.Context, _ Key, n int) error {
			if n == 2 {
				return &oauth.Error{Class: oauth.InvalidScope, Reach: oauth.ReachScopes}
			}
			return nil
		}
		s := open(t, Config{Exchanger: b})
		get(t, s, aKey())
		time.Sleep(time.Minute)
		for range 100 { // the first is refused by the server, and that is remembered
			if got := getWith(t, s, aKey(), Want{Fresh: true}); got != 1 {
				t.Errorf("token %d, want 1", got)
			}
		}
		wantFetches(t, b, 2)
		time.Sleep(refusedFor)
		if got := getWith(t, s, aKey(), Want{Fresh: true}); got != 3 {
			t.Errorf("token %d, want 3", got)
		}
	})
}

func TestDiscard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour, takes: time.Second}
		s := open(t, Config{Exchanger: b})
		keys := numbered(2)
		s.Keep(keys[1:])
		discard := func(key Key, want oauth.Class, retry time.Duration) {
			t.Helper()
			err := s.Discard(key)
			failure, _ := errors.AsType[*oauth.Error](err)
			if want == 0 && err == nil || failure != nil && failure.Class == want && failure.RetryAfter == retry {
				return
			}
			t.Errorf("got %v, want class %d, RetryAfter %v", err, want, retry)
		}
		discard(keys[0], 0, 0) // there is none
		get(t, s, keys[0])
		time.Sleep(4 * time.Second)
		discard(keys[0], oauth.TooMany, 6*time.Second)
		if got := get(t, s, keys[0]); got != 1 {
			t.Errorf("token %d, want 1, which was not discarded", got)
		}
		time.Sleep(6 * time.Second)
		discard(keys[0], 0, 0)
		discard(keys[0], 0, 0) // it is discarded already
		discard(keys[1], 0, 0)
		wantFetches(t, b, 3) // what is kept warm is fetched at once
		if got := get(t, s, keys[0]); got != 2 {
			t.Errorf("token %d, want 2", got)
		}
		if got := get(t, s, keys[1]); got != 2 {
			t.Errorf("token %d of what is kept warm, want 2", got)
		}
		if err := s.Discard(keys[0]); oauth.ClassOf(err) != oauth.TooMany {
			t.Errorf("discarding again at once: %v", err)
		}
		wantFetches(t, b, 4)
	})
}

// Discard's limit holds across a fetch that was forced and failed.
func TestDiscardAfterAForcedFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(_ context.Context, _ Key, n int) error {
			if n > 1 {
				return &oauth.Error{Class: oauth.Unavailable}
			}
			return nil
		}
		s := open(t, Config{Exchanger: b})
		get(t, s, aKey())
		time.Sleep(time.Minute)
		getWith(t, s, aKey(), Want{Fresh: true})
		if err := s.Discard(aKey()); oauth.ClassOf(err) != oauth.TooMany {
			t.Errorf("got %v, want class TooMany", err)
		}
	})
}

// A caller whose time ends while a fetch is forced gets the token that is held.
func TestForcedFetchTooSlowForTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour, takes: 3 * time.Second}
		s := open(t, Config{Exchanger: b})
		get(t, s, aKey())
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		token, err := s.Get(ctx, aKey(), Want{Fresh: true})
		if err != nil || number(t, aKey(), token) != 1 {
			t.Errorf("got %v, %v, want the token that is held", token, err)
		}
	})
}

// A token that ends while a fetch is forced, and fails, is not served any more.
func TestTokenEndsDuringAForcedFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: 20 * time.Second}
		b.serve = func(ctx context.Context, _ Key, n int) error {
			if n == 1 {
				return nil
			}
			return errors.Join(wait(ctx, 5*time.Second), oauth.Fail(oauth.TimedOut, "too slow"))
		}
		s := open(t, Config{Exchanger: b})
		get(t, s, aKey())
		time.Sleep(16 * time.Second)
		if err := refuse(t, s, aKey(), Want{Fresh: true}); err.Class != oauth.TimedOut {
			t.Errorf("got %v, want class TimedOut", err)
		}
	})
}
