package okta

import (
	"net/http"
	"sync"
	"time"

	"okta-token-broker/internal/dpop"
)

// terms are what is known of the proofs that a server takes.
type terms struct {
	nonce   string
	decoded bool          // the path is compared without its percent-encoding
	dated   bool          // by a clock of its own:
	offset  time.Duration // of that against ours
}

// leastStep is how much a Date header has to differ to make a difference. It has whole
// seconds.
const leastStep = time.Second

// heed takes up the clock by which the server refused a proof that was dated by
// another. One that was dated so already may have been refused for something else; if it
// was the last of its call, the header is not the clock's, and is not believed any more.
func (t *terms) heed(offset, used time.Duration, final bool) {
	switch {
	case (offset - used).Abs() > leastStep:
		t.dated, t.offset = offset.Abs() <= mostOffset, offset
	case final && (t.offset-used).Abs() <= leastStep:
		t.dated = false
	}
}

// book has the terms of servers: of token endpoints by their URL, of resources by their
// origin. The two are apart where they share an origin, too. The zero book is ready, and
// safe for concurrent use.
type book struct {
	mu sync.Mutex
	by map[string]terms
}

func (b *book) of(whom string) terms {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.by[whom]
}

func (b *book) change(whom string, change func(*terms)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by == nil {
		b.by = map[string]terms{}
	}
	known := b.by[whom]
	change(&known)
	b.by[whom] = known
}

// nonceOf returns the nonce of an answer. Empty: it has none.
func nonceOf(header http.Header) string {
	if nonce := header.Get("DPoP-Nonce"); dpop.ValidNonce(nonce) {
		return nonce
	}
	return ""
}

// forTokens is whose terms those of the token endpoint are.
func (s *Server) forTokens() string { return "token endpoint " + s.endpoints.Token }
