package fakeokta

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	remoteURI    = "https://keys.test/jwks.json"
	wordsJWKSURI = "Error retrieving the client JWKSet from jwks_uri."
)

// site answers for the place where the app publishes its keys.
type site func(*http.Request) (*http.Response, error)

func (s site) RoundTrip(r *http.Request) (*http.Response, error) { return s(r) }

func publishing(status int, body func() string) site {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body()))}, nil
	}
}

func keySet(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

// publicKeys are rsaKey as "k1" and ecKey as "k2".
func publicKeys(tb testing.TB) (k1, k2 string) {
	return string(jwk(tb, "k1", &rsaKey().PublicKey)), string(jwk(tb, "k2", &ecKey().PublicKey))
}

// newRemoteOkta is an org whose one app has no saved keys and a jwks_uri.
func newRemoteOkta(tb testing.TB, from http.RoundTripper, a App) *Okta {
	tb.Helper()
	o, err := New(Config{URL: baseURL, Fetch: from})
	if err != nil {
		tb.Fatal(err)
	}
	a.ClientID, a.Scopes, a.JWKSURI = clientID, []string{"okta.users.read"}, remoteURI
	if err := o.AddApp(a); err != nil {
		tb.Fatal(err)
	}
	return o
}

func underK2(tb testing.TB) string {
	tb.Helper()
	return sign(tb, jose.ES256, ecKey(), map[string]any{"kid": "k2"}, goodClaims())
}

func TestJWKSURI(t *testing.T) {
	k1, k2 := publicKeys(t)
	for _, test := range []struct {
		name    string
		app     App
		words   string // the answer to a new kid, right after another one made Okta fetch
		fetches int    // by then
	}{
		{"without a cache", App{}, "", 2},
		{"cached", App{JWKSLag: time.Hour}, wordsKid, 1},
		{"looks again", App{JWKSLag: time.Hour, JWKSRefetch: true}, "", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				published := keySet(k1)
				o := newRemoteOkta(t, publishing(200, func() string { return published }), test.app)
				exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")

				published = keySet(k1, k2)
				got := exchange(t, o, underK2(t), "okta.users.read")
				if test.words == "" {
					got.wantToken(t, "okta.users.read")
				} else {
					got.wantError(t, 401, "invalid_client", test.words)
				}
				if n := o.Counters().JWKSFetches; n != test.fetches {
					t.Errorf("%d fetches", n)
				}

				time.Sleep(test.app.JWKSLag)
				exchange(t, o, underK2(t), "okta.users.read").wantToken(t, "okta.users.read")
				published = keySet(k2)
				time.Sleep(test.app.JWKSLag)
				exchange(t, o, good(t), "okta.users.read").wantError(t, 401, "invalid_client", wordsKid)
			})
		})
	}
}

func TestJWKSURIFails(t *testing.T) {
	k1, _ := publicKeys(t)
	with := func(status int, body string) site { return publishing(status, func() string { return body }) }
	for name, from := range map[string]site{
		"refused":   func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") },
		"404":       with(404, keySet(k1)),
		"redirect":  with(302, keySet(k1)),
		"not JSON":  with(200, "<html>"),
		"no keys":   with(200, "{}"),
		"too large": with(200, keySet(k1)+strings.Repeat(" ", maxKeySet)),
		"too slow": func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				o := newRemoteOkta(t, from, App{JWKSLag: time.Hour})
				for range 2 { // a failure is not remembered
					exchange(t, o, good(t), "okta.users.read").wantError(t, 401, "invalid_client", wordsJWKSURI)
				}
				if n := o.Counters().JWKSFetches; n != 2 {
					t.Errorf("%d fetches", n)
				}
				if took := time.Since(start); took > 2*fetchTime {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestJWKSURIKeysTaken(t *testing.T) {
	k1, k2 := publicKeys(t)
	noUse := strings.Replace(k1, `"use":"sig",`, "", 1)
	if noUse == k1 {
		t.Fatal("the key set has changed its form")
	}
	for _, test := range []struct{ name, set, words string }{
		{"among others", keySet(k2, k1, `{"kty":"oct","kid":"s","use":"sig","k":"c2VjcmV0"}`, `{"kty":"new"}`), ""},
		{"without use", keySet(noUse), wordsKid},
		{"use enc", keySet(strings.Replace(k1, `"sig"`, `"enc"`, 1)), wordsKid},
		{"private", keySet(string(jwk(t, "k1", rsaKey()))), wordsKid},
		{"kid twice", keySet(k1, string(jwk(t, "k1", &ecKey().PublicKey))), wordsKid},
		{"none", keySet(), wordsKid},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newRemoteOkta(t, publishing(200, func() string { return test.set }), App{})
			got := exchange(t, o, good(t), "okta.users.read")
			if test.words == "" {
				got.wantToken(t, "okta.users.read")
			} else {
				got.wantError(t, 401, "invalid_client", test.words)
			}
		})
	}
}

func TestSetJWKSURI(t *testing.T) {
	k1, _ := publicKeys(t)
	o := newOkta(t, Config{Fetch: publishing(200, func() string { return keySet(k1) })})
	if err := o.SetJWKSURI(clientID, remoteURI); err != nil {
		t.Fatal(err)
	}
	if keys := o.AppKeys(clientID); len(keys) != 0 {
		t.Errorf("still saved: %v", keys)
	}
	exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")
	if err := o.RegisterKey(clientID, jwk(t, "k2", &ecKey().PublicKey)); err == nil || !strings.Contains(err.Error(), "jwks_uri") {
		t.Errorf("error %v", err)
	}
	if err := o.SetJWKSURI(clientID, ""); err != nil {
		t.Fatal(err)
	}
	exchange(t, o, good(t), "okta.users.read").wantError(t, 401, "invalid_client", wordsNoKeys)

	for client, uri := range map[string]string{clientID: "/jwks.json", "0oaNobody": remoteURI} {
		if err := o.SetJWKSURI(client, uri); err == nil {
			t.Errorf("%s, %q: no error", client, uri)
		}
	}
	if err := o.AddApp(App{ClientID: "0oaNew", JWKSURI: "ftp://keys.test"}); err == nil {
		t.Error("no error for an ftp jwks_uri")
	}
}
