package cli_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// within waits for what a running broker takes up, for two seconds at most.
func within(t *testing.T, s *serving, what string, done func() bool) {
	t.Helper()
	began := time.Now()
	eventually(t, s.logs, done)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("%s: taken up after %v", what, took)
	}
}

// kids are those of a JWK Set, in its order.
func kids(t *testing.T, url string) []string {
	t.Helper()
	status, body := get(t, url)
	var set struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal([]byte(body), &set); err != nil || status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", url, status, body)
	}
	list := []string{}
	for _, key := range set.Keys {
		list = append(list, key.Kid)
	}
	return list
}

// What each command does to a ring, the public keys show within two seconds; those
// of another ring stay as they are.
func TestEachCommandIsTakenUp(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	configure(t, dir, `
jwks_listen: 127.0.0.1:0
keys: {default: {file: ring.pem, algorithm: ES256}, reports: {file: reports.pem, algorithm: ES384}}
clients:
  default: {issuer: 'http://127.0.0.1:1', client_id: 0oa1, prefetch: false}
  second: {issuer: 'http://127.0.0.1:1', client_id: 0oa2, prefetch: false}
  reports: {issuer: 'http://127.0.0.1:1', client_id: 0oa3, key: reports, prefetch: false}
`)
	command(t, elsewhere, "keys", "rotate", "--kid", "imported")
	s := startServing(t, broker(t, dir, nil, "0"))
	public := jwksOf(t, s)
	steps := []struct {
		command           string
		ring              string
		defaults, reports []string
	}{
		{"rotate --kid one", "default", []string{"one"}, []string{}},
		{"stage --kid two", "default", []string{"one", "two"}, []string{}},
		{"stage --kid first", "reports", []string{"one", "two"}, []string{"first"}},
		{"activate", "default", []string{"two", "one"}, []string{"first"}},
		{"activate one", "default", []string{"one", "two"}, []string{"first"}},
		{"retire two", "default", []string{"one"}, []string{"first"}},
		{"import " + filepath.Join(elsewhere, "private_key.pem"), "default", []string{"one", "imported"}, []string{"first"}},
		{"rotate --kid second", "reports", []string{"one", "imported"}, []string{"second", "first"}},
		{"retire imported", "default", []string{"one"}, []string{"second", "first"}},
		{"rotate --kid three", "default", []string{"three", "one"}, []string{"second", "first"}},
	}
	for _, step := range steps {
		command(t, dir, append([]string{"keys", "--key", step.ring}, strings.Fields(step.command)...)...)
		within(t, s, step.command, func() bool {
			return slices.Equal(kids(t, public+jwksPath), step.defaults) && slices.Equal(kids(t, public+"/keys/reports/jwks.json"), step.reports)
		})
	}
	var exported struct{ Keys []any }
	if err := json.Unmarshal([]byte(command(t, dir, "keys", "export", "--public")), &exported); err != nil || len(exported.Keys) != 2 {
		t.Errorf("keys export has %d keys: %v", len(exported.Keys), err)
	}
}

// mount swaps the folder behind a mounted Secret for one with a key ring, the way a
// kubelet does it.
func mount(t *testing.T, dir, version, ring string) {
	t.Helper()
	text, err := os.ReadFile(ring)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, version), 0o750),
		os.WriteFile(filepath.Join(dir, version, "ring.pem"), text, 0o440),
		os.Symlink(version, filepath.Join(dir, "..data_tmp")),
		os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A mounted Secret is taken up when it is swapped, and never written.
func TestSecretMount(t *testing.T) {
	okta := startWatchedOkta(t, time.Hour)
	okta.addApp(t, "0oa1", "okta.users.read")
	dir, secret, elsewhere := t.TempDir(), t.TempDir(), t.TempDir()
	configure(t, dir, fmt.Sprintf("keys: {default: {file: %s/ring.pem, read_only: true}}\n", secret))
	okta.paste(t, "0oa1", command(t, elsewhere, "keys", "rotate", "--kid", "first"))
	mount(t, secret, "..1", filepath.Join(elsewhere, "private_key.pem"))
	if err := os.Symlink("..data/ring.pem", filepath.Join(secret, "ring.pem")); err != nil {
		t.Fatal(err)
	}
	s := startServing(t, broker(t, dir, oktaVariables(okta.issuer), "0"))
	if got := kids(t, s.url+jwksPath); !slices.Equal(got, []string{"first"}) {
		t.Errorf("published: %q", got)
	}

	resp, err := http.Post(s.url+"/?rotate=true", "application/json",
		strings.NewReader(fmt.Sprintf(`{"client_id": "0oa1", "audience": "%s/oauth2/v1/token"}`, okta.issuer)))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusInternalServerError || !strings.Contains(string(body), "read-only") {
		t.Errorf("POST /?rotate=true: status %d: %s", resp.StatusCode, body)
	}

	// The new key signs when Okta knows it.
	jwk := command(t, elsewhere, "keys", "rotate", "--kid", "second")
	mount(t, secret, "..2", filepath.Join(elsewhere, "private_key.pem"))
	within(t, s, "the swap", func() bool { return slices.Equal(kids(t, s.url+jwksPath), []string{"second", "first"}) })
	if status, body := get(t, s.url+"/token"); status != http.StatusOK {
		t.Errorf("GET /token: status %d: %s", status, body)
	}
	okta.paste(t, "0oa1", jwk)
	eventually(t, s.logs, func() bool { return strings.Contains(s.logs.String(), `msg="key proven" ring=default kid=second`) })

	// A mount that is broken, or gone, leaves the last good ring in force.
	if err := os.Remove(filepath.Join(secret, "..data")); err != nil {
		t.Fatal(err)
	}
	eventually(t, s.logs, func() bool { return strings.Contains(s.logs.String(), "the last good one stays in force") })
	if got := kids(t, s.url+jwksPath); !slices.Equal(got, []string{"second", "first"}) {
		t.Errorf("published: %q", got)
	}
	if status, body := get(t, s.url+"/token"); status != http.StatusOK {
		t.Errorf("GET /token: status %d: %s", status, body)
	}
	for _, r := range okta.asked(func(r tokenRequest) bool { return r.status != http.StatusOK && r.kid != "second" }) {
		t.Error(r)
	}
	var files []string
	for _, folder := range []string{secret, filepath.Join(secret, "..1"), filepath.Join(secret, "..2")} {
		entries, _ := os.ReadDir(folder)
		for _, entry := range entries {
			files = append(files, entry.Name())
		}
	}
	if diff := cmp.Diff([]string{"..1", "..2", "ring.pem", "ring.pem", "ring.pem"}, files); diff != "" {
		t.Errorf("files in the mount (-want +got):\n%s", diff)
	}
}

// A key that nobody has pasted is awaited, as the readiness detail, the metrics, the
// log and keys list say, until it is in the apps of all clients of the ring. Nobody
// goes without a token meanwhile.
func TestAwaitedKey(t *testing.T) {
	okta := startWatchedOkta(t, 2*time.Second)
	dir := t.TempDir()
	configure(t, dir, strings.ReplaceAll(`
health_listen: 127.0.0.1:0
keys: {shared: {file: ring.pem, algorithm: ES256, rotation: {retire_after: 0s}}}
clients:
  default: {issuer: OKTA, client_id: 0oa1, scopes: [okta.users.read], key: shared}
  second: {issuer: OKTA, client_id: 0oa2, scopes: [okta.users.read], key: shared}
`, "OKTA", okta.issuer))
	first := command(t, dir, "keys", "rotate", "--key", "shared", "--kid", "first")
	for _, id := range []string{"0oa1", "0oa2"} {
		okta.addApp(t, id, "okta.users.read")
		okta.paste(t, id, first)
	}
	s := startServing(t, broker(t, dir, nil, "0"))
	health := healthOf(t, s)
	shows := func(path string, want ...string) func() bool {
		return func() bool {
			for _, client := range []string{"default", "second"} {
				if status, body := get(t, s.url+"/token?client="+client); status != http.StatusOK {
					t.Fatalf("%s gets no token: status %d: %s", client, status, body)
				}
			}
			status, body := get(t, health+path)
			return status == http.StatusOK && !slices.ContainsFunc(want, func(line string) bool { return !strings.Contains(body, line+"\n") })
		}
	}
	const ready = `{"status":"ready"}`
	metrics := func(next, retired, awaited int) func() bool {
		return shows("/metrics",
			`okta_token_broker_keys{ring="shared",state="active"} 1`,
			fmt.Sprintf(`okta_token_broker_keys{ring="shared",state="next"} %d`, next),
			fmt.Sprintf(`okta_token_broker_keys{ring="shared",state="retired"} %d`, retired),
			fmt.Sprintf(`okta_token_broker_key_awaited{ring="shared"} %d`, awaited))
	}
	eventually(t, s.logs, shows("/readyz", ready))
	eventually(t, s.logs, metrics(0, 0, 0))

	// An active one.
	second := command(t, dir, "keys", "rotate", "--key", "shared", "--kid", "second")
	within(t, s, "keys rotate", shows("/readyz", `{"status":"ready","awaited":[{"ring":"shared","kid":"second","state":"active"}]}`))
	eventually(t, s.logs, metrics(0, 1, 1))
	if list := command(t, dir, "keys", "list", "--key", "shared"); strings.Count(list, "awaited") != 1 {
		t.Errorf("keys list:\n%s", list)
	}
	eventually(t, s.logs, func() bool {
		return strings.Contains(s.logs.String(), "the key is not proven yet; until then the one that Okta knows goes on signing for /token")
	})
	okta.paste(t, "0oa1", second)
	eventually(t, s.logs, func() bool { // the other client is asked, too
		return len(okta.asked(func(r tokenRequest) bool { return r.client == "0oa1" && r.kid == "second" && r.status == http.StatusOK })) > 0 &&
			len(okta.asked(func(r tokenRequest) bool { return r.client == "0oa2" && r.kid == "second" })) > 0
	})
	if !shows("/readyz", `{"status":"ready","awaited":[{"ring":"shared","kid":"second","state":"active"}]}`)() {
		t.Error("it is not awaited any more, and one client's app does not have it")
	}
	okta.paste(t, "0oa2", second)
	eventually(t, s.logs, shows("/readyz", ready))
	eventually(t, s.logs, metrics(0, 0, 0)) // and the old one is retired

	// A next one, which the command activates.
	third := command(t, dir, "keys", "stage", "--key", "shared", "--kid", "third")
	within(t, s, "keys stage", shows("/readyz", `{"status":"ready","awaited":[{"ring":"shared","kid":"third","state":"next"}]}`))
	eventually(t, s.logs, metrics(1, 0, 1))
	okta.paste(t, "0oa1", third)
	okta.paste(t, "0oa2", third)
	eventually(t, s.logs, shows("/readyz", ready))
	eventually(t, s.logs, metrics(1, 0, 0))
	eventually(t, s.logs, func() bool {
		return strings.Count(command(t, dir, "keys", "list", "--key", "shared"), "proven\n") == 2
	})
	command(t, dir, "keys", "activate", "--key", "shared")
	within(t, s, "keys activate", metrics(0, 1, 0))
	eventually(t, s.logs, metrics(0, 0, 0))

	_, steps := get(t, health+"/metrics")
	for _, want := range []string{
		`okta_token_broker_rotation_steps_total{outcome="ok",ring="shared",step="prove"}`,
		`okta_token_broker_rotation_steps_total{outcome="error",ring="shared",step="prove"}`,
		`okta_token_broker_rotation_steps_total{outcome="ok",ring="shared",step="retire"} 2`,
	} {
		if !strings.Contains(steps, want) {
			t.Errorf("the metrics do not have %s:\n%s", want, steps)
		}
	}
}
