package dpop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

// joseSigner signs by another library than the broker's own.
type joseSigner struct {
	algorithm jose.SignatureAlgorithm
	private   any
}

func (s joseSigner) Sign(_ context.Context, header, claims map[string]any) (string, error) {
	options := &jose.SignerOptions{}
	for name, value := range header {
		options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: s.algorithm, Key: s.private}, options)
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

func publicJWK(t *testing.T, public any) json.RawMessage {
	t.Helper()
	text, err := jose.JSONWebKey{Key: public}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// open verifies a proof with the key in its own header, as a server does, and
// returns what the header and the claims say.
func open(t *testing.T, proof string, algorithm jose.SignatureAlgorithm) (typ string, key *jose.JSONWebKey, claims map[string]any) {
	t.Helper()
	signed, err := jose.ParseSignedCompact(proof, []jose.SignatureAlgorithm{algorithm})
	if err != nil {
		t.Fatal(err)
	}
	header := signed.Signatures[0].Protected
	if key = header.JSONWebKey; key == nil || !key.IsPublic() || !key.Valid() {
		t.Fatalf("the header's jwk is %v; want a public key", key)
	}
	payload, err := signed.Verify(key)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(payload)))
	decoder.UseNumber() // 1 is not 1.0
	if err := decoder.Decode(&claims); err != nil {
		t.Fatal(err)
	}
	typ, _ = header.ExtraHeaders[jose.HeaderType].(string)
	return typ, key, claims
}

func TestSign(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	es256 := joseSigner{jose.ES256, ec}
	rs256 := joseSigner{jose.RS256, rsaKey}
	at := time.Date(2026, 5, 17, 10, 30, 0, 999_999_999, time.FixedZone("", 3600))

	tests := []struct {
		name   string
		signer joseSigner
		public any
		change func(*Proof)
		want   map[string]any // besides iat and jti
	}{
		{"token request", es256, &ec.PublicKey, func(*Proof) {}, map[string]any{"htm": "POST", "htu": "https://acme.okta.test/oauth2/v1/token"}},
		{"RSA", rs256, &rsaKey.PublicKey, func(*Proof) {}, map[string]any{"htm": "POST", "htu": "https://acme.okta.test/oauth2/v1/token"}},
		{"nonce", es256, &ec.PublicKey, func(p *Proof) { p.Nonce = "!#[]^~09az" }, map[string]any{"htm": "POST", "htu": "https://acme.okta.test/oauth2/v1/token", "nonce": "!#[]^~09az"}},
		{
			"call", es256, &ec.PublicKey,
			func(p *Proof) {
				p.Method, p.URL = "get", "https://acme.okta.test:8443/api/v1/users/a%40b.com?limit=2&after=%2F#top"
				// RFC 9449 section 7.1.
				p.TokenHash = TokenHash("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU")
			},
			map[string]any{
				"htm": "get", "htu": "https://acme.okta.test:8443/api/v1/users/a%40b.com",
				"ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",
			},
		},
		{"decoded", es256, &ec.PublicKey, func(p *Proof) { p.URL, p.Decoded = "https://acme.okta.test/users/a%40b%20c?x=%41", true }, map[string]any{"htm": "POST", "htu": "https://acme.okta.test/users/a@b c"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Proof{Method: "POST", URL: "https://acme.okta.test/oauth2/v1/token", JWK: publicJWK(t, tt.public), IssuedAt: at}
			tt.change(&p)
			proof, err := Sign(t.Context(), tt.signer, p)
			if err != nil {
				t.Fatal(err)
			}
			typ, key, claims := open(t, proof, tt.signer.algorithm)
			if typ != "dpop+jwt" {
				t.Errorf("typ %q", typ)
			}
			if diff := cmp.Diff(string(publicJWK(t, tt.public)), string(publicJWK(t, key.Key))); diff != "" {
				t.Errorf("jwk (-want +got)\n%s", diff)
			}
			if jti, _ := claims["jti"].(string); len(jti) < 22 { // 128 bits, at 6 a character
				t.Errorf("jti %q is short of 128 bits", jti)
			}
			delete(claims, "jti")
			want := maps.Clone(tt.want)
			want["iat"] = json.Number("1779010200")
			if diff := cmp.Diff(want, claims); diff != "" {
				t.Errorf("claims (-want +got)\n%s", diff)
			}
		})
	}
}

// recorder signs nothing: it keeps what it was given.
type recorder struct{ header, claims map[string]any }

func (r *recorder) Sign(_ context.Context, header, claims map[string]any) (string, error) {
	r.header, r.claims = header, claims
	return "signed", nil
}

const anyJWK = `{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`

func good() Proof {
	return Proof{Method: "GET", URL: "https://acme.okta.test/api", JWK: json.RawMessage(anyJWK), IssuedAt: time.Unix(1779010200, 0)}
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Proof)
	}{
		{"no method", func(p *Proof) { p.Method = "" }},
		{"method with a space", func(p *Proof) { p.Method = "GET /" }},
		{"method with a line break", func(p *Proof) { p.Method = "GET\r\n" }},
		{"method that is not ASCII", func(p *Proof) { p.Method = "GÉT" }},
		{"method with a delimiter", func(p *Proof) { p.Method = "GET,POST" }},
		{"long method", func(p *Proof) { p.Method = strings.Repeat("A", 65) }},
		{"no URL", func(p *Proof) { p.URL = "" }},
		{"relative URL", func(p *Proof) { p.URL = "/api/v1/users" }},
		{"URL of another scheme", func(p *Proof) { p.URL = "ftp://acme.okta.test/" }},
		{"opaque URL", func(p *Proof) { p.URL = "https:acme.okta.test" }},
		{"URL without a host", func(p *Proof) { p.URL = "https:///api" }},
		{"URL with a port alone", func(p *Proof) { p.URL = "https://:443/api" }},
		{"URL with a user", func(p *Proof) { p.URL = "https://me@acme.okta.test/" }},
		{"URL with an empty user", func(p *Proof) { p.URL = "https://@acme.okta.test/" }},
		{"URL with a password", func(p *Proof) { p.URL = "https://me:pass@acme.okta.test/" }},
		{"URL with a bad port", func(p *Proof) { p.URL = "https://acme.okta.test:x/" }},
		{"URL with a backslash", func(p *Proof) { p.URL = `https://acme.okta.test\@evil.test/` }},
		{"URL with a space", func(p *Proof) { p.URL = "https://acme.okta.test/a b" }},
		{"URL with a line break", func(p *Proof) { p.URL = "https://acme.okta.test/\r\n" }},
		{"URL with a NUL", func(p *Proof) { p.URL = "https://acme.okta.test/\x00" }},
		{"URL that is not ASCII", func(p *Proof) { p.URL = "https://acme.okta.test/ü" }},
		{"URL with half an escape", func(p *Proof) { p.URL = "https://acme.okta.test/%4" }},
		{"long URL", func(p *Proof) {
			p.URL = "https://acme.okta.test/" + strings.Repeat("a", 8193-len("https://acme.okta.test/"))
		}},
		{"decoded path that is not UTF-8", func(p *Proof) { p.URL, p.Decoded = "https://acme.okta.test/%ff", true }},
		{"nonce with a quote", func(p *Proof) { p.Nonce = `a"b` }},
		{"nonce with a backslash", func(p *Proof) { p.Nonce = `a\b` }},
		{"nonce with a space", func(p *Proof) { p.Nonce = "a b" }},
		{"nonce with a line break", func(p *Proof) { p.Nonce = "a\n" }},
		{"nonce with a DEL", func(p *Proof) { p.Nonce = "a\x7f" }},
		{"nonce that is not ASCII", func(p *Proof) { p.Nonce = "é" }},
		{"long nonce", func(p *Proof) { p.Nonce = strings.Repeat("n", 1025) }},
		{"no key", func(p *Proof) { p.JWK = nil }},
		{"key that is no object", func(p *Proof) { p.JWK = json.RawMessage(`"kty"`) }},
		{"key without a type", func(p *Proof) { p.JWK = json.RawMessage(`{"crv":"P-256"}`) }},
		{"private EC key", func(p *Proof) { p.JWK = json.RawMessage(strings.TrimSuffix(anyJWK, "}") + `,"d":"AA"}`) }},
		{"private RSA key of many primes", func(p *Proof) { p.JWK = json.RawMessage(`{"kty":"RSA","n":"AA","e":"AQAB","oth":[]}`) }},
		{"private RSA key", func(p *Proof) { p.JWK = json.RawMessage(`{"kty":"RSA","n":"AA","e":"AQAB","dq":"AA"}`) }},
		{"shared key", func(p *Proof) { p.JWK = json.RawMessage(`{"kty":"oct","k":"AA"}`) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := good()
			tt.change(&p)
			signer := &recorder{}
			proof, err := Sign(t.Context(), signer, p)
			if err == nil || proof != "" || signer.claims != nil {
				t.Fatalf("Sign gives %q, %v after it signed %v; want an error, and nothing signed", proof, err, signer.claims)
			}
			if text := err.Error(); !strings.HasPrefix(text, "making a DPoP proof: ") || strings.ContainsAny(text, "\r\n\x00") || strings.Contains(text, "pass") {
				t.Errorf("the error is %q", text)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	for name, change := range map[string]func(*Proof){
		"method": func(p *Proof) { p.Method = strings.Repeat("A", 64) },
		"nonce":  func(p *Proof) { p.Nonce = strings.Repeat("n", 1024) },
		"URL": func(p *Proof) {
			p.URL = "https://acme.okta.test/" + strings.Repeat("a", 8192-len("https://acme.okta.test/"))
		},
	} {
		p := good()
		change(&p)
		if _, err := Sign(t.Context(), &recorder{}, p); err != nil {
			t.Errorf("the longest %s is refused: %v", name, err)
		}
	}
}

func TestTargetURI(t *testing.T) {
	tests := []struct{ url, sent, decoded string }{
		{"https://acme.okta.test", "https://acme.okta.test/", "https://acme.okta.test/"},
		{"https://acme.okta.test?x=/y", "https://acme.okta.test/", "https://acme.okta.test/"},
		{"https://acme.okta.test#x", "https://acme.okta.test/", "https://acme.okta.test/"},
		{"https://acme.okta.test/#x?y", "https://acme.okta.test/", "https://acme.okta.test/"},
		{"HTTPS://Acme.Okta.Test:443/A", "HTTPS://Acme.Okta.Test:443/A", "HTTPS://Acme.Okta.Test:443/A"},
		{"http://[::1]:5001/a/", "http://[::1]:5001/a/", "http://[::1]:5001/a/"},
		{"https://acme.okta.test/a%2Fb%2fc", "https://acme.okta.test/a%2Fb%2fc", "https://acme.okta.test/a/b/c"},
		{"https://acme.okta.test/a%3Fb%23c?d", "https://acme.okta.test/a%3Fb%23c", "https://acme.okta.test/a?b#c"},
		{"https://acme.okta.test/%C3%BC;v=1", "https://acme.okta.test/%C3%BC;v=1", "https://acme.okta.test/ü;v=1"},
		{"https://acme.okta.test/a//b/../c", "https://acme.okta.test/a//b/../c", "https://acme.okta.test/a//b/../c"},
		{"https://acme.okta.test/%252e", "https://acme.okta.test/%252e", "https://acme.okta.test/%2e"},
	}
	for _, tt := range tests {
		sent, err := targetURI(tt.url, false)
		decoded, decodedErr := targetURI(tt.url, true)
		if sent != tt.sent || decoded != tt.decoded || err != nil || decodedErr != nil {
			t.Errorf("of %s the htu is %q, %v and decoded %q, %v; want %q and %q", tt.url, sent, err, decoded, decodedErr, tt.sent, tt.decoded)
		}
	}
}

func TestEveryProofIsItsOwn(t *testing.T) {
	const many = 100_000
	seen := make(map[any]bool, many)
	signer := &recorder{}
	for range many {
		if _, err := Sign(t.Context(), signer, good()); err != nil {
			t.Fatal(err)
		}
		seen[signer.claims["jti"]] = true
	}
	if len(seen) != many {
		t.Errorf("%d distinct jti in %d proofs", len(seen), many)
	}
}

type failing struct{ err error }

func (f failing) Sign(context.Context, map[string]any, map[string]any) (string, error) {
	return "half", f.err
}

func TestSignFails(t *testing.T) {
	broken := errors.New("the key is gone")
	if proof, err := Sign(t.Context(), failing{broken}, good()); !errors.Is(err, broken) || proof != "" {
		t.Errorf("got %q, %v; want the signer's error", proof, err)
	}
}

func TestTokenHashHidesTheToken(t *testing.T) {
	const token = "a-token-that-nobody-should-see"
	hash := TokenHash(token)
	if sum, err := base64.RawURLEncoding.DecodeString(hash); err != nil || len(sum) != 32 || strings.Contains(hash, token) {
		t.Errorf("TokenHash gives %q, %v", hash, err)
	}
}
