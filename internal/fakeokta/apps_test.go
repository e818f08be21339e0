package fakeokta

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func TestAddAppRefuses(t *testing.T) {
	o := newOkta(t, Config{})
	for _, a := range []App{
		{},
		{ClientID: clientID},
		{ClientID: "0oaNew", Scopes: []string{"openid"}},
	} {
		if err := o.AddApp(a); err == nil {
			t.Errorf("%+v: no error", a)
		}
	}
}

func TestRegisterKeyRefuses(t *testing.T) {
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := string(jwk(t, "k2", &rsaKey().PublicKey))
	add := func(member string) string { return strings.TrimSuffix(public, "}") + "," + member + "}" }
	small := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 2046, 1), E: 65537} // 2047 bits
	otherUse, err := jose.JSONWebKey{Key: &ecKey().PublicKey, KeyID: "k2", Use: "enc"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct{ name, client, jwk, words string }{
		{"not JSON", clientID, "hello", "not a JSON object"},
		{"null", clientID, "null", "reading JWK"},
		{"not a key", clientID, `{"kty":"RSA"}`, "reading JWK"},
		{"another app", "0oaNobody", public, "no such app"},
		{"duplicate kid", clientID, string(jwk(t, "k1", &ecKey().PublicKey)), "already holds"},
		{"no kid", clientID, string(jwk(t, "", &rsaKey().PublicKey)), "no kid"},
		{"small RSA", clientID, string(jwk(t, "k2", small)), "2048"},
		{"Ed25519", clientID, string(jwk(t, "k2", edPublic)), "not an RSA key"},
		{"symmetric", clientID, `{"kty":"oct","kid":"k2","k":"c2VjcmV0"}`, `member "k" is private`},
		{"use enc", clientID, string(otherUse), "not sig"},
		{"alg of another type", clientID, add(`"alg":"ES256"`), "does not fit"},
		{"alg PS256", clientID, add(`"alg":"PS256"`), "does not fit"},
		{"private RSA", clientID, string(jwk(t, "k2", rsaKey())), "is private"},
		{"private EC", clientID, string(jwk(t, "k2", ecKey())), `member "d" is private`},
		{"a prime alone", clientID, add(`"p":"AQAB"`), `member "p" is private`},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := newOkta(t, Config{}).RegisterKey(test.client, json.RawMessage(test.jwk))
			if err == nil || !strings.Contains(err.Error(), test.words) {
				t.Errorf("got %v, want %q", err, test.words)
			}
		})
	}
}

func TestRegisterKeyLimit(t *testing.T) {
	o := newOkta(t, Config{})
	for i := range maxKeys - 1 {
		register(t, o, fmt.Sprint("more", i), &ecKey().PublicKey)
	}
	if err := o.RegisterKey(clientID, jwk(t, "too many", &ecKey().PublicKey)); err == nil {
		t.Error("the 51st key was taken")
	}
}
