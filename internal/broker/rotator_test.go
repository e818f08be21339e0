package broker

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// A rotator could put a key of its own into the apps: nobody gets its tokens or its
// assertions, by whatever name, and nothing is fetched for it.
func TestRotatorServesNobody(t *testing.T) {
	for _, signAny := range []bool{false, true} {
		t.Run(fmt.Sprintf("sign any %v", signAny), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { rotatorServesNobody(t, signAny) })
		})
	}
}

func rotatorServesNobody(t *testing.T, signAny bool) {
	own, sold := ring(t, DefaultRing), &server{name: "rotator"}
	first, _, err := own.Active(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	rotator := &Client{Name: "rotator", ID: "0oarotator", Issuer: "https://w", Ring: own, Scopes: "okta.apps.manage",
		Audiences: []string{"https://w/token"}, Prefetch: true, Rotator: true, Server: sold}
	// The same app at another address of the org.
	twin := &Client{Name: "twin", ID: "0oarotator", Issuer: "https://w.example", Ring: own, Scopes: "okta.apps.read",
		Audiences: []string{"https://w.example/token"}, Server: &server{name: "twin"}}
	b := New(Config{
		World: &World{Clients: map[string]*Client{"rotator": rotator, "twin": twin}, SignAny: signAny,
			Rings: map[string]*keys.Ring{DefaultRing: own}},
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	defer b.Close()
	synctest.Wait() // what is to be prefetched is, by now

	who := caller.Local("somebody")
	refused := func(what string, err error) {
		t.Helper()
		if oauth.ClassOf(err) != oauth.AccessDenied || !strings.Contains(err.Error(), "serves no caller") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, scope := range []string{"", "okta.apps.manage", "okta.users.read", "\n"} {
		_, err := b.Token(t.Context(), who, TokenRequest{Client: "rotator", Scope: scope})
		refused("Token for scope "+scope, err)
		_, err = b.Token(t.Context(), who, TokenRequest{Client: "rotator", Scope: scope, Want: Want{Fresh: true}})
		refused("Token, a new one, for scope "+scope, err)
		refused("Discard of scope "+scope, b.Discard(t.Context(), who, TokenRequest{Client: "rotator", Scope: scope}))
	}
	refused("Revoke", b.Revoke(t.Context(), who, RevokeRequest{Token: "some", Client: "rotator"}))
	for _, audience := range []string{"https://w/token", "https://w.example/token", "https://elsewhere/token"} {
		for _, rotate := range []bool{false, true} {
			signed, err := b.Sign(t.Context(), who, SignRequest{ClientID: "0oarotator", Audience: audience, Rotate: rotate})
			refused(fmt.Sprintf("Sign for %s, rotate %v", audience, rotate), err)
			if signed.JWT != "" || signed.JWK != nil {
				t.Errorf("Sign for %s answers all the same", audience)
			}
		}
	}
	if got := own.Keys(); len(got) != 1 || got[0].ID() != first.ID() {
		t.Errorf("a refused request changed the ring: %d keys", len(got))
	}
	if sold.sold.Load() != 0 || len(sold.revoked) != 0 {
		t.Errorf("%d tokens were fetched, %d revoked", sold.sold.Load(), len(sold.revoked))
	}
	if n := strings.Count(log.String(), "refused="); n != 4*3+1+6 {
		t.Errorf("%d refusals are in the audit log:\n%s", n, log.String())
	}
}

// By its client id the rotator is refused as well, where the id is its alone.
func TestRotatorByClientID(t *testing.T) {
	own, sold := ring(t, DefaultRing), &server{name: "rotator"}
	rotator := &Client{Name: "rotator", ID: "0oarotator", Issuer: "https://w", Ring: own, Scopes: "okta.apps.manage", Rotator: true, Server: sold}
	b := New(Config{World: &World{Clients: map[string]*Client{"rotator": rotator}, Rings: map[string]*keys.Ring{DefaultRing: own}}})
	defer b.Close()
	who := caller.Local("somebody")
	_, err := b.Token(t.Context(), who, TokenRequest{Client: "0oarotator"})
	for what, err := range map[string]error{
		"Token":   err,
		"Discard": b.Discard(t.Context(), who, TokenRequest{Client: "0oarotator"}),
		"Revoke":  b.Revoke(t.Context(), who, RevokeRequest{Token: "some", Client: "0oarotator"}),
	} {
		if oauth.ClassOf(err) != oauth.AccessDenied {
			t.Errorf("%s: %v", what, err)
		}
	}
	if sold.sold.Load() != 0 || len(own.Keys()) != 0 {
		t.Errorf("%d tokens were fetched, %d keys made", sold.sold.Load(), len(own.Keys()))
	}
}

// What a client fetched before the configuration named it as rotator is kept from
// callers, too.
func TestClientThatBecomesRotator(t *testing.T) {
	own, sold := ring(t, DefaultRing), &server{name: "app"}
	client := Client{Name: "app", ID: "0oa1", Issuer: "https://w", Ring: own, Scopes: "okta.apps.manage", Server: sold}
	before, after := client, client
	after.Rotator = true
	b := New(Config{World: &World{Clients: map[string]*Client{"app": &before}, Rings: map[string]*keys.Ring{DefaultRing: own}}})
	defer b.Close()
	who := caller.Local("somebody")
	held, err := b.Token(t.Context(), who, TokenRequest{Client: "app"})
	if err != nil {
		t.Fatal(err)
	}
	b.Swap(&World{Clients: map[string]*Client{"app": &after}, Rings: map[string]*keys.Ring{DefaultRing: own}})
	if _, err := b.Token(t.Context(), who, TokenRequest{Client: "app"}); oauth.ClassOf(err) != oauth.AccessDenied {
		t.Errorf("Token: %v", err)
	}
	if err := b.Revoke(t.Context(), who, RevokeRequest{Token: held.Access.Reveal(), Client: "app"}); oauth.ClassOf(err) != oauth.AccessDenied {
		t.Errorf("Revoke: %v", err)
	}
}
