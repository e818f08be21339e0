package fakeokta

import (
	"sync"
	"time"
)

const maxTokens = 100_000 // access tokens remembered per server; the oldest goes first

// A grant is what an access token stands for.
type grant struct {
	client          string // client id
	scopes          []string
	jti             string
	issued, expires time.Time
}

// tokenStore remembers the access tokens that were issued. All of one server live equally long, so the oldest is also the
// first to expire.
type tokenStore struct {
	mu     sync.Mutex
	grants map[string]grant
	order  []string // oldest first, also those revoked
}

func (s *tokenStore) add(token string, g grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grants == nil {
		s.grants = map[string]grant{}
	}
	if len(s.order) == maxTokens {
		delete(s.grants, s.order[0])
		s.order = s.order[1:]
	}
	s.grants[token] = g
	s.order = append(s.order, token)
}

// find returns the grant of a token, and whether it is alive.
func (s *tokenStore) find(token string, now time.Time) (grant, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, there := s.grants[token]
	return g, there && now.Before(g.expires)
}

func (s *tokenStore) revoke(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.grants, token)
}
