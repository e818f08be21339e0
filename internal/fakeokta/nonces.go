package fakeokta

import (
	"crypto/rand"
	"net/http"
	"slices"
	"sync"
	"time"
)

// nonceLife is how many periods a nonce works for. Okta gives a new one each day, and takes the old ones for three.
const nonceLife = 3

// resourceNonces is the giver of the management API's nonces. Those of an authorization server are under its issuer: the
// two sorts have nothing to do with each other, although they share an origin.
const resourceNonces = "resource"

// SetResourceNonce makes the management API want a nonce of its own in each proof (RFC 9449, section 9), or no longer.
func (o *Okta) SetResourceNonce(required bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.resourceNonce = required
}

func (o *Okta) needsResourceNonce() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.resourceNonce
}

// SetNonceRefusal makes each giver of nonces refuse every nth proof whose nonce is good, with use_dpop_nonce and a nonce
// made at that moment; the next good one is taken. Below 2, as at first, it refuses none.
//
// It counts proofs as they arrive: where many clients are at work at once, the second attempt of one may be the nth again.
func (o *Okta) SetNonceRefusal(every int) {
	o.nonces.mu.Lock()
	defer o.nonces.mu.Unlock()
	o.nonces.every = every
	for _, b := range o.nonces.books {
		b.taken = 0
	}
}

// ExpireNonces ends all nonces at once, those of the management API too.
func (o *Okta) ExpireNonces() {
	o.nonces.mu.Lock()
	defer o.nonces.mu.Unlock()
	clear(o.nonces.books)
}

// checkNonce compares the nonce of the call's proof with those that the giver gave.
func (o *Okta) checkNonce(c *call, giver, words string) *refusal {
	newest, good := o.nonces.check(giver, c.proof.nonce, o.now())
	c.nonce = newest
	if good {
		return nil
	}
	o.tally.note(func(n *Counters) { n.NonceRefusals[c.endpoint]++ })
	return badRequest("use_dpop_nonce", words)
}

// showNonce puts the newest nonce into an answer, whatever its status (RFC 9449, section 8.2).
func (c *call) showNonce(h http.Header) {
	if c.nonce != "" {
		h.Set("DPoP-Nonce", c.nonce)
	}
}

// nonces keeps those of each giver.
type nonces struct {
	period time.Duration

	mu    sync.Mutex
	every int // see SetNonceRefusal
	books map[string]*nonceBook
}

// A nonceBook is what one giver gave, oldest first. It is never empty, but for a moment.
type nonceBook struct {
	given []nonce
	taken int // good ones in a row, without a refusal
}

type nonce struct {
	value string
	made  time.Time
}

// newest is the nonce to hand out.
func (n *nonces) newest(giver string, now time.Time) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.book(giver, now).newest()
}

// check tells whether the giver's proofs may have that nonce now, and which is the newest afterwards.
func (n *nonces) check(giver, value string, now time.Time) (newest string, good bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := n.book(giver, now)
	good = slices.ContainsFunc(b.given, func(g nonce) bool { return g.value == value })
	if good {
		b.taken++
	}
	if n.every > 1 && b.taken == n.every {
		b.add(now)
		b.taken, good = 0, false
	}
	return b.newest(), good
}

// book is the giver's, up to date.
func (n *nonces) book(giver string, now time.Time) *nonceBook {
	if n.books == nil {
		n.books = map[string]*nonceBook{}
	}
	b := n.books[giver]
	if b == nil {
		b = new(nonceBook)
		n.books[giver] = b
	}
	if len(b.given) == 0 || now.Sub(b.given[len(b.given)-1].made) >= n.period {
		b.add(now)
	}
	b.given = slices.DeleteFunc(b.given, func(g nonce) bool { return now.Sub(g.made) >= nonceLife*n.period })
	return b
}

func (b *nonceBook) add(now time.Time) {
	b.given = append(b.given, nonce{value: rand.Text(), made: now})
}

func (b *nonceBook) newest() string { return b.given[len(b.given)-1].value }
