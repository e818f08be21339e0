package okta

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
)

const (
	rotatorID = "0oaRotator"
	appID     = "0oaAppOfBilling"
	keysAPI   = issuer + "/api/v1/apps/" + appID + "/credentials/jwks"
)

// keyWorld is the app of a client, and the rotator that manages its keys.
type keyWorld struct {
	okta    *fakeokta.Okta
	rotator *world
	api     *keyAPI
	*AppKeys
}

// newKeyWorld is an app that has no public key yet.
func newKeyWorld(t testing.TB, changes ...func(*fakeokta.Config, *fakeokta.App, *fakeokta.App)) *keyWorld {
	t.Helper()
	config := fakeokta.Config{URL: issuer}
	app := fakeokta.App{ClientID: clientID, ID: appID, Scopes: asked.List()}
	rotator := fakeokta.App{ClientID: rotatorID, Scopes: []string{"okta.apps.read", "okta.apps.manage"}, SuperAdmin: true}
	for _, change := range changes {
		change(&config, &app, &rotator)
	}
	org, err := fakeokta.New(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []fakeokta.App{app, rotator} {
		if err := org.AddApp(a); err != nil {
			t.Fatal(err)
		}
	}
	k := newKeyClient(t, org.Transport())
	k.okta = org
	if err := org.RegisterKey(rotatorID, k.rotator.active().JWK()); err != nil {
		t.Fatal(err)
	}
	return k
}

// newKeyClient is a rotator whose requests go to transport.
func newKeyClient(t testing.TB, transport http.RoundTripper) *keyWorld {
	t.Helper()
	k := &keyWorld{api: &keyAPI{}}
	k.rotator = newClient(t, nil, func(s *ServerConfig, c *ClientConfig) {
		k.api.next = transport
		s.Transport = k.api
		c.Name, c.ID = "rotator", rotatorID
	})
	k.AppKeys = NewAppKeys(AppKeysConfig{Client: "billing", AppID: appID, Rotator: k.rotator.client})
	return k
}

// scriptedKeys is a rotator that gets its tokens, and whose calls of the key API
// get what script makes of them.
func scriptedKeys(t testing.TB, script func(*http.Request) (*http.Response, error)) *keyWorld {
	t.Helper()
	return newKeyClient(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.String() == endpoint {
			return answer(200, good(map[string]any{"access_token": theirToken, "scope": string(rotatorScopes)})), nil
		}
		return script(r)
	}))
}

const theirToken = "eyJ0b2tlbiI6InRoZSByb3RhdG9yJ3MifQ.secret-secret-secret-secret"

// listing answers every call of the key API alike.
func listing(t testing.TB, body string, headers ...string) *keyWorld {
	t.Helper()
	return scriptedKeys(t, func(*http.Request) (*http.Response, error) { return answer(200, body, headers...), nil })
}

// keyAPI records the calls of the key API on their way to next.
type keyAPI struct {
	next   http.RoundTripper
	before func(call string) // that is about to be sent

	mu     sync.Mutex
	calls  []string // "GET", "POST", "activate", "deactivate" and "DELETE"
	sent   []*http.Request
	bodies []string
}

func (a *keyAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasPrefix(r.URL.Path, "/api/") {
		return a.next.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	call := r.Method
	if _, action, ok := strings.Cut(r.URL.Path, "/lifecycle/"); ok {
		call = action
	}
	if a.before != nil {
		a.before(call)
	}
	a.mu.Lock()
	a.calls, a.sent, a.bodies = append(a.calls, call), append(a.sent, r), append(a.bodies, string(body))
	a.mu.Unlock()
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	return a.next.RoundTrip(r)
}

// took returns the calls since it was asked last.
func (a *keyAPI) took() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := strings.Join(a.calls, " ")
	a.calls = nil
	return calls
}

// newRing is a ring of its own, with one key.
func newRing(t testing.TB) *keys.Ring {
	t.Helper()
	ring, err := keys.Open(t.Context(), keys.Config{Name: "signer", Store: &memory{}, Algorithm: "ES256"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ring.Active(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	return ring
}

// newKey is a key of a ring of its own, under its thumbprint where kid is empty.
func newKey(t testing.TB, kid string) *keys.Key {
	t.Helper()
	key, err := newRing(t).Rotate(t.Context(), kid)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// save gives the app a public key, as an administrator does.
func (k *keyWorld) save(t testing.TB, jwks ...json.RawMessage) {
	t.Helper()
	for _, jwk := range jwks {
		if err := k.okta.RegisterKey(clientID, jwk); err != nil {
			t.Fatal(err)
		}
	}
}

func (k *keyWorld) registers(t *testing.T, key *keys.Key) {
	t.Helper()
	if err := k.Register(t.Context(), key); err != nil {
		t.Fatalf("not registered: %v", err)
	}
}

func (k *keyWorld) removes(t *testing.T, key *keys.Key) {
	t.Helper()
	if err := k.Remove(t.Context(), key); err != nil {
		t.Fatalf("not removed: %v", err)
	}
}

// wantKeys checks which keys the app has, by kid, and what was called for it.
func (k *keyWorld) wantKeys(t *testing.T, calls string, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, key := range k.okta.AppKeys(clientID) {
		got[key.Kid] = key.Status
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if got := k.api.took(); got != calls {
		t.Errorf("called %q, want %q", got, calls)
	}
}

func (k *keyWorld) wantExchanges(t *testing.T, want int) {
	t.Helper()
	if got := k.okta.Counters().TokenRequests; got != want {
		t.Errorf("%d token requests, want %d", got, want)
	}
}

// administer activates or deactivates a key beside the broker.
func (k *keyWorld) administer(t *testing.T, key fakeokta.AppKey, action string) {
	t.Helper()
	token, err := k.rotator.client.Exchange(t.Context(), rotatorScopes)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, keysAPI+"/"+key.ID+"/lifecycle/"+action, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token.Access.Reveal())
	resp, err := k.okta.Transport().RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %v, %v", action, key.Kid, resp, err)
	}
}

// withMembers is a listed key, with members replaced; a nil value takes one away.
func withMembers(t testing.TB, key *keys.Key, change map[string]any) string {
	t.Helper()
	members := map[string]any{"id": "pks1", "status": "ACTIVE"}
	if err := json.Unmarshal(key.JWK(), &members); err != nil {
		t.Fatal(err)
	}
	maps.Copy(members, change)
	maps.DeleteFunc(members, func(_ string, v any) bool { return v == nil })
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
