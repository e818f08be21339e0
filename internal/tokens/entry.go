package tokens

import (
	"sync/atomic"
	"time"

	"github.com/patrickmn/go-cache"

	"okta-token-broker/internal/oauth"
)

// entry is the place of one token.
type entry struct {
	key  Key
	name string // key.String()

	held atomic.Pointer[holding] // nil until the first fetch
	read atomic.Int64            // when it was last read, or asked for, in Unix nanoseconds

	// Store.mu guards what follows.
	rank     int         // in Store.lru
	asOf     int64       // what read was when the lru last looked
	gone     bool        // from the store
	kept     bool        // warm, also when nobody reads it
	flight   *flight     // nil: there is none
	timer    *time.Timer // nil until arm
	forced   time.Time   // the last flight that somebody forced
	failures failures    // of these scopes
}

// holding is a token that was fetched.
type holding struct {
	of    *entry
	token oauth.Token
	since time.Time
	ahead time.Duration // it is renewed when this much is left of it
	read  atomic.Bool   // handed out, be it to those who waited for it
	late  atomic.Bool   // handed out when it was time to renew it
	stale atomic.Bool   // not wanted any more: it serves where there is no other
}

// good returns the token that is held, if it has not ended, and what is left of
// it. Of no entry it is nil.
func (e *entry) good(now time.Time) (*holding, time.Duration) {
	if e == nil {
		return nil, 0
	}
	if held := e.held.Load(); held != nil {
		if left := held.token.Left(now); left > 0 {
			return held, left
		}
	}
	return nil, 0
}

// find returns the entry of a name, nil if there is none.
func (s *Store) find(name string) *entry {
	if found, ok := s.cache.Get(name); ok {
		return found.(*entry)
	}
	return nil
}

// entries returns all entries, in no order.
func (s *Store) entries() []*entry {
	items := s.cache.Items()
	all := make([]*entry, 0, len(items))
	for _, item := range items {
		all = append(all, item.Object.(*entry))
	}
	return all
}

// add makes an entry, and room for it. Who adds one sees to it that a flight
// takes off or arm is called, else it would never go. The caller holds mu.
func (s *Store) add(key Key, now time.Time) *entry {
	e := &entry{key: key, name: key.String(), rank: unranked, gone: s.closed}
	e.read.Store(now.UnixNano())
	if e.gone {
		return e
	}
	for s.cache.ItemCount() >= s.most {
		oldest := s.lru.oldest()
		if oldest == nil {
			break // all are kept warm
		}
		s.take(oldest)
	}
	s.cache.Set(e.name, e, cache.NoExpiration)
	s.lru.add(e)
	return e
}

// take removes an entry. What a flight of it brings is given to those who wait,
// and not kept. The caller holds mu.
func (s *Store) take(e *entry) {
	s.cache.Delete(e.name)
	s.lru.remove(e)
	e.gone = true
	if e.timer != nil {
		e.timer.Stop()
	}
}

// setKept says whether an entry is kept warm. The caller holds mu.
func (s *Store) setKept(e *entry, kept bool, now time.Time) {
	if e.kept = kept; kept {
		s.lru.remove(e)
	} else {
		s.lru.add(e)
	}
	s.arm(e, now)
}

// drop removes an entry. One that is kept warm begins anew. The caller holds mu.
func (s *Store) drop(e *entry, now time.Time) {
	s.take(e)
	if e.kept {
		s.setKept(s.add(e.key, now), true, now)
	}
}

// Drop removes the tokens that match and returns those that had not ended. A
// fetch under way is judged by the token that it would replace, if there is one,
// else by its key and the zero token, and not kept. Tokens that are kept warm are fetched anew.
// match must not call the Store.
func (s *Store) Drop(match func(Key, oauth.Token) bool) []oauth.Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var dropped []oauth.Token
	for _, e := range s.entries() {
		var token oauth.Token
		held, _ := e.good(now)
		if held != nil {
			token = held.token
		}
		if !match(e.key, token) {
			continue
		}
		if held != nil {
			dropped = append(dropped, token)
		}
		s.drop(e, now)
	}
	return dropped
}

// Find returns the key of a token that is held and matches.
func (s *Store) Find(match func(Key, oauth.Token) bool) (Key, bool) {
	now := s.now()
	for _, e := range s.entries() {
		if held, _ := e.good(now); held != nil && match(e.key, held.token) {
			return e.key, true
		}
	}
	return Key{}, false
}

// Keep says which tokens are kept warm: fetched now, and renewed also when
// nobody reads them. It replaces what was said before.
func (s *Store) Keep(keys []Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	missing := map[Key]bool{}
	for _, key := range keys {
		missing[key] = true
	}
	for _, e := range s.entries() {
		if kept := missing[e.key]; e.kept != kept {
			s.setKept(e, kept, now)
		}
		delete(missing, e.key)
	}
	for key := range missing {
		s.setKept(s.add(key, now), true, now)
	}
}

// Len returns how many tokens there is a place for.
func (s *Store) Len() int { return s.cache.ItemCount() }

// Close ends what happens in the background. Fetches under way go on, for six
// seconds at most, and nothing is kept any more.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, e := range s.entries() {
		s.take(e)
	}
}
