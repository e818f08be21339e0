package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/oauth"
)

const (
	acme = "https://acme.okta.com"
	api  = "https://api.acme.test/base"
)

// prover makes proofs that say what they are for.
type prover struct {
	mu     sync.Mutex
	made   int
	nonces []string // that it was told, with whose they are
	decode map[string]bool
	dates  []time.Time
}

func (p *prover) Proof(ctx context.Context, proof dpop.Proof) (string, dpop.Made, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return "", dpop.Made{}, fmt.Errorf("signing: %w", err)
	}
	p.made++
	proof.Decoded = p.decode[proof.URL]
	nonce := proof.Nonce
	if nonce == "" && len(p.nonces) > 0 {
		_, nonce, _ = strings.Cut(p.nonces[len(p.nonces)-1], " ")
	}
	return fmt.Sprintf("proof %d: %s %s nonce=%s decoded=%t ath=%s", p.made, proof.Method, proof.URL, nonce, proof.Decoded, proof.TokenHash), dpop.Made{Decoded: proof.Decoded}, nil
}

func (p *prover) Learn(url string, _ dpop.Made, said dpop.Terms) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if dpop.ValidNonce(said.Nonce) {
		p.nonces = append(p.nonces, url+" "+said.Nonce)
	}
	if said.Decoded != nil {
		p.decode = map[string]bool{url: *said.Decoded}
	}
	if !said.Date.IsZero() {
		p.dates = append(p.dates, said.Date)
	}
}

// binding is a server whose tokens are bound, or not.
type binding struct {
	server
	kind, jkt string
}

func (b *binding) Exchange(ctx context.Context, scopes oauth.Scopes) (oauth.Token, error) {
	token, err := b.server.Exchange(ctx, scopes)
	if token.Type = b.kind; b.kind == oauth.DPoP {
		token.JKT = b.jkt
	}
	return token, err
}

// callers has clients of all sorts.
func callers(t *testing.T, log *strings.Builder) *Broker {
	t.Helper()
	client := func(name, kind string, org bool, resources map[string]string) *Client {
		c := &Client{
			Name: name, ID: "0oa-" + name, Issuer: acme, Scopes: "a b", Ring: ring(t, name), OktaOrigin: acme, Org: org, Resources: resources,
			Server: &binding{server{name: name}, kind, "jkt-" + name}, Prover: &prover{}, JKT: "jkt-" + name,
		}
		if !org {
			c.Issuer = acme + "/oauth2/default"
		}
		return c
	}
	resources := map[string]string{"api": api, "root": "https://root.acme.test:8443", "plain": "http://plain.acme.test"}
	world := &World{Clients: map[string]*Client{
		"default": client("default", oauth.DPoP, true, nil),
		"bearer":  client("bearer", oauth.Bearer, true, nil),
		"custom":  client("custom", oauth.DPoP, false, nil),
		"whole":   client("whole", oauth.DPoP, false, map[string]string{"org": acme}),
		"below":   client("below", oauth.DPoP, false, map[string]string{"apps": acme + "/api/v1/apps"}),
		"service": client("service", oauth.DPoP, false, resources),
		"both":    client("both", oauth.DPoP, true, map[string]string{"api": api, "users": acme + "/api/v1/users"}),
		"off":     client("off", oauth.Bearer, true, nil),
		"rotator": client("rotator", oauth.DPoP, true, nil),
	}}
	world.Clients["off"].Prover, world.Clients["off"].JKT = nil, ""
	world.Clients["rotator"].Rotator = true
	b := New(Config{World: world, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	t.Cleanup(b.Close)
	return b
}

func (b *Broker) prover(client string) *prover {
	return b.world.Load().Clients[client].Prover.(*prover)
}

func TestAuthorize(t *testing.T) {
	me := caller.Local("test")
	users := acme + "/api/v1/users?limit=2"
	tests := []struct {
		name    string
		who     caller.Caller
		request CallRequest
		token   string
		proof   string // with {ath}
		class   oauth.Class
		says    string
	}{
		{"org", me, CallRequest{Client: "default", Method: "GET", URL: users}, "DPoP default 1 a b", "proof 1: GET " + users + " nonce= decoded=false ath={ath}", 0, ""},
		{"default client", me, CallRequest{Method: "GET", URL: users}, "DPoP default 1 a b", "proof 1: GET " + users + " nonce= decoded=false ath={ath}", 0, ""},
		{"by client_id", me, CallRequest{Client: "0oa-default", Method: "GET", URL: users}, "DPoP default 1 a b", "proof 1: GET " + users + " nonce= decoded=false ath={ath}", 0, ""},
		{"scope", me, CallRequest{Client: "default", Scope: "b", Method: "PUT", URL: users}, "DPoP default 1 b", "proof 1: PUT " + users + " nonce= decoded=false ath={ath}", 0, ""},
		{"nonce", me, CallRequest{Client: "default", Method: "GET", URL: users, Nonce: "n"}, "DPoP default 1 a b", "proof 1: GET " + users + " nonce=n decoded=false ath={ath}", 0, ""},
		{"Bearer", me, CallRequest{Client: "bearer", Method: "GET", URL: users, Nonce: "n"}, "Bearer bearer 1 a b", "", 0, ""},
		{"without a key", me, CallRequest{Client: "off", Method: "GET", URL: users}, "Bearer off 1 a b", "", 0, ""},
		{"default port", me, CallRequest{Client: "default", Method: "GET", URL: "https://acme.okta.com:443/api"}, "DPoP default 1 a b", "proof 1: GET https://acme.okta.com:443/api nonce= decoded=false ath={ath}", 0, ""},
		{"upper case", me, CallRequest{Client: "default", Method: "GET", URL: "HTTPS://ACME.Okta.com/Api"}, "DPoP default 1 a b", "proof 1: GET HTTPS://ACME.Okta.com/Api nonce= decoded=false ath={ath}", 0, ""},
		{"another port", me, CallRequest{Client: "default", Method: "GET", URL: "https://acme.okta.com:80/api"}, "", "", oauth.AccessDenied, "no other URL"},
		{"another scheme", me, CallRequest{Client: "default", Method: "GET", URL: "http://acme.okta.com:443/api"}, "", "", oauth.AccessDenied, "no other URL"},
		{"upper case below /oauth2/", me, CallRequest{Client: "default", Method: "GET", URL: "https://ACME.okta.com:443/oauth2/v1/token"}, "", "", oauth.AccessDenied, "/oauth2/"},
		{"a user", me, CallRequest{Client: "default", Method: "GET", URL: "https://acme.okta.com@evil.test/api"}, "", "", oauth.AccessDenied, "no other URL"},
		{"resource", me, CallRequest{Client: "service", Method: "POST", URL: api + "/x"}, "DPoP service 1 a b", "proof 1: POST " + api + "/x nonce= decoded=false ath={ath}", 0, ""},
		{"no resource", me, CallRequest{Client: "custom", Method: "GET", URL: users}, "", "", oauth.AccessDenied, "clients.custom.resources"},
		{"another's resource", me, CallRequest{Client: "default", Method: "GET", URL: api}, "", "", oauth.AccessDenied, "clients.default.resources"},
		{"no URL", me, CallRequest{Client: "default", Method: "GET"}, "", "", oauth.AccessDenied, "no other URL"},
		{"a method that echoes", me, CallRequest{Client: "default", Method: "trace", URL: users}, "", "", oauth.InvalidRequest, "the method is not called for anybody"},
		{"another that echoes", me, CallRequest{Client: "default", Method: "Track", URL: users}, "", "", oauth.InvalidRequest, "the method is not called for anybody"},
		{"a method of proxies", me, CallRequest{Client: "default", Method: "CONNECT", URL: users}, "", "", oauth.InvalidRequest, "the method is not called for anybody"},
		{"no method", me, CallRequest{Client: "default", URL: users}, "", "", oauth.InvalidRequest, "the method must be"},
		{"no method, Bearer", me, CallRequest{Client: "bearer", URL: users}, "", "", oauth.InvalidRequest, "the method must be"},
		{"a method that is none", me, CallRequest{Client: "bearer", Method: "GET ", URL: users}, "", "", oauth.InvalidRequest, "the method must be"},
		{"a nonce that is none", me, CallRequest{Client: "bearer", Method: "GET", URL: users, Nonce: `"`}, "", "", oauth.InvalidRequest, "the nonce must be"},
		{"a URL that is too long", me, CallRequest{Client: "bearer", Method: "GET", URL: acme + "/" + strings.Repeat("a", 8<<10)}, "", "", oauth.InvalidRequest, "the URL must have"},
		{"scope that is too wide", me, CallRequest{Client: "default", Scope: "c", Method: "GET", URL: users}, "", "", oauth.InvalidScope, "clients.default.scopes"},
		{"rotator", me, CallRequest{Client: "rotator", Method: "GET", URL: users}, "", "", oauth.AccessDenied, "serves no caller"},
		{"unknown client", me, CallRequest{Client: "nobody", Method: "GET", URL: users}, "", "", oauth.UnknownClient, `"nobody"`},
		{"nobody asks", caller.Caller{}, CallRequest{Client: "default", Method: "GET", URL: users}, "", "", oauth.AccessDenied, "caller is not known"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := callers(t, &strings.Builder{})
			got, err := b.Authorize(t.Context(), tt.who, tt.request)
			if tt.token == "" {
				if err == nil || oauth.ClassOf(err) != tt.class || !strings.Contains(err.Error(), tt.says) || got != (Credentials{}) {
					t.Errorf("got %v, want class %d and %q", err, tt.class, tt.says)
				}
				for name, client := range b.world.Load().Clients {
					if sold := client.Server.(*binding).sold.Load(); sold > 0 {
						t.Errorf("%d tokens of client %s were fetched for it", sold, name)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			secret := got.Token.Access.Reveal()
			want := strings.Replace(tt.proof, "{ath}", dpop.TokenHash(secret), 1)
			if got.Token.Type+" "+secret != tt.token || got.Proof != want {
				t.Errorf("token %s %q, proof %q; want %q, %q", got.Token.Type, secret, got.Proof, tt.token, want)
			}
		})
	}
}

// A caller who has left is told no more than that.
func TestAuthorizeEndsWithItsCaller(t *testing.T) {
	b := callers(t, &strings.Builder{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, when := range []string{"before there is a token", "before there is a proof"} {
		_, err := b.Authorize(ctx, caller.Local("test"), CallRequest{Client: "default", Method: "GET", URL: acme})
		if _, explained := errors.AsType[*oauth.Error](err); explained || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", when, err)
		}
		if _, err := b.Token(t.Context(), caller.Local("test"), TokenRequest{}); err != nil {
			t.Fatal(err)
		}
	}
}

// The record has who called what, and no part of a URL that can hold a secret.
func TestAuthorizeIsAudited(t *testing.T) {
	for url, want := range map[string]string{
		acme + "/api/v1/users?token=hidden#hidden":       acme + "/api/v1/users",
		acme + "/api#hidden?x":                           acme + "/api",
		acme + "/api/a@b.com":                            acme + "/api/a@b.com",
		"https://user:hidden@acme.okta.com/api":          acme + "/api",
		"https://hidden@acme.okta.com":                   acme,
		"https://user:hidden@acme.okta.com/%zz":          "malformed",
		"https://evil.test/" + strings.Repeat("x", 5000): "https://evil.test/" + strings.Repeat("x", 230),
	} {
		var log strings.Builder
		b := callers(t, &log)
		got, err := b.Authorize(t.Context(), caller.Local("somebody"), CallRequest{Client: "default", Scope: "a", Method: "GET", URL: url})
		for _, want := range []string{"audit: call", "client=default", "scope=a", "method=GET", "url=" + want, "caller=somebody"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("%q is not in %s", want, log.String())
			}
		}
		if strings.Contains(log.String(), "refused=") != (err != nil) || strings.Contains(log.String(), "hidden") || len(log.String()) > 2000 {
			t.Errorf("%v, and %d bytes: %s", err, log.Len(), log.String())
		}
		if err == nil && (strings.Contains(log.String(), got.Proof) || strings.Contains(log.String(), got.Token.Access.Reveal())) {
			t.Errorf("credentials are logged: %s", log.String())
		}
	}
}

// A client that changes while its call is prepared lends the call neither its token
// nor its key: the URL may not be one of the new client's.
func TestAuthorizeDuringSwap(t *testing.T) {
	const other = "https://other.okta.com"
	key := ring(t, "default")
	client := func(name, org string) *Client {
		return &Client{
			Name: "default", ID: "0oa-" + name, Issuer: org, OktaOrigin: org, Org: true, Scopes: "a", Ring: key,
			Server: &binding{server{name: name}, oauth.DPoP, "jkt-" + name}, Prover: &prover{}, JKT: "jkt-" + name,
		}
	}
	ours, theirs, both := client("ours", acme), client("theirs", other), client("both", acme)
	both.Resources = map[string]string{"other": other}
	rekeyed := client("rekeyed", acme)
	rekeyed.ID = ours.ID // a client whose tokens are bound to another key, and nothing else
	tests := []struct {
		name          string
		before, after *Client
		url           string
		token         string // empty: the call is refused
	}{
		{"may not be called any more", ours, theirs, acme + "/api", ""},
		{"may be called still, with another key", ours, rekeyed, acme + "/api", "rekeyed 1 a"},
		{"may be called still", theirs, both, other + "/api", "both 1 a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var meanwhile atomic.Pointer[func()] // between the lookup of the client and the fetch
			b := New(Config{World: &World{Clients: map[string]*Client{"default": tt.before}}, Now: func() time.Time {
				if run := meanwhile.Swap(nil); run != nil {
					(*run)()
				}
				return time.Now()
			}})
			t.Cleanup(b.Close)
			swap := func() { b.Swap(&World{Clients: map[string]*Client{"default": tt.after}}) }
			meanwhile.Store(&swap)
			got, err := b.Authorize(t.Context(), caller.Local("test"), CallRequest{Method: "GET", URL: tt.url})
			if got.Token.Access.Reveal() != tt.token || (tt.token == "") != (oauth.ClassOf(err) == oauth.AccessDenied) {
				t.Errorf("token %q, %v; want %q", got.Token.Access.Reveal(), err, tt.token)
			}
			if tt.before.Prover.(*prover).made > 0 {
				t.Error("the key of the client that is gone has signed a proof")
			}
		})
	}
}

func TestTarget(t *testing.T) {
	me := caller.Local("test")
	tests := []struct {
		name             string
		who              caller.Caller
		client, resource string
		want             Target
		class            oauth.Class
		says             string
	}{
		{"org", me, "default", "", Target{"default", acme, true}, 0, ""},
		{"org, by client_id", me, "0oa-default", "", Target{"default", acme, true}, 0, ""},
		{"resource", me, "service", "api", Target{"service", api, false}, 0, ""},
		{"other resource", me, "service", "root", Target{"service", "https://root.acme.test:8443", false}, 0, ""},
		{"resource beside an org", me, "both", "api", Target{"both", api, false}, 0, ""},
		{"resource at the org", me, "both", "users", Target{"both", acme + "/api/v1/users", true}, 0, ""},
		{"org of a custom server", me, "whole", "org", Target{"whole", acme, true}, 0, ""},
		{"org beside a resource", me, "both", "", Target{"both", acme, true}, 0, ""},
		{"no such resource", me, "both", "nothing", Target{}, oauth.InvalidRequest, "clients.both.resources"},
		{"no resources", me, "default", "api", Target{}, oauth.InvalidRequest, "clients.default.resources"},
		{"no org", me, "service", "", Target{}, oauth.InvalidRequest, "~NAME"},
		{"no org, no resources", me, "custom", "", Target{}, oauth.InvalidRequest, "clients.custom.resources"},
		{"rotator", me, "rotator", "", Target{}, oauth.AccessDenied, "serves no caller"},
		{"unknown client", me, "nobody", "", Target{}, oauth.UnknownClient, "nobody"},
		{"nobody asks", caller.Caller{}, "default", "", Target{}, oauth.AccessDenied, "caller"},
	}
	b := callers(t, &strings.Builder{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := b.Target(tt.who, tt.client, tt.resource)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if (err != nil) != (tt.says != "") || err != nil && (oauth.ClassOf(err) != tt.class || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("got %v, want class %d and %q", err, tt.class, tt.says)
			}
		})
	}
}
