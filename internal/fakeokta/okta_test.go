package fakeokta

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

const (
	baseURL  = "https://acme.okta.test"
	endpoint = baseURL + "/oauth2/v1/token"
	clientID = "0oa1b2c3d4"
)

// Keys are slow to make, and no test changes one.
var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey    = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// newOkta is an org with one app, which may read users and groups and holds rsaKey as "k1".
func newOkta(tb testing.TB, c Config) *Okta {
	tb.Helper()
	if c.URL == "" {
		c.URL = baseURL
	}
	o, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	if err := o.AddApp(App{ClientID: clientID, Scopes: []string{"okta.users.read", "okta.groups.read"}}); err != nil {
		tb.Fatal(err)
	}
	register(tb, o, "k1", &rsaKey().PublicKey)
	return o
}

func register(tb testing.TB, o *Okta, kid string, public any) {
	tb.Helper()
	if err := o.RegisterKey(clientID, jwk(tb, kid, public)); err != nil {
		tb.Fatal(err)
	}
}

func jwk(tb testing.TB, kid string, key any) json.RawMessage {
	tb.Helper()
	b, err := jose.JSONWebKey{Key: key, KeyID: kid, Use: "sig"}.MarshalJSON()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// goodClaims are what a well-behaved client sends.
func goodClaims() map[string]any {
	now := time.Now().Unix()
	return map[string]any{
		"iss": clientID, "sub": clientID, "aud": endpoint,
		"iat": now - 30, "exp": now + 300, "jti": rand.Text(),
	}
}

func sign(tb testing.TB, alg jose.SignatureAlgorithm, key any, header, claims map[string]any) string {
	tb.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		tb.Fatal(err)
	}
	return signBytes(tb, alg, key, header, payload)
}

func signBytes(tb testing.TB, alg jose.SignatureAlgorithm, key any, header map[string]any, payload []byte) string {
	tb.Helper()
	options := &jose.SignerOptions{}
	for name, value := range header {
		options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
	if err != nil {
		tb.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		tb.Fatal(err)
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		tb.Fatal(err)
	}
	return compact
}

// good is a fresh assertion under k1.
func good(tb testing.TB) string {
	tb.Helper()
	return sign(tb, jose.RS256, rsaKey(), map[string]any{"kid": "k1"}, goodClaims())
}

// with is the good claims with some changed; nil removes one.
func with(changes map[string]any) map[string]any {
	c := goodClaims()
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func form(assertion, scope string) url.Values {
	return url.Values{
		"grant_type":            {"client_credentials"},
		"scope":                 {scope},
		"client_assertion_type": {assertionType},
		"client_assertion":      {assertion},
	}
}

func tokenRequest(tb testing.TB, body string) *http.Request {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, endpoint, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

// reply is an answer as the tests look at it.
type reply struct {
	Status int
	Header http.Header
	JSON   map[string]any
}

func do(tb testing.TB, o *Okta, r *http.Request) reply {
	tb.Helper()
	res, err := o.Transport().RoundTrip(r)
	if err != nil {
		tb.Fatal(err)
	}
	return decode(tb, res)
}

func decode(tb testing.TB, res *http.Response) reply {
	tb.Helper()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	got := reply{Status: res.StatusCode, Header: res.Header}
	switch {
	case len(body) == 0:
		return got
	case body[0] == '[': // the list of users
		body = slices.Concat([]byte(`{"users":`), body, []byte("}"))
	}
	if err := json.Unmarshal(body, &got.JSON); err != nil {
		tb.Fatalf("status %d, body %q: %v", res.StatusCode, body, err)
	}
	return got
}

func exchange(tb testing.TB, o *Okta, assertion, scope string) reply {
	tb.Helper()
	return do(tb, o, tokenRequest(tb, form(assertion, scope).Encode()))
}

func (r reply) wantError(tb testing.TB, status int, code, words string) {
	tb.Helper()
	want := map[string]any{"error": code, "error_description": words}
	if diff := cmp.Diff(want, r.JSON); r.Status != status || diff != "" {
		tb.Errorf("status %d, want %d; body (-want +got):\n%s", r.Status, status, diff)
	}
}

func (r reply) wantToken(tb testing.TB, scope string) string {
	tb.Helper()
	token, _ := r.JSON["access_token"].(string)
	want := map[string]any{"token_type": "Bearer", "expires_in": 3600.0, "scope": scope, "access_token": token}
	if diff := cmp.Diff(want, r.JSON); r.Status != http.StatusOK || token == "" || diff != "" {
		tb.Fatalf("status %d; body (-want +got):\n%s", r.Status, diff)
	}
	return token
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []Config{
		{},
		{URL: "acme.okta.test"},
		{URL: "ftp://acme.okta.test"},
		{URL: baseURL + "/"},
		{URL: baseURL + "/oauth2/default"},
		{URL: "https://user@acme.okta.test"},
		{URL: "https://acme.okta.test:x"},
		{URL: baseURL, TokenLife: -time.Second},
		{URL: baseURL, TokenLife: time.Millisecond},
		{URL: baseURL, NoncePeriod: -time.Second},
		{URL: baseURL, Origin: baseURL + "/"},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

func TestMetadata(t *testing.T) {
	o := newOkta(t, Config{})
	for _, name := range []string{"oauth-authorization-server", "openid-configuration"} {
		got := get(t, o, "/.well-known/"+name, "")
		if got.Status != http.StatusOK || got.JSON["issuer"] != baseURL || got.JSON["token_endpoint"] != endpoint {
			t.Errorf("%s: %d %v", name, got.Status, got.JSON)
		}
	}
	if got := get(t, o, "/oauth2/v1/keys", ""); got.Status != http.StatusOK || len(got.JSON["keys"].([]any)) != 0 {
		t.Errorf("keys: %d %v", got.Status, got.JSON)
	}
}

func TestUnknownEndpoints(t *testing.T) {
	o := newOkta(t, Config{})
	for _, target := range []string{"GET /", "GET /oauth2/v1/token", "PUT /api/v1/users", "GET /api/v1/users/", "GET /api/v1/users/me/groups", "GET /oauth2/default/v1/token"} {
		method, path, _ := strings.Cut(target, " ")
		r, err := http.NewRequestWithContext(t.Context(), method, baseURL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := do(t, o, r)
		if got.Status != http.StatusNotFound {
			t.Errorf("%s: status %d", target, got.Status)
		}
		wantAPIError(t, got, "E0000022", "The endpoint does not support the provided HTTP method")
	}
}

func wantAPIError(tb testing.TB, got reply, code, summary string) {
	tb.Helper()
	id, _ := got.JSON["errorId"].(string)
	want := map[string]any{
		"errorCode": code, "errorSummary": summary, "errorLink": code, "errorId": id, "errorCauses": []any{},
	}
	if diff := cmp.Diff(want, got.JSON); id == "" || diff != "" {
		tb.Errorf("errorId %q; body (-want +got):\n%s", id, diff)
	}
}

func TestEveryAnswerHasHeaders(t *testing.T) {
	start := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	o := newOkta(t, Config{Now: func() time.Time { return start }})
	o.SetClockOffset(-90 * time.Second)
	for _, got := range []reply{get(t, o, "/nowhere", ""), exchange(t, o, "x", ""), get(t, o, usersPath, "")} {
		if got.Header.Get("X-Okta-Request-Id") == "" {
			t.Error("no X-Okta-Request-Id")
		}
		if date := got.Header.Get("Date"); date != "Wed, 01 May 2030 11:58:30 GMT" {
			t.Errorf("Date %q", date)
		}
		if cache := got.Header.Get("Cache-Control"); cache != "no-cache, no-store" {
			t.Errorf("Cache-Control %q", cache)
		}
	}
}

func get(tb testing.TB, o *Okta, path, authorization string) reply {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, baseURL+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return do(tb, o, r)
}
