package okta

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

func TestAppKeys(t *testing.T) {
	for name, form := range map[string]fakeokta.KeyList{
		"keys": fakeokta.KeysMember, "keys in jwks": fakeokta.JWKSMember, "array": fakeokta.KeysInArray,
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeyWorld(t, func(c *fakeokta.Config, _, _ *fakeokta.App) { c.KeyList = form })
			client := newClient(t, k.okta.Transport())
			first := client.active()
			k.registers(t, first)
			k.wantKeys(t, "GET POST", map[string]string{first.ID(): "ACTIVE"})
			client.works(t)
			k.registers(t, first)
			k.wantKeys(t, "GET", map[string]string{first.ID(): "ACTIVE"})

			client.rotate(t)
			second := client.active()
			k.registers(t, second)
			k.wantKeys(t, "GET POST", map[string]string{first.ID(): "ACTIVE", second.ID(): "ACTIVE"})
			k.removes(t, first)
			k.wantKeys(t, "GET deactivate DELETE", map[string]string{second.ID(): "ACTIVE"})
			k.removes(t, first)
			k.wantKeys(t, "GET", map[string]string{second.ID(): "ACTIVE"})

			listed, err := k.Status(t.Context())
			want := []AppKey{{ID: k.okta.AppKeys(clientID)[0].ID, Kid: second.ID(), Status: "ACTIVE", Thumbprint: second.Thumbprint(), use: "sig"}}
			if diff := cmp.Diff(want, listed, cmp.AllowUnexported(AppKey{})); err != nil || diff != "" {
				t.Errorf("%v, (-want +got):\n%s", err, diff)
			}
			if !listed[0].Is(second) || listed[0].Is(first) {
				t.Error("a key is taken for another")
			}
			if n := k.okta.Counters().Kids[k.rotator.active().ID()]; n != 1 {
				t.Errorf("the rotator got %d tokens, want 1", n)
			}
		})
	}
}

func TestAppKeysOnTheWire(t *testing.T) {
	k := newKeyWorld(t)
	key := newKey(t, "")
	k.save(t, newKey(t, "").JWK())
	k.registers(t, key)
	k.removes(t, key)
	id := ""
	for i, want := range []string{
		"GET " + keysAPI, "POST " + keysAPI,
		"GET " + keysAPI, "POST " + keysAPI + "/{id}/lifecycle/deactivate", "DELETE " + keysAPI + "/{id}",
	} {
		r := k.api.sent[i]
		if i == 3 {
			id = strings.Split(r.URL.Path, "/")[7]
		}
		if got := r.Method + " " + r.URL.String(); got != strings.ReplaceAll(want, "{id}", id) {
			t.Errorf("request %d: %s, want %s", i, got, want)
		}
		for name, value := range map[string]string{"User-Agent": "okta-token-broker", "Accept": "application/json", "Accept-Encoding": "identity"} {
			if got := r.Header.Get(name); got != value {
				t.Errorf("request %d: %s %q, want %q", i, name, got, value)
			}
		}
		if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); !ok || token == "" {
			t.Errorf("request %d: no bearer token", i)
		} else {
			wantNoRunOf(t, token, k.rotator.log.text())
		}
	}
	want := map[string]any{"status": "ACTIVE"}
	if err := json.Unmarshal(key.JWK(), &want); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(k.api.bodies[1]), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || got["use"] != "sig" || got["alg"] != "ES256" || got["kid"] != key.ID() {
		t.Errorf("registered (-want +got):\n%s", diff)
	}
	for _, change := range []string{"register", "deactivate", "delete"} {
		if line := "client=billing app=" + appID + " change=" + change + " kid=" + key.ID(); !strings.Contains(k.rotator.log.text(), line) {
			t.Errorf("the log does not say %q:\n%s", line, k.rotator.log.text())
		}
	}
}

func TestAppKeysToken(t *testing.T) {
	t.Run("kept until it ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := newKeyWorld(t)
			key := newKey(t, "")
			for _, exchanges := range []int{1, 1, 2} {
				k.registers(t, key)
				k.wantExchanges(t, exchanges)
				time.Sleep(59 * time.Minute)
			}
		})
	})
	t.Run("bought once more where it is refused", func(t *testing.T) {
		k := newKeyWorld(t)
		k.registers(t, newKey(t, ""))
		if err := k.rotator.client.Revoke(t.Context(), k.token.Access.Reveal()); err != nil {
			t.Fatal(err)
		}
		k.api.took()
		key := newKey(t, "")
		k.registers(t, key)
		if got := k.api.took(); got != "GET GET POST" {
			t.Errorf("called %q", got)
		}
		k.wantExchanges(t, 2)
	})
	t.Run("never bought twice", func(t *testing.T) {
		k := newKeyWorld(t)
		k.okta.SetFaultAt(fakeokta.AppKeys, fakeokta.Fault{Status: 401, Body: `{"errorCode":"E0000011","errorSummary":"Invalid token provided"}`})
		for i := range 2 {
			e := explained(t, k.Register(t.Context(), newKey(t, "")))
			if e.Class != oauth.Refused || !strings.Contains(e.Description, "clients.rotator.issuer is the org, "+issuer) {
				t.Errorf("class %d: %s", e.Class, e.Description)
			}
			if got := k.api.took(); got != "GET GET" {
				t.Errorf("called %q", got)
			}
			k.wantExchanges(t, 2+i)
		}
	})
	t.Run("the scopes that are asked for", func(t *testing.T) {
		k := newKeyWorld(t)
		k.registers(t, newKey(t, ""))
		if k.token.Scopes != "okta.apps.manage okta.apps.read" {
			t.Errorf("scopes %q", k.token.Scopes)
		}
	})
}

// One at a time: whoever comes second finds the key there.
func TestAppKeysTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeyWorld(t)
		k.okta.SetFaultAt(fakeokta.AppKeys, fakeokta.Fault{Delay: time.Second})
		key := newKey(t, "")
		errs := make(chan error)
		for range 10 {
			go func() { errs <- k.Register(t.Context(), key) }()
		}
		for range 10 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		k.wantKeys(t, "GET POST"+strings.Repeat(" GET", 9), map[string]string{key.ID(): "ACTIVE"})
		k.wantExchanges(t, 1)

		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		go func() { errs <- k.Register(t.Context(), key) }()
		synctest.Wait()
		e := explained(t, k.Register(ctx, key))
		if e.Class != oauth.TimedOut || !strings.Contains(e.Description, "the request ended before") {
			t.Errorf("class %d: %s", e.Class, e.Description)
		}
		if err := <-errs; err != nil {
			t.Error(err)
		}
		k.wantKeys(t, "GET", map[string]string{key.ID(): "ACTIVE"})
	})
}

// A page of the list leads to the next by its query alone.
func TestAppKeysPages(t *testing.T) {
	key, other := newKey(t, ""), newKey(t, "")
	pages := map[string]*http.Response{
		keysAPI: answer(200, `{"keys":[`+withMembers(t, other, nil)+`]}`,
			"Link", `<https://elsewhere.test/api?after=first%2B>; rel="next", <`+keysAPI+`>; rel="self"`),
		keysAPI + "?after=first%2B": answer(200, `[]`, "Link", `<`+keysAPI+`>; rel="self", </api?after=second&limit=1>; rel=next`),
		keysAPI + "?after=second&limit=1": answer(200, `{"jwks":{"keys":[`+withMembers(t, key, map[string]any{"x5c": 7, "_links": nil})+`]}}`,
			"Link", `<`+keysAPI+`>; rel="self"`),
	}
	k := scriptedKeys(t, func(r *http.Request) (*http.Response, error) { return pages[r.URL.String()], nil })
	k.registers(t, key)
	if got := k.api.took(); got != "GET GET GET" {
		t.Errorf("called %q", got)
	}

	k = listing(t, `[]`, "Link", `<`+keysAPI+`?after=me>; rel="next"`)
	e := explained(t, k.Register(t.Context(), key))
	if got := k.api.took(); e.Class != oauth.BadAnswer || got != "GET GET GET" {
		t.Errorf("class %d after %q: %v", e.Class, got, e)
	}
}

// A key is found again however Okta's list writes it: Java puts a zero byte before a
// modulus whose first bit is set.
func TestAppKeyIsFoundAgain(t *testing.T) {
	ring, err := keys.Open(t.Context(), keys.Config{Name: "signer", Store: &memory{}, Algorithm: "RS256"})
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := ring.Active(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var public struct{ N string }
	if err := json.Unmarshal(key.JWK(), &public); err != nil {
		t.Fatal(err)
	}
	modulus, err := base64.RawURLEncoding.DecodeString(public.N)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]map[string]any{
		"as sent":          {},
		"with a zero byte": {"n": base64.RawURLEncoding.EncodeToString(append([]byte{0}, modulus...))},
		"no status":        {"status": nil},
		"other members":    {"alg": nil, "use": nil, "x5c": []string{}, "created": "2022-01-10T23:53:49.000Z", "_links": map[string]any{}},
		"null members":     {"x": json.RawMessage("null"), "crv": json.RawMessage("null")},
	} {
		t.Run(name, func(t *testing.T) {
			k := listing(t, `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA","kid":"other"},`+withMembers(t, key, change)+`]}`)
			k.registers(t, key)
			if got := k.api.took(); got != "GET" {
				t.Errorf("called %q", got)
			}
		})
	}
}

// A table of the keys can be shown as it is.
func TestAppKeyStatusIsFitToBeShown(t *testing.T) {
	k := listing(t, `[{"id":"pks1","kid":"good","status":"INACTIVE","kty":"EC","crv":"P-256","x":"AA","y":"AA"},`+
		`{"id":"a b","kid":"a\u001b[31m","status":"`+theirToken+`"},{"id":"pks3","kid":"`+theirToken+`"}]`)
	listed, err := k.Status(t.Context())
	want := []AppKey{{ID: "pks1", Kid: "good", Status: "INACTIVE"}, {Status: "ACTIVE"}, {ID: "pks3", Status: "ACTIVE"}}
	if diff := cmp.Diff(want, listed, cmp.AllowUnexported(AppKey{})); err != nil || diff != "" {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
}

func TestFiftyLargeKeys(t *testing.T) {
	key := newKey(t, "")
	modulus := base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, 1024))
	other := `{"id":"pks2","kty":"RSA","e":"AQAB","n":"` + modulus + `","_links":{"deactivate":{"href":"` + strings.Repeat("x", 200) + `"}}},`
	k := listing(t, `{"keys":[`+strings.Repeat(other, maxAppKeys-1)+withMembers(t, key, nil)+`]}`)
	k.registers(t, key)
	if got := k.api.took(); got != "GET" {
		t.Errorf("called %q", got)
	}
}
