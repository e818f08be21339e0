package fakeokta

import (
	"maps"
	"sync"
	"time"
)

const maxTokens = 100_000 // access tokens remembered per server; the oldest goes first

// A grant is what an access token stands for.
type grant struct {
	client          string // client id
	scopes          []string
	jti             string
	jkt             string // thumbprint of the proof key it is bound to (RFC 9449, section 6.1); empty: a Bearer token
	issued, expires time.Time
}

// tokenType is the token_type of RFC 6750 or of RFC 9449, section 5.
func (g grant) tokenType() string {
	if g.jkt != "" {
		return "DPoP"
	}
	return "Bearer"
}

// RevokeToken ends an access token early, whichever server issued it. No client is told: it learns from a resource's
// 401, or by introspection.
func (o *Okta) RevokeToken(token string) {
	for _, s := range o.allServers() {
		s.tokens.revoke(token)
	}
}

// RevokeTokens ends all access tokens of a client, in the same way.
func (o *Okta) RevokeTokens(clientID string) {
	for _, s := range o.allServers() {
		s.tokens.revokeAll(clientID)
	}
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

// revokeAll ends the tokens of one client.
func (s *tokenStore) revokeAll(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.grants, func(_ string, g grant) bool { return g.client == client })
}

func (s *tokenStore) revoke(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.grants, token)
}
