package tokens

import (
	"errors"
	"math/rand/v2"
	"time"

	"okta-token-broker/internal/oauth"
)

const (
	// refusedFor is how long what a server refused is not asked for again.
	refusedFor = 30 * time.Second
	// refusedMost bounds how long the background waits, twice as long each time.
	refusedMost = 5 * time.Minute
)

// failures is what is remembered of fetches that failed since one succeeded.
type failures struct {
	count   int
	err     *oauth.Error // what callers are told
	until   time.Time    // this long
	retryAt time.Time    // when the background may try again
}

// at returns the error while it is remembered.
func (f *failures) at(now time.Time) error {
	if f.err == nil || !now.Before(f.until) {
		return nil
	}
	again := *f.err
	again.Repeated = true
	if again.RetryAfter > 0 {
		again.RetryAfter = f.until.Sub(now)
	}
	return &again
}

// refuse remembers that the server refuses: for callers 30 seconds, for the
// background twice as long each time, up to five minutes.
func (f *failures) refuse(err *oauth.Error, now time.Time) {
	f.err, f.until = err, now.Add(refusedFor)
	if now.Before(f.retryAt) {
		return // fetches that were under way together count as one
	}
	f.count++
	f.retryAt = now.Add(min(refusedFor<<min(f.count-1, 4), refusedMost))
}

// ofClient is the key of what holds for all that a client asks for.
func ofClient(key Key) Key {
	key.Scopes = ""
	return key
}

// refused returns what is remembered against a fetch. The entry can be nil. The
// caller holds mu.
func (s *Store) refused(key Key, e *entry, now time.Time) error {
	if all := s.refusals[ofClient(key)]; all != nil {
		if err := all.at(now); err != nil {
			return err
		}
	}
	if e != nil {
		return e.failures.at(now)
	}
	return nil
}

// retryAt is when the background may ask for an entry's token. The caller holds
// mu.
func (s *Store) retryAt(e *entry) time.Time {
	if all := s.refusals[ofClient(e.key)]; all != nil && all.retryAt.After(e.failures.retryAt) {
		return all.retryAt
	}
	return e.failures.retryAt
}

// failed remembers a failure as far as it reaches. The caller holds mu.
func (s *Store) failed(e *entry, err error, now time.Time) {
	if e.gone {
		return // it was asked for in another world
	}
	failure, ok := errors.AsType[*oauth.Error](err)
	if !ok {
		failure = &oauth.Error{}
	}
	f := &e.failures
	switch {
	case failure.Reach == oauth.ReachClient:
		all := s.refusals[ofClient(e.key)]
		if all == nil {
			all = &failures{}
			s.refusals[ofClient(e.key)] = all
		}
		all.refuse(failure, now)
		return
	case failure.Reach == oauth.ReachScopes && failure.Class != oauth.BadAnswer:
		f.refuse(failure, now)
		return
	}
	f.count++
	wait := max(backoff(f.count), time.Second)
	if failure.Reach == oauth.ReachServer && failure.RetryAfter > 0 {
		// Who speaks to the server knows better. A second of jitter, for the many
		// that wait for the same moment.
		wait = max(failure.RetryAfter, time.Second) + rand.N(time.Second)
	}
	f.retryAt = now.Add(wait)
	if failure.Class == oauth.BadAnswer && failure.Reach != oauth.ReachServer {
		f.err, f.until = failure, f.retryAt
	}
}

// Forgive forgets what was refused to the keys that match: their ring or their
// client has changed. A fetch under way that fails is tried again. Tokens that
// are kept warm are fetched at once. match must not call the Store.
func (s *Store) Forgive(match func(Key) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for key := range s.refusals {
		if match(key) {
			delete(s.refusals, key)
		}
	}
	for _, e := range s.entries() {
		if !match(e.key) {
			continue
		}
		e.failures = failures{}
		if e.flight != nil {
			e.flight.forgiven = true
		}
		s.arm(e, now)
	}
}
