package tokens

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/oauth"
)

// newSeed returns a number that what is random in a test follows from, as far as
// goroutines allow: that of the environment's SEED, else any. A test that fails
// says which.
func newSeed(t *testing.T) uint64 {
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("SEED=%d", seed)
	return seed
}

// luck is a random number for the nth fetch of a key.
func luck(seed uint64, key Key, n int) *rand.Rand {
	hash := fnv.New64a()
	_, _ = fmt.Fprint(hash, key, n)
	return rand.New(rand.NewPCG(seed, hash.Sum64()))
}

// failuresOfAllKinds are those that an Exchanger can meet.
func failuresOfAllKinds() []error {
	return []error{
		&oauth.Error{Class: oauth.Unavailable, Reach: oauth.ReachServer, RetryAfter: time.Second},
		&oauth.Error{Class: oauth.TimedOut, Reach: oauth.ReachServer, RetryAfter: 20 * time.Second},
		&oauth.Error{Class: oauth.Refused, Reach: oauth.ReachClient},
		&oauth.Error{Class: oauth.InvalidScope, Reach: oauth.ReachScopes},
		&oauth.Error{Class: oauth.BadAnswer, Reach: oauth.ReachScopes},
		&oauth.Error{Class: oauth.Internal},
	}
}

// busiest returns the most fetches in any one second.
func busiest(times []time.Time) int {
	most, first := 0, 0
	for i, at := range times {
		for at.Sub(times[first]) > time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// Whatever happens in whatever order, nobody gets a token that has ended, that is
// another's, or that was dropped before it was asked for.
func TestRandomSchedules(t *testing.T) {
	failures := failuresOfAllKinds()
	for round := range 50 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			seed := newSeed(t)
			random := rand.New(rand.NewPCG(seed, 0))
			synctest.Test(t, func(t *testing.T) {
				var c clock
				var faults atomic.Int64 // in a hundred
				b := &bank{now: c.now, life: time.Duration(1+random.IntN(7200)) * time.Second, takes: time.Duration(random.IntN(7000)) * time.Millisecond}
				b.serve = func(_ context.Context, key Key, n int) error {
					if random := luck(seed, key, n); random.Int64N(100) < faults.Load() {
						return failures[random.IntN(len(failures))]
					}
					return nil
				}
				s := open(t, Config{Exchanger: b, Now: c.now, Most: 6})
				keys := numbered(8)
				match := func(Key, oauth.Token) bool { return random.IntN(2) == 0 }
				least := make([]atomic.Int64, len(keys)) // the first token that was not dropped
				var callers sync.WaitGroup
				defer callers.Wait()
				for range 500 {
					i := random.IntN(len(keys))
					switch random.IntN(12) {
					case 0:
						s.Keep(keys[:random.IntN(3)])
					case 1:
						s.Drop(match)
					case 2:
						begun := b.of(keys[i])
						s.Drop(func(key Key, _ oauth.Token) bool { return key == keys[i] })
						least[i].Store(int64(begun) + 1)
					case 3:
						s.Forgive(func(key Key) bool { return match(key, oauth.Token{}) })
					case 4:
						_ = s.Discard(keys[i]) // it may be too early
					case 5:
						faults.Store(random.Int64N(101))
					case 6:
						synctest.Wait() // nobody looks at a token
						c.jump(time.Duration(random.Int64N(int64(b.life))))
					case 7, 8:
						time.Sleep(time.Duration(random.Int64N(int64(b.life))))
					default:
						want := Want{Fresh: random.IntN(4) == 0, MinTTL: time.Duration(random.IntN(4)/3) * b.life / 2}
						callers.Go(func() {
							from := least[i].Load()
							ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
							defer cancel()
							token, err := s.Get(ctx, keys[i], want)
							if err != nil {
								return
							}
							n, left := number(t, keys[i], token), token.Left(c.now())
							if int64(n) < from || left < max(time.Second, want.MinTTL) {
								t.Errorf("got token %d, of which %v is left, want %d at least, and %v", n, left, from, want.MinTTL)
							}
						})
						if random.IntN(2) == 0 {
							synctest.Wait()
						}
					}
					if n := s.Len(); n > 6 {
						t.Fatalf("%d entries, want 6 at most", n)
					}
				}
			})
		})
	}
}

// A reload, again and again under load: nobody is failed, and nobody gets a token
// of the world before.
func TestReloadsUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: 5 * time.Minute, takes: 200 * time.Millisecond}
		s := open(t, Config{Exchanger: b})
		keys := numbered(10)
		least := make([]atomic.Int64, len(keys))
		var callers sync.WaitGroup
		defer callers.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for i, key := range keys {
			for range 5 {
				callers.Go(func() {
					for ctx.Err() == nil {
						from := least[i].Load()
						if got := get(t, s, key); int64(got) < from {
							t.Errorf("got token %d after a reload, want %d at least", got, from)
						}
						time.Sleep(50 * time.Millisecond)
					}
				})
			}
		}
		for reload := range 200 {
			time.Sleep(time.Duration(reload) * 7 * time.Millisecond)
			changed := reload % len(keys)
			s.Keep(keys[:reload%4])
			begun := b.of(keys[changed])
			s.Drop(func(key Key, _ oauth.Token) bool { return key == keys[changed] })
			least[changed].Store(int64(begun) + 1)
			s.Forgive(func(Key) bool { return true })
		}
	})
}

// A thousand keys whose server is down when they are to be renewed: all callers
// are served; when it is back the first key is within two seconds, the others
// follow at 20 a second, and each is renewed once.
func TestOutageOfAThousandKeys(t *testing.T) {
	const down, back = 40 * time.Minute, 50*time.Minute + 13*time.Second
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		b := &bank{life: time.Hour}
		var first atomic.Int64 // when the server may be asked again after it is back
		b.serve = func(context.Context, Key, int) error {
			after := time.Since(start)
			if after < down || after >= back && after >= time.Duration(first.Load()) {
				return nil
			}
			// As after a 429 that is good for half a minute.
			reset := (after/(30*time.Second) + 1) * 30 * time.Second
			first.Store(int64(reset))
			return &oauth.Error{Class: oauth.Unavailable, Reach: oauth.ReachServer, RetryAfter: reset - after}
		}
		s := New(Config{Exchanger: b}) // with jitter
		defer s.Close()
		keys := numbered(1000)
		for _, key := range keys {
			get(t, s, key)
		}
		wantFetches(t, b, len(keys))
		random := rand.New(rand.NewPCG(newSeed(t), 0))
		for time.Since(start) < 58*time.Minute {
			time.Sleep(100 * time.Millisecond)
			key := keys[random.IntN(len(keys))]
			asked := time.Now()
			if get(t, s, key); time.Since(asked) != 0 {
				t.Errorf("a caller waited %v", time.Since(asked))
			}
		}
		begun := b.times()[len(keys):]
		if n := busiest(begun); n > 20 {
			t.Errorf("%d fetches in one second, want 20 at most", n)
		}
		recovered := 0
		for _, at := range begun {
			if after := at.Sub(start); after >= back && after >= time.Duration(first.Load()) {
				if recovered++; recovered == 1 && after > time.Duration(first.Load())+2*time.Second {
					t.Errorf("the first fetch was %v after the server could be asked", after-time.Duration(first.Load()))
				}
			}
		}
		if recovered != len(keys) {
			t.Errorf("%d fetches after the outage, want one for each of %d keys", recovered, len(keys))
		}
		for _, key := range keys {
			get(t, s, key)
		}
	})
}

// 30 days of a thousand keys: 100 kept warm, 20 read every minute, 880 read once.
func TestThirtyDays(t *testing.T) {
	const days, kept, read = 30 * 24 * time.Hour, 100, 20
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := open(t, Config{Exchanger: b})
		keys := numbered(1000)
		start := time.Now()
		s.Keep(keys[:kept])
		time.Sleep(10 * time.Second) // they take turns
		for _, key := range keys[kept:] {
			get(t, s, key)
		}
		for time.Since(start) < days-time.Minute {
			for _, key := range keys[kept : kept+read] {
				get(t, s, key)
			}
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		// All are fetched in the first minute, and what is kept or read every 45 minutes
		// after that: 43,200 minutes are 960 times 45, of which the last has not come.
		for i, key := range keys {
			want := 2 // what is read once is renewed once
			if i < kept+read {
				want = 960
			}
			if n := b.of(key); n != want {
				t.Errorf("key %d was fetched %d times, want %d", i, n, want)
			}
		}
		wantFetches(t, b, 120*960+880*2)
		if n := s.Len(); n != kept+read {
			t.Errorf("%d entries, want %d", n, kept+read)
		}
	})
}

// A day in which one fetch in five fails: who reads every minute is never failed,
// for little more than one fetch per token.
func TestSoak(t *testing.T) {
	const keys, day = 100, 24 * time.Hour
	failures, seed := failuresOfAllKinds(), newSeed(t)
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour, takes: 300 * time.Millisecond}
		b.serve = func(_ context.Context, key Key, n int) error {
			if random := luck(seed, key, n); n > 1 && random.IntN(5) == 0 {
				return failures[random.IntN(len(failures))]
			}
			return nil
		}
		s := New(Config{Exchanger: b})
		defer s.Close()
		all := numbered(keys)
		start := time.Now()
		for time.Since(start) < day {
			for _, key := range all {
				get(t, s, key)
			}
			time.Sleep(time.Minute)
		}
		s.Close()
		time.Sleep(time.Second)
		needed := keys * int(day/ripe)
		if n := b.fetches(); n < needed*9/10 || n > needed*3/2 {
			t.Errorf("%d fetches for %d tokens", n, needed)
		}
	})
}
