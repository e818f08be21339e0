// Package tokens keeps access tokens until they end: each is fetched once,
// however many callers ask, renewed in the background while it is read, and what
// was refused is not asked for again at once.
package tokens

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/patrickmn/go-cache"
	"golang.org/x/time/rate"

	"okta-token-broker/internal/oauth"
)

// defaultMost is how many tokens are kept unless a Config says otherwise.
const defaultMost = 10_000

// Key says which token is meant. Two callers share a token exactly when their
// keys are equal.
type Key struct {
	// Client is the client's name in the configuration.
	Client string
	// Issuer and ClientID keep a token from outliving a changed configuration.
	Issuer, ClientID string
	// JKT is the RFC 7638 thumbprint of the key that a DPoP token is bound to
	// (RFC 9449 section 6.1). Empty: a Bearer token.
	JKT    string
	Scopes oauth.Scopes
}

// String is unique: no part can hold the separator.
func (k Key) String() string {
	return k.Client + "\x00" + k.Issuer + "\x00" + k.ClientID + "\x00" + k.JKT + "\x00" + string(k.Scopes)
}

// Want is what a caller asks for beyond a token that has not ended.
type Want struct {
	// MinTTL is how long the token must be good for. It can be three quarters of
	// a token's life at most. 0: as long as it happens to be.
	MinTTL time.Duration
	// Fresh asks for a token that is fetched now. It is a wish: where it cannot be
	// had, or was had just before, the one that is held is given.
	Fresh bool

	refused bool // where the one that is held was shown; it goes with Fresh
}

// Exchanger buys a token. Its errors should be of type *oauth.Error.
type Exchanger interface {
	Exchange(ctx context.Context, key Key) (oauth.Token, error)
}

// Config is what a Store needs.
type Config struct {
	Exchanger Exchanger
	// Most bounds the tokens kept; the least recently read go first, those that are
	// kept warm never. 0: 10,000.
	Most int
	// Now is the clock. It should tell monotonic time as well. Nil: time.Now.
	Now func() time.Time
	// Log takes fetches and their failures. Nil: nothing is logged.
	Log *slog.Logger
}

// Store holds tokens. It is safe for concurrent use.
//
// A hit takes no lock but the cache's own. All else, which is rare, is under one:
// misses, the start and the end of fetches, and timers. It is never held while
// the Exchanger works.
type Store struct {
	exchanger Exchanger
	most      int
	now       func() time.Time
	log       *slog.Logger
	jitter    func() float64 // from -1 to 1
	cache     *cache.Cache   // of *entry

	mu       sync.Mutex // guards what follows, and what entries say it does
	closed   bool
	lru      lru               // of the entries that are not kept warm
	refusals map[Key]*failures // of all that a client asks for, by keys without scopes
	pace     limiters          // of background fetches, by issuer
	forcing  limiters          // of forced fetches, by client
}

// New makes an empty Store. Close ends it.
func New(cfg Config) *Store {
	s := &Store{
		exchanger: cfg.Exchanger,
		most:      cfg.Most,
		now:       cfg.Now,
		log:       cfg.Log,
		jitter:    func() float64 { return 2*rand.Float64() - 1 },
		// Entries end by their own timer. go-cache's clock knows nothing of
		// suspends, and its janitor ends only with a finalizer.
		cache:    cache.New(cache.NoExpiration, 0),
		refusals: map[Key]*failures{},
		pace:     limiters{every: time.Second / backgroundRate, burst: 1, by: map[string]*rate.Limiter{}},
		forcing:  limiters{every: forceRefill, burst: forceBurst, by: map[string]*rate.Limiter{}},
	}
	if s.most <= 0 {
		s.most = defaultMost
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Get returns the token for key: the one that is held while it is good, else one
// from the Exchanger. Callers that ask for the same token at the same time share
// one fetch and its outcome. A caller leaves when its ctx ends; the fetch goes on
// for the others. Nobody waits for a renewal.
func (s *Store) Get(ctx context.Context, key Key, want Want) (oauth.Token, error) {
	now := s.now()
	held, left := s.find(key.String()).good(now)
	if held != nil {
		if err := want.possible(held); err != nil {
			return oauth.Token{}, err
		}
		if want.met(left) && !held.stale.Load() {
			return s.read(held, left, now), nil
		}
	}
	fetched, err := s.fetched(ctx, key, want, held)
	if err == nil {
		held = fetched
	}
	return s.serve(held, want, err)
}

// read hands out a token that is held. The first read past the renewal point sees
// to it that the token is renewed.
func (s *Store) read(held *holding, left time.Duration, now time.Time) oauth.Token {
	held.of.read.Store(now.UnixNano())
	if !held.read.Load() {
		held.read.Store(true)
	}
	if left <= held.ahead && !held.late.Load() && held.late.CompareAndSwap(false, true) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.arm(held.of, now)
	}
	return held.token
}

// serve hands out what is held after a fetch, which may have failed: a token that
// is good serves all the same. held can be nil.
func (s *Store) serve(held *holding, want Want, err error) (oauth.Token, error) {
	if held == nil {
		return oauth.Token{}, err
	}
	if impossible := want.possible(held); impossible != nil {
		return oauth.Token{}, impossible
	}
	now := s.now()
	left := held.token.Left(now)
	if left > 0 && left >= want.MinTTL {
		return s.read(held, left, now), nil
	}
	if err == nil {
		err = &oauth.Error{Class: oauth.Unavailable, Description: "the newest token ends too soon", RetryAfter: time.Second}
	}
	if left > 0 {
		err = tooShort(err)
	}
	return oauth.Token{}, err
}
