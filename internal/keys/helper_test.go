package keys

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Keys are slow to make, and no test changes one.
var (
	rsaKey  = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p384Key = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521Key = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	p256s   = sync.OnceValue(func() []*ecdsa.PrivateKey {
		var made []*ecdsa.PrivateKey
		for range maxKeys + 2 {
			made = append(made, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
		}
		return made
	})
)

// ecKey is the P-256 key number i.
func ecKey(i int) *ecdsa.PrivateKey { return p256s()[i] }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func block(blockType string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der}))
}

func pkcs8(private any) string {
	return block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(private)))
}

func pkcs1(private *rsa.PrivateKey) string {
	return block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(private))
}

func sec1(private *ecdsa.PrivateKey) string {
	return block("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(private)))
}

// thumbprint computes RFC 7638 by hand.
func thumbprint(tb testing.TB, private any) string {
	tb.Helper()
	enc := base64.RawURLEncoding.EncodeToString
	var members string
	switch private := private.(type) {
	case *rsa.PrivateKey:
		members = fmt.Sprintf(`{"e":"AQAB","kty":"RSA","n":%q}`, enc(private.N.Bytes()))
	case *ecdsa.PrivateKey:
		point := must(private.PublicKey.Bytes())[1:]
		x, y := point[:len(point)/2], point[len(point)/2:]
		members = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`, private.Curve.Params().Name, enc(x), enc(y))
	default:
		tb.Fatalf("no thumbprint for a %T", private)
	}
	sum := sha256.Sum256([]byte(members))
	return enc(sum[:])
}

// meta is the metadata line of a key.
func meta(tb testing.TB, private any, state, kid, alg, more string) string {
	tb.Helper()
	return fmt.Sprintf("Okta-Token-Broker: state=%s kid=%s thumbprint=%s alg=%s %s\n", state, url.QueryEscape(kid), thumbprint(tb, private), alg, more)
}

// provenAt is when the proven keys of ringText were proven.
var provenAt = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// ringText is a ring of P-256 keys, one per letter: A active, N next, R retired;
// a, n, r the same and proven. The kid of each is its letter and its place.
func ringText(tb testing.TB, states string) string {
	tb.Helper()
	names := map[string]string{"A": "active", "N": "next", "R": "retired"}
	var text strings.Builder
	for i, letter := range states {
		more := "created=2026-01-02T03:04:05Z"
		if strings.ToLower(string(letter)) == string(letter) {
			more += " proven=" + provenAt.Format(time.RFC3339)
		}
		text.WriteString(meta(tb, ecKey(i), names[strings.ToUpper(string(letter))], fmt.Sprintf("%c%d", letter, i), "ES256", more))
		text.WriteString(pkcs8(ecKey(i)))
	}
	return text.String()
}

// seen is what a user can learn of a key.
type seen struct {
	Kid, Thumbprint, Alg       string
	State                      State
	Created, Activated, Proven time.Time
}

func see(ring []*Key) []seen {
	var all []seen
	for _, k := range ring {
		all = append(all, seen{k.ID(), k.Thumbprint(), k.Algorithm(), k.State(), k.Created(), k.Activated(), k.Proven()})
	}
	return all
}

func kids(ring []*Key) []string {
	var all []string
	for _, k := range ring {
		all = append(all, k.ID())
	}
	return all
}

// ringPath is where a ring could be, in a folder of its own.
func ringPath(tb testing.TB) string {
	tb.Helper()
	return filepath.Join(tb.TempDir(), "private_key.pem")
}

// ringFile is a file that holds text.
func ringFile(tb testing.TB, text string) string {
	tb.Helper()
	path := ringPath(tb)
	write(tb, path, text)
	return path
}

func write(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func read(tb testing.TB, path string) string {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

// files lists the names in a path's folder.
func files(tb testing.TB, path string) []string {
	tb.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// wantPrivate wants a regular file that its owner alone can read.
func wantPrivate(tb testing.TB, path string) {
	tb.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		tb.Fatal(err)
	}
	if want := fs.FileMode(0o600); info.Mode() != want {
		tb.Errorf("%s has mode %v, want %v", filepath.Base(path), info.Mode(), want)
	}
}

func newFile(tb testing.TB, path string, readOnly bool) *File {
	tb.Helper()
	file, err := NewFile(tb.Context(), path, readOnly)
	if err != nil {
		tb.Fatal(err)
	}
	return file
}

// open opens a ring as a process of its own would, ES256 unless cfg says else.
// An empty store is the file at path.
func open(tb testing.TB, path string, cfg Config) *Ring {
	tb.Helper()
	if cfg.Store == nil {
		cfg.Store = newFile(tb, path, false)
	}
	if cfg.Name == "" {
		cfg.Name = "default"
	}
	if cfg.Algorithm == "" {
		cfg.Algorithm = "ES256"
	}
	ring, err := Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return ring
}

func rotate(tb testing.TB, ring *Ring, kid string) *Key {
	tb.Helper()
	k, err := ring.Rotate(tb.Context(), kid)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// active returns the key that signs, which must be there already.
func active(tb testing.TB, ring *Ring) *Key {
	tb.Helper()
	k, made, err := ring.Active(tb.Context(), "")
	if err != nil || made {
		tb.Fatalf("Active: made %t, error %v", made, err)
	}
	return k
}

// wantKids compares the kids of a ring, active first.
func wantKids(tb testing.TB, ring *Ring, want ...string) {
	tb.Helper()
	if got := kids(ring.Keys()); !slices.Equal(got, want) {
		tb.Errorf("the ring holds %q, want %q", got, want)
	}
}

// wantError wants an error that shows all the words on one line.
func wantError(tb testing.TB, err error, words ...string) {
	tb.Helper()
	if err == nil {
		tb.Errorf("no error, want one with %q", words)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			tb.Errorf("error %q does not say %q", err, word)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		tb.Errorf("error %q is not one line", err)
	}
}

// journal keeps what is logged.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) log() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// wantCount wants that many lines with words.
func (j *journal) wantCount(tb testing.TB, want int, words string) {
	tb.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	got := 0
	for line := range strings.Lines(j.buf.String()) {
		if strings.Contains(line, words) {
			got++
		}
	}
	if got != want {
		tb.Errorf("the log says %q %d times, want %d:\n%s", words, got, want, j.buf.String())
	}
}

// canceled is a context that has ended.
func canceled(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	cancel()
	return ctx
}
