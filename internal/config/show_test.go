package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func sorted() cmp.Option { return cmpopts.SortSlices(strings.Compare) }

func TestShow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broker.yaml")
	text := `listen: 127.0.0.1:1
hosts:
log: {level: warn}
clients:
  "123":
    issuer: https://ACME.okta.com/
    client_id: "007"
    scopes: [okta.users.read]
    prefetch: false
proxy_listen: {127.0.0.1:5002: "123", "[::1]:5003": 123, unix:/run/proxy.sock: 123}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	pem := "-----BEGIN PRIVATE KEY-----\ns3cr3t\n-----END PRIVATE KEY-----"
	loaded, err := Load(Source{File: path, Environ: []string{
		"OKTA_TOKEN_BROKER_LISTEN=127.0.0.1:2",
		"OKTA_CLIENT_PRIVATEKEY=" + pem,
	}})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := loaded.YAML()
	if err != nil {
		t.Fatal(err)
	}
	want := `listen: 127.0.0.1:2 # OKTA_TOKEN_BROKER_LISTEN
admin_listen: "" # default
health_listen: "" # default
jwks_listen: "" # default
proxy_listen:
  127.0.0.1:5002: "123" # FILE:10
  '[::1]:5003': "123" # FILE:10
  unix:/run/proxy.sock: "123" # FILE:10
jwks_max_age: 5m # default
hosts: [] # default
max_tokens: 10000 # default
log:
  level: warn # FILE:3
  format: text # default
keys:
  default:
    file: '[redacted]' # OKTA_CLIENT_PRIVATEKEY
    kid: "" # default
    algorithm: RS256 # default
    read_only: false # default
    rotation:
      every: 0s # default
      publish_ahead: 24h # default
      retire_after: 24h # default
clients:
  '123':
    issuer: https://acme.okta.com # FILE:6
    token_endpoint: "" # default
    audience: endpoint # default
    client_id: "007" # FILE:7
    scopes: [okta.users.read] # FILE:8
    key: default # default
    dpop: auto # default
    dpop_key_file: "" # default
    assertion_lifetime: 5m # default
    prefetch: false # FILE:9
    registration: manual # default
    app_id: "" # default
    rotator: "" # default
    resources: {}
    ca_file: "" # default
signing:
  allow: "" # default
`
	want = strings.ReplaceAll(want, "FILE", path)
	if diff := cmp.Diff(want, string(shown)); diff != "" {
		t.Error(diff)
	}

	settings := loaded.Settings()
	for _, want := range []Setting{
		{"listen", "127.0.0.1:2", "OKTA_TOKEN_BROKER_LISTEN"},
		{"log.level", "warn", path + ":3"},
		{"hosts", []string{}, "default"},
		{"keys.default.file", "[redacted]", "OKTA_CLIENT_PRIVATEKEY"},
		{"proxy_listen.127.0.0.1:5002", "123", path + ":10"},
		{"clients.123.prefetch", false, path + ":9"},
		{"clients.123.assertion_lifetime", "5m", "default"},
	} {
		if !slices.ContainsFunc(settings, func(got Setting) bool { return cmp.Equal(got, want) }) {
			t.Errorf("no %v in %v", want, settings)
		}
	}
}

// The examples are valid, and what is shown of them means the same.
func TestShownLoadsAgain(t *testing.T) {
	files, err := filepath.Glob("../../configs/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no example: %v", err)
	}
	for _, file := range files {
		first, err := Load(Source{File: file})
		if err != nil {
			t.Fatal(err)
		}
		if len(first.Clients) == 0 {
			t.Errorf("%s configures no client", file)
		}
		shown, err := first.YAML()
		if err != nil {
			t.Fatal(err)
		}
		second, err := load(t, string(shown), nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, shown)
		}
		if diff := cmp.Diff(first.Config, second.Config, cmp.Comparer(sameSecret), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
	}
}
