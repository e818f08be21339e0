package keys

import (
	"strings"
	"testing"
	"time"
)

func TestImport(t *testing.T) {
	mine := func(private any, kid, alg string) seen {
		return seen{Kid: kid, Thumbprint: thumbprint(t, private), Alg: alg, State: Next, Created: today}
	}
	elsewhere := "created=2026-01-02T03:04:05Z activated=2026-01-03T03:04:05Z proven=2026-01-04T03:04:05Z"
	tests := []struct {
		name, states string
		text, kid    string
		want         seen
		err          string
	}{
		{name: "PKCS#1", states: "AR", text: pkcs1(rsaKey()), kid: "mine", want: mine(rsaKey(), "mine", "RS256")},
		{name: "PKCS#8", states: "AR", text: pkcs8(p384Key()), kid: "mine", want: mine(p384Key(), "mine", "ES384")},
		{name: "SEC 1", states: "AR", text: sec1(p521Key()), kid: "mine", want: mine(p521Key(), "mine", "ES512")},
		{name: "with EC PARAMETERS", states: "AR", text: parameters(1, 3, 132, 0, 34) + sec1(p384Key()), want: mine(p384Key(), thumbprint(t, p384Key()), "ES384")},
		{name: "no kid: its thumbprint", states: "AR", text: pkcs8(rsaKey()), want: mine(rsaKey(), thumbprint(t, rsaKey()), "RS256")},
		{
			name: "metadata: its kid and algorithm, and no times", states: "AR",
			text: meta(t, rsaKey(), "active", "theirs", "RS512", elsewhere) + pkcs8(rsaKey()), want: mine(rsaKey(), "theirs", "RS512"),
		},
		{
			name: "metadata, under another kid", states: "AR", kid: "mine",
			text: meta(t, rsaKey(), "active", "theirs", "RS512", elsewhere) + pkcs8(rsaKey()), want: mine(rsaKey(), "mine", "RS512"),
		},
		{
			name: "metadata with a kid that is taken, under another", states: "AR", kid: "mine",
			text: meta(t, rsaKey(), "active", "R1", "RS512", "") + pkcs8(rsaKey()), want: mine(rsaKey(), "mine", "RS512"),
		},
		{
			name: "into an empty ring", text: pkcs8(rsaKey()), kid: "mine",
			want: seen{Kid: "mine", Thumbprint: thumbprint(t, rsaKey()), Alg: "RS256", State: Active, Created: today, Activated: today},
		},

		{name: "several keys", states: "AR", text: pkcs8(rsaKey()) + pkcs8(p384Key()), err: "the file holds 2 keys: give one at a time"},
		{name: "a known key", states: "AR", text: pkcs8(ecKey(1)), kid: "mine", err: "the ring holds this key already"},
		{name: "a known key in another form", states: "AR", text: sec1(ecKey(0)), err: "the ring holds this key already"},
		{name: "a kid that is taken", states: "AR", text: pkcs8(rsaKey()), kid: "R1", err: `a key of the ring is called "R1" already: give another kid`},
		{name: "metadata with a kid that is taken", states: "AR", text: meta(t, rsaKey(), "active", "A0", "RS256", "") + pkcs8(rsaKey()), err: `a key of the ring is called "A0" already`},
		{name: "a kid that cannot be", states: "AR", text: pkcs8(rsaKey()), kid: "a\nb", err: "kid has control characters"},
		{name: "a kid that cannot be, over metadata", states: "AR", text: meta(t, rsaKey(), "active", "k", "RS256", "") + pkcs8(rsaKey()), kid: "a\x00b", err: "kid has control characters"},
		{name: "one is staged", states: "ANR", text: pkcs8(rsaKey()), err: `key "N1" is staged already: activate or retire it first`},
		{
			name: "encrypted", states: "AR", err: "the key is encrypted: decrypt it with openssl pkey",
			text: strings.ReplaceAll(pkcs8(rsaKey()), " PRIVATE", " ENCRYPTED PRIVATE"),
		},
		{name: "public only", states: "AR", text: public(rsaKey()), err: "the PEM block at line 1: it is a public key: the private one is needed"},
		{name: "no PEM", states: "AR", text: "nonsense", err: "it holds no PEM block"},
		{name: "empty", states: "AR", err: "it holds no PEM block"},
		{name: "damaged", states: "AR", text: strings.Replace(pkcs8(rsaKey()), "\nM", "\n!", 1), err: "the block is damaged"},
		{name: "over 64 KiB", states: "AR", text: strings.Repeat("#", maxRing) + "\n" + pkcs8(rsaKey()), err: "it is over 64 KiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := ringPath(t)
			if tt.states != "" {
				write(t, path, ringText(t, tt.states))
			}
			// The configured kid is the first key's, not that of any import.
			ring := open(t, path, Config{Kid: "configured", Now: (&clock{today.Add(time.Millisecond)}).Now})
			before := kids(ring.Keys())
			k, err := ring.Import(t.Context(), []byte(tt.text), tt.kid)
			if tt.err != "" {
				wantError(t, err, "importing a key into ring default: ", tt.err)
				wantKids(t, ring, before...)
				if read(t, path) != ringText(t, tt.states) {
					t.Error("the file was changed")
				}
				return
			}
			ok(t, err)
			if got := see([]*Key{k})[0]; got != tt.want {
				t.Errorf("imported %+v\n    want %+v", got, tt.want)
			}
			place := min(1, len(before)) // behind the active one
			for name, ring := range map[string]*Ring{"the ring": ring, "the ring opened anew": open(t, path, Config{})} {
				if got := see(ring.Keys()); len(got) != len(before)+1 || got[place] != tt.want {
					t.Errorf("%s holds %+v", name, got)
				}
			}
			signed, err := k.Sign(t.Context(), nil, map[string]any{"iss": "me"})
			ok(t, err)
			verify(t, signed, k.JWK(), k.Algorithm())
		})
	}
}
