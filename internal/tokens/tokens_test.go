package tokens

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/secret"
)

// bank is an Exchanger that counts. Token n of a key reads "key/n".
type bank struct {
	life  time.Duration
	takes time.Duration
	now   func() time.Time // nil: time.Now
	// serve comes first. An error is the answer.
	serve func(ctx context.Context, key Key, n int) error

	mu    sync.Mutex
	count map[Key]int
	begun []time.Time
}

func (b *bank) Exchange(ctx context.Context, key Key) (oauth.Token, error) {
	sent := time.Now()
	if b.now != nil {
		sent = b.now()
	}
	b.mu.Lock()
	if b.count == nil {
		b.count = map[Key]int{}
	}
	b.count[key]++
	n := b.count[key]
	b.begun = append(b.begun, sent)
	b.mu.Unlock()
	if b.serve != nil {
		if err := b.serve(ctx, key, n); err != nil {
			return oauth.Token{}, err
		}
	}
	if err := wait(ctx, b.takes); err != nil {
		return oauth.Token{}, err
	}
	return oauth.Token{
		Access: secret.New(fmt.Sprintf("%v/%d", key, n)), Type: "Bearer", Scopes: key.Scopes,
		Expires: sent.Add(b.life), Life: b.life,
	}, nil
}

func (b *bank) fetches() int { return len(b.times()) }

// times are when the fetches began.
func (b *bank) times() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.begun[:len(b.begun):len(b.begun)]
}

// of returns how often a key was fetched.
func (b *bank) of(key Key) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count[key]
}

func wait(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// open makes a Store that renews at exactly three quarters of a token's life. In
// the end it is closed, and nothing may happen any more. A bubble of synctest
// ends only when all its goroutines have: none of these tests leaves one behind.
func open(t *testing.T, cfg Config) *Store {
	s := New(cfg)
	s.jitter = func() float64 { return 0 }
	t.Cleanup(func() {
		synctest.Wait() // for fetches that are beginning
		s.Close()
		b := cfg.Exchanger.(*bank)
		n := b.fetches()
		time.Sleep(time.Hour) // fetches under way end
		if got := b.fetches(); got != n || s.Len() != 0 {
			t.Errorf("after Close: %d fetches began, and %d entries are kept", got-n, s.Len())
		}
	})
	return s
}

func aKey() Key {
	return Key{Client: "billing", Issuer: "https://acme.okta.test", ClientID: "0oa1", Scopes: "a b"}
}

// numbered are the keys of one client with scopes "0" to n-1.
func numbered(n int) []Key {
	keys := make([]Key, n)
	for i := range keys {
		keys[i] = aKey()
		keys[i].Scopes = oauth.Scopes(strconv.Itoa(i))
	}
	return keys
}

// get is a Get that must give a token that has not ended. It returns which.
func get(t *testing.T, s *Store, key Key) int {
	t.Helper()
	return getWith(t, s, key, Want{})
}

func getWith(t *testing.T, s *Store, key Key, want Want) int {
	t.Helper()
	token, err := s.Get(t.Context(), key, want)
	if err != nil {
		t.Errorf("no token: %v", err)
		return 0
	}
	if token.Left(s.now()) == 0 {
		t.Errorf("got a token that ended at %v; it is %v", token.Expires, s.now())
	}
	return number(t, key, token)
}

func number(t *testing.T, key Key, token oauth.Token) int {
	t.Helper()
	text, ok := strings.CutPrefix(token.Access.Reveal(), key.String()+"/")
	n, err := strconv.Atoi(text)
	if !ok || err != nil {
		t.Errorf("%+v got the token %q", key, token.Access.Reveal())
	}
	return n
}

// refuse is a Get that must fail.
func refuse(t *testing.T, s *Store, key Key, want Want) *oauth.Error {
	t.Helper()
	token, err := s.Get(t.Context(), key, want)
	failure, ok := errors.AsType[*oauth.Error](err)
	if !ok || !token.Access.IsZero() {
		t.Fatalf("got %q, %v, want an *oauth.Error", token.Access.Reveal(), err)
	}
	return failure
}

func wantFetches(t *testing.T, b *bank, want int) {
	t.Helper()
	synctest.Wait() // for those that are beginning
	if n := b.fetches(); n != want {
		t.Errorf("%d fetches, want %d", n, want)
	}
}

// A cold key costs one fetch, however many ask; all get its token. 100 rounds.
func TestManyCallersOneFetch(t *testing.T) {
	const many, rounds = 5_000, 100
	ctx := t.Context()
	for round, key := range numbered(rounds) {
		var asking, callers sync.WaitGroup
		asking.Add(many)
		b := &bank{life: time.Hour}
		b.serve = func(context.Context, Key, int) error {
			asking.Wait()
			return nil
		}
		s := New(Config{Exchanger: b})
		want := key.String() + "/1"
		var served atomic.Int64
		for range many {
			callers.Go(func() {
				asking.Done()
				if token, err := s.Get(ctx, key, Want{}); err == nil && token.Access.Reveal() == want {
					served.Add(1)
				}
			})
		}
		callers.Wait()
		s.Close()
		if served.Load() != many || b.fetches() != 1 {
			t.Errorf("round %d: %d fetches, want 1; %d of %d callers got its token", round, b.fetches(), served.Load(), many)
		}
	}
}

// A hit needs nobody, not even a caller who is still there.
func TestHitAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour, takes: time.Second}
		s := open(t, Config{Exchanger: b})
		get(t, s, aKey())
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		if _, err := s.Get(gone, aKey(), Want{}); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("a hit took %v", took)
		}
		wantFetches(t, b, 1)
	})
}

// Who begins a fetch and leaves, or has no more time, fails nobody else.
func TestLeaderLeaves(t *testing.T) {
	tests := []struct {
		name  string
		leave func(context.Context) (context.Context, context.CancelFunc)
		want  error
	}{
		{"cancelled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, context.Canceled},
		{"timed out", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, context.DeadlineExceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: time.Hour, takes: 3 * time.Second}
				s := open(t, Config{Exchanger: b})
				start := time.Now()
				leader, cancel := tt.leave(t.Context())
				defer cancel()
				left := make(chan error)
				go func() {
					_, err := s.Get(leader, aKey(), Want{})
					left <- err
				}()
				synctest.Wait() // the leader's fetch is under way
				var waiters sync.WaitGroup
				for range 100 {
					waiters.Go(func() { get(t, s, aKey()) })
				}
				if err := <-left; !errors.Is(err, tt.want) || time.Since(start) != time.Second {
					t.Errorf("the leader got %v after %v", err, time.Since(start))
				}
				waiters.Wait()
				if took := time.Since(start); took != 3*time.Second {
					t.Errorf("the others waited %v, want the 3s of the leader's fetch", took)
				}
				wantFetches(t, b, 1)
			})
		})
	}
}

// The values of the first caller's context go with the fetch; its end does not.
func TestFetchKeepsContextValues(t *testing.T) {
	type trace struct{}
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(ctx context.Context, _ Key, _ int) error {
			if ctx.Value(trace{}) != "t1" {
				t.Error("the caller's value is not in the fetch's context")
			}
			return nil
		}
		if _, err := open(t, Config{Exchanger: b}).Get(context.WithValue(t.Context(), trace{}, "t1"), aKey(), Want{}); err != nil {
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
		b.serve = func(ctx context.Context, _ Key, n int) error {
			if n > 1 {
				return nil
			}
			<-ctx.Done()
			ended <- time.Since(start)
			return oauth.Fail(oauth.TimedOut, "too slow")
		}
		s := open(t, Config{Exchanger: b})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Get(ctx, aKey(), Want{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller got %v", err)
		}
		if took := <-ended; took != 6*time.Second {
			t.Errorf("the fetch ended after %v, want 6s", took)
		}
		synctest.Wait()
		get(t, s, aKey())
		wantFetches(t, b, 2)
	})
}

func TestPanicIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{life: time.Hour}
		b.serve = func(ctx context.Context, _ Key, n int) error {
			if err := wait(ctx, time.Second); err != nil || n > 1 {
				return err
			}
			panic("Bearer sesame")
		}
		var log bytes.Buffer
		s := open(t, Config{Exchanger: b, Log: slog.New(slog.NewTextHandler(&log, nil))})
		var waiters sync.WaitGroup
		for range 20 {
			waiters.Go(func() {
				token, err := s.Get(t.Context(), aKey(), Want{})
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

// All who wait for a fetch get its error. One that says nothing about the next
// request is not remembered.
func TestErrorIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := oauth.Fail(oauth.Unavailable, "no")
		b := &bank{life: time.Hour}
		b.serve = func(ctx context.Context, _ Key, n int) error {
			if err := wait(ctx, time.Second); err != nil || n > 2 {
				return err
			}
			return failure
		}
		s := open(t, Config{Exchanger: b})
		for fetch := 1; fetch <= 2; fetch++ {
			var waiters sync.WaitGroup
			for range 20 {
				waiters.Go(func() {
					if token, err := s.Get(t.Context(), aKey(), Want{}); !errors.Is(err, failure) || !token.Access.IsZero() {
						t.Errorf("got %v, want what the exchanger said", err)
					}
				})
			}
			waiters.Wait()
			wantFetches(t, b, fetch)
			if n := s.Len(); n != 0 {
				t.Errorf("%d entries are kept", n)
			}
		}
		get(t, s, aKey())
		wantFetches(t, b, 3)
	})
}
