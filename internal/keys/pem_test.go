package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// parameters is the block that openssl ecparam -genkey puts in front.
func parameters(curve ...int) string {
	return block("EC PARAMETERS", must(asn1.Marshal(asn1.ObjectIdentifier(curve))))
}

func TestOpenTakes(t *testing.T) {
	plain := func(private any, alg string, state State) seen {
		tp := thumbprint(t, private)
		return seen{Kid: tp, Thumbprint: tp, Alg: alg, State: state}
	}
	named := func(private any, kid, alg string, state State) seen {
		return seen{Kid: kid, Thumbprint: thumbprint(t, private), Alg: alg, State: state}
	}
	onlyRSA := []seen{plain(rsaKey(), "RS256", Active)}
	onlyEC := []seen{plain(ecKey(0), "ES256", Active)}
	crlf := func(text string) string { return strings.ReplaceAll(text, "\n", "\r\n") }
	attributes := "Bag Attributes\n    friendlyName: broker\n    localKeyID: 54 69\nKey Attributes: <No Attributes>\n"
	long := strings.Repeat("k", maxKid)
	var eight string
	var wantEight []seen
	for i := range maxKeys {
		eight += pkcs8(ecKey(i))
		wantEight = append(wantEight, plain(ecKey(i), "ES256", Retired))
	}
	wantEight[0].State = Active
	padded := pkcs8(ecKey(0))
	padded = strings.Repeat("#", maxRing-len(padded)-1) + "\n" + padded

	tests := []struct {
		name string
		text string
		kid  string // in the configuration
		want []seen
	}{
		{name: "PKCS#1", text: pkcs1(rsaKey()), want: onlyRSA},
		{name: "PKCS#8 RSA", text: pkcs8(rsaKey()), want: onlyRSA},
		{name: "PKCS#8 P-256", text: pkcs8(ecKey(0)), want: onlyEC},
		{name: "PKCS#8 P-384", text: pkcs8(p384Key()), want: []seen{plain(p384Key(), "ES384", Active)}},
		{name: "PKCS#8 P-521", text: pkcs8(p521Key()), want: []seen{plain(p521Key(), "ES512", Active)}},
		{name: "SEC 1", text: sec1(ecKey(0)), want: onlyEC},
		{name: "SEC 1 P-521", text: sec1(p521Key()), want: []seen{plain(p521Key(), "ES512", Active)}},
		{name: "EC PARAMETERS in front", text: parameters(1, 3, 132, 0, 34) + sec1(p384Key()), want: []seen{plain(p384Key(), "ES384", Active)}},
		{
			name: "EC PARAMETERS in front of both keys",
			text: parameters(1, 2, 840, 10045, 3, 1, 7) + sec1(ecKey(0)) + parameters(1, 3, 132, 0, 34) + sec1(p384Key()),
			want: []seen{plain(ecKey(0), "ES256", Active), plain(p384Key(), "ES384", Retired)},
		},
		{
			name: "metadata behind EC PARAMETERS",
			text: parameters(1, 2, 840, 10045, 3, 1, 7) + meta(t, ecKey(0), "active", "k", "ES256", "") + sec1(ecKey(0)),
			want: []seen{named(ecKey(0), "k", "ES256", Active)},
		},
		{name: "CRLF", text: crlf(pkcs8(rsaKey())), want: onlyRSA},
		{
			name: "CRLF and metadata", text: crlf(meta(t, ecKey(0), "active", "k", "ES256", "") + pkcs8(ecKey(0)) + meta(t, ecKey(1), "retired", "l", "ES256", "") + pkcs8(ecKey(1))),
			want: []seen{named(ecKey(0), "k", "ES256", Active), named(ecKey(1), "l", "ES256", Retired)},
		},
		{name: "no line end at the end", text: strings.TrimSuffix(pkcs8(ecKey(0)), "\n"), want: onlyEC},
		{name: "other text", text: attributes + pkcs8(ecKey(0)) + "\nThe end.\n", want: onlyEC},
		{
			name: "other text around metadata", text: attributes + meta(t, ecKey(0), "active", "k", "ES256", "") + "More.\n" + pkcs8(ecKey(0)),
			want: []seen{named(ecKey(0), "k", "ES256", Active)},
		},
		{
			name: "several without metadata", text: pkcs8(ecKey(0)) + pkcs1(rsaKey()) + sec1(p384Key()),
			want: []seen{plain(ecKey(0), "ES256", Active), plain(rsaKey(), "RS256", Retired), plain(p384Key(), "ES384", Retired)},
		},
		{
			name: "the configured kid names the first plain key alone", text: pkcs8(ecKey(0)) + pkcs8(ecKey(1)), kid: "mine",
			want: []seen{named(ecKey(0), "mine", "ES256", Active), plain(ecKey(1), "ES256", Retired)},
		},
		{
			name: "a stored kid wins over the configured one", text: meta(t, ecKey(0), "active", "stored", "ES256", "") + pkcs8(ecKey(0)), kid: "mine",
			want: []seen{named(ecKey(0), "stored", "ES256", Active)},
		},
		{
			name: "plain key in front of one with metadata", text: pkcs8(ecKey(0)) + meta(t, ecKey(1), "retired", "old", "ES256", "") + pkcs8(ecKey(1)),
			want: []seen{plain(ecKey(0), "ES256", Active), named(ecKey(1), "old", "ES256", Retired)},
		},
		{
			name: "one kid twice", text: meta(t, ecKey(0), "active", "k", "ES256", "") + pkcs8(ecKey(0)) + meta(t, ecKey(1), "retired", "k", "ES256", "") + pkcs8(ecKey(1)),
			want: []seen{named(ecKey(0), "k", "ES256", Active), named(ecKey(1), "k", "ES256", Retired)},
		},
		{name: "the longest kid", text: meta(t, ecKey(0), "active", long, "ES256", "") + pkcs8(ecKey(0)), want: []seen{named(ecKey(0), long, "ES256", Active)}},
		{name: "empty times", text: meta(t, ecKey(0), "active", "k", "ES256", "created= activated= proven=") + pkcs8(ecKey(0)), want: []seen{named(ecKey(0), "k", "ES256", Active)}},
		{name: "as many keys as fit", text: eight, want: wantEight},
		{name: "as many bytes as fit", text: padded, want: onlyEC},
		{
			name: "all states and times",
			text: meta(t, ecKey(0), "active", "now", "ES256", "created=2026-01-02T03:04:05Z activated=2026-01-03T03:04:05Z proven=2026-01-03T04:05:06+01:00") + pkcs8(ecKey(0)) +
				meta(t, ecKey(1), "next", "soon", "ES256", "created=2026-01-04T03:04:05Z") + pkcs8(ecKey(1)) +
				meta(t, rsaKey(), "retired", "was", "RS512", "") + pkcs8(rsaKey()),
			want: []seen{
				{
					Kid: "now", Thumbprint: thumbprint(t, ecKey(0)), Alg: "ES256", State: Active,
					Created:   time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
					Activated: time.Date(2026, 1, 3, 3, 4, 5, 0, time.UTC),
					Proven:    time.Date(2026, 1, 3, 3, 5, 6, 0, time.UTC),
				},
				{Kid: "soon", Thumbprint: thumbprint(t, ecKey(1)), Alg: "ES256", State: Next, Created: time.Date(2026, 1, 4, 3, 4, 5, 0, time.UTC)},
				named(rsaKey(), "was", "RS512", Retired),
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ring := open(t, ringFile(t, tt.text), Config{Kid: tt.kid})
			if diff := cmp.Diff(tt.want, see(ring.Keys())); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFormatRoundTrip(t *testing.T) {
	at := time.Date(2026, 5, 6, 7, 8, 9, 0, time.FixedZone("", 7200))
	names := []string{"with spaces  two", "Schlüssel ÄÖÜ 鍵", "100%25 % %zz", "a=b state=retired", `"quoted" 'too' \`, "a+b&c;d#e"}
	var ring []*Key
	for i, name := range names {
		k, err := newKey(ecKey(i), "", name)
		if err != nil {
			t.Fatal(err)
		}
		ring = append(ring, k.with(func(k *Key) {
			k.state, k.created = Retired, at.AddDate(0, 0, -i)
			if i == 0 {
				k.state, k.activated = Active, at.Add(time.Hour)
			}
			if i == 1 {
				k.state = Next
			}
			if i%2 == 0 {
				k.proven = at.Add(2 * time.Hour)
			}
		}))
	}
	text, err := formatRing(ring)
	if err != nil {
		t.Fatal(err)
	}
	back, err := parseRing(text, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(see(ring), see(back)); diff != "" {
		t.Errorf("keys (-written +read):\n%s", diff)
	}
	for i, k := range back {
		if private, ok := k.signer.(*ecdsa.PrivateKey); !ok || !private.Equal(ecKey(i)) {
			t.Errorf("key %q came back as another", k.ID())
		}
	}
}

// TestEveryKidIsKept makes keys called what a request may call them and opens
// the ring again.
func TestEveryKidIsKept(t *testing.T) {
	for _, kid := range []string{
		"plain", " ", "a b", "Schlüssel", "100%", "%00", "a=b", `"`, "../../etc/passwd", "\u2028", "\ufeff", strings.Repeat("ü", maxKid/2),
		"Okta-Token-Broker:", "Okta-Token-Broker: state=retired", "-----", "-----BEGIN", "-----END", "-----BEGIN PRIVATE KEY-----",
	} {
		t.Run(kid[:min(len(kid), 30)], func(t *testing.T) {
			path := ringPath(t)
			ring := open(t, path, Config{})
			if _, made, err := ring.Active(t.Context(), kid); err != nil || !made {
				t.Fatalf("made %t, error %v", made, err)
			}
			wantKids(t, open(t, path, Config{}), kid)
			rotate(t, ring, kid)
			wantKids(t, open(t, path, Config{}), kid, kid)
		})
	}
}

// TestWrittenRingOpens changes rings that are read and asks for them again: what
// the broker writes it must be able to read.
func TestWrittenRingOpens(t *testing.T) {
	for _, more := range []string{
		"created=2026-01-02T03:04:05.678Z",
		"created=2026-01-02T03:04:05+14:00",
		"created=0001-01-01T00:00:00Z",
		"created=9999-12-31T23:59:59-23:59",
		"created=0000-01-01T00:00:00+23:59",
	} {
		t.Run(more, func(t *testing.T) {
			path := ringFile(t, meta(t, ecKey(0), "active", "old", "ES256", more)+pkcs8(ecKey(0)))
			ring, err := Open(t.Context(), Config{Store: newFile(t, path, false), Algorithm: "ES256"})
			if err != nil {
				return // refusing it loses nothing
			}
			if _, err := ring.Rotate(t.Context(), "new"); err != nil {
				return
			}
			wantKids(t, open(t, path, Config{}), "new", "old")
		})
	}
}

func TestOpensslShowsTheActiveKey(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed: ", err)
	}
	for _, alg := range []string{"RS256", "ES384"} {
		t.Run(alg, func(t *testing.T) {
			path := ringPath(t)
			ring := open(t, path, Config{Algorithm: alg})
			for _, kid := range []string{"one", "two and a half"} {
				rotate(t, ring, kid)
			}
			der, err := exec.CommandContext(t.Context(), openssl, "pkey", "-in", path, "-pubout", "-outform", "DER").Output()
			if err != nil {
				t.Fatal(err)
			}
			want, err := x509.MarshalPKIXPublicKey(active(t, ring).signer.Public())
			if err != nil {
				t.Fatal(err)
			}
			if !cmp.Equal(der, want) {
				t.Error("openssl shows another key than the active one")
			}
		})
	}
}

// FuzzParseRing reads data as a ring, and again with a metadata line that ends
// in fields, which data that was made up has no chance to get right.
func FuzzParseRing(f *testing.F) {
	elsewhere := func(public crypto.PublicKey) (crypto.Signer, error) { return hold(opaque{public: public}, nil) }
	f.Add(public(ecKey(1))+pkcs8(ecKey(0)), "k", "created=2026-01-02T03:04:05Z")
	f.Add(ringText(f, "ANrR"), "", "")
	f.Add(pkcs8(ecKey(0))+pkcs8(ecKey(1)), "mine", "created=2026-01-02T03:04:05Z")
	f.Add(parameters(1, 3, 132, 0, 34)+sec1(p384Key()), "", "proven= \nMore text.")
	f.Add(pkcs1(rsaKey()), "a kid", "activated=2026-01-02T03:04:05+01:00")
	f.Add(strings.ReplaceAll(ringText(f, "aR"), "\n", "\r\n"), "%", "alg=RS256")
	f.Add(strings.Replace(ringText(f, "AR"), "-----END", "-----EMD", 1), "a=b", "\n"+pkcs8(ecKey(1)))
	f.Add("Okta-Token-Broker: state=active kid=%ff thumbprint= alg=ES256\n-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "\x00", "\nOkta-Token-Broker:")
	f.Fuzz(func(t *testing.T, data, kid, fields string) {
		for _, text := range []string{data, meta(t, ecKey(0), "active", kid, "ES256", fields) + pkcs8(ecKey(0)) + data} {
			ring, err := parseRing([]byte(text), kid, elsewhere)
			if err != nil {
				continue
			}
			formatted, err := formatRing(ring)
			if err != nil {
				continue // percent codes make a kid longer than it was
			}
			back, err := parseRing(formatted, "", elsewhere)
			if err != nil {
				t.Fatalf("what was written cannot be read: %v", err)
			}
			if diff := cmp.Diff(see(ring), see(back)); diff != "" {
				t.Errorf("keys (-written +read):\n%s", diff)
			}
		}
	})
}
