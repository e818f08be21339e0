package okta

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

func TestExchangeGivesAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.okta.SetFault(fakeokta.Fault{
			Count: 1, Delay: 3 * time.Second,
			Rewrite: func(members map[string]any) { members["token_type"] = "bEARER" },
		})
		sent := time.Now()
		token := w.works(t)

		if waited := time.Since(sent); waited != 3*time.Second {
			t.Fatalf("the server took %v, want 3s", waited)
		}
		// What a caller is told is left.
		if left := token.Left(time.Now()); left != 3597*time.Second {
			t.Errorf("%v left, want 3597s: life counts from the sending", left)
		}
		want := oauth.Token{
			Access: token.Access, Type: "Bearer", Scopes: asked, Kid: w.active().ID(),
			Expires: sent.Add(time.Hour), Life: time.Hour,
		}
		if diff := cmp.Diff(want, token, cmp.AllowUnexported(token.Access)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}

		// And the token opens the door.
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, issuer+"/api/v1/users", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", token.Type+" "+token.Access.Reveal())
		resp, err := w.okta.Transport().RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the resource answers the token with %d", resp.StatusCode)
		}
	})
}

func TestRequestIsWhatOktaWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		now := time.Now()
		w.works(t)
		w.wantPosts(t, 1)
		sent := w.wire.sent()[0]

		if sent.method != http.MethodPost || sent.url != endpoint {
			t.Errorf("%s %s, want POST %s", sent.method, sent.url, endpoint)
		}
		wantForm := map[string][]string{
			"grant_type":            {"client_credentials"},
			"scope":                 {"okta.groups.read okta.users.read"},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
			"client_assertion":      {sent.assertion()},
		}
		if diff := cmp.Diff(wantForm, map[string][]string(sent.form)); diff != "" {
			t.Errorf("form (-want +got)\n%s", diff)
		}
		wantHeader := http.Header{
			"Accept-Encoding": {"identity"}, "Accept": {"application/json"},
			"Content-Type": {"application/x-www-form-urlencoded"},
			"User-Agent":   {"okta-token-broker"},
		}
		if diff := cmp.Diff(wantHeader, sent.header); diff != "" {
			t.Errorf("header (-want +got)\n%s", diff)
		}
		if sent.getBody {
			t.Error("the request has a GetBody: net/http may send the assertion twice")
		}

		header, claims := decode(t, sent.assertion())
		if diff := cmp.Diff(map[string]any{"typ": "JWT", "alg": "ES256", "kid": w.active().ID()}, header); diff != "" {
			t.Errorf("assertion's header (-want +got)\n%s", diff)
		}
		wantClaims(t, claims, map[string]any{
			"iss": clientID, "sub": clientID, "aud": endpoint, "jti": claims["jti"],
			"iat": seconds(now.Add(-30 * time.Second)), "exp": seconds(now.Add(5 * time.Minute)),
		})
	})
}

func wantClaims(t *testing.T, got, want map[string]any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got)\n%s", diff)
	}
	jti, _ := got["jti"].(string)
	if id, err := uuid.Parse(jti); err != nil || id.Version() != 4 || id.String() != jti {
		t.Errorf("jti %q is not a UUID v4", jti)
	}
}

func seconds(at time.Time) json.Number {
	return json.Number(strconv.FormatInt(at.Unix(), 10))
}

func TestAssertionVariants(t *testing.T) {
	const elsewhere = "https://idp.example.com/token"
	tests := []struct {
		name          string
		change        func(*ServerConfig, *ClientConfig)
		url, aud, typ string
		life          time.Duration
		scopes        oauth.Scopes
	}{
		{
			name:   "audience issuer",
			change: func(_ *ServerConfig, c *ClientConfig) { c.AudienceIssuer = true },
			url:    endpoint, aud: issuer, typ: "client-authentication+jwt", life: 5 * time.Minute, scopes: asked,
		},
		{
			name:   "token endpoint",
			change: func(s *ServerConfig, _ *ClientConfig) { s.TokenEndpoint = elsewhere },
			url:    elsewhere, aud: elsewhere, typ: "JWT", life: 5 * time.Minute, scopes: asked,
		},
		{
			name: "both",
			change: func(s *ServerConfig, c *ClientConfig) {
				s.TokenEndpoint = elsewhere
				c.AudienceIssuer = true
			},
			url: elsewhere, aud: issuer, typ: "client-authentication+jwt", life: 5 * time.Minute, scopes: asked,
		},
		{
			name:   "custom authorization server",
			change: func(s *ServerConfig, _ *ClientConfig) { s.Issuer = issuer + "/oauth2/default" },
			url:    issuer + "/oauth2/default/v1/token", aud: issuer + "/oauth2/default/v1/token",
			typ: "JWT", life: 5 * time.Minute, scopes: asked,
		},
		{
			name:   "assertion lifetime",
			change: func(_ *ServerConfig, c *ClientConfig) { c.AssertionLifetime = time.Minute },
			url:    endpoint, aud: endpoint, typ: "JWT", life: time.Minute, scopes: asked,
		},
		{
			name:   "no scope",
			change: func(*ServerConfig, *ClientConfig) {},
			url:    endpoint, aud: endpoint, typ: "JWT", life: 5 * time.Minute,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newClient(t, roundTripper(func(*http.Request) (*http.Response, error) {
					return answer(http.StatusOK, good()), nil
				}), tt.change)
				now := time.Now()
				token, err := w.client.Exchange(t.Context(), tt.scopes)
				if err != nil {
					t.Fatal(err)
				}
				if token.Scopes != asked { // without a scope asked for, the server's default counts
					t.Errorf("scopes %q, want %q", token.Scopes, asked)
				}
				sent := w.wire.sent()[0]
				if sent.url != tt.url {
					t.Errorf("POST %s, want %s", sent.url, tt.url)
				}
				if got := sent.form.Get("scope"); got != string(tt.scopes) || sent.form.Has("scope") != (tt.scopes != "") {
					t.Errorf("scope %q, want %q", sent.form["scope"], tt.scopes)
				}
				header, claims := decode(t, sent.assertion())
				if diff := cmp.Diff(map[string]any{"typ": tt.typ, "alg": "ES256", "kid": w.active().ID()}, header); diff != "" {
					t.Errorf("header (-want +got)\n%s", diff)
				}
				wantClaims(t, claims, map[string]any{
					"iss": clientID, "sub": clientID, "aud": tt.aud, "jti": claims["jti"],
					"iat": seconds(now.Add(-30 * time.Second)), "exp": seconds(now.Add(tt.life)),
				})
			})
		})
	}
}

func TestNoAssertionGoesTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.okta.SetFault(
			fakeokta.Fault{Count: 1},
			fakeokta.Fault{Count: 2, Status: http.StatusServiceUnavailable},
			fakeokta.Fault{Count: 1},
			fakeokta.Fault{Count: 1, Reset: true, After: true},
		)
		for range 3 {
			w.works(t)
		}
		w.wantPosts(t, 6)
		assertions, ids := map[string]bool{}, map[any]bool{}
		for _, post := range w.wire.sent() {
			_, claims := decode(t, post.assertion())
			assertions[post.assertion()], ids[claims["jti"]] = true, true
		}
		if len(assertions) != 6 || len(ids) != 6 {
			t.Errorf("%d assertions and %d jti in 6 POSTs", len(assertions), len(ids))
		}
		if seen := w.okta.Counters(); seen.DistinctJTI != 6 || seen.ReusedJTI != 0 {
			t.Errorf("the server saw %d jti, and %d again; want 6 and 0", seen.DistinctJTI, seen.ReusedJTI)
		}
	})
}

// Okta's default is RS256.
func TestExchangeWithRSA(t *testing.T) {
	ring, err := keys.Open(t.Context(), keys.Config{Name: "signer", Store: &memory{}})
	if err != nil {
		t.Fatal(err)
	}
	org := newOkta(t, issuer)
	w := newClient(t, org.Transport(), func(_ *ServerConfig, c *ClientConfig) { c.Ring = ring })
	w.okta = org

	// The exchange itself makes the first key, which nobody has registered yet.
	refused := w.fails(t)
	key := w.active()
	if !strings.Contains(refused.Description, strconv.Quote(key.ID())) {
		t.Errorf("the error does not name the new key %q: %s", key.ID(), refused.Description)
	}
	w.register(t)
	if token := w.works(t); token.Kid != key.ID() || key.Algorithm() != "RS256" {
		t.Errorf("signed by %s %q, want RS256 %q", key.Algorithm(), token.Kid, key.ID())
	}
}

// A caller that leaves is not told that the broker cannot sign, and nothing
// more is sent for it.
func TestExchangeEndsWithItsContext(t *testing.T) {
	tests := []struct {
		name  string
		after time.Duration
		posts int
	}{
		{"before it starts", 0, 0},
		{"during the request", time.Second, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.okta.SetFault(fakeokta.Fault{Delay: time.Minute})
				ctx, cancel := context.WithCancel(t.Context())
				if tt.after == 0 {
					cancel()
				} else {
					defer time.AfterFunc(tt.after, cancel).Stop()
				}
				start := time.Now()
				_, err := w.client.Exchange(ctx, asked)
				if err == nil {
					t.Fatal("got a token")
				}
				e := explained(t, err)
				if took := time.Since(start); took != tt.after {
					t.Errorf("took %v, want %v", took, tt.after)
				}
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the error does not say that it was cancelled: %v", err)
				}
				if strings.Contains(e.Description, "sign") {
					t.Errorf("class %d, blames the signing: %s", e.Class, e.Description)
				}
				w.wantPosts(t, tt.posts)
			})
		})
	}
}

// Every body is closed, else a connection may be lost.
func TestBodiesAreClosed(t *testing.T) {
	tests := []struct {
		name   string
		answer *http.Response
	}{
		{"token", answer(http.StatusOK, good())},
		{"bad token", answer(http.StatusOK, "{}")},
		{"refusal", answer(http.StatusBadRequest, refusing("invalid_scope", "No scopes were requested."))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := &closing{Reader: tt.answer.Body}
			tt.answer.Body = body
			w := scripted(t, func(int, *http.Request) (*http.Response, error) { return tt.answer, nil })
			_, _ = w.exchange(t)
			if body.closed == 0 {
				t.Error("the body was not closed")
			}
		})
	}
}

type closing struct {
	io.Reader
	closed int
}

func (c *closing) Close() error {
	c.closed++
	return nil
}
