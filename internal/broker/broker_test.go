package broker

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/secret"
	"okta-token-broker/internal/tokens"
)

// issued answers every exchange with a token that says what was asked for.
type issued struct{}

func (issued) Exchange(_ context.Context, key tokens.Key) (oauth.Token, error) {
	return oauth.Token{
		Access: secret.New(strings.Join([]string{key.Client, key.Issuer, key.ClientID, string(key.Scopes)}, " ")),
		Type:   "Bearer", Scopes: key.Scopes, Expires: time.Now().Add(time.Hour), Life: time.Hour,
	}, nil
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
				"west":  {Name: "west", ID: "0oa1", Issuer: "https://w", Ring: west, Scopes: "a b", Audiences: []string{"https://w/token"}},
				"east":  {Name: "east", ID: "0oa1", Issuer: "https://e", Ring: east, Scopes: "b c", Audiences: []string{"https://e/token"}},
				"alone": {Name: "alone", ID: "0oa2", Issuer: "https://w", Ring: west, Scopes: "a"},
			},
			Rings: map[string]*keys.Ring{"west": west, "east": east},
		},
		Tokens: tokens.New(tokens.Config{Exchanger: issued{}}),
		Log:    slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
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
		{request: TokenRequest{Client: "west"}, want: "west https://w 0oa1 a b"},
		{request: TokenRequest{Client: "east"}, want: "east https://e 0oa1 b c"},
		{request: TokenRequest{Client: "east", Scope: "b"}, want: "east https://e 0oa1 b"},
		{request: TokenRequest{Client: "west", Scope: "b"}, want: "west https://w 0oa1 b"},
		{request: TokenRequest{Client: "0oa2"}, want: "alone https://w 0oa2 a"},
		{request: TokenRequest{Client: "west", Scope: " "}, want: "west https://w 0oa1 a b"},
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
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
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
