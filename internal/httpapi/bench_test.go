package httpapi_test

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// BenchmarkGetToken sets a token from the cache against a bare handler that
// answers the same bytes.
func BenchmarkGetToken(b *testing.B) {
	target := newTarget(b, "ES256")
	ours, bare := target.getToken(b)
	compare(b, ours, bare)
}

// BenchmarkSign sets POST / against the signature that it cannot do without, by
// the same key over as many bytes: in a bare handler that reads the same body
// and answers as much, and alone, where HTTP itself counts against the broker.
func BenchmarkSign(b *testing.B) {
	for _, algorithm := range []string{"RS256", "ES256"} {
		target := newTarget(b, algorithm)
		ours, bare, raw := target.sign(b)
		b.Run(algorithm+"/bare-handler", func(b *testing.B) { compare(b, ours, bare) })
		b.Run(algorithm+"/no-network", func(b *testing.B) { compare(b, ours, raw) })
	}
}

// BenchmarkHandler is the handler alone: no socket, one goroutine.
func BenchmarkHandler(b *testing.B) {
	b.Run("GET-token", func(b *testing.B) { newTarget(b, "ES256").alone(b, "GET", "/token", "") })
	for _, algorithm := range []string{"RS256", "ES256"} {
		b.Run("POST-"+algorithm, func(b *testing.B) { newTarget(b, algorithm).alone(b, "POST", "/", signBody) })
	}
}

// getToken returns the broker and a bare handler with the same answer.
func (t *target) getToken(b *testing.B) (ours, bare side) {
	request := newRequest("GET", "/token", t.address, "")
	first := once(b, t.address, request)
	address := t.bare(b, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, first.header, first.body)
	})
	if diff := gocmp.Diff(first, once(b, address, request), gocmp.AllowUnexported(answer{})); diff != "" {
		b.Fatalf("the bare handler answers something else than the broker: %s", diff)
	}
	return client("broker", t.address, request), client("bare", address, request)
}

const signBody = `{"client_id":"` + clientID + `","audience":"` + issuer + `/oauth2/v1/token"}`

// sign returns the broker, a bare handler that signs, and the signing alone.
func (t *target) sign(b *testing.B) (ours, bare, raw side) {
	request := newRequest("POST", "/", t.address, signBody)
	first := once(b, t.address, request)
	var signed struct{ JWT string }
	if err := json.Unmarshal([]byte(first.body), &signed); err != nil {
		b.Fatal(err)
	}
	end := strings.LastIndex(signed.JWT, ".")
	input, signature := signed.JWT[:end], signed.JWT[end+1:]
	before, after, _ := strings.Cut(first.body, signature)
	sign := func() ([]byte, error) {
		digest := sha256.Sum256([]byte(input))
		return t.private.Sign(rand.Reader, digest[:], crypto.SHA256)
	}
	address := t.bare(b, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		signature, signErr := sign()
		if err := cmp.Or(err, signErr); err != nil {
			panic(err)
		}
		reply(w, first.header, before+base64.RawURLEncoding.EncodeToString(signature)+after)
	})
	raw = side{"raw", func(testing.TB) func() error {
		return func() error { _, err := sign(); return err }
	}}
	return client("broker", t.address, request), client("bare", address, request), raw
}

// alone calls the handler without a socket.
func (t *target) alone(b *testing.B, method, path, body string) {
	request := httptest.NewRequest(method, "http://"+t.address+path, nil)
	reader := strings.NewReader(body)
	b.ReportAllocs()
	for b.Loop() {
		reader.Reset(body)
		r := *request // the router and the guards put their own into it
		r.Body = io.NopCloser(reader)
		w := &discard{header: http.Header{}}
		t.api.ServeHTTP(w, &r)
		if w.status != http.StatusOK && w.status != 0 {
			b.Fatalf("status %d", w.status)
		}
	}
}

// discard is a ResponseWriter whose own cost is small.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }
