package okta

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// What an administrator has to put right, as Okta refuses it.
func TestAppKeysExplain(t *testing.T) {
	type operation = func(*AppKeys, context.Context, *keys.Key) error
	fault := func(status int, body string) func(*testing.T, *keyWorld, *keys.Key) {
		return func(_ *testing.T, k *keyWorld, _ *keys.Key) {
			k.okta.SetFaultAt(fakeokta.AppKeys, fakeokta.Fault{Status: status, Body: body})
		}
	}
	tests := []struct {
		name    string
		apps    func(*fakeokta.Config, *fakeokta.App, *fakeokta.App)
		prepare func(*testing.T, *keyWorld, *keys.Key)
		run     operation
		calls   string
		words   []string
		up      string // status and code that are shown
	}{
		{name: "50 keys", prepare: func(t *testing.T, k *keyWorld, _ *keys.Key) {
			other := newKey(t, "")
			for i := range 50 {
				k.save(t, other.JWKAs(fmt.Sprint(i)))
			}
		}, run: (*AppKeys).Register, calls: "GET POST GET", up: "400 E0000001",
			words: []string{`the app "0oaAppOfBilling" has 50 public keys`, "delete those that nothing uses"}},
		{name: "last active key", prepare: func(t *testing.T, k *keyWorld, key *keys.Key) {
			other := newKey(t, "")
			k.save(t, other.JWK(), key.JWK())
			k.administer(t, k.okta.AppKeys(clientID)[0], "deactivate")
		}, run: (*AppKeys).Remove, calls: "GET",
			words: []string{"is the last active one", "once another one is registered"}},
		{name: "last active key by now", prepare: func(t *testing.T, k *keyWorld, key *keys.Key) {
			other := newKey(t, "")
			k.save(t, other.JWK(), key.JWK())
			k.api.before = func(call string) {
				if call == "deactivate" {
					k.api.before = nil
					k.okta.RemoveKey(clientID, other.ID())
				}
			}
		}, run: (*AppKeys).Remove, calls: "GET deactivate", up: "400 E0000001",
			words: []string{"is the last active one"}},
		{name: "jwks_uri", apps: func(_ *fakeokta.Config, app, _ *fakeokta.App) { app.JWKSURI = "https://keys.example.com/jwks.json" },
			run: (*AppKeys).Register, calls: "GET POST GET", up: "400 E0000001",
			words: []string{"set clients.billing.registration to jwks_uri"}},
		{name: "no such app", apps: func(_ *fakeokta.Config, app, _ *fakeokta.App) { app.ID = "another" },
			run: (*AppKeys).Register, calls: "GET", up: "404 E0000007",
			words: []string{issuer + ` has no app "0oaAppOfBilling"`, "clients.billing.app_id", "clients.billing.rotator"}},
		{name: "no role", apps: func(_ *fakeokta.Config, _, rotator *fakeokta.App) { rotator.SuperAdmin = false },
			run: (*AppKeys).Register, calls: "GET POST", up: "403 E0000006",
			words: []string{"clients.rotator, the rotator", "Super Administrator", "Admin roles"}},
		{name: "scope in Okta's words", prepare: fault(403, `{"errorCode":"E0000006","errorSummary":"You do not have permission to perform the requested action","errorCauses":[{"errorSummary":"The access token provided does not contain the required scopes."}]}`),
			run: (*AppKeys).Register, calls: "GET", up: "403 E0000006",
			words: []string{"grant its app okta.apps.manage and okta.apps.read", "Okta API Scopes"}},
		{name: "no scope at all", apps: func(_ *fakeokta.Config, _, rotator *fakeokta.App) { rotator.Scopes = []string{"okta.users.read"} },
			run: (*AppKeys).Register, up: "400 ",
			words: []string{"clients.rotator, the rotator of clients.billing, got no token", "Okta API Scopes"}},
		{name: "RSA", prepare: fault(400, `{"errorCode":"E0000001","errorSummary":"Api validation failed","errorCauses":[{"errorSummary":"RSA keys need 2048 bits"}]}`),
			run: (*AppKeys).Register, calls: "GET", up: "400 E0000001",
			words: []string{"2048 bits"}},
		{name: "a page", prepare: fault(403, "<html>Access denied</html>"),
			run: (*AppKeys).Register, calls: "GET", up: "403 ",
			words: []string{"Security > Networks", "proxy"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var changes []func(*fakeokta.Config, *fakeokta.App, *fakeokta.App)
			if tt.apps != nil {
				changes = append(changes, tt.apps)
			}
			k := newKeyWorld(t, changes...)
			key := newKey(t, "")
			if tt.prepare != nil {
				tt.prepare(t, k, key)
			}
			before := k.okta.AppKeys(clientID)
			e := explained(t, tt.run(k.AppKeys, t.Context(), key))
			for _, words := range tt.words {
				if !strings.Contains(e.Description, words) {
					t.Errorf("does not say %q: %s", words, e.Description)
				}
			}
			up := ""
			if e.Upstream != nil {
				up = fmt.Sprint(e.Upstream.Status, " ", e.Upstream.Code)
			}
			if e.RetryAfter != 0 || !strings.HasPrefix(up, tt.up) || (up == "") != (tt.up == "") {
				t.Errorf("retry after %v, upstream %q, want none and %q", e.RetryAfter, up, tt.up)
			}
			if got := k.api.took(); got != tt.calls {
				t.Errorf("called %q, want %q", got, tt.calls)
			}
			if after := k.okta.AppKeys(clientID); len(after) > len(before) {
				t.Errorf("keys before: %v, after: %v", before, after)
			}
			k.wantSafeWords(t, e)
		})
	}
}

// Okta grants what it can of the scopes that are asked for.
func TestAppKeysWithHalfOfTheScopes(t *testing.T) {
	k := newKeyClient(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.String() == endpoint {
			return answer(200, good(map[string]any{"scope": "okta.apps.read"})), nil
		}
		if r.Method == http.MethodGet {
			return answer(200, "[]"), nil
		}
		return answer(403, `{"errorCode":"E0000006","errorSummary":"You do not have permission to perform the requested action"}`), nil
	}))
	e := explained(t, k.Register(t.Context(), newKey(t, "")))
	if !strings.Contains(e.Description, "grant its app okta.apps.manage (in") {
		t.Errorf("%s", e.Description)
	}
}

// Okta's documents say that it takes no key next to one without a kid.
func TestAppKeysNextToOneWithoutAKid(t *testing.T) {
	key := newKey(t, "")
	k := scriptedKeys(t, func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodGet {
			return answer(200, `{"keys":[`+withMembers(t, newKey(t, ""), map[string]any{"kid": nil})+`]}`), nil
		}
		return answer(400, `{"errorCode":"E0000001","errorSummary":"Api validation failed: jwks","errorCauses":[]}`), nil
	})
	e := explained(t, k.Register(t.Context(), key))
	if !strings.Contains(e.Description, "has a public key without a kid") || !strings.Contains(e.Description, quoteKid(key.ID())) {
		t.Errorf("%s", e.Description)
	}
}

// An app that can verify no assertion any more is as good as gone.
func TestAppKeysKeepTheLastForSigning(t *testing.T) {
	key := newKey(t, "")
	k := listing(t, `[`+withMembers(t, key, nil)+`,`+withMembers(t, newKey(t, ""), map[string]any{"use": "enc"})+`]`)
	e := explained(t, k.Remove(t.Context(), key))
	if got := k.api.took(); got != "GET" || !strings.Contains(e.Description, "is the last active one") {
		t.Errorf("called %q: %s", got, e.Description)
	}
}

// That a key is not there counts only if Okta says so.
func TestAppKeysAreNotGoneByAProxy(t *testing.T) {
	key := newKey(t, "")
	k := scriptedKeys(t, func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodGet {
			return answer(200, `[`+withMembers(t, key, map[string]any{"status": "INACTIVE"})+`]`), nil
		}
		return answer(404, "not found", "Content-Type", "text/plain"), nil
	})
	e := explained(t, k.Remove(t.Context(), key))
	if got := k.api.took(); got != "GET DELETE" || !strings.Contains(e.Description, issuer+" has no API of apps") {
		t.Errorf("called %q: %s", got, e.Description)
	}
}

func TestAppKeysNeedOkta(t *testing.T) {
	w := newClient(t, roundTripper(func(*http.Request) (*http.Response, error) { return answer(500, ""), nil }), elsewhere)
	k := NewAppKeys(AppKeysConfig{Client: "web", AppID: appID, Rotator: w.client})
	e := explained(t, k.Register(t.Context(), newKey(t, "")))
	if e.Class != oauth.InvalidRequest || !strings.Contains(e.Description, "clients.web.rotator") {
		t.Errorf("class %d: %s", e.Class, e.Description)
	}
	w.wantPosts(t, 0)
}

// The key API's limit is its own: nothing is sent there before it ends, tokens go
// on, and it goes on where they do not.
func TestAppKeysLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeyWorld(t)
		k.okta.SetRateLimit(fakeokta.AppKeys, fakeokta.RateLimit{Requests: 1})
		key := newKey(t, "")
		e := explained(t, k.Register(t.Context(), key))
		if e.Class != oauth.Unavailable || e.RetryAfter < 59*time.Second || e.RetryAfter > 61*time.Second || e.Repeated {
			t.Errorf("class %d, retry after %v, repeated %v: %v", e.Class, e.RetryAfter, e.Repeated, e)
		}
		if got := k.api.took(); got != "GET POST" {
			t.Errorf("called %q", got)
		}
		if _, err := k.rotator.client.Exchange(t.Context(), rotatorScopes); err != nil {
			t.Errorf("the token endpoint is shut, too: %v", err)
		}

		k.okta.SetRateLimit(fakeokta.AppKeys, fakeokta.RateLimit{})
		time.Sleep(e.RetryAfter - 3*time.Second)
		held := explained(t, k.Register(t.Context(), key))
		if held.Class != oauth.Unavailable || held.RetryAfter != 3*time.Second || !held.Repeated ||
			!strings.HasSuffix(held.Description, "; nothing was sent: the limit ends in 3s") || held.Upstream == nil {
			t.Errorf("class %d, retry after %v, repeated %v: %v", held.Class, held.RetryAfter, held.Repeated, held)
		}
		if got := k.api.took(); got != "" {
			t.Errorf("called %q before the limit ended", got)
		}
		time.Sleep(held.RetryAfter)
		k.okta.SetFault(fakeokta.Fault{Status: 429})
		if _, err := k.rotator.client.Exchange(t.Context(), rotatorScopes); err == nil {
			t.Fatal("the token endpoint is not shut")
		}
		k.registers(t, key)
		k.wantKeys(t, "GET POST", map[string]string{key.ID(): "ACTIVE"})
	})
}

func TestAppKeysOutage(t *testing.T) {
	tests := []struct {
		name  string
		fault fakeokta.Fault
		class oauth.Class
		took  time.Duration
		words string
	}{
		{"reset", fakeokta.Fault{Reset: true}, oauth.Unavailable, 0, "broke"},
		{"half an answer", fakeokta.Fault{Truncate: true}, oauth.Unavailable, 0, "broke"},
		{"silence", fakeokta.Fault{Hang: true}, oauth.TimedOut, 5 * time.Second, "did not answer in time"},
		{"drip", fakeokta.Fault{Drip: time.Second}, oauth.TimedOut, 5 * time.Second, "did not answer in time"},
		{"500", fakeokta.Fault{Status: 500, Body: `{"errorCode":"E0000009","errorSummary":"Internal Server Error"}`}, oauth.Unavailable, 0, "status.okta.com"},
		{"503", fakeokta.Fault{Status: 503, Body: `{"errorCode":"E0000010","errorSummary":"Service is in read only mode"}`}, oauth.Unavailable, 0, "status.okta.com"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKeyWorld(t)
				k.okta.SetFaultAt(fakeokta.AppKeys, tt.fault)
				began := time.Now()
				e := explained(t, k.Register(t.Context(), newKey(t, "")))
				if e.Class != tt.class || e.RetryAfter != time.Second || time.Since(began) != tt.took {
					t.Errorf("class %d after %v, retry after %v: %v", e.Class, time.Since(began), e.RetryAfter, e)
				}
				if !strings.Contains(e.Description, tt.words) {
					t.Errorf("does not say %q: %s", tt.words, e.Description)
				}
				k.wantKeys(t, "GET", map[string]string{})
			})
		})
	}

	t.Run("no network", func(t *testing.T) {
		k := scriptedKeys(t, func(*http.Request) (*http.Response, error) { return nil, errors.New("sent " + theirToken) })
		e := explained(t, k.Register(t.Context(), newKey(t, "")))
		if e.Class != oauth.Unavailable || strings.Contains(k.rotator.texts(e), theirToken) {
			t.Errorf("class %d: %v", e.Class, e)
		}
	})
	t.Run("the caller leaves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := newKeyWorld(t)
			k.okta.SetFaultAt(fakeokta.AppKeys, fakeokta.Fault{Hang: true})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			e := explained(t, k.Register(ctx, newKey(t, "")))
			if e.Class != oauth.TimedOut || !strings.Contains(e.Description, "the request ended before "+issuer+" answered") {
				t.Errorf("class %d: %v", e.Class, e)
			}
		})
	})
	t.Run("no token", func(t *testing.T) {
		k := newKeyWorld(t)
		k.okta.SetFault(fakeokta.Fault{Status: 429, RetryIn: 42 * time.Second})
		e := explained(t, k.Register(t.Context(), newKey(t, "")))
		if e.Class != oauth.Unavailable || e.RetryAfter < 41*time.Second || !strings.HasPrefix(e.Description, "clients.rotator, the rotator of clients.billing, got no token: ") {
			t.Errorf("class %d, retry after %v: %v", e.Class, e.RetryAfter, e)
		}
		k.wantKeys(t, "", map[string]string{})
	})
}

// No row hides another, and no advice leaves a placeholder behind.
func TestEveryRowOfTheKeyAPIIsReached(t *testing.T) {
	k := newKeyClient(t, nil)
	advice := []string{duplicateAdvice, tooManyAdvice, noKidAdvice, lastActiveAdvice, scopesAdvice}
	for i, r := range appKeyRows() {
		f := &failure{kind: refused, status: max(r.status, 400), code: r.code, description: r.words}
		if r.status == 0 {
			f.status = 409
		}
		if got := meaning(appKeyRows(), f); got != r {
			t.Errorf("row %d is hidden by the row for %d %q %q", i, got.status, got.code, got.words)
		}
		advice = append(advice, r.advice)
	}
	for _, words := range advice {
		e := k.explain(unwilling(words), "the kid")
		if strings.ContainsAny(e.Description, "{}") || e.Class != oauth.Refused {
			t.Errorf("a placeholder is left in: %s", e.Description)
		}
	}
}
