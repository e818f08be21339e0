package tokens

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/oauth"
)

func TestTokenEnds(t *testing.T) {
	tests := []struct {
		after time.Duration // from when the request was sent
		fresh bool
	}{
		{59 * time.Minute, false},
		{time.Hour - 1001*time.Millisecond, false},
		{time.Hour - time.Second, false},
		{time.Hour - 999*time.Millisecond, true}, // it would not outlive the call it is for
		{time.Hour, true},
		{2 * time.Hour, true},
	}
	for _, tt := range tests {
		t.Run(tt.after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: time.Hour, takes: time.Second}
				s := open(t, Config{Exchanger: b})
				sent := time.Now()
				s.Keep([]Key{aKey()})
				s.Keep(nil) // fetched, and read by nobody
				until(sent, tt.after)
				want := map[bool]int{false: 1, true: 2}[tt.fresh]
				asked := time.Now()
				if got := get(t, s, aKey()); got != want {
					t.Errorf("token %d, want %d", got, want)
				}
				if took := time.Since(asked); (took > 0) != tt.fresh {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// A token that has ended on arrival is neither given nor kept, and the next is
// not asked for at once.
func TestTokenThatCameTooLate(t *testing.T) {
	for _, life := range []time.Duration{0, -time.Hour, time.Second, 1999 * time.Millisecond} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: life, takes: time.Second}
				s := open(t, Config{Exchanger: b})
				for fetch := 1; fetch <= 2; fetch++ {
					for _, repeated := range []bool{false, true} {
						if err := refuse(t, s, aKey(), Want{}); err.Class != oauth.BadAnswer || err.Repeated != repeated {
							t.Errorf("got %v, repeated %t, want class BadAnswer, %t", err, err.Repeated, repeated)
						}
						wantFetches(t, b, fetch)
					}
					time.Sleep(time.Second)
					synctest.Wait()
					if n := s.Len(); n != 0 {
						t.Errorf("%d entries are kept", n)
					}
				}
			})
		})
	}
}

func TestKeysDoNotCross(t *testing.T) {
	parts := []string{"", "a", "b", "ab", "a b", "https://acme.okta.test", "https://acme.okta.test/oauth2/default"}
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := open(t, Config{Exchanger: b, Most: 20_000})
		var all []Key
		for _, client := range parts {
			for _, issuer := range parts {
				for _, id := range parts {
					for _, jkt := range []string{"", "a", "b"} {
						for _, scopes := range parts {
							all = append(all, Key{Client: client, Issuer: issuer, ClientID: id, JKT: jkt, Scopes: oauth.Scopes(scopes)})
						}
					}
				}
			}
		}
		for _, what := range []string{"cold", "warm"} {
			for _, key := range all {
				if got := get(t, s, key); got != 1 {
					t.Fatalf("%s: %+v got token %d, want 1", what, key, got)
				}
			}
		}
		names := map[string]bool{}
		for _, key := range all {
			names[key.String()] = true
		}
		if len(names) != len(all) {
			t.Errorf("%d keys have %d names", len(all), len(names))
		}
		wantFetches(t, b, len(all))
	})
}

// A slow fetch holds up no other key.
func TestKeysDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour, takes: time.Second}
		s := open(t, Config{Exchanger: b})
		start := time.Now()
		var callers sync.WaitGroup
		for _, key := range numbered(50) {
			callers.Go(func() { get(t, s, key) })
		}
		callers.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("50 keys took %v, want the 1s of each at the same time", took)
		}
	})
}

// At the bound those go that were read least recently. What is kept warm stays.
func TestLeastRecentlyReadGo(t *testing.T) {
	const most = 200
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := open(t, Config{Exchanger: b, Most: most})
		keys := numbered(most + 2)
		s.Keep(keys[:1])
		for _, key := range keys[:most] {
			time.Sleep(time.Millisecond)
			get(t, s, key)
		}
		for i, key := range keys[:most] {
			if i%50 > 0 { // all but 0, 50, 100 and 150
				time.Sleep(time.Millisecond)
				get(t, s, key)
			}
		}
		wantFetches(t, b, most)
		get(t, s, keys[most])
		get(t, s, keys[most+1])
		if n := s.Len(); n != most {
			t.Errorf("%d entries, want %d", n, most)
		}
		held := map[oauth.Scopes]bool{}
		for _, e := range s.entries() {
			held[e.key.Scopes] = true
		}
		for i, key := range keys {
			if gone := i == 50 || i == 100; held[key.Scopes] == gone {
				t.Errorf("key %d is held: %t", i, !gone)
			}
		}
	})
}

// More than are allowed can be kept warm. All others make room for each other.
func TestMoreKeptThanTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := open(t, Config{Exchanger: b, Most: 10})
		keys := numbered(40)
		s.Keep(keys[:20])
		time.Sleep(2 * time.Second)
		for _, key := range keys[20:] {
			get(t, s, key)
			if n := s.Len(); n != 21 {
				t.Fatalf("%d entries, want the 20 that are kept and one", n)
			}
		}
		for _, key := range keys[:20] {
			get(t, s, key)
		}
		wantFetches(t, b, 40)
	})
}

// Keys without end, each asked for once, cost the memory of those that are kept.
func TestKeysWithoutEnd(t *testing.T) {
	const most, all = 1_000, 100_000
	b := &bank{life: time.Hour}
	s := New(Config{Exchanger: forgetful{b}, Most: most})
	defer s.Close()
	key := aKey()
	memory := func(from, to int) uint64 {
		for i := from; i < to; i++ {
			key.Scopes = oauth.Scopes(fmt.Sprint(i))
			if _, err := s.Get(t.Context(), key, Want{}); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.Len(); n > most {
			t.Fatalf("%d entries, want %d at most", n, most)
		}
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := memory(0, 10*most)
	after := memory(10*most, all)
	if after > before+before/2 {
		t.Errorf("%d KiB after %d keys, %d KiB after %d", after>>10, all, before>>10, 10*most)
	}
}

// forgetful does not count.
type forgetful struct{ *bank }

func (f forgetful) Exchange(context.Context, Key) (oauth.Token, error) {
	return oauth.Token{Life: f.life, Expires: time.Now().Add(f.life)}, nil
}

// What Drop removes is never handed out again, be it held or under way.
func TestDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour, takes: time.Second}
		s := open(t, Config{Exchanger: b})
		keys := numbered(4) // 0 is held, 1 under way, 2 kept warm, 3 does not match
		s.Keep(keys[2:3])
		get(t, s, keys[0])
		get(t, s, keys[3])
		waiter := make(chan int)
		go func() { waiter <- get(t, s, keys[1]) }()
		synctest.Wait()

		var dropped []string
		for _, token := range s.Drop(func(key Key, _ oauth.Token) bool { return key != keys[3] }) {
			_, which, _ := strings.Cut(token.Access.Reveal(), "0oa1\x00\x00")
			dropped = append(dropped, which)
		}
		if want := map[string]bool{"0/1": true, "2/1": true}; len(dropped) != 2 || !want[dropped[0]] || !want[dropped[1]] {
			t.Errorf("dropped %q, want 0/1 and 2/1", dropped)
		}
		fresh := make(chan int)
		go func() { fresh <- get(t, s, keys[1]) }()
		if got := <-waiter; got != 1 {
			t.Errorf("who asked before Drop got token %d, want 1", got)
		}
		if got := <-fresh; got != 2 {
			t.Errorf("who asked after Drop got token %d, want 2", got)
		}
		time.Sleep(time.Second)
		got := map[Key]int{}
		for _, key := range keys {
			got[key] = get(t, s, key)
		}
		if diff := cmp.Diff(map[Key]int{keys[0]: 2, keys[1]: 2, keys[2]: 2, keys[3]: 1}, got); diff != "" {
			t.Errorf("tokens (-want +got)\n%s", diff)
		}
		wantFetches(t, b, 7)
	})
}

func TestFind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := open(t, Config{Exchanger: b})
		keys := numbered(3)
		for n := range 2 { // one by one, which the background's pace allows at once
			s.Keep(keys[:n+1])
			time.Sleep(time.Second)
		}
		is := func(want Key) func(Key, oauth.Token) bool {
			return func(key Key, token oauth.Token) bool { return key == want && number(t, key, token) == 1 }
		}
		if found, ok := s.Find(is(keys[1])); !ok || found != keys[1] {
			t.Errorf("found %v, %t, want %v", found, ok, keys[1])
		}
		if found, ok := s.Find(is(keys[2])); ok {
			t.Errorf("found %v, which is not held", found)
		}
		s.Keep(nil)
		time.Sleep(time.Hour - 1500*time.Millisecond) // into its last second
		if found, ok := s.Find(is(keys[1])); ok {
			t.Errorf("found %v, which has ended", found)
		}
	})
}

// Who waits when the Store is closed gets a token, as does who comes then. None
// is kept.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour, takes: time.Second}
		s := open(t, Config{Exchanger: b})
		var waiter sync.WaitGroup
		waiter.Go(func() { get(t, s, aKey()) })
		s.Keep(numbered(100)) // which wait for their turn
		synctest.Wait()
		s.Close()
		s.Keep(numbered(100))
		s.Forgive(func(Key) bool { return true })
		waiter.Wait()
		get(t, s, aKey())
		time.Sleep(10 * time.Second)
		if n := s.Len(); n != 0 {
			t.Errorf("%d entries, want none", n)
		}
		wantFetches(t, b, 3) // the waiter's, the first of those kept, and the last one
	})
}
