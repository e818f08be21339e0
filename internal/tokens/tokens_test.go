package tokens

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/secret"
)

// A bubble of synctest ends only when all its goroutines have: none of these
// tests leaves one behind.

// bank is an Exchanger that counts, and takes a second over each token. Token n
// of a key reads "key/n".
type bank struct {
	life  time.Duration
	serve func(ctx context.Context, n int) error // nil: waits a second

	mu    sync.Mutex
	count map[Key]int
}

func (b *bank) Exchange(ctx context.Context, key Key) (oauth.Token, error) {
	b.mu.Lock()
	if b.count == nil {
		b.count = map[Key]int{}
	}
	b.count[key]++
	n := b.count[key]
	b.mu.Unlock()
	sent := time.Now()
	serve := b.serve
	if serve == nil {
		serve = func(ctx context.Context, _ int) error { return wait(ctx, time.Second) }
	}
	if err := serve(ctx, n); err != nil {
		return oauth.Token{}, err
	}
	return oauth.Token{
		Access: secret.New(fmt.Sprintf("%v/%d", key, n)), Type: "Bearer", Scopes: key.Scopes,
		Expires: sent.Add(b.life), Life: b.life,
	}, nil
}

func (b *bank) fetches() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	total := 0
	for _, n := range b.count {
		total += n
	}
	return total
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func aKey() Key {
	return Key{Client: "billing", Issuer: "https://acme.okta.test", ClientID: "0oa1", Scopes: "a b"}
}

// get is a Get that must give a token that has not ended.
func get(t *testing.T, s *Store, key Key) string {
	t.Helper()
	token, err := s.Get(t.Context(), key)
	if err != nil {
		t.Errorf("no token: %v", err)
		return ""
	}
	if token.Left(time.Now()) == 0 {
		t.Errorf("got a token that ended at %v; it is %v", token.Expires, time.Now())
	}
	return token.Access.Reveal()
}

func wantFetches(t *testing.T, b *bank, want int) {
	t.Helper()
	if n := b.fetches(); n != want {
		t.Errorf("%d fetches, want %d", n, want)
	}
}

func TestManyCallersOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := New(Config{Exchanger: b})
		const many = 5_000
		got := make(chan string, many)
		for range many {
			go func() {
				token, err := s.Get(t.Context(), aKey())
				if err != nil {
					t.Error(err)
				}
				got <- token.Access.Reveal()
			}()
		}
		distinct := map[string]int{}
		for range many {
			distinct[<-got]++
		}
		if diff := cmp.Diff(map[string]int{fmt.Sprintf("%v/1", aKey()): many}, distinct); diff != "" {
			t.Errorf("tokens (-want +got)\n%s", diff)
		}
		wantFetches(t, b, 1)
		get(t, s, aKey())
		wantFetches(t, b, 1)
	})
}

// A hit needs nobody, not even a caller who is still there.
func TestHitAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := New(Config{Exchanger: b})
		get(t, s, aKey())
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		if _, err := s.Get(gone, aKey()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("a hit took %v", took)
		}
		wantFetches(t, b, 1)
	})
}

func TestCallersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		s := New(Config{Exchanger: b})
		leader, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := s.Get(leader, aKey())
			left <- err
		}()
		synctest.Wait() // the leader's fetch is under way
		var waiters sync.WaitGroup
		for range 10 {
			waiters.Go(func() {
				if got := get(t, s, aKey()); !strings.HasSuffix(got, "/1") {
					t.Errorf("token %q, want the one that the leader began to fetch", got)
				}
			})
		}
		hurried, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		start := time.Now()
		if _, err := s.Get(hurried, aKey()); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Millisecond {
			t.Errorf("a waiter with 10ms got %v after %v", err, time.Since(start))
		}
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("the leader got %v", err)
		}
		waiters.Wait()
		wantFetches(t, b, 1)
	})
}

// The values of the first caller's context go with the fetch; its end does not.
func TestFetchKeepsContextValues(t *testing.T) {
	type trace struct{}
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(ctx context.Context, _ int) error {
			if ctx.Value(trace{}) != "t1" {
				t.Error("the caller's value is not in the fetch's context")
			}
			return nil
		}
		if _, err := New(Config{Exchanger: b}).Get(context.WithValue(t.Context(), trace{}, "t1"), aKey()); err != nil {
			t.Error(err)
		}
	})
}

// The fetch ends by its own time-out when all callers have left, and the key is
// free again.
func TestFetchEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Duration, 1)
		b := &bank{life: time.Hour}
		start := time.Now()
		b.serve = func(ctx context.Context, n int) error {
			if n > 1 {
				return nil
			}
			<-ctx.Done()
			ended <- time.Since(start)
			return oauth.Fail(oauth.TimedOut, "too slow")
		}
		s := New(Config{Exchanger: b})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Get(ctx, aKey()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller got %v", err)
		}
		if took := <-ended; took != 6*time.Second {
			t.Errorf("the fetch ended after %v, want 6s", took)
		}
		get(t, s, aKey())
		wantFetches(t, b, 2)
	})
}

func TestPanicIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(ctx context.Context, n int) error {
			if err := wait(ctx, time.Second); err != nil || n > 1 {
				return err
			}
			panic("Bearer sesame")
		}
		var log bytes.Buffer
		s := New(Config{Exchanger: b, Log: slog.New(slog.NewTextHandler(&log, nil))})
		var waiters sync.WaitGroup
		for range 20 {
			waiters.Go(func() {
				token, err := s.Get(t.Context(), aKey())
				if _, ok := errors.AsType[*oauth.Error](err); !ok || oauth.ClassOf(err) != oauth.Internal || !token.Access.IsZero() {
					t.Errorf("got %v, want an *oauth.Error of class Internal", err)
				}
				if err != nil && strings.Contains(err.Error(), "sesame") {
					t.Errorf("callers are told what the panic said: %v", err)
				}
			})
		}
		waiters.Wait()
		wantFetches(t, b, 1)
		if !strings.Contains(log.String(), "tokens_test.go") {
			t.Errorf("the log does not say where it was: %s", log.String())
		}
		get(t, s, aKey())
		wantFetches(t, b, 2)
	})
}

func TestErrorIsSharedAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := oauth.Fail(oauth.Refused, "no")
		b := &bank{life: time.Hour}
		b.serve = func(ctx context.Context, n int) error {
			if err := wait(ctx, time.Second); err != nil || n > 2 {
				return err
			}
			return refused
		}
		s := New(Config{Exchanger: b})
		for fetch := 1; fetch <= 2; fetch++ {
			var waiters sync.WaitGroup
			for range 20 {
				waiters.Go(func() {
					if token, err := s.Get(t.Context(), aKey()); !errors.Is(err, refused) || !token.Access.IsZero() {
						t.Errorf("got %v, want what the exchanger said", err)
					}
				})
			}
			waiters.Wait()
			wantFetches(t, b, fetch)
		}
		get(t, s, aKey())
		wantFetches(t, b, 3)
	})
}

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
				b := &bank{life: time.Hour}
				s := New(Config{Exchanger: b})
				sent := time.Now()
				get(t, s, aKey())
				<-time.After(time.Until(sent.Add(tt.after)))
				got := get(t, s, aKey())
				want := map[bool]int{false: 1, true: 2}[tt.fresh]
				wantFetches(t, b, want)
				if !strings.HasSuffix(got, fmt.Sprintf("/%d", want)) {
					t.Errorf("token %q, want number %d", got, want)
				}
			})
		})
	}
}

// A wall clock that jumps ahead, as after a suspend, ends tokens too.
func TestTokenEndsByTheClockGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead time.Duration
		b := &bank{life: time.Hour}
		s := New(Config{Exchanger: b, Now: func() time.Time { return time.Now().Add(ahead).Round(0) }})
		get(t, s, aKey())
		ahead = 58 * time.Minute
		get(t, s, aKey())
		wantFetches(t, b, 1)
		ahead = 2 * time.Hour
		if _, err := s.Get(t.Context(), aKey()); oauth.ClassOf(err) != oauth.BadAnswer {
			t.Errorf("got %v; a token that ends before it comes is a bad answer", err)
		}
		wantFetches(t, b, 2)
	})
}

// A token that has ended on arrival is neither given nor kept.
func TestTokenThatCameTooLate(t *testing.T) {
	for _, life := range []time.Duration{0, -time.Hour, time.Second, 1999 * time.Millisecond} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: life} // and a second on its way
				s := New(Config{Exchanger: b})
				for fetch := 1; fetch <= 2; fetch++ {
					token, err := s.Get(t.Context(), aKey())
					if oauth.ClassOf(err) != oauth.BadAnswer || !token.Access.IsZero() {
						t.Errorf("got %v, want class BadAnswer", err)
					}
					wantFetches(t, b, fetch)
				}
				if n := s.cache.ItemCount(); n != 0 {
					t.Errorf("%d entries are kept", n)
				}
			})
		})
	}
}
