package tokens

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/secret"
)

// replace is a Replace of token n, and returns the number of the one that came, 0
// for none.
func replace(t *testing.T, s *Store, key Key, refused int) int {
	t.Helper()
	token, ok := s.Replace(t.Context(), key, oauth.Token{Access: secret.New(fmt.Sprintf("%v/%d", key, refused))})
	if !ok {
		return 0
	}
	return number(t, key, token)
}

// A token that was refused is replaced by the one that is held, if it is another,
// else by one that is fetched, however young it is, but every ten seconds at most.
func TestReplace(t *testing.T) {
	const sec, m = time.Second, time.Minute
	type step struct {
		at      time.Duration // since the first token was fetched
		refused int
		want    int // 0: none
		asks    int // fetches in all
	}
	tests := []struct {
		name  string
		fails map[int]error // the fetches that do
		steps []step
	}{
		{"fetched just before", nil, []step{{0, 1, 2, 2}, {10*sec - 1, 2, 0, 2}, {10 * sec, 2, 3, 3}}},
		{"fetched before", nil, []step{{10 * sec, 1, 2, 2}}},
		{"one that nobody forced after one that was", nil, []step{{m, 1, 2, 2}, {m + 60*m, 2, 3, 3}, {m + 60*m, 3, 4, 4}}},
		{"replaced already", nil, []step{{m, 1, 2, 2}, {m, 1, 2, 2}, {20 * m, 1, 2, 2}}},
		{"refused again", nil, []step{{m, 1, 2, 2}, {m, 2, 0, 2}, {m + 10*sec - 1, 2, 0, 2}, {m + 10*sec, 2, 3, 3}}},
		{"the first one after the second", nil, []step{{m, 1, 2, 2}, {2 * m, 2, 3, 3}, {2 * m, 1, 3, 3}}},
		{"a token that nobody knows", nil, []step{{m, 9, 1, 1}}},
		{"the server is down", map[int]error{2: &oauth.Error{Class: oauth.Unavailable}}, []step{
			{m, 1, 0, 2}, {m + 10*sec - 1, 1, 0, 2}, {m + 10*sec, 1, 3, 3},
		}},
		{"it has ended", nil, []step{{61 * m, 1, 2, 2}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: time.Hour}
				b.serve = func(_ context.Context, _ Key, n int) error { return tt.fails[n] }
				s := open(t, Config{Exchanger: b})
				start := time.Now()
				get(t, s, aKey())
				for i, step := range tt.steps {
					until(start, step.at)
					if got := replace(t, s, aKey(), step.refused); got != step.want {
						t.Errorf("step %d: token %d for token %d, want %d", i+1, got, step.refused, step.want)
					}
					wantFetches(t, b, step.asks)
				}
			})
		})
	}
}

// Where it has ended and there is no other, there is none.
func TestReplaceOfAnEndedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(_ context.Context, _ Key, n int) error {
			if n > 1 {
				return &oauth.Error{Class: oauth.Unavailable, Reach: oauth.ReachServer}
			}
			return nil
		}
		s := open(t, Config{Exchanger: b})
		get(t, s, aKey())
		time.Sleep(61 * time.Minute)
		if got := replace(t, s, aKey(), 1); got != 0 {
			t.Errorf("token %d, want none", got)
		}
	})
}

// Where nothing is held, that is what a fetch is for.
func TestReplaceOfAColdKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := open(t, Config{Exchanger: b})
		if got := replace(t, s, aKey(), 0); got != 1 {
			t.Errorf("token %d, want 1", got)
		}
		wantFetches(t, b, 1)
	})
}

// A thousand callers whose token was refused share one fetch, whether they come while
// it is under way or after.
func TestManyReplaceOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour, takes: time.Second}
		s := open(t, Config{Exchanger: b})
		get(t, s, aKey())
		time.Sleep(time.Minute)
		var callers sync.WaitGroup
		for i := range 1000 {
			callers.Go(func() {
				time.Sleep(time.Duration(i) * 5 * time.Millisecond)
				if got := replace(t, s, aKey(), 1); got != 2 {
					t.Errorf("token %d, want 2", got)
				}
			})
		}
		callers.Wait()
		wantFetches(t, b, 2)
	})
}

// Where the server is down, a thousand of them ask it once, and the token goes on for
// those who can use it.
func TestManyReplaceInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour, takes: time.Second}
		b.serve = func(_ context.Context, _ Key, n int) error {
			if n > 1 {
				return &oauth.Error{Class: oauth.Unavailable, Reach: oauth.ReachServer}
			}
			return nil
		}
		s := open(t, Config{Exchanger: b})
		get(t, s, aKey())
		time.Sleep(time.Minute)
		var callers sync.WaitGroup
		for i := range 1000 {
			callers.Go(func() {
				time.Sleep(time.Duration(i) * 5 * time.Millisecond)
				if got := replace(t, s, aKey(), 1); got != 0 {
					t.Errorf("token %d, want none", got)
				}
			})
		}
		callers.Wait()
		wantFetches(t, b, 2)
		if got := get(t, s, aKey()); got != 1 {
			t.Errorf("token %d, want 1", got)
		}
	})
}

// Nobody waits for longer than they like.
func TestReplaceEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour, takes: 4 * time.Second}
		s := open(t, Config{Exchanger: b})
		get(t, s, aKey())
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, ok := s.Replace(ctx, aKey(), oauth.Token{Access: secret.New(fmt.Sprintf("%v/1", aKey()))})
		if took := time.Since(began); ok || took != time.Second {
			t.Errorf("ok %t after %v", ok, took)
		}
		time.Sleep(4 * time.Second)
		if got := get(t, s, aKey()); got != 2 { // for the others the fetch went on
			t.Errorf("token %d, want 2", got)
		}
	})
}

// A client cannot have more replaced than the limiter gives it, whatever the scopes.
func TestReplaceOfManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := open(t, Config{Exchanger: b})
		keys := numbered(forceBurst + 5)
		for _, key := range keys {
			get(t, s, key)
		}
		time.Sleep(time.Minute)
		replaced := 0
		for _, key := range keys {
			if replace(t, s, key, 1) == 2 {
				replaced++
			}
		}
		if replaced != forceBurst {
			t.Errorf("%d tokens were replaced at once, want %d", replaced, forceBurst)
		}
	})
}
