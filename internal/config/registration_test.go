package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A rotator, a client whose keys it registers, and what may be added to both.
const rotating = `keys: {apps: {file: apps.pem},
  mounted: {file: mounted.pem, read_only: true}}
clients:
  rotator: {issuer: 'https://acme.okta.com', client_id: r, key: apps, scopes: [okta.apps.read, okta.apps.manage]}
`

func TestSchedules(t *testing.T) {
	const client = "clients:\n  default: {issuer: 'https://acme.okta.com', client_id: c, registration: %s}\njwks_listen: ':1'\n"
	crowded, err := load(t, "keys: {default: {rotation: {every: 2h, retire_after: 14h}}}\n"+fmt.Sprintf(client, "manual"), nil)
	if err != nil || len(crowded.Warnings) != 1 || !strings.Contains(crowded.Warnings[0], "rotation.retire_after: is more than 6 times every") {
		t.Errorf("more keys than a ring holds: %v, %q", err, crowded.Warnings)
	}
	fetched, pasted := fmt.Sprintf(client, "jwks_uri"), fmt.Sprintf(client, "manual")
	tests := []struct {
		schedule string
		clients  string
		want     []string // none: it is taken
	}{
		{schedule: "every: 24h1ns", clients: fetched},
		{schedule: "every: 1s", clients: pasted},
		{schedule: "every: 24h1ns", clients: "clients: {}\n", want: []string{"every: no client uses the ring"}},
		{schedule: "every: 1s, publish_ahead: 999ms", clients: fetched},
		{schedule: "every: 87600h, publish_ahead: 8760h, retire_after: 8760h", clients: fetched},
		{schedule: "every: 1s, publish_ahead: 0s, retire_after: 0s", clients: fetched},
		{schedule: "publish_ahead: 48h", clients: fetched},
		{schedule: "every: -1h", clients: fetched, want: []string{"every: must be 0s, or 1s at least"}},
		{schedule: "every: 999ms, publish_ahead: 0s", clients: fetched, want: []string{"every: must be 0s, or 1s at least"}},
		{schedule: "every: 24h", clients: fetched, want: []string{"every: must be longer than publish_ahead"}},
		{schedule: "every: 1h, publish_ahead: 1h", clients: fetched, want: []string{"every: must be longer than publish_ahead"}},
		{schedule: "publish_ahead: -1s, retire_after: soon", clients: fetched, want: []string{"publish_ahead: must be 0s to 8760h", "retire_after: must be a duration"}},
		{schedule: "publish_ahead: 8761h, retire_after: -1ns", clients: fetched, want: []string{"publish_ahead: must be 0s to 8760h", "retire_after: must be 0s to 8760h"}},
	}
	for _, tt := range tests {
		t.Run(tt.schedule, func(t *testing.T) {
			file := "keys:\n  default:\n    rotation: {" + tt.schedule + "}\n" + tt.clients
			if tt.want == nil {
				if _, err := load(t, file, nil); err != nil {
					t.Error(err)
				}
				return
			}
			for i, want := range tt.want {
				tt.want[i] = ":3: keys.default.rotation." + want
			}
			wantProblems(t, file, nil, tt.want)
		})
	}
}

// A ring that the broker does not write cannot be rotated.
func TestFixedRings(t *testing.T) {
	const client = "clients:\n  default: {issuer: 'https://acme.okta.com', client_id: c, registration: %s}\n" +
		"  rotator: {issuer: 'https://acme.okta.com', client_id: r, scopes: [okta.apps.read, okta.apps.manage]}\njwks_listen: ':1'\n"
	const pem = "-----BEGIN PRIVATE KEY-----\ns3cr3t\n-----END PRIVATE KEY-----"
	rings := []struct {
		name, file, reason string
		env                map[string]string
	}{
		{name: "read-only", file: "keys: {default: {file: k.pem, read_only: true, rotation: {every: %s}}}\n", reason: "it is read_only, and who keeps the file rotates it"},
		{name: "from the environment", file: "keys: {default: {rotation: {every: %s}}}\n", reason: "its key came in OKTA_CLIENT_PRIVATEKEY; store it in a file",
			env: map[string]string{"OKTA_CLIENT_PRIVATEKEY": pem}},
	}
	for _, ring := range rings {
		for registration, refused := range map[string]bool{"manual": false, "jwks_uri": true, "api, rotator: rotator": true} {
			t.Run(ring.name+", "+registration, func(t *testing.T) {
				file := fmt.Sprintf(ring.file+client, "0s", registration)
				if !refused {
					if _, err := load(t, file, ring.env); err != nil {
						t.Error(err)
					}
					return
				}
				wantProblems(t, file, ring.env, []string{":3: clients.default.registration: there will be no new key in keys.default: " + ring.reason})
			})
		}
		t.Run(ring.name+", by schedule", func(t *testing.T) {
			file := fmt.Sprintf(ring.file+client, "48h", "manual")
			wantProblems(t, file, ring.env, []string{":1: keys.default.rotation.every: the broker cannot rotate this ring: " + ring.reason})
		})
	}
}

func TestRegistrationByAPI(t *testing.T) {
	tests := []struct {
		name, clients string
		want          []string // none: it is taken
	}{
		{name: "at the org", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: rotator}"},
		{name: "at a custom server", clients: "a: {issuer: 'https://acme.okta.com/oauth2/default', client_id: a, registration: api, rotator: rotator}"},
		{name: "a host, spelled otherwise", clients: "a: {issuer: 'https://ACME.okta.com:443/', client_id: a, registration: api, rotator: rotator}"},
		{name: "an app of another id", clients: "a: {issuer: 'https://acme.okta.com', client_id: my client, registration: api, rotator: rotator}", want: []string{
			":5: clients.a.client_id: must be up to 128", ":5: clients.a.app_id: is missing, and client_id cannot be an app's id"}},
		{name: "an app of another id, which is given", clients: "a: {issuer: 'https://acme.okta.com', client_id: my.client, app_id: 0oaA_b-1, registration: api, rotator: rotator}"},
		{name: "several at one rotator", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: rotator}\n" +
			"  b: {issuer: 'https://acme.okta.com', client_id: b, registration: api, rotator: rotator}"},
		{name: "its own rotator", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, scopes: [okta.apps.manage, okta.apps.read], registration: api, rotator: a}"},

		{name: "an id that leaves its place", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, app_id: a/../b, registration: api, rotator: rotator}", want: []string{
			":5: clients.a.app_id: must be up to 128 letters, digits, dashes and underscores"}},
		{name: "a long id", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, app_id: " + strings.Repeat("a", 129) + ", registration: api, rotator: rotator}", want: []string{
			":5: clients.a.app_id: must be up to 128"}},
		{name: "a client id that is none of an app", clients: "a: {issuer: 'https://acme.okta.com', client_id: ../a, registration: api, rotator: rotator}", want: []string{
			":5: clients.a.app_id: is missing, and client_id cannot be an app's id"}},
		{name: "no rotator", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api}", want: []string{":5: clients.a.rotator: is missing: name the client"}},
		{name: "an unknown rotator", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: nobody}", want: []string{":5: clients.a.rotator: names no entry of clients"}},
		{name: "a rotator elsewhere", clients: "a: {issuer: 'https://globex.okta.com', client_id: a, registration: api, rotator: rotator}", want: []string{":5: clients.a.rotator: has an issuer at another host"}},
		{name: "a rotator at another port", clients: "a: {issuer: 'https://acme.okta.com:444', client_id: a, registration: api, rotator: rotator}", want: []string{":5: clients.a.rotator: has an issuer at another host"}},
		{name: "a rotator at a custom server", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: b}\n" +
			"  b: {issuer: 'https://acme.okta.com/oauth2/default', client_id: b, scopes: [okta.apps.read, okta.apps.manage]}", want: []string{
			":6: clients.b.issuer: must be the org, without token_endpoint and /oauth2/ID: clients.a.rotator names this client"}},
		{name: "a rotator that is not at Okta", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: b}\n" +
			"  b: {issuer: 'https://acme.okta.com', token_endpoint: 'https://acme.okta.com/t', client_id: b, scopes: [okta.apps.read, okta.apps.manage]}", want: []string{
			":6: clients.b.issuer: must be the org, without token_endpoint"}},
		{name: "a rotator without rights", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: b}\n" +
			"  b: {issuer: 'https://acme.okta.com', client_id: b}", want: []string{
			":6: clients.b.scopes: must have okta.apps.read: clients.a.rotator names this client", ":6: clients.b.scopes: must have okta.apps.manage: clients.a.rotator names this client"}},
		{name: "a rotator that may only read, said once", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: c}\n" +
			"  b: {issuer: 'https://acme.okta.com', client_id: b, registration: api, rotator: c}\n" +
			"  c: {issuer: 'https://acme.okta.com', client_id: c, scopes: [okta.apps.read, okta.apps.manage.all]}", want: []string{
			":7: clients.c.scopes: must have okta.apps.manage: clients.a.rotator names this client"}},
		{name: "a server that is not Okta", clients: "a: {issuer: 'https://login.example', token_endpoint: 'https://login.example/t', client_id: a, registration: api, rotator: rotator}", want: []string{
			":5: clients.a.registration: servers that are not Okta have no key API"}},
		{name: "without effect", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, app_id: a, rotator: rotator}", want: []string{
			":5: clients.a.app_id: has no effect but with registration: api", ":5: clients.a.rotator: has no effect but with registration: api"}},
		{name: "the rotator once more", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: rotator}\n" +
			"  b: {issuer: 'https://acme.okta.com/oauth2/default', client_id: r}", want: []string{
			":6: clients.b.client_id: is that of clients.rotator, whose tokens no caller may have: clients.a.rotator names it"}},
		{name: "the rotator once more, under another name of the org", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: rotator}\n" +
			"  b: {issuer: 'https://login.acme.com', client_id: r}", want: []string{":6: clients.b.client_id: is that of clients.rotator"}},
		{name: "the rotator once more, as another kind of server", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: rotator}\n" +
			"  b: {issuer: 'https://x', token_endpoint: 'https://acme.okta.com/oauth2/v1/token', client_id: r}", want: []string{":6: clients.b.client_id: is that of clients.rotator"}},
		{name: "one mistake, one line", clients: "a: {issuer: acme.okta.com, client_id: a, registration: api, rotator: rotator}", want: []string{":5: clients.a.issuer: must be a URL"}},
		{name: "one mistake of the rotator's, one line", clients: "a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: b}\n" +
			"  b: {client_id: b, scopes: [okta.apps.read, okta.apps.manage]}", want: []string{":6: clients.b.issuer: is missing"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := rotating + "  " + tt.clients + "\n"
			if tt.want != nil {
				wantProblems(t, file, nil, tt.want)
				return
			}
			loaded, err := load(t, file, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(loaded.Warnings) > 0 && !strings.Contains(tt.name, "its own") { // that leaves the other one to everybody
				t.Errorf("warnings: %q", loaded.Warnings)
			}
		})
	}
}

func TestApp(t *testing.T) {
	for want, client := range map[string]Client{"0oa1": {ClientID: "0oa1"}, "0oa2": {ClientID: "0oa1", AppID: "0oa2"}} {
		if got := client.App(); got != want {
			t.Errorf("%+v: %s", client, got)
		}
	}
}

func TestIsRotator(t *testing.T) {
	cfg := Config{Clients: map[string]Client{
		"app": {Registration: RegistrationAPI, Rotator: "rotator"}, "rotator": {}, "self": {Registration: RegistrationAPI, Rotator: "self"},
		"manual": {Registration: RegistrationManual, Rotator: "app"},
	}}
	for name, want := range map[string]bool{"rotator": true, "self": true, "app": false, "manual": false, "": false} {
		if got := cfg.IsRotator(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestManaged(t *testing.T) {
	cfg := Config{Clients: map[string]Client{
		"a": {Key: "pasted", Registration: RegistrationManual}, "b": {Key: "mixed", Registration: RegistrationManual},
		"c": {Key: "mixed", Registration: RegistrationJWKSURI}, "d": {Key: "registered", Registration: RegistrationAPI},
	}}
	for ring, want := range map[string]bool{"mixed": true, "registered": true, "pasted": false, "unused": false} {
		if got := cfg.Managed(ring); got != want {
			t.Errorf("ring %s: %v", ring, got)
		}
	}
}

// A client that could be a rotator, and serves callers, may be there by mistake.
func TestRotatorForEverybody(t *testing.T) {
	const rotator = "keys: {apps: {file: apps.pem}}\nclients:\n  r: {issuer: 'https://acme.okta.com', client_id: r, key: apps, scopes: [okta.apps.read, okta.apps.manage]}\n"
	loaded, err := load(t, rotator, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{loaded.File + ":3: clients.r.scopes: okta.apps.manage lets every caller change apps and their keys, since no client names this one as its rotator"}
	if diff := cmp.Diff(want, loaded.Warnings); diff != "" {
		t.Error(diff)
	}
	const named = rotator + "  a: {issuer: 'https://acme.okta.com', client_id: a, registration: api, rotator: r}\n"
	loaded, err = load(t, named, nil)
	if err != nil || len(loaded.Warnings) > 0 {
		t.Errorf("named as a rotator: %v, %q", err, loaded.Warnings)
	}
	loaded, err = load(t, strings.Replace(named, "key: apps", "key: default", 1), nil)
	if err != nil || len(loaded.Warnings) != 1 || !strings.Contains(loaded.Warnings[0], "clients.r.key: is the ring of clients.a, too") {
		t.Errorf("with a ring that is shared: %v, %q", err, loaded.Warnings)
	}
}

// Who lets Okta fetch the keys is told when it cannot.
func TestKeysThatNobodyCanFetch(t *testing.T) {
	const client = "clients:\n  default:\n    {issuer: 'https://acme.okta.com', client_id: c, registration: jwks_uri}\n"
	loaded, err := load(t, client, map[string]string{"OKTA_TOKEN_BROKER_NONSENSE": "x"})
	if err != nil {
		t.Fatal(err)
	}
	want := loaded.File + ":3: clients.default.registration: Okta fetches the keys from outside, and jwks_listen is empty: " +
		"set it, for nothing else of the broker may be reachable from there"
	if len(loaded.Warnings) != 2 {
		t.Fatalf("warnings: %q", loaded.Warnings)
	}
	if diff := cmp.Diff(want, loaded.Warnings[1]); diff != "" {
		t.Error(diff)
	}
	loaded, err = load(t, client+"jwks_listen: :8087\n", nil)
	if err != nil || len(loaded.Warnings) > 0 {
		t.Errorf("with jwks_listen: %v, %q", err, loaded.Warnings)
	}
}
