package okta

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// A server that has one word for every cause is answered by state: first the
// clock, if its Date is off, then the other key.
func TestBareRefusal(t *testing.T) {
	const bare = `{"error":"invalid_client"}`
	tests := []struct {
		name      string
		status    int
		body      string
		ahead     time.Duration
		keys      []int // by POST: 0 the active key, 1 the retired one
		corrected []bool
	}{
		{"clock and keys", 401, bare, time.Minute, []int{0, 0, 1}, []bool{false, true, true}},
		{"keys", 401, bare, 0, []int{0, 1}, []bool{false, false}},
		{"a bad request", 400, bare, time.Minute, []int{0, 0, 1}, []bool{false, true, true}},
		{"words nobody knows", 401, refusing("invalid_client", "computer says no"), 0, []int{0, 1}, []bool{false, false}},
		{"unauthorized_client", 401, `{"error":"unauthorized_client"}`, time.Minute, []int{0, 0, 1}, []bool{false, true, true}},
		{"unauthorized_client as RFC 6749 has it", 400, `{"error":"unauthorized_client"}`, time.Minute, []int{0}, []bool{false}},
		{"not a word", 401, ``, time.Minute, []int{0, 0, 1}, []bool{false, true, true}},
		{"HTML", 401, `<html>no</html>`, 0, []int{0, 1}, []bool{false, false}},
		{"another error", 400, `{"error":"invalid_request"}`, time.Minute, []int{0}, []bool{false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := scripted(t, func(int, *http.Request) (*http.Response, error) {
					return answer(tt.status, tt.body, "Date", dateAt(tt.ahead)), nil
				})
				w.rotate(t)
				start := time.Now()
				e := w.fails(t)
				if e.Class != oauth.Refused {
					t.Errorf("class %d: %v", e.Class, e)
				}
				w.wantPosts(t, len(tt.keys))
				for i, post := range w.wire.sent()[:min(len(tt.keys), len(w.wire.sent()))] {
					header, claims := decode(t, post.assertion())
					if want := w.ring.Keys()[tt.keys[i]].ID(); header["kid"] != want {
						t.Errorf("POST %d signed by %v, want %s", i+1, header["kid"], want)
					}
					want := start.Add(-30 * time.Second)
					if tt.corrected[i] {
						want = want.Add(tt.ahead)
					}
					wantTime(t, claims["iat"], want, time.Second)
				}
			})
		})
	}
}

// A clock that moves on with each refusal is followed once: then the key may be why.
func TestBareRefusalOfAMovingClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scripted(t, func(n int, _ *http.Request) (*http.Response, error) {
			if n == 3 {
				return answer(200, good()), nil
			}
			return answer(401, `{"error":"invalid_client"}`, "Date", dateAt(time.Duration(n)*time.Minute)), nil
		})
		w.rotate(t)
		if token := w.works(t); token.Kid != w.ring.Keys()[1].ID() {
			t.Errorf("token of key %q, want that of the other key, %q", token.Kid, w.ring.Keys()[1].ID())
		}
		w.wantPosts(t, 3)
	})
}

// The key that a server took the last time is the one to go on with, also while
// another client of the ring needs another key.
func TestGoesOnWithTheKeyThatWorkedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.active()
		w.works(t)
		w.rotate(t)
		w.register(t)
		w.okta.RemoveKey(w.client.cfg.ID, first.ID())
		second := w.works(t).Kid
		w.wantPosts(t, 3)
		w.ring.Prove(first)
		w.rotate(t)
		if token := w.works(t); token.Kid != second {
			t.Errorf("token of key %q, want %q", token.Kid, second)
		}
		w.wantPosts(t, 4)
	})
}

func TestRetiredKey(t *testing.T) {
	t.Run("kid invalid", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			known := w.active().ID()
			w.works(t)
			w.rotate(t)
			for range 2 {
				if token := w.works(t); token.Kid != known {
					t.Errorf("token of key %q, want the retired key %q", token.Kid, known)
				}
			}
			w.wantPosts(t, 3)
			w.register(t)
			w.ring.Prove(w.active())
			if token := w.works(t); token.Kid != w.active().ID() {
				t.Errorf("token of key %q, want the active key %q, which is known now", token.Kid, w.active().ID())
			}
			w.wantPosts(t, 4)
		})
	})
	t.Run("replaced at the server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.works(t)
			w.okta.RemoveKey(w.client.cfg.ID, w.active().ID())
			w.rotate(t)
			w.register(t)
			for range 2 {
				if token := w.works(t); token.Kid != w.active().ID() {
					t.Errorf("token of key %q, want the active key %q", token.Kid, w.active().ID())
				}
			}
			w.wantPosts(t, 4)
		})
	})
	for _, words := range []string{
		"The client_assertion signature is invalid.",
		"The client_assertion signing algorithm is invalid.",
		"The client_assertion JWT key 'use' is invalid.",
	} {
		t.Run(words, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				known := w.active().ID()
				w.rotate(t)
				w.okta.SetFault(fakeokta.Fault{Count: 1, Status: 401, Body: refusing("invalid_client", words)})
				if token := w.works(t); token.Kid != known {
					t.Errorf("token of key %q, want the retired key %q", token.Kid, known)
				}
				w.wantPosts(t, 2)
			})
		})
	}
	t.Run("rotated twice", func(t *testing.T) {
		for _, proven := range []bool{true, false} {
			t.Run("proven "+strconv.FormatBool(proven), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					known := w.active().ID()
					if proven {
						w.works(t)
					}
					w.rotate(t)
					w.rotate(t)
					if token := w.works(t); token.Kid != known {
						t.Errorf("token of key %q, want the one that is registered, %q", token.Kid, known)
					}
				})
			})
		}
	})
	t.Run("neither is known", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.rotate(t)
			w.okta.RemoveKey(clientID, w.ring.Keys()[1].ID())
			other := newClient(t, nil)
			if err := w.okta.RegisterKey(clientID, other.active().JWK()); err != nil {
				t.Fatal(err)
			}
			wantRegisterAdvice(t, w, "keys.signer.kid")
			w.wantPosts(t, 2)
		})
	})
	t.Run("no key is known", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.okta.RemoveKey(clientID, w.active().ID())
			wantRegisterAdvice(t, w, "Public key / Private key")
			w.wantPosts(t, 1)
		})
	})
}

// wantRegisterAdvice is an exchange whose error names the active key, the
// command that shows it, and where to set what.
func wantRegisterAdvice(t *testing.T, w *world, setting string) {
	t.Helper()
	e := w.fails(t)
	if e.Class != oauth.Refused {
		t.Errorf("class %d, want Refused", e.Class)
	}
	for _, want := range []string{strconv.Quote(w.active().ID()), "`okta-token-broker keys jwk --key signer`", setting} {
		if !strings.Contains(e.Description, want) {
			t.Errorf("no %s in: %s", want, e.Description)
		}
	}
}

func TestUsedJTI(t *testing.T) {
	const words = "The client_assertion token has already been used."
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.rotate(t) // another key would not help
		w.register(t)
		w.okta.SetFault(fakeokta.Fault{Count: 1, Status: 401, Body: refusing("invalid_client", words)})
		w.works(t)
		w.wantPosts(t, 2)

		w.okta.SetFault(fakeokta.Fault{Status: 401, Body: refusing("invalid_client", words)})
		if e := w.fails(t); e.Class != oauth.Refused || e.Upstream == nil || e.Upstream.Description != words {
			t.Errorf("class %d, %+v", e.Class, e.Upstream)
		}
		w.wantPosts(t, 4)
		if seen := w.okta.Counters(); seen.ReusedJTI != 0 {
			t.Errorf("%d jti were sent again", seen.ReusedJTI)
		}
	})
}

// Corrections add up within one exchange.
func TestClockAndKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		known := w.active().ID()
		w.rotate(t)
		w.okta.SetClockOffset(-9 * time.Minute)
		if token := w.works(t); token.Kid != known {
			t.Errorf("token of key %q, want %q", token.Kid, known)
		}
		// The unknown kid comes first and brings the Date with it: the retired
		// key's assertion is right at once.
		w.wantPosts(t, 2)
	})
}

// A refusal that is not about keys tells nothing of them: the key that a client
// is known by stays at hand, also when another client has no need of it.
func TestRetiredKeyOutlivesOtherRefusals(t *testing.T) {
	tests := []struct {
		name    string
		trouble func(*fakeokta.Okta)
	}{
		{"none", func(*fakeokta.Okta) {}},
		{"clock", func(org *fakeokta.Okta) { org.SetClockOffset(20 * time.Minute) }},
		{"jwks_uri", func(org *fakeokta.Okta) {
			org.SetFault(fakeokta.Fault{Status: 401, Body: refusing("invalid_client", "Error retrieving the client JWKSet from jwks_uri.")})
		}},
		{"jti", func(org *fakeokta.Okta) {
			org.SetFault(fakeokta.Fault{Status: 401, Body: refusing("invalid_client", "The client_assertion token has already been used.")})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ring, err := keys.Open(t.Context(), keys.Config{
					Name: "signer", Store: &memory{}, Algorithm: "ES256",
				})
				if err != nil {
					t.Fatal(err)
				}
				w := newWorld(t, func(_ *ServerConfig, c *ClientConfig) {
					if _, _, err := ring.Active(t.Context(), ""); err != nil {
						t.Fatal(err)
					}
					c.Ring = ring
				})
				audit := NewClient(ClientConfig{Name: "audit", ID: "0oa-audit", Server: w.client.cfg.Server, Ring: ring})
				if err := w.okta.AddApp(fakeokta.App{ClientID: "0oa-audit", Scopes: asked.List()}); err != nil {
					t.Fatal(err)
				}
				known := w.active()
				if err := w.okta.RegisterKey("0oa-audit", known.JWK()); err != nil {
					t.Fatal(err)
				}
				auditWorks := func() {
					t.Helper()
					if token, err := audit.Exchange(t.Context(), asked); err != nil || token.Kid != known.ID() {
						t.Fatalf("key %q, %v; want a token of key %q", token.Kid, err, known.ID())
					}
				}
				w.works(t)
				auditWorks()
				w.rotate(t)
				w.register(t) // for billing, and not for audit
				auditWorks()

				tt.trouble(w.okta)
				_, _ = audit.Exchange(t.Context(), asked)
				w.okta.ClearFault()
				w.okta.SetClockOffset(0)
				w.works(t)
				w.rotate(t)
				auditWorks()
			})
		})
	}
}
