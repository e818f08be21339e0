package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/secret"
)

// server answers every exchange with a token that says whose it is, which one,
// and for what.
type server struct {
	name    string
	sold    atomic.Int64
	mu      sync.Mutex
	revoked []string
}

func (s *server) Exchange(_ context.Context, scopes oauth.Scopes) (oauth.Token, error) {
	return oauth.Token{
		Access: secret.New(fmt.Sprintf("%s %d %s", s.name, s.sold.Add(1), scopes)),
		Type:   "Bearer", Scopes: scopes, Expires: time.Now().Add(time.Hour), Life: time.Hour,
	}, nil
}

func (s *server) Revoke(_ context.Context, token string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revoked = append(s.revoked, token)
	return nil
}

func ring(t *testing.T, name string) *keys.Ring {
	t.Helper()
	file, err := keys.NewFile(t.Context(), filepath.Join(t.TempDir(), name+".pem"), false)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keys.Open(t.Context(), keys.Config{Name: name, Store: file, Algorithm: "ES256"})
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// world has two clients of one client_id at two issuers, on two rings.
func world(t *testing.T, log *strings.Builder) (b *Broker, west, east *keys.Ring) {
	t.Helper()
	west, east = ring(t, "west"), ring(t, "east")
	b = New(Config{
		World: &World{
			Clients: map[string]*Client{
				"west":  {Name: "west", ID: "0oa1", Issuer: "https://w", Ring: west, Scopes: "a b", Audiences: []string{"https://w/token"}, Server: &server{name: "west"}},
				"east":  {Name: "east", ID: "0oa1", Issuer: "https://e", Ring: east, Scopes: "b c", Audiences: []string{"https://e/token"}, Server: &server{name: "east"}},
				"alone": {Name: "alone", ID: "0oa2", Issuer: "https://w", Ring: west, Scopes: "a", Server: &server{name: "alone"}},
			},
			Rings: map[string]*keys.Ring{"west": west, "east": east},
		},
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
	t.Cleanup(b.Close)
	return b, west, east
}

func TestNobodyMayDoAnything(t *testing.T) {
	b, west, _ := world(t, &strings.Builder{})
	if token, err := b.Token(t.Context(), caller.Caller{}, TokenRequest{Client: "west"}); oauth.ClassOf(err) != oauth.AccessDenied || !token.Access.IsZero() {
		t.Errorf("Token: %v", err)
	}
	signed, err := b.Sign(t.Context(), caller.Caller{}, SignRequest{ClientID: "0oa1", Audience: "https://w/token", Rotate: true})
	if oauth.ClassOf(err) != oauth.AccessDenied || signed.JWT != "" || len(west.Keys()) != 0 {
		t.Errorf("Sign: %v", err)
	}
}

func TestWhichClient(t *testing.T) {
	b, _, _ := world(t, &strings.Builder{})
	tests := []struct {
		request TokenRequest
		want    string // the token, or the error's class
		class   oauth.Class
	}{
		{request: TokenRequest{Client: "west"}, want: "west 1 a b"},
		{request: TokenRequest{Client: "east"}, want: "east 1 b c"},
		{request: TokenRequest{Client: "east", Scope: "b"}, want: "east 2 b"},
		{request: TokenRequest{Client: "west", Scope: "b"}, want: "west 2 b"},
		{request: TokenRequest{Client: "0oa2"}, want: "alone 1 a"},
		{request: TokenRequest{Client: "west", Scope: " "}, want: "west 1 a b"},
		{request: TokenRequest{Client: "0oa1"}, class: oauth.UnknownClient},
		{request: TokenRequest{Client: "0oa3"}, class: oauth.UnknownClient},
		{request: TokenRequest{}, class: oauth.UnknownClient}, // no client is called default
		{request: TokenRequest{Client: "west", Scope: "c"}, class: oauth.InvalidScope},
		{request: TokenRequest{Client: "west", Scope: "a b c"}, class: oauth.InvalidScope},
	}
	for _, tt := range tests {
		token, err := b.Token(t.Context(), caller.Local("test"), tt.request)
		if token.Access.Reveal() != tt.want || oauth.ClassOf(err) != tt.class {
			t.Errorf("%+v: token %q, %v", tt.request, token.Access.Reveal(), err)
		}
	}
}

func TestWhichRingSigns(t *testing.T) {
	b, west, east := world(t, &strings.Builder{})
	for audience, ring := range map[string]*keys.Ring{"https://w/token": west, "https://e/token": east} {
		signed, err := b.Sign(t.Context(), caller.Local("test"), SignRequest{ClientID: "0oa1", Audience: audience})
		if err != nil {
			t.Fatal(err)
		}
		var jwk struct{ Kid string }
		if err := json.Unmarshal(signed.JWK, &jwk); err != nil || jwk.Kid != ring.Keys()[0].ID() {
			t.Errorf("%s: kid %q, want that of ring %s", audience, jwk.Kid, ring.Name())
		}
	}
	if _, err := b.Sign(t.Context(), caller.Local("test"), SignRequest{ClientID: "0oa2", Audience: "https://e/token"}); oauth.ClassOf(err) != oauth.AccessDenied {
		t.Errorf("another client's audience: %v", err)
	}
}

func TestAudit(t *testing.T) {
	var log strings.Builder
	b, _, _ := world(t, &log)
	_, _ = b.Token(t.Context(), caller.Local("somebody"), TokenRequest{Client: "west", Scope: "a"})
	_, _ = b.Token(t.Context(), caller.Local("somebody"), TokenRequest{Client: "west\nlevel=ERROR", Scope: strings.Repeat("x", 5000)})
	var lines []string
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "audit:") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), log.String())
	}
	for _, want := range []string{"audit: token", "client=west", "scope=a", "caller=somebody"} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("%q is not in %s", want, lines[0])
		}
	}
	if !strings.Contains(lines[1], "refused=") || len(lines[1]) > 1500 {
		t.Errorf("%d bytes: %s", len(lines[1]), lines[1])
	}
}

// read returns the token that a client has.
func read(t *testing.T, b *Broker, client string) string {
	t.Helper()
	token, err := b.Token(t.Context(), caller.Local("test"), TokenRequest{Client: client})
	if err != nil {
		return oauthClass(err)
	}
	return token.Access.Reveal()
}

func oauthClass(err error) string { return fmt.Sprintf("class %d", oauth.ClassOf(err)) }

// No token outlives a client that is gone or has changed, and one that stays
// keeps its own.
func TestSwap(t *testing.T) {
	b, west, east := world(t, &strings.Builder{})
	old := b.world.Load()
	for _, name := range []string{"west", "east", "alone"} {
		if got := read(t, b, name); !strings.HasPrefix(got, name+" 1 ") {
			t.Fatalf("%s: %s", name, got)
		}
	}
	changed := *old.Clients["east"]
	changed.Scopes, changed.Server = "b c", &server{name: "east anew"}
	b.Swap(&World{
		Clients: map[string]*Client{"west": old.Clients["west"], "east": &changed},
		Rings:   map[string]*keys.Ring{"west": west, "east": east},
	})
	unknown := fmt.Sprintf("class %d", oauth.UnknownClient)
	for name, want := range map[string]string{"west": "west 1 a b", "east": "east anew 1 b c", "alone": unknown} {
		if got := read(t, b, name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	// It comes back with another token: the old one was dropped.
	b.Swap(&World{Clients: old.Clients, Rings: old.Rings})
	for name, want := range map[string]string{"west": "west 1 a b", "east": "east 2 b c", "alone": "alone 2 a"} {
		if got := read(t, b, name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestRevoke(t *testing.T) {
	b, _, _ := world(t, &strings.Builder{})
	of := func(name string) *server { return b.world.Load().Clients[name].Server.(*server) }
	east := read(t, b, "east")
	read(t, b, "west")
	if err := b.Revoke(t.Context(), caller.Local("test"), RevokeRequest{Token: east}); err != nil {
		t.Fatal(err)
	}
	if got := of("east").revoked; len(got) != 1 || got[0] != east || len(of("west").revoked) != 0 {
		t.Errorf("east was asked to revoke %q, west %q", got, of("west").revoked)
	}
	if again := read(t, b, "east"); again == east || read(t, b, "west") != "west 1 a b" {
		t.Errorf("east has %s", again)
	}
	// A token that the broker does not hold is the named client's.
	if err := b.Revoke(t.Context(), caller.Local("test"), RevokeRequest{Token: "old", Client: "alone"}); err != nil || len(of("alone").revoked) != 1 {
		t.Errorf("%v: %q", err, of("alone").revoked)
	}
	if err := b.Revoke(t.Context(), caller.Local("test"), RevokeRequest{Token: "old"}); oauth.ClassOf(err) != oauth.InvalidRequest {
		t.Errorf("nobody can tell whose it is: %v", err)
	}
	held := read(t, b, "east")
	if err := b.Revoke(t.Context(), caller.Local("test"), RevokeRequest{Token: held, Client: "alone"}); oauth.ClassOf(err) != oauth.InvalidRequest || read(t, b, "east") != held {
		t.Errorf("another client's token: %v", err)
	}
	if err := b.Revoke(t.Context(), caller.Local("test"), RevokeRequest{Client: "alone"}); oauth.ClassOf(err) != oauth.InvalidRequest {
		t.Errorf("no token: %v", err)
	}
	if err := b.Revoke(t.Context(), caller.Caller{}, RevokeRequest{Token: "old", Client: "alone"}); oauth.ClassOf(err) != oauth.AccessDenied {
		t.Errorf("nobody may do anything: %v", err)
	}
}

func TestPrefetchWaitsForAKey(t *testing.T) {
	ring := ring(t, "default")
	source := &server{name: "default"}
	client := &Client{Name: "default", ID: "0oa1", Ring: ring, Scopes: "a", Prefetch: true, Server: source}
	world := func() *World {
		return &World{Clients: map[string]*Client{"default": client}, Rings: map[string]*keys.Ring{"default": ring}}
	}
	b := New(Config{World: world()})
	t.Cleanup(b.Close)
	if n := b.tokens.Len(); n != 0 {
		t.Errorf("%d tokens are fetched under no key", n)
	}
	if _, _, err := ring.Active(t.Context(), "mine"); err != nil {
		t.Fatal(err)
	}
	b.Forgive(ring)
	if n := b.tokens.Len(); n != 0 {
		t.Errorf("%d tokens are fetched before anybody can have registered the key", n)
	}
	b.Swap(world())
	if n := b.tokens.Len(); n != 1 {
		t.Errorf("%d tokens are kept warm, want 1", n)
	}
	if got := read(t, b, "default"); got != "default 1 a" {
		t.Errorf("got %s", got)
	}
}
