package tokens

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"okta-token-broker/internal/oauth"
)

// fetchTimeout bounds a fetch, which does not end with the caller that started
// it.
const fetchTimeout = 6 * time.Second

// flight is a fetch that is under way. It is not singleflight's: a Store must
// know whether there is one, and tell it that it is forgiven.
type flight struct {
	landed   chan struct{} // closed when held or err is there
	held     *holding
	err      error
	forgiven bool // what fails may be tried again; guarded by Store.mu
}

// fetched waits for a good token other than the one that a caller was offered,
// which can be nil.
func (s *Store) fetched(ctx context.Context, key Key, want Want, offered *holding) (*holding, error) {
	f, held, err := s.join(ctx, key, want, offered)
	if f == nil {
		return held, err
	}
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a token: %w", ctx.Err())
	case <-f.landed:
		return f.held, f.err
	}
}

// join returns the flight to wait for, begun here unless there is one. Instead
// there can be a token that has landed meanwhile, or a reason for no flight.
func (s *Store) join(ctx context.Context, key Key, want Want, offered *holding) (*flight, *holding, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	e := s.find(key.String())
	if e != nil && e.flight != nil {
		return e.flight, nil, nil
	}
	held, _ := e.good(now)
	if held != nil && held != offered {
		return nil, held, nil
	}
	if err := s.refused(key, e, now); err != nil {
		return nil, nil, err
	}
	if held != nil && !held.stale.Load() {
		if err := s.mayForce(e, held, want.refused, now); err != nil {
			return nil, nil, err
		}
	}
	if e == nil {
		e = s.add(key, now)
	}
	return s.takeOff(ctx, e), nil, nil
}

// takeOff begins to fetch the token of an entry. The caller holds mu.
func (s *Store) takeOff(ctx context.Context, e *entry) *flight {
	f := &flight{landed: make(chan struct{})}
	e.flight = f
	go s.fly(context.WithoutCancel(ctx), e, f)
	return f
}

func (s *Store) fly(ctx context.Context, e *entry, f *flight) {
	defer close(f.landed)
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	for again := true; again; {
		token, err := s.fetch(ctx, e.key)
		again = s.land(ctx, e, f, token, err)
	}
}

// fetch buys a token and says so.
func (s *Store) fetch(ctx context.Context, key Key) (oauth.Token, error) {
	start := s.now()
	token, err := s.exchange(ctx, key)
	now := s.now()
	if err == nil && token.Left(now) == 0 {
		err = &oauth.Error{
			Class:       oauth.BadAnswer,
			Reach:       oauth.ReachScopes,
			Description: "the authorization server's token had ended when it arrived",
			Err:         errors.New("life " + token.Life.String()),
		}
	}
	log := s.log.With("client", key.Client, "scopes", string(key.Scopes), "took", now.Sub(start).Round(time.Millisecond).String())
	if err == nil {
		log.InfoContext(ctx, "token fetched", "kid", token.Kid, "expires_in", token.Life.String())
		return token, nil
	}
	level := slog.LevelWarn
	if failure, ok := errors.AsType[*oauth.Error](err); ok && failure.Repeated {
		level = slog.LevelDebug // it was said before
	}
	log.Log(ctx, level, "fetching a token failed", "err", err)
	return oauth.Token{}, err
}

// exchange buys a token. A panic, which would end the process, is an error for
// all who wait.
func (s *Store) exchange(ctx context.Context, key Key) (token oauth.Token, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(ctx, "panic while fetching a token", "client", key.Client, "panic", p, "stack", string(debug.Stack()))
			err = &oauth.Error{Class: oauth.Internal, Description: "fetching a token failed inside the broker"}
		}
	}()
	return s.exchanger.Exchange(ctx, key)
}

// land keeps what a flight brings, or remembers why it brings nothing. It returns
// whether to fly again.
func (s *Store) land(ctx context.Context, e *entry, f *flight, token oauth.Token, err error) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && f.forgiven && !e.gone && ctx.Err() == nil {
		f.forgiven = false
		return true
	}
	now := s.now()
	e.flight = nil
	if f.err = err; err != nil {
		s.failed(e, err, now)
	} else {
		f.held = s.keep(e, token, now)
	}
	s.arm(e, now)
	return false
}

// keep holds a token that has just arrived. The caller holds mu.
func (s *Store) keep(e *entry, token oauth.Token, now time.Time) *holding {
	held := &holding{of: e, token: token, since: now, ahead: token.Life - renewal(token.Life, s.jitter())}
	e.held.Store(held)
	e.failures = failures{}
	if !e.gone {
		delete(s.refusals, ofClient(e.key))
	}
	return held
}
