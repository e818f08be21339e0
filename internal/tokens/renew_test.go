package tokens

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/oauth"
)

// three quarters of an hour, when the tokens of these tests are renewed.
const ripe = 45 * time.Minute

// until sleeps until so long after start, and until all else that happens then
// has.
func until(start time.Time, after time.Duration) {
	time.Sleep(time.Until(start.Add(after)))
	synctest.Wait()
}

func TestRenewal(t *testing.T) {
	tests := []struct {
		life   time.Duration
		jitter float64
		want   time.Duration
	}{
		{time.Hour, 0, 45 * time.Minute},
		{time.Hour, -1, 40*time.Minute + 30*time.Second},
		{time.Hour, 1, 49*time.Minute + 30*time.Second},
		{time.Hour, 0.5, 47*time.Minute + 15*time.Second},
		{5 * time.Minute, 0, 225 * time.Second},
		{5 * time.Minute, -1, 202500 * time.Millisecond},
		{5 * time.Minute, 1, 247500 * time.Millisecond},
		{24 * time.Hour, 1, 19*time.Hour + 48*time.Minute},
		{4 * time.Second, 0, 3 * time.Second},
		{0, 1, 0},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%v,%v", tt.life, tt.jitter), func(t *testing.T) {
			if got := renewal(tt.life, tt.jitter).Round(time.Microsecond); got != tt.want {
				t.Errorf("renewed after %v, want %v", got, tt.want)
			}
		})
	}
}

// The jitter of a Store spreads over the whole range, and not beyond.
func TestJitter(t *testing.T) {
	s := New(Config{Exchanger: &bank{}})
	least, most := time.Hour, time.Duration(0)
	for range 10_000 {
		at := renewal(time.Hour, s.jitter())
		least, most = min(least, at), max(most, at)
	}
	if least < 2430*time.Second-1 || least > 2440*time.Second || most < 2960*time.Second || most > 2970*time.Second {
		t.Errorf("an hour's token is renewed after %v to %v, want 40m30s to 49m30s", least, most)
	}
}

func TestNext(t *testing.T) {
	const never = time.Duration(0)
	now := time.Now()
	at := func(in time.Duration) time.Time {
		if in == never {
			return time.Time{}
		}
		return now.Add(in)
	}
	due := time.Duration(-1) // at once, or before
	tests := []struct {
		name    string
		age     time.Duration // of an hour's token; 0: none is held
		read    bool
		kept    bool
		retry   time.Duration
		refused time.Duration
		want    step
		in      time.Duration
	}{
		{name: "young", age: time.Minute, want: rest, in: 44 * time.Minute},
		{name: "young, read", age: time.Minute, read: true, want: rest, in: 44 * time.Minute},
		{name: "young, kept, failed before", age: time.Minute, kept: true, retry: time.Minute, want: rest, in: 44 * time.Minute},
		{name: "ripe, not read", age: ripe, want: remove, in: 15 * time.Minute},
		{name: "ripe, read", age: ripe, read: true, want: renew, in: due},
		{name: "ripe, kept", age: ripe, kept: true, want: renew, in: due},
		{name: "ripe, read, failed", age: 50 * time.Minute, read: true, retry: time.Minute, want: renew, in: time.Minute},
		{name: "ripe, read, failed before", age: 50 * time.Minute, read: true, retry: -time.Minute, want: renew, in: due},
		{name: "ripe, read, no time for another", age: 58 * time.Minute, read: true, retry: 5 * time.Minute, want: remove, in: 2 * time.Minute},
		{name: "ripe, kept, no time for another", age: 58 * time.Minute, kept: true, retry: 5 * time.Minute, want: renew, in: 5 * time.Minute},
		{name: "ended", age: time.Hour, read: true, want: remove, in: due},
		{name: "ended for long", age: 9 * time.Hour, read: true, retry: time.Minute, want: remove, in: due},
		{name: "ended, refused", age: time.Hour, read: true, retry: 30 * time.Second, refused: 30 * time.Second, want: remove, in: 30 * time.Second},
		{name: "ended, kept", age: time.Hour, kept: true, want: renew, in: due},
		{name: "ended, kept, failed", age: 9 * time.Hour, kept: true, retry: time.Minute, want: renew, in: time.Minute},
		{name: "none", want: remove, in: due},
		{name: "none, refused", refused: 10 * time.Second, want: remove, in: 10 * time.Second},
		{name: "none, kept", kept: true, want: renew, in: due},
		{name: "none, kept, refused", kept: true, retry: time.Minute, refused: 30 * time.Second, want: renew, in: time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := &entry{kept: tt.kept, failures: failures{until: at(tt.refused)}}
			if tt.age > 0 {
				held := &holding{token: oauth.Token{Life: time.Hour, Expires: now.Add(time.Hour - tt.age)}, ahead: time.Hour - ripe}
				held.read.Store(tt.read)
				e.held.Store(held)
			}
			do, in := e.next(now, at(tt.retry))
			if do != tt.want || max(in, due) != tt.in {
				t.Errorf("step %d in %v, want %d in %v", do, in, tt.want, tt.in)
			}
		})
	}
}

func TestNobodyWaitsForARenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour, takes: 3 * time.Second}
		s := open(t, Config{Exchanger: b})
		start := time.Now()
		get(t, s, aKey())
		for after := ripe - 10*time.Second; after <= ripe+10*time.Second; after += 100 * time.Millisecond {
			until(start, after)
			asked := time.Now()
			got := get(t, s, aKey())
			if took := time.Since(asked); took != 0 {
				t.Errorf("a read %v after the first fetch took %v", after, took)
			}
			if want := map[bool]int{true: 1, false: 2}[after < ripe+3*time.Second]; got != want {
				t.Errorf("after %v: token %d, want %d", after, got, want)
			}
		}
		wantFetches(t, b, 2)
	})
}

// What was read during its life is renewed at three quarters of it. What was not
// lapses, and its entry goes.
func TestRenewedWhileRead(t *testing.T) {
	tests := []struct {
		name    string
		reads   []time.Duration
		fetches []time.Duration // when they are to begin
		gone    time.Duration
	}{
		{"by the one who fetched it", []time.Duration{0}, []time.Duration{0, ripe}, ripe + time.Hour},
		{"in between", []time.Duration{0, 50 * time.Minute}, []time.Duration{0, ripe, 2 * ripe}, 2*ripe + time.Hour},
		{"just before the renewal", []time.Duration{0, 2*ripe - 1}, []time.Duration{0, ripe, 2 * ripe}, 2*ripe + time.Hour},
		{"past the renewal point", []time.Duration{0, 100 * time.Minute}, []time.Duration{0, ripe, 100 * time.Minute}, 160 * time.Minute},
		{"in the last moment", []time.Duration{0, 2*time.Hour - 16*time.Minute}, []time.Duration{0, ripe, 2*time.Hour - 16*time.Minute}, 3*time.Hour - 16*time.Minute},
		{"after it ended", []time.Duration{0, 3 * time.Hour}, []time.Duration{0, ripe, 3 * time.Hour, 3*time.Hour + ripe}, 4*time.Hour + ripe},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: time.Hour}
				s := open(t, Config{Exchanger: b})
				start := time.Now()
				for _, after := range tt.reads {
					until(start, after)
					get(t, s, aKey())
				}
				until(start, tt.gone-1)
				if n := s.Len(); n != 1 {
					t.Errorf("%d entries before the end, want 1", n)
				}
				until(start, tt.gone)
				if n := s.Len(); n != 0 {
					t.Errorf("%d entries in the end, want 0", n)
				}
				time.Sleep(24 * time.Hour)
				wantBegun(t, b, start, tt.fetches)
			})
		})
	}
}

func wantBegun(t *testing.T, b *bank, start time.Time, want []time.Duration) {
	t.Helper()
	var got []time.Duration
	for _, at := range b.times() {
		got = append(got, at.Sub(start))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("fetches after %v, want %v", got, want)
	}
}

// What is kept warm is fetched at once, and renewed though nobody reads it, until
// Keep says otherwise.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := open(t, Config{Exchanger: b})
		start := time.Now()
		s.Keep([]Key{aKey(), aKey()})
		until(start, 0)
		wantFetches(t, b, 1)
		until(start, 32*ripe)
		wantFetches(t, b, 33)
		s.Keep([]Key{aKey()})
		wantFetches(t, b, 33)
		if got := get(t, s, aKey()); got != 33 {
			t.Errorf("token %d, want 33", got)
		}
		until(start, 33*ripe)
		wantFetches(t, b, 34)
		s.Keep(nil)
		until(start, 33*ripe+time.Hour)
		wantFetches(t, b, 34) // it was not read
		if n := s.Len(); n != 0 {
			t.Errorf("%d entries, want 0", n)
		}
	})
}

// However long fetches fail, what is kept warm is fetched again: soon after the
// last failure, and at once when it is forgiven.
func TestKeptThroughHoursOfFailures(t *testing.T) {
	tests := []struct {
		name    string
		failure error
		longest time.Duration // between two attempts
	}{
		{"unclassified", errors.New("broken"), time.Minute},
		{"for this request", &oauth.Error{Class: oauth.Internal}, time.Minute},
		{"scopes", &oauth.Error{Class: oauth.InvalidScope, Reach: oauth.ReachScopes}, 5 * time.Minute},
		{"bad answers", &oauth.Error{Class: oauth.BadAnswer, Reach: oauth.ReachScopes}, time.Minute},
		{"client", &oauth.Error{Class: oauth.Refused, Reach: oauth.ReachClient}, 5 * time.Minute},
		{"server", &oauth.Error{Class: oauth.Unavailable, Reach: oauth.ReachServer, RetryAfter: time.Minute}, 61 * time.Second},
		{"server, no time given", &oauth.Error{Class: oauth.Unavailable, Reach: oauth.ReachServer}, time.Minute},
		{"panic", nil, time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: time.Hour}
				start := time.Now()
				var down atomic.Bool
				down.Store(true)
				time.AfterFunc(6*time.Hour, func() { down.Store(false) })
				b.serve = func(context.Context, Key, int) error {
					switch {
					case !down.Load():
						return nil
					case tt.failure == nil:
						panic("broken")
					}
					return tt.failure
				}
				s := open(t, Config{Exchanger: b})
				s.Keep([]Key{aKey()})
				until(start, 6*time.Hour+tt.longest)
				begun := b.times()
				for i, at := range begun[1:] {
					if gap := at.Sub(begun[i]); gap < time.Second || gap > tt.longest {
						t.Errorf("%v between two attempts, want 1s to %v", gap, tt.longest)
					}
				}
				asked := time.Now()
				if get(t, s, aKey()); time.Since(asked) != 0 {
					t.Error("the token is not there before somebody asks")
				}
				wantFetches(t, b, len(begun))

				down.Store(true)
				time.Sleep(5 * time.Hour)
				if _, err := s.Get(t.Context(), aKey(), Want{}); err == nil {
					t.Error("a token, hours after the last one")
				}
				down.Store(false)
				s.Forgive(func(Key) bool { return true })
				time.Sleep(2 * time.Second) // an attempt may just have been made
				synctest.Wait()
				before := b.fetches()
				get(t, s, aKey())
				wantFetches(t, b, before)
			})
		})
	}
}

// clock is time.Now, and what it was set ahead.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time        { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) jump(by time.Duration) { c.ahead.Add(int64(by)) }

// A clock that jumps ahead, as after a suspend, ends tokens. Reads notice it at
// once, and what is kept warm is so again in minutes. One that jumps back storms
// nobody.
func TestClockJumps(t *testing.T) {
	tests := []struct {
		jump  time.Duration // at the age of 5 minutes
		token int           // which the next read gets
		reads int           // fetches of what is read then
		kept  int           // fetches of what is kept warm, after a while
	}{
		{0, 1, 1, 1},
		{39 * time.Minute, 1, 1, 2}, // 44, and ripe a minute later
		{40 * time.Minute, 1, 2, 2}, // 45, when it is renewed
		{54 * time.Minute, 1, 2, 2}, // 59
		{55 * time.Minute, 2, 2, 2}, // it has ended
		{24 * time.Hour, 2, 2, 2},
		{-time.Minute, 1, 1, 1},
		{-24 * time.Hour, 1, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.jump.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c clock
				b := &bank{life: time.Hour, now: c.now}
				s := open(t, Config{Exchanger: b, Now: c.now})
				read, kept := aKey(), aKey()
				kept.Scopes = "kept"
				s.Keep([]Key{kept})
				get(t, s, read)
				time.Sleep(lookEvery)
				synctest.Wait()
				c.jump(tt.jump)
				if got := get(t, s, read); got != tt.token {
					t.Errorf("token %d, want %d", got, tt.token)
				}
				synctest.Wait()
				if got := b.of(read); got != tt.reads {
					t.Errorf("%d fetches of what is read, want %d", got, tt.reads)
				}
				time.Sleep(lookEvery)
				synctest.Wait()
				if got := b.of(kept); got != tt.kept {
					t.Errorf("%d fetches of what is kept warm, want %d", got, tt.kept)
				}
				before := b.fetches()
				time.Sleep(3 * time.Hour)
				if n := b.fetches() - before; n > 2*4 {
					t.Errorf("%d fetches in the three hours after the jump", n)
				}
			})
		})
	}
}

// A token that ends on its way, here because the clock jumps, is not handed out.
func TestClockJumpsDuringAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		b := &bank{life: time.Hour, now: c.now}
		b.serve = func(_ context.Context, _ Key, n int) error {
			if n == 1 {
				c.jump(2 * time.Hour)
			}
			return nil
		}
		s := open(t, Config{Exchanger: b, Now: c.now})
		if err := refuse(t, s, aKey(), Want{}); err.Class != oauth.BadAnswer {
			t.Errorf("got %v, want class BadAnswer", err)
		}
		time.Sleep(time.Second)
		get(t, s, aKey())
	})
}
