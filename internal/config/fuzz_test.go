package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Whatever stands in the file and in a variable, loading ends with a
// configuration that means the same when it is shown and loaded again, or with
// an error of which each line is one problem.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("../../configs/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no example: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "")
	}
	for _, text := range []string{
		"", "null", "- a", "a: b: c", "listen: [", "\x00", "%YAML 1.1\n---\nlisten: 127.0.0.1:1", "---\n---\n",
		"keys: &k {default: {file: a}}\nclients: *k", "<<: {listen: x}", "? {a: b}\n: c", "listen: !!binary aGk=",
		"listen: |\n  127.0.0.1:1\n", "hosts: [a, [b], {c: d}, ~]", "keys: {a: ~, b: {file: x, rotation: {every: 1h}}}",
		"clients: {default: {issuer: 'https://acme.okta.com', client_id: 0x1F, scopes: [1, true]}}",
		"clients: {'a.b': {issuer: 'https://[::1]:1/oauth2/x', client_id: c, assertion_lifetime: 1e9h}}",
		"jwks_listen: :1\njwks_max_age: 1e3s\nkeys: {default: {rotation: {every: 9999999h, publish_ahead: 8760h, retire_after: -0s}}}",
		"clients: {r: {issuer: 'https://a', client_id: r, scopes: [okta.apps.manage, okta.apps.read], registration: api, rotator: r}}",
		"clients: {a: {issuer: 'https://a/oauth2/x', client_id: a, registration: api, app_id: '..', rotator: b}, b: {issuer: 'https://a:443', client_id: a}}",
		"clients: {u: {issuer: 'https://a', client_id: u, registration: jwks_uri, rotator: ~, app_id: \"\\0\"}}",
		"proxy_listen: {127.0.0.1:5002: default, '[::1]:1': a, unix:/s: b, ':0': ~}\nclients: {default: {issuer: 'https://a', client_id: c}}",
		"clients: {default: {issuer: 'https://a', client_id: c, dpop: required, dpop_key_file: d.pem, resources: {b: 'HTTPS://B:443/x/', c: 'http://[::1]:80//'}}}",
		"listen: \"\\x41\"\nlog: {level: info, level: warn}",
	} {
		f.Add(text, "127.0.0.1:5000")
		f.Add(text, "a,b,\u2028")
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text, variable string) {
		file := filepath.Join(dir, "broker.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		environ := []string{"OKTA_TOKEN_BROKER_LISTEN=" + variable, "OKTA_TOKEN_BROKER_HOSTS=" + variable, "OKTA_CLIENT_SCOPES=" + variable}
		first, err := Load(Source{File: file, Environ: environ})
		if err != nil {
			if lines := strings.Split(err.Error(), "\n"); len(lines) < 2 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' && r != '\n' }) {
				t.Fatalf("error %q", err)
			}
			return
		}
		shown, err := first.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, shown, 0o600); err != nil {
			t.Fatal(err)
		}
		second, err := Load(Source{File: file})
		if err != nil {
			t.Fatalf("%v in what was shown:\n%s", err, shown)
		}
		if diff := cmp.Diff(first.Config, second.Config, cmp.Comparer(sameSecret), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("shown:\n%s\n%s", shown, diff)
		}
	})
}
