package cli_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const rotatorConfig = `
signing: {allow: ALLOW}
keys:
  default: {file: ring.pem, algorithm: ES256, rotation: {retire_after: 0s}}
  rotator: {file: rotator.pem, algorithm: ES256}
  own:     {file: own.pem, algorithm: ES256}
clients:
  default: {issuer: OKTA, client_id: 0oa1, scopes: [okta.users.read], registration: api, rotator: rotator}
  rotator: {issuer: OKTA, client_id: 0oarotator, scopes: [okta.apps.read, okta.apps.manage], key: rotator}
  own:     {issuer: OKTA, client_id: 0oaown, scopes: [okta.apps.read, okta.apps.manage], key: own, registration: api, rotator: own}
`

// Nobody gets a token or an assertion of a client that registers keys, by no
// operation and under no name; also not of one that registers its own.
func TestRotatorIsForNobody(t *testing.T) {
	for _, allow := range []string{"clients", "any"} {
		t.Run("signing.allow "+allow, func(t *testing.T) { rotatorIsForNobody(t, allow) })
	}
}

func rotatorIsForNobody(t *testing.T, allow string) {
	okta := startWatchedOkta(t, time.Hour)
	okta.addApp(t, "0oa1", "okta.users.read")
	okta.addApp(t, "0oaown", "okta.apps.read", "okta.apps.manage")
	okta.addApp(t, "0oarotator", "okta.apps.read", "okta.apps.manage")
	dir := t.TempDir()
	configure(t, dir, strings.NewReplacer("OKTA", okta.issuer, "ALLOW", allow).Replace(rotatorConfig))
	okta.paste(t, "0oa1", command(t, dir, "keys", "jwk"))
	rotatorJWK := command(t, dir, "keys", "jwk", "--key", "rotator")
	okta.paste(t, "0oarotator", rotatorJWK)
	okta.paste(t, "0oaown", command(t, dir, "keys", "jwk", "--key", "own"))
	s := startServing(t, broker(t, dir, nil, "0"))
	if status, body := get(t, s.url+"/token"); status != http.StatusOK {
		t.Fatalf("GET /token: status %d: %s", status, body)
	}

	const (
		form  = "application/x-www-form-urlencoded"
		grant = "grant_type=client_credentials"
	)
	for _, name := range []string{"rotator", "0oarotator", "own", "0oaown"} {
		tests := []struct{ method, path, kind, body string }{
			{"GET", "/token?client=" + name, "", ""},
			{"GET", "/token?scope=okta.apps.manage&client=" + name, "", ""},
			{"GET", "/token?scope=okta.users.read&min_ttl=60&client=" + name, "", ""},
			{"DELETE", "/token?client=" + name, "", ""},
			{"POST", "/token", form, grant + "&client_id=" + name},
			{"POST", "/oauth2/v1/token", form, grant + "&client_id=" + name + "&client_secret=s"},
			{"POST", "/revoke", form, "token=t&client_id=" + name},
		}
		if strings.HasPrefix(name, "0oa") {
			for _, audience := range []string{okta.issuer + "/oauth2/v1/token", okta.issuer + "/oauth2/v1/revoke", "https://elsewhere.example"} {
				body := `{"client_id": "` + name + `", "audience": "` + audience + `"}`
				tests = append(tests, []struct{ method, path, kind, body string }{
					{"POST", "/", "application/json", body}, {"POST", "/?rotate=true", "application/json", body},
				}...)
			}
		}
		for _, tt := range tests {
			req, _ := http.NewRequestWithContext(t.Context(), tt.method, s.url+tt.path, strings.NewReader(tt.body))
			if tt.kind != "" {
				req.Header.Set("Content-Type", tt.kind)
			}
			want := `{"error":"access_denied","error_description":"the client registers keys (clients.NAME.rotator), and serves no caller"}`
			if strings.HasPrefix(tt.path, "/?") || tt.path == "/" {
				want = `{"Error":"the client registers keys (clients.NAME.rotator), and serves no caller"}`
			}
			if status, body, err := send(http.DefaultClient, req); status != http.StatusForbidden || strings.TrimSpace(body) != want {
				t.Errorf("%s %s %s: status %d, %v: %s", tt.method, tt.path, tt.body, status, err, body)
			}
		}
		req, _ := http.NewRequestWithContext(t.Context(), "POST", s.url+"/oauth2/v1/token", strings.NewReader(grant))
		req.Header.Set("Content-Type", form)
		req.SetBasicAuth(name, "secret")
		if status, body, err := send(http.DefaultClient, req); status != http.StatusForbidden {
			t.Errorf("POST /oauth2/v1/token as %s: status %d, %v: %s", name, status, err, body)
		}
		_, stderr, code := run(t, broker(t, dir, nil, "token", "--client", name))
		if code != 1 || !strings.Contains(stderr, "serves no caller") {
			t.Errorf("token --client %s: exit code %d: %s", name, code, stderr)
		}
	}
	if now := command(t, dir, "keys", "jwk", "--key", "rotator"); now != rotatorJWK {
		t.Error("a refused request rotated the rotator's key")
	}
	if status, body := get(t, s.url+"/token"); status != http.StatusOK {
		t.Errorf("GET /token: status %d: %s", status, body)
	}
	log := stopped(t, s)
	if strings.Contains(log, `msg="token fetched" client=rotator`) || strings.Contains(log, `msg="token fetched" client=own`) {
		t.Errorf("a rotator's token was fetched for callers: %s", withoutCallers(log))
	}
}

// Several brokers with rings of their own have keys in one app, and so do people.
// Each removes its own and no other, and none takes another's kid.
func TestBrokersThatShareAnApp(t *testing.T) {
	okta := startWatchedOkta(t, 2*time.Second)
	okta.addApp(t, "app", "okta.users.read")
	okta.addApp(t, "rotator", "okta.apps.read", "okta.apps.manage")
	okta.paste(t, "app", command(t, t.TempDir(), "keys", "rotate", "--kid", "somebodys"))
	type instance struct {
		*serving
		dir string
	}
	var brokers []instance
	for _, name := range []string{"a", "b"} {
		dir := t.TempDir()
		configure(t, dir, strings.ReplaceAll(`
keys:
  default: {file: ring.pem, algorithm: ES256, rotation: {retire_after: 0s}}
  rotator: {file: rotator.pem, algorithm: ES256}
clients:
  default: {issuer: OKTA, client_id: app, scopes: [okta.users.read], registration: api, rotator: rotator}
  rotator: {issuer: OKTA, client_id: rotator, scopes: [okta.apps.read, okta.apps.manage], key: rotator}
`, "OKTA", okta.issuer))
		command(t, dir, "keys", "stage", "--kid", name+"-0") // which the broker registers
		okta.paste(t, "rotator", command(t, dir, "keys", "jwk", "--key", "rotator"))
		brokers = append(brokers, instance{startServing(t, broker(t, dir, nil, "0")), dir})
	}
	holds := func(want ...string) func() bool {
		return func() bool {
			for _, b := range brokers {
				if status, body := get(t, b.url+"/token"); status != http.StatusOK {
					t.Fatalf("GET /token: status %d: %s", status, body)
				}
			}
			saved := okta.saved("app")
			slices.Sort(saved)
			return slices.Equal(saved, want)
		}
	}
	a, b := brokers[0], brokers[1]
	registered := func() bool { return len(okta.saved("app")) == 3 }
	eventually(t, a.logs, registered)
	eventually(t, a.logs, holds("a-0 ACTIVE", "b-0 ACTIVE", "somebodys ACTIVE"))

	// Both at once.
	command(t, a.dir, "keys", "rotate", "--kid", "a-1")
	command(t, b.dir, "keys", "rotate", "--kid", "b-1")
	eventually(t, b.logs, holds("a-1 ACTIVE", "b-1 ACTIVE", "somebodys ACTIVE"))

	// Under a kid that is another's.
	command(t, b.dir, "keys", "rotate", "--kid", "a-1")
	eventually(t, b.logs, func() bool { return strings.Contains(b.logs.String(), "another public key under the kid") })
	if !holds("a-1 ACTIVE", "b-1 ACTIVE", "somebodys ACTIVE")() {
		t.Errorf("the app has %q", okta.saved("app"))
	}
	command(t, b.dir, "keys", "retire", "a-1")
	command(t, a.dir, "keys", "rotate", "--kid", "a-2")
	eventually(t, a.logs, holds("a-2 ACTIVE", "b-1 ACTIVE", "somebodys ACTIVE"))
	if diff := cmp.Diff([]string{"b-1"}, kids(t, b.url+jwksPath)); diff != "" {
		t.Errorf("b publishes (-want +got):\n%s", diff)
	}
	for _, r := range okta.asked(func(r tokenRequest) bool { return r.status != http.StatusOK && r.kid != "a-0" && r.kid != "b-0" }) {
		t.Error(r)
	}
}
