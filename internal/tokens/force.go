package tokens

import (
	"context"
	"errors"
	"fmt"
	"time"

	"okta-token-broker/internal/oauth"
)

const (
	// forceEvery is how often somebody can force a fetch of one token.
	forceEvery = 10 * time.Second
	// forceBurst and forceRefill bound what can be forced of one client.
	forceBurst  = 20
	forceRefill = time.Second
)

// met reports whether a token with this much left will do.
func (w Want) met(left time.Duration) bool {
	return !w.Fresh && left >= w.MinTTL
}

// possible refuses a MinTTL that no token could serve for long.
func (w Want) possible(held *holding) error {
	if most := held.token.Life * 3 / 4; w.MinTTL > most {
		return oauth.Fail(oauth.InvalidRequest, fmt.Sprintf("min_ttl can be %d at most: three quarters of this token's life", int64(most.Seconds())))
	}
	return nil
}

// mayForce is the one limiter for all that forces a fetch of a token while
// another is good. One that has just come will do for whoever wants another, but
// not when it was refused where it was shown. The caller holds mu.
func (s *Store) mayForce(e *entry, held *holding, refused bool, now time.Time) error {
	last := e.forced
	if !refused && held.since.After(last) {
		last = held.since
	}
	if wait := last.Add(forceEvery).Sub(now); wait > 0 {
		return tooMany(wait)
	}
	if err := s.takeForced(e.key.Client, now); err != nil {
		return err
	}
	e.forced = now
	return nil
}

// takeForced takes from the client's share of forced fetches. The caller holds mu.
func (s *Store) takeForced(client string, now time.Time) error {
	if !s.forcing.of(client).AllowN(now, 1) {
		return tooMany(forceRefill)
	}
	return nil
}

// MayForce takes from the client's share of forced fetches, for what ends a token
// in another way. The error is an *oauth.Error of class TooMany.
func (s *Store) MayForce(client string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeForced(client, s.now())
}

func tooMany(wait time.Duration) error {
	return &oauth.Error{Class: oauth.TooMany, Description: "too many new tokens were asked for a moment ago", RetryAfter: wait}
}

// tooShort says that the token which is held is not good for MinTTL. err is why
// there is no other.
func tooShort(err error) error {
	failure, ok := errors.AsType[*oauth.Error](err)
	if !ok {
		return err
	}
	again := *failure
	again.Class = oauth.Unavailable
	again.Description = "the token is not good for min_ttl, and cannot be renewed now: " + again.Description
	again.RetryAfter = max(again.RetryAfter, time.Second)
	return &again
}

// Discard has the token replaced, so that the next caller gets another. While
// there is no other it serves. It fails when one was fetched a moment before.
func (s *Store) Discard(key Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	e := s.find(key.String())
	held, _ := e.good(now)
	if held == nil || held.stale.Load() {
		return nil
	}
	if err := s.mayForce(e, held, false, now); err != nil {
		return err
	}
	held.stale.Store(true)
	s.arm(e, now)
	return nil
}

// Replace returns another token than one that was refused where it was shown: the
// one that is held, if it is another, else one that is fetched now. It reports false
// where there is none, or one was forced a moment before.
func (s *Store) Replace(ctx context.Context, key Key, refused oauth.Token) (oauth.Token, bool) {
	token, err := s.Get(ctx, key, Want{})
	if err == nil && token.Access.Equal(refused.Access) {
		token, err = s.Get(ctx, key, Want{Fresh: true, refused: true})
	}
	return token, err == nil && !token.Access.Equal(refused.Access)
}
