package keys

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
)

// exponentThree is an RSA key of 2048 bits with e=3.
func exponentThree(tb testing.TB) *rsa.PrivateKey {
	tb.Helper()
	one, three := big.NewInt(1), big.NewInt(3)
	prime := func() *big.Int {
		for {
			p := must(rand.Prime(rand.Reader, 1024))
			if new(big.Int).Mod(p, three).Int64() == 2 { // 3 has an inverse modulo p-1
				return p
			}
		}
	}
	p, q := prime(), prime()
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	private := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 3},
		D:         new(big.Int).ModInverse(three, phi),
		Primes:    []*big.Int{p, q},
	}
	private.Precompute()
	return private
}

// flip changes one character of the base64 of a block to another one.
func flip(tb testing.TB, text string, at int) string {
	tb.Helper()
	line := strings.Index(text, "KEY-----\n") + len("KEY-----\n") + at
	other := byte('A')
	if text[line] == other {
		other = 'B'
	}
	return text[:line] + string(other) + text[line+1:]
}

func TestOpenRefuses(t *testing.T) {
	one, two := pkcs8(ecKey(0)), pkcs8(ecKey(1))
	state := func(i int, state string) string { return meta(t, ecKey(i), state, "k", "ES256", "") + pkcs8(ecKey(i)) }
	metaOne := meta(t, ecKey(0), "active", "k", "ES256", "")
	// line is a metadata line with one thing replaced.
	line := func(old, with string) string {
		if !strings.Contains(metaOne, old) {
			t.Fatalf("%q is not in %q", old, metaOne)
		}
		return strings.Replace(metaOne, old, with, 1) + one
	}
	kid := func(kid string) string { return line("kid=k", "kid="+kid) }
	encrypted := string(pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Bytes: make([]byte, 64),
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,000102030405060708090A0B0C0D0E0F"},
	}))
	nine := ""
	for i := range maxKeys + 1 {
		nine += pkcs8(ecKey(i))
	}
	pub := must(x509.MarshalPKIXPublicKey(ecKey(0).Public()))

	tests := []struct {
		name string
		text string
		want string
	}{
		{"empty", "", "holds no PEM block"},
		{"white space", "\n \n", "holds no PEM block"},
		{"no PEM", "the key is in the safe\n", "holds no PEM block"},
		{"DER", string(must(x509.MarshalPKCS8PrivateKey(ecKey(0)))), "holds no PEM block"},
		{"JWK", `{"kty":"EC","crv":"P-256"}`, "holds no PEM block"},
		{"base64 damaged before a good block", strings.Replace(one, "M", "!", 1) + two, "block at line 1: the block is damaged"},
		{"BEGIN line damaged before a good block", strings.Replace(one, "BEGIN", "BEGXN", 1) + two, "BEGIN and END lines do not match"},
		{"BEGIN line a dash short before a good block", one[1:] + two, "BEGIN and END lines do not match"},
		{"BEGIN and END disagree before a good block", strings.Replace(one, "END PRIVATE", "END RSA PRIVATE", 1) + two, "block at line 1: the block is damaged"},
		{"END line missing before a good block", one[:strings.Index(one, "-----END")] + two, "block at line 1: the block is damaged"},
		{"END line damaged before a good block", strings.Replace(one, "-----END", "-----EMD", 1) + two, "block at line 1: the block is damaged"},
		{"text behind the END line", strings.TrimSuffix(one, "\n") + "# old\n" + two, "block at line 1: the block is damaged"},
		{"BEGIN and END lines damaged", metaOne + strings.NewReplacer("BEGIN", "BEGXN", "END", "EMD").Replace(one) + state(1, "retired"), "two metadata lines"},
		{"another digit of the key", metaOne + flip(t, one, 60), "describes another key"},
		{"cut in the only block", one[:len(one)/2], "BEGIN and END lines do not match"},
		{"cut in the second block", one + two[:len(two)/2], "BEGIN and END lines do not match"},
		{"cut in the last line", one + two[:len(two)-3], "block at line 6: the block is damaged"},
		{"cut behind a metadata line", one + meta(t, ecKey(1), "retired", "k", "ES256", ""), "behind the last PEM block"},
		{"an empty block", metaOne + "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "block at line 2"},

		{"metadata of another key", metaOne + two, "describes another key: its thumbprint does not match"},
		{"two active", state(0, "active") + state(1, "active"), `state "active" does not fit the position`},
		{"retired first", state(0, "retired") + state(1, "active"), `state "retired" does not fit the position`},
		{"next first", state(0, "next"), `state "next" does not fit the position`},
		{"active second", one + state(1, "active"), `block at line 7: state "active" does not fit the position`},
		{"metadata behind the last block", one + metaOne, "behind the last PEM block"},
		{"two metadata lines", metaOne + metaOne + one, "two metadata lines"},
		{"unknown field", line("kid=k", "kid=k owner=me"), `unknown field "owner"`},
		{"a word without a value", line("kid=k", "kid=k really"), `unknown field "really"`},
		{"a field twice", line("kid=k", "kid=k kid=l"), `"kid" stands twice`},
		{"unknown state", line("active", "broken"), `unknown state "broken"`},
		{"no state", line("state=active ", ""), "state is missing"},
		{"no kid", line("kid=k ", ""), "kid is missing"},
		{"no thumbprint", line("thumbprint=", "created="), "created"},
		{"no alg", line("alg=ES256", ""), "alg is missing"},
		{"a time without a zone", line("kid=k", "kid=k proven=2026-01-02T03:04:05"), "proven"},
		{"an unknown algorithm", meta(t, rsaKey(), "active", "k", "RS1", "") + pkcs8(rsaKey()), `unknown algorithm "RS1"`},

		{"kid empty", kid(""), "kid is empty"},
		{"kid with a line end", kid("a%0Ab"), "kid has control characters"},
		{"kid with NUL", kid("a%00"), "kid has control characters"},
		{"kid with DEL", kid("%7Fa"), "kid has control characters"},
		{"kid with a C1 control", kid("a%C2%85"), "kid has control characters"},
		{"kid not UTF-8", kid("a%FFb"), "kid is not valid UTF-8"},
		{"kid over 2 KiB", kid(strings.Repeat("k", maxKid+1)), "kid is over 2048 bytes"},
		{"kid with half a percent code", kid("a%2"), "kid:"},

		{"encrypted PKCS#8", block("ENCRYPTED PRIVATE KEY", make([]byte, 64)), "encrypted: decrypt it with openssl pkey"},
		{"encrypted PKCS#8 behind a good block", one + block("ENCRYPTED PRIVATE KEY", make([]byte, 64)), "encrypted"},
		{"encrypted the old way", encrypted, "encrypted: decrypt it with openssl pkey"},
		{"a certificate", block("CERTIFICATE", make([]byte, 64)), `a block of type "CERTIFICATE" is not a private key`},
		{"a certificate behind the key", one + block("CERTIFICATE", make([]byte, 64)), `a block of type "CERTIFICATE"`},
		{"a public key", block("PUBLIC KEY", pub), `it is a public key: the private one is needed`},
		{"EC PARAMETERS alone", parameters(1, 3, 132, 0, 34), "holds no private key"},
		{"an OpenSSH key", block("OPENSSH PRIVATE KEY", make([]byte, 64)), `"OPENSSH PRIVATE KEY"`},
		{"not DER", block("PRIVATE KEY", []byte("secret")), "block at line 1"},
		{"Ed25519", pkcs8(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))), "neither an RSA nor an EC key"},
		{"X25519", pkcs8(must(ecdh.X25519().GenerateKey(rand.Reader))), "neither an RSA nor an EC key"},
		{"P-224", sec1(must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))), "EC key on curve P-224"},
		{"RSA 1024", pkcs1(must(rsa.GenerateKey(rand.Reader, 1024))), "RSA key of 1024 bits"},
		{"RSA 2047", pkcs8(must(rsa.GenerateKey(rand.Reader, 2047))), "RSA key of 2047 bits"},
		{"RSA with exponent 3", pkcs1(exponentThree(t)), "public exponent 3: only 65537"},

		{"over 64 KiB", strings.Repeat("#", maxRing-len(one)) + "\n" + one, "over 64 KiB"},
		{"nine keys", nine, "holds 9 keys: 8 at most"},
		{"one key twice", one + sec1(ecKey(0)), "block at line 6: the key stands twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := ringFile(t, tt.text)
			ring, err := Open(t.Context(), Config{Name: "default", Store: newFile(t, path, false)})
			if err == nil {
				t.Fatalf("taken: %+v", see(ring.Keys()))
			}
			wantError(t, err, path, tt.want)
			for body := range strings.Lines(tt.text) {
				if body = strings.TrimSpace(body); len(body) > 40 && !strings.Contains(body, " ") && strings.Contains(err.Error(), body) {
					t.Errorf("error %q shows what the file holds", err)
				}
			}
			if read(t, path) != tt.text {
				t.Error("the file was changed")
			}
		})
	}
}

func TestAlgorithmFollowsFromTheKey(t *testing.T) {
	keys := []struct {
		name    string
		private any
		fit     []string
	}{
		{"RSA", rsaKey(), []string{"RS256", "RS384", "RS512"}},
		{"P-256", ecKey(0), []string{"ES256"}},
		{"P-384", p384Key(), []string{"ES384"}},
		{"P-521", p521Key(), []string{"ES512"}},
	}
	others := []string{"none", "None", "HS256", "HS384", "HS512", "PS256", "PS384", "PS512", "EdDSA", "ES256K", "rs256", "es256"}
	for _, key := range keys {
		for _, alg := range slices.Concat(Algorithms(), others) {
			t.Run(key.name+" "+alg, func(t *testing.T) {
				text := meta(t, key.private, "active", "k", alg, "") + pkcs8(key.private)
				ring, err := Open(t.Context(), Config{Store: NewStatic(text)})
				if !slices.Contains(key.fit, alg) {
					wantError(t, err, fmt.Sprintf("algorithm %q does not fit the key, which signs with %s", alg, key.fit[0]))
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := active(t, ring).Algorithm(); got != alg {
					t.Errorf("the key signs with %s, want %s", got, alg)
				}
			})
		}
	}
}

func TestUnknownAlgorithmInTheConfiguration(t *testing.T) {
	for _, alg := range []string{"none", "HS256", "PS256", "RS1", "es256"} {
		_, err := Open(t.Context(), Config{Name: "default", Store: NewStatic(pkcs8(ecKey(0))), Algorithm: alg})
		wantError(t, err, "default", fmt.Sprintf("unknown algorithm %q", alg))
	}
}

// TestRSABounds asks with a modulus alone: a key of that size takes minutes to
// make.
func TestRSABounds(t *testing.T) {
	_, err := newKey(&rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), maxRSABits), E: 65537}}, "", "")
	wantError(t, err, "RSA key of 8193 bits: 2048 to 8192 are accepted")
}
