package httpapi_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"okta-token-broker/internal/keys"
)

// signed is what POST / answers, verified.
type signed struct {
	JWK     json.RawMessage
	JWT     string
	Changed bool `json:"private_key_changed"`

	header map[string]any
	claims map[string]any
	jwk    map[string]any
}

// verified checks the JWT against the jwk that was answered with it.
func verified(t *testing.T, a answer) signed {
	t.Helper()
	if a.status != 200 || a.header.Get("Content-Type") != "application/json" || a.header.Get("Cache-Control") != "no-store" || a.header.Get("Pragma") != "no-cache" {
		t.Fatalf("status %d, headers %v, body %s", a.status, a.header, a.body)
	}
	var s signed
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatal(err)
	}
	var public jose.JSONWebKey
	if err := public.UnmarshalJSON(s.JWK); err != nil {
		t.Fatal(err)
	}
	if !public.IsPublic() {
		t.Fatal("the jwk is not public")
	}
	if err := json.Unmarshal(s.JWK, &s.jwk); err != nil {
		t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(s.JWT, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(public.Algorithm)})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := jws.Verify(public)
	if err != nil {
		t.Fatalf("the jwk does not verify the jwt: %v", err)
	}
	if err := json.Unmarshal(payload, &s.claims); err != nil {
		t.Fatal(err)
	}
	s.header = map[string]any{}
	for name, value := range jws.Signatures[0].Header.ExtraHeaders {
		s.header[string(name)] = value
	}
	s.header["alg"], s.header["kid"] = jws.Signatures[0].Header.Algorithm, jws.Signatures[0].Header.KeyID
	return s
}

const good = `{"client_id": "0oaflask", "audience": "https://acme.okta.test/oauth2/v1/token"`

func TestSignAnswersLikeTheFlaskServer(t *testing.T) {
	r := start(t, setup{noClient: true, algorithm: "RS256"})

	before := time.Now().Unix()
	first := verified(t, r.send(t, "POST", "/", good+"}"))
	if !first.Changed {
		t.Error("the request that made the key does not say so")
	}
	if diff := cmp.Diff([]string{"alg", "e", "kid", "kty", "n", "use"}, slices.Sorted(maps.Keys(first.jwk))); diff != "" {
		t.Errorf("jwk members: %s", diff)
	}
	kid := first.header["kid"].(string)
	if id, err := uuid.Parse(kid); err != nil || id.Version() != 4 {
		t.Errorf("kid %q is not a UUID v4", kid)
	}
	if first.jwk["kid"] != kid || first.jwk["use"] != "sig" || first.jwk["alg"] != "RS256" || first.jwk["kty"] != "RSA" {
		t.Errorf("jwk: %v", first.jwk)
	}
	if diff := cmp.Diff(map[string]any{"typ": "JWT", "alg": "RS256", "use": "sig", "kid": kid}, first.header); diff != "" {
		t.Errorf("header: %s", diff)
	}
	iat, jti := int64(first.claims["iat"].(float64)), first.claims["jti"].(string)
	if iat < before || iat > time.Now().Unix() {
		t.Errorf("iat %d is not now", iat)
	}
	if id, err := uuid.Parse(jti); err != nil || id.Version() != 4 {
		t.Errorf("jti %q is not a UUID v4", jti)
	}
	want := map[string]any{
		"aud": "https://acme.okta.test/oauth2/v1/token", "iss": "0oaflask", "sub": "0oaflask",
		"jti": jti, "iat": float64(iat), "exp": float64(iat + 600),
	}
	if diff := cmp.Diff(want, first.claims); diff != "" {
		t.Errorf("claims: %s", diff)
	}
	if got := r.ring.Keys()[0].ID(); got != kid {
		t.Errorf("the key is called %q, not %q as answered", got, kid)
	}

	second := verified(t, r.send(t, "POST", "/", good+"}"))
	if second.Changed || second.header["kid"] == kid || second.jwk["n"] != first.jwk["n"] || second.claims["jti"] == jti {
		t.Errorf("second answer: changed %v, kid %v, jti %v", second.Changed, second.header["kid"], second.claims["jti"])
	}
}

// The two requests of the Flask server's README.
func TestFlaskSamples(t *testing.T) {
	r := start(t, setup{noClient: true})
	const first = "{\n\t\"client_id\":\"{{your_client_id}}\",\n\t\"audience\":\"{{base_okta_url}}/oauth2/v1/token\"\n}"
	const second = "{\n\t\"client_id\":\"{{your_client_id}}\",\n\t\"audience\":\"{{base_okta_url}}/oauth2/v1/token\",\n\t\"kid\": \"25c27275-6d6c-42b3-9960-414f1ffaff02\",\n\t\"valid_for\":3600\n}"
	a := verified(t, r.send(t, "POST", "", first, "Content-Type: application/json"))
	b := verified(t, r.send(t, "POST", "?rotate=true", second, "Content-Type: application/json"))
	if !a.Changed || !b.Changed || a.jwk["x"] == b.jwk["x"] {
		t.Errorf("changed: %v, %v", a.Changed, b.Changed)
	}
	if b.header["kid"] != "25c27275-6d6c-42b3-9960-414f1ffaff02" || b.claims["exp"].(float64)-b.claims["iat"].(float64) != 3600 || b.claims["aud"] != "{{base_okta_url}}/oauth2/v1/token" {
		t.Errorf("header %v, claims %v", b.header, b.claims)
	}
}

func TestSignInput(t *testing.T) {
	r := start(t, setup{noClient: true})
	verified(t, r.send(t, "POST", "/", good+"}")) // makes the key
	active := r.ring.Keys()[0]

	t.Run("accepted", func(t *testing.T) {
		tests := []struct {
			name, path, more string
			kid              string // "" for a random one
			life             int
			rotated          bool
		}{
			{name: "kid", more: `, "kid": "my kid"`, kid: "my kid", life: 600},
			{name: "kid null", more: `, "kid": null`, life: 600},
			{name: "kid empty", more: `, "kid": ""`, life: 600},
			{name: "valid_for null", more: `, "valid_for": null`, life: 600},
			{name: "valid_for 0", more: `, "valid_for": 0`, life: 600},
			{name: "valid_for 1", more: `, "valid_for": 1`, life: 1},
			{name: "valid_for 3600", more: `, "valid_for": 3600`, life: 3600},
			{name: "unknown members", more: `, "iss": "x", "sub": "x", "exp": 1, "iat": 1, "jti": "x", "alg": "none", "typ": "x"`, life: 600},
			{name: "rotate=false", path: "?rotate=false", life: 600},
			{name: "rotate=1", path: "?rotate=1", life: 600},
			{name: "rotate empty", path: "?rotate", life: 600},
			{name: "rotate=true", path: "?rotate=true", more: `, "kid": "k1"`, kid: "k1", life: 600, rotated: true},
			{name: "rotate=TRUE", path: "?rotate=TRUE", more: `, "kid": "k1"`, kid: "k1", life: 600, rotated: true},
			{name: "rotate=tRuE", path: "?rotate=tRuE", life: 600, rotated: true},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				got := verified(t, r.send(t, "POST", "/"+tt.path, good+tt.more+"}"))
				now := r.ring.Keys()[0]
				if got.Changed != tt.rotated || (now.Thumbprint() != active.Thumbprint()) != tt.rotated {
					t.Errorf("private_key_changed %v, want %v", got.Changed, tt.rotated)
				}
				active = now
				if tt.kid != "" && got.header["kid"] != tt.kid {
					t.Errorf("kid %v, want %q", got.header["kid"], tt.kid)
				}
				if tt.rotated && now.ID() != got.header["kid"] {
					t.Errorf("the new key is called %q, not %v as answered", now.ID(), got.header["kid"])
				}
				if _, err := uuid.Parse(got.header["kid"].(string)); tt.kid == "" && err != nil {
					t.Errorf("kid %v is not a UUID", got.header["kid"])
				}
				if life := got.claims["exp"].(float64) - got.claims["iat"].(float64); int(life) != tt.life {
					t.Errorf("lives %v s, want %d", life, tt.life)
				}
				if len(got.claims) != 6 || got.claims["iss"] != "0oaflask" {
					t.Errorf("claims %v", got.claims)
				}
			})
		}
	})

	t.Run("refused", func(t *testing.T) {
		const notJSON = "Invalid JSON request body. Check the integrity of the data."
		const bothMissing = "audience and client_id are mandatory!"
		const tooHigh = "valid_for must not be higher than 3600 seconds (1 hour)!"
		const notInteger = "valid_for must be a integer!"
		long := strings.Repeat("x", 2<<10+1)
		tests := []struct{ name, body, want string }{
			{"empty", "", notJSON},
			{"not JSON", "client_id=x", notJSON},
			{"cut", good, notJSON},
			{"trailing data", good + "} x", notJSON},
			{"two objects", good + "}{}", notJSON},
			{"array", "[]", notJSON},
			{"string", `"x"`, notJSON},
			{"null", "null", notJSON},
			{"duplicate key", good + `, "client_id": "y"}`, notJSON},
			{"duplicate unknown key", good + `, "a": 1, "a": 2}`, notJSON},
			{"invalid UTF-8", good + ", \"kid\": \"\xff\"}", notJSON},
			{"lone surrogate", good + `, "kid": "\ud800"}`, notJSON},
			{"deep", good + `, "a": ` + strings.Repeat("[", 11000) + `}`, notJSON},
			{"both missing", "{}", bothMissing},
			{"both null", `{"client_id": null, "audience": null}`, bothMissing},
			{"other spelling", `{"Client_Id": "x", "AUDIENCE": "y"}`, bothMissing},
			{"client_id missing", `{"audience": "x"}`, "client_id is mandatory!"},
			{"audience missing", `{"client_id": "x"}`, "audience is mandatory!"},
			{"valid_for string", good + `, "valid_for": "600"}`, notInteger},
			{"valid_for bool", good + `, "valid_for": true}`, notInteger},
			{"valid_for false", good + `, "valid_for": false}`, notInteger},
			{"valid_for 1.5", good + `, "valid_for": 1.5}`, notInteger},
			{"valid_for 600.0", good + `, "valid_for": 600.0}`, notInteger},
			{"valid_for 6e2", good + `, "valid_for": 6e2}`, notInteger},
			{"valid_for list", good + `, "valid_for": [600]}`, notInteger},
			{"valid_for 3601", good + `, "valid_for": 3601}`, tooHigh},
			{"valid_for huge", good + `, "valid_for": 99999999999999999999999999}`, tooHigh},
			{"valid_for -1", good + `, "valid_for": -1}`, "valid_for must not be negative!"},
			{"client_id number", `{"client_id": 1, "audience": "x"}`, "client_id must be a string!"},
			{"client_id empty", `{"client_id": "", "audience": "x"}`, "client_id must not be empty!"},
			{"client_id long", `{"client_id": "` + long + `", "audience": "x"}`, "client_id must not be longer than 2048 bytes!"},
			{"client_id newline", `{"client_id": "a\nb", "audience": "x"}`, "client_id must not have control characters!"},
			{"client_id NUL", `{"client_id": "a\u0000", "audience": "x"}`, "client_id must not have control characters!"},
			{"audience list", `{"client_id": "a", "audience": ["x"]}`, "audience must be a string!"},
			{"audience empty", `{"client_id": "a", "audience": ""}`, "audience must not be empty!"},
			{"audience long", `{"client_id": "a", "audience": "` + long + `"}`, "audience must not be longer than 2048 bytes!"},
			{"audience DEL", `{"client_id": "a", "audience": "x\u007f"}`, "audience must not have control characters!"},
			{"kid number", good + `, "kid": 7}`, "kid must be a string!"},
			{"kid long", good + `, "kid": "` + long + `"}`, "kid must not be longer than 2048 bytes!"},
			{"kid tab", good + `, "kid": "a\tb"}`, "kid must not have control characters!"},
			{"kid C1", good + `, "kid": "a\u0085b"}`, "kid must not have control characters!"},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				// A refused request does not rotate either.
				got := r.send(t, "POST", "/?rotate=true", tt.body)
				if got.status != 400 || got.header.Get("Content-Type") != "application/json" {
					t.Errorf("status %d, type %s", got.status, got.header.Get("Content-Type"))
				}
				if diff := cmp.Diff(map[string]any{"Error": tt.want}, got.json(t)); diff != "" {
					t.Error(diff)
				}
				if r.ring.Keys()[0].Thumbprint() != active.Thumbprint() {
					t.Fatal("the key changed")
				}
			})
		}
	})

	t.Run("too large", func(t *testing.T) {
		got := r.send(t, "POST", "/", good+`, "pad": "`+strings.Repeat("x", 16<<10)+`"}`)
		if got.status != 413 || got.json(t)["Error"] == nil {
			t.Errorf("status %d: %s", got.status, got.body)
		}
	})
	t.Run("curl's default content type", func(t *testing.T) {
		verified(t, r.send(t, "POST", "/", good+"}", form))
	})
}

func TestConcurrentFirstRequestsMakeOneKey(t *testing.T) {
	r := start(t, setup{noClient: true})
	var wg sync.WaitGroup
	answers := make([]answer, 40)
	for i := range answers {
		wg.Go(func() { answers[i] = r.send(t, "POST", "/", good+"}") })
	}
	wg.Wait()
	made := 0
	for _, a := range answers {
		got := verified(t, a)
		if got.Changed {
			made++
			if id := r.ring.Keys()[0].ID(); got.header["kid"] != id {
				t.Errorf("the key is called %q, not %v as the request that made it was answered", id, got.header["kid"])
			}
		}
	}
	if made != 1 || len(r.ring.Keys()) != 1 {
		t.Errorf("%d requests say that they made the key, and there are %d keys", made, len(r.ring.Keys()))
	}
}

func TestSigningPolicy(t *testing.T) {
	const base = issuer + "/oauth2/v1/"
	tests := []struct {
		name     string
		signAny  bool
		id, aud  string
		refused  string
		usesKeys bool // answered under the active key's own kid
	}{
		{name: "token endpoint", id: clientID, aud: base + "token", usesKeys: true},
		{name: "introspection endpoint", id: clientID, aud: base + "introspect", usesKeys: true},
		{name: "revocation endpoint", id: clientID, aud: base + "revoke", usesKeys: true},
		{name: "another endpoint", id: clientID, aud: base + "device/authorize", refused: "audience"},
		{name: "the issuer", id: clientID, aud: issuer, refused: "audience"},
		{name: "another host", id: clientID, aud: "https://evil.test/oauth2/v1/token", refused: "audience"},
		{name: "another client", id: "0oaother", aud: base + "token", refused: "client_id"},
		{name: "any: another client", signAny: true, id: "0oaother", aud: "https://x.test/token"},
		{name: "any: a configured client", signAny: true, id: clientID, aud: "https://x.test/token", usesKeys: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, setup{signAny: tt.signAny})
			body, _ := json.Marshal(map[string]string{"client_id": tt.id, "audience": tt.aud})
			got := r.send(t, "POST", "/?rotate=true", string(body))
			if tt.refused != "" {
				if text, _ := got.json(t)["Error"].(string); got.status != 403 || !strings.HasPrefix(text, tt.refused) {
					t.Errorf("status %d: %s", got.status, got.body)
				}
				if len(r.ring.Keys()) != 0 {
					t.Error("a refused request made a key")
				}
				return
			}
			kid := verified(t, got).header["kid"]
			if own := kid == r.ring.Keys()[0].Thumbprint(); own != tt.usesKeys {
				t.Errorf("kid %v; the key's thumbprint is %s", kid, r.ring.Keys()[0].Thumbprint())
			}
		})
	}
}

// brokenStore is a ring that cannot be written.
type brokenStore struct {
	keys.Store
	err error
}

func (s brokenStore) Save(context.Context, []byte, string) error { return s.err }

func TestRotationThatCannotBeStored(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		err    error
		status int
		words  string
	}{
		{&fs.PathError{Op: "write", Path: dir, Err: syscall.ENOSPC}, 507, "no space"},
		{&fs.PathError{Op: "write", Path: dir, Err: syscall.EDQUOT}, 507, "no space"},
		{&fs.PathError{Op: "open", Path: dir, Err: syscall.EROFS}, 500, "could not be written"},
		{keys.ErrReadOnly, 500, "read-only"},
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			file := newFile(t)
			healthy := start(t, setup{noClient: true, store: file})
			old := verified(t, healthy.send(t, "POST", "/", good+"}"))

			r := start(t, setup{noClient: true, store: brokenStore{file, tt.err}})
			got := r.send(t, "POST", "/?rotate=true", good+"}")
			text, _ := got.json(t)["Error"].(string)
			if got.status != tt.status || !strings.Contains(text, tt.words) || strings.Contains(got.body, dir) {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			still := verified(t, r.send(t, "POST", "/", good+"}"))
			if still.jwk["x"] != old.jwk["x"] || still.Changed {
				t.Error("the old key does not sign any more")
			}
		})
	}
}
