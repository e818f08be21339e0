// Package tokens keeps access tokens until they end and fetches each one once,
// however many callers ask for it at the same time.
package tokens

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/patrickmn/go-cache"
	"golang.org/x/sync/singleflight"

	"okta-token-broker/internal/oauth"
)

const (
	// fetchTimeout bounds a fetch, which does not end with the caller that
	// started it.
	fetchTimeout = 6 * time.Second
	// maxEntries bounds the tokens kept. Beyond it tokens are served and not
	// kept.
	maxEntries = 10_000
)

// Key says which token is meant. Two callers share a token exactly when their
// keys are equal.
type Key struct {
	// Client is the client's name in the configuration.
	Client string
	// Issuer and ClientID keep a token from outliving a changed configuration.
	Issuer, ClientID string
	Scopes           oauth.Scopes
}

// String is unique: no part can hold the separator.
func (k Key) String() string {
	return strings.Join([]string{k.Client, k.Issuer, k.ClientID, string(k.Scopes)}, "\x00")
}

// Exchanger buys a token. Its errors should be of type *oauth.Error.
type Exchanger interface {
	Exchange(ctx context.Context, key Key) (oauth.Token, error)
}

// Config is what a Store needs.
type Config struct {
	Exchanger Exchanger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Log takes fetches and their failures. Nil: nothing is logged.
	Log *slog.Logger
}

// Store holds tokens. It is safe for concurrent use.
type Store struct {
	exchanger Exchanger
	now       func() time.Time
	log       *slog.Logger
	cache     *cache.Cache // of oauth.Token
	flights   singleflight.Group
}

// New makes an empty Store.
func New(cfg Config) *Store {
	s := &Store{
		exchanger: cfg.Exchanger,
		now:       cfg.Now,
		log:       cfg.Log,
		// Entries end by their own timer. go-cache's clock knows nothing of
		// suspends, and its janitor ends only with a finalizer.
		cache: cache.New(cache.NoExpiration, 0),
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Get returns the token for key, from the cache while it is good, else from the
// Exchanger. Callers that ask for the same token at the same time share one
// fetch and its outcome. A caller leaves when its ctx ends; the fetch goes on
// for the others.
func (s *Store) Get(ctx context.Context, key Key) (oauth.Token, error) {
	name := key.String()
	if token, ok := s.held(name); ok {
		return token, nil
	}
	flight := s.flights.DoChan(name, func() (any, error) {
		// Another flight may have landed between the look and the take-off.
		if token, ok := s.held(name); ok {
			return token, nil
		}
		return s.fetch(context.WithoutCancel(ctx), key, name)
	})
	select {
	case <-ctx.Done():
		return oauth.Token{}, fmt.Errorf("waiting for a token: %w", ctx.Err())
	case landed := <-flight:
		if landed.Err != nil {
			return oauth.Token{}, landed.Err
		}
		return landed.Val.(oauth.Token), nil
	}
}

// held returns a token that is still good.
func (s *Store) held(name string) (oauth.Token, bool) {
	entry, ok := s.cache.Get(name)
	if !ok {
		return oauth.Token{}, false
	}
	token := entry.(oauth.Token)
	return token, token.Left(s.now()) > 0
}

func (s *Store) fetch(ctx context.Context, key Key, name string) (token oauth.Token, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	// In a flight a panic would end the process: it is an error for all who
	// wait.
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic while fetching a token", "client", key.Client, "panic", p, "stack", string(debug.Stack()))
			err = &oauth.Error{Class: oauth.Internal, Description: "fetching a token failed inside the broker"}
		}
	}()
	log := s.log.With("client", key.Client, "scopes", string(key.Scopes))
	start := s.now()
	token, err = s.exchanger.Exchange(ctx, key)
	if err != nil {
		log.Warn("fetching a token failed", "err", err, "took", s.now().Sub(start).Round(time.Millisecond).String())
		return oauth.Token{}, err
	}
	if token.Left(s.now()) == 0 {
		return oauth.Token{}, &oauth.Error{
			Class:       oauth.BadAnswer,
			Description: "the authorization server's token had ended when it arrived",
			Err:         errors.New("life " + token.Life.String()),
		}
	}
	log.Info("token fetched", "kid", token.Kid, "expires_in", token.Life.String(), "took", s.now().Sub(start).Round(time.Millisecond).String())
	s.keep(name, token)
	return token, nil
}

// keep holds the token until it ends. A token that is replaced leaves its timer
// behind, which then finds another one and leaves that alone.
func (s *Store) keep(name string, token oauth.Token) {
	if _, replaces := s.cache.Get(name); !replaces && s.cache.ItemCount() >= maxEntries {
		s.log.Warn("the token cache is full; a token is served and not kept", "entries", maxEntries)
		return
	}
	s.cache.Set(name, token, cache.NoExpiration)
	time.AfterFunc(token.Left(s.now()), func() {
		if held, ok := s.cache.Get(name); ok && held.(oauth.Token).Expires.Equal(token.Expires) {
			s.cache.Delete(name)
		}
	})
}
