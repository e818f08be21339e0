package tokens

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/oauth"
)

func TestEntriesGoWhenTheyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := New(Config{Exchanger: b})
		sent := time.Now()
		get(t, s, aKey())
		at := func(after time.Duration, want int) {
			t.Helper()
			<-time.After(time.Until(sent.Add(after)))
			synctest.Wait()
			if n := s.cache.ItemCount(); n != want {
				t.Errorf("%d entries after %v, want %d", n, after, want)
			}
		}
		at(time.Hour-time.Millisecond, 1)
		at(time.Hour, 0)
		at(24*time.Hour, 0)

		// One that is replaced in its last second takes nothing along.
		b.serve = func(context.Context, int) error { return nil }
		sent = time.Now()
		get(t, s, aKey())
		at(time.Hour-999*time.Millisecond, 1)
		get(t, s, aKey())
		wantFetches(t, b, 3)
		at(time.Hour, 1)
		get(t, s, aKey())
		wantFetches(t, b, 3)
		at(2*time.Hour-1000*time.Millisecond, 1)
		at(2*time.Hour-999*time.Millisecond, 0)
	})
}

// A caller that finds no token, and begins to fetch one just when another's
// fetch has landed, takes that one's token.
func TestNoFetchAfterOneThatLanded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		meanwhile := func() {}
		s := New(Config{Exchanger: b, Now: func() time.Time {
			now := time.Now()
			do := meanwhile
			meanwhile = func() {}
			do()
			return now
		}})
		get(t, s, aKey())
		<-time.After(time.Hour - 1500*time.Millisecond) // into the last second, where a look finds a token that has ended
		meanwhile = func() { get(t, s, aKey()) }
		get(t, s, aKey())
		wantFetches(t, b, 2)
	})
}

func TestKeysDoNotCross(t *testing.T) {
	parts := []string{"", "a", "b", "ab", "a b", "https://acme.okta.test", "https://acme.okta.test/oauth2/default", "0oa1"}
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(context.Context, int) error { return nil }
		s := New(Config{Exchanger: b})
		var all []Key
		for _, client := range parts {
			for _, issuer := range parts {
				for _, id := range parts {
					for _, scopes := range parts {
						all = append(all, Key{Client: client, Issuer: issuer, ClientID: id, Scopes: oauth.Scopes(scopes)})
					}
				}
			}
		}
		for _, what := range []string{"cold", "warm"} {
			for _, key := range all {
				if got, want := get(t, s, key), fmt.Sprintf("%v/1", key); got != want {
					t.Fatalf("%s: %+v got the token %q, want %q", what, key, got, want)
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

// Beyond the bound a token is given and not kept; room comes with the ends of
// others.
func TestEntriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(context.Context, int) error { return nil }
		s := New(Config{Exchanger: b})
		const bound = 10_000
		key := func(i int) Key { return Key{Client: "billing", Scopes: oauth.Scopes(fmt.Sprint(i))} }
		for i := range bound {
			get(t, s, key(i))
		}
		for range 3 {
			get(t, s, key(bound))
		}
		wantFetches(t, b, bound+3)
		if n := s.cache.ItemCount(); n != bound {
			t.Errorf("%d entries, want %d", n, bound)
		}
		get(t, s, key(0))
		wantFetches(t, b, bound+3)

		<-time.After(time.Hour)
		synctest.Wait()
		for range 3 {
			get(t, s, key(bound))
		}
		wantFetches(t, b, bound+4)
		if n := s.cache.ItemCount(); n != 1 {
			t.Errorf("%d entries, want the one that came last", n)
		}
	})
}

// A slow fetch holds up no other key.
func TestKeysDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := New(Config{Exchanger: b})
		start := time.Now()
		done := make(chan string)
		for i := range 50 {
			go func() { done <- get(t, s, Key{Client: fmt.Sprint(i)}) }()
		}
		for range 50 {
			<-done
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("50 keys took %v, want the 1s of each at the same time", took)
		}
	})
}

func BenchmarkHit(b *testing.B) {
	vault := &bank{life: time.Hour, serve: func(context.Context, int) error { return nil }}
	s := New(Config{Exchanger: vault})
	key := aKey()
	if _, err := s.Get(b.Context(), key); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Get(b.Context(), key); err != nil {
				b.Error(err)
			}
		}
	})
	if n := vault.fetches(); n != 1 {
		b.Errorf("%d fetches, want 1", n)
	}
}
