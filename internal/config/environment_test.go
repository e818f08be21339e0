package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/secret"
)

func TestOktaVariables(t *testing.T) {
	const file = `
clients:
  default: {issuer: "https://file.okta.com", client_id: fromfile, scopes: [a]}
`
	pem := "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"
	keyFile := filepath.Join(t.TempDir(), "k.pem")
	client := func(issuer, id string, scopes ...string) Client {
		c := defaultClient()
		c.Issuer, c.ClientID, c.Scopes = issuer, id, scopes
		return c
	}
	key := func(change func(*Key)) Key {
		k := defaultKey()
		change(&k)
		return k
	}
	tests := []struct {
		name, file string
		env        map[string]string
		client     Client
		key        Key
	}{
		{
			name:   "one client from the environment",
			env:    map[string]string{"OKTA_CLIENT_ORGURL": "https://Acme.okta.com:443/", "OKTA_CLIENT_CLIENTID": "0oa1", "OKTA_CLIENT_SCOPES": "b,a c"},
			client: client("https://acme.okta.com", "0oa1", "b", "a", "c"),
			key:    defaultKey(),
		},
		{
			name: "the environment wins over the file", file: file,
			env:    map[string]string{"OKTA_CLIENT_CLIENTID": "fromenv", "OKTA_CLIENT_PRIVATEKEY": keyFile, "OKTA_CLIENT_PRIVATEKEYID": "kid1"},
			client: client("https://file.okta.com", "fromenv", "a"),
			key:    key(func(k *Key) { k.File, k.Kid = keyFile, "kid1" }),
		},
		{
			name: "a key in the environment", file: file,
			env:    map[string]string{"OKTA_CLIENT_PRIVATEKEY": strings.ReplaceAll(pem, "\n", `\n`)},
			client: client("https://file.okta.com", "fromfile", "a"),
			key:    key(func(k *Key) { k.PEM = secret.New(pem) }),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(t, tt.file, tt.env)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.client, got.Clients["default"]); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.key, got.Keys["default"], cmp.Comparer(sameSecret)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOwnVariables(t *testing.T) {
	got, err := load(t, "listen: 127.0.0.1:1\nlog: {level: warn}\nhosts: [of-the-file]\n", map[string]string{
		"OKTA_TOKEN_BROKER_LISTEN":        "127.0.0.1:2",
		"OKTA_TOKEN_BROKER_HEALTH_LISTEN": ":8086",
		"OKTA_TOKEN_BROKER_JWKS_LISTEN":   ":8087",
		"OKTA_TOKEN_BROKER_JWKS_MAX_AGE":  "90s",
		"OKTA_TOKEN_BROKER_HOSTS":         "a.internal, 12345,true",
		"OKTA_TOKEN_BROKER_LOG_FORMAT":    "json",
		"OKTA_TOKEN_BROKER_LOG_LEVEL":     "", // as good as none
		"OKTA_TOKEN_BROKER_MAX_TOKENS":    "7",
		"OKTA_TOKEN_BROKER_SIGNING_ALLOW": "any",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Listen, want.HealthListen = "127.0.0.1:2", ":8086"
	want.JWKSListen, want.JWKSMaxAge = ":8087", 90*time.Second
	want.Hosts = []string{"a.internal", "12345", "true"}
	want.Log = Log{Level: "warn", Format: "json"}
	want.Signing.Allow, want.MaxTokens = "any", 7
	if diff := cmp.Diff(want, got.Config, cmp.Comparer(sameSecret)); diff != "" {
		t.Error(diff)
	}
	if len(got.Warnings) != 0 {
		t.Errorf("warnings: %q", got.Warnings)
	}
}

// Every scalar outside the maps has a variable, and no other setting.
func TestVariableNames(t *testing.T) {
	var got []string
	for name, setting := range variables(&Config{}) {
		got = append(got, name+" "+setting.path)
	}
	want := []string{
		"OKTA_TOKEN_BROKER_ADMIN_LISTEN admin_listen",
		"OKTA_TOKEN_BROKER_HEALTH_LISTEN health_listen",
		"OKTA_TOKEN_BROKER_HOSTS hosts",
		"OKTA_TOKEN_BROKER_JWKS_LISTEN jwks_listen",
		"OKTA_TOKEN_BROKER_JWKS_MAX_AGE jwks_max_age",
		"OKTA_TOKEN_BROKER_LISTEN listen",
		"OKTA_TOKEN_BROKER_LOG_FORMAT log.format",
		"OKTA_TOKEN_BROKER_LOG_LEVEL log.level",
		"OKTA_TOKEN_BROKER_MAX_TOKENS max_tokens",
		"OKTA_TOKEN_BROKER_SIGNING_ALLOW signing.allow",
	}
	if diff := cmp.Diff(want, got, sorted()); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownVariables(t *testing.T) {
	got, err := load(t, "", map[string]string{
		"OKTA_TOKEN_BROKER_LOGLEVEL":              "s3cr3t",
		"OKTA_TOKEN_BROKER_CLIENTS":               "s3cr3t",
		"OKTA_TOKEN_BROKER_CONFIG":                "",
		"OKTA_TOKEN_BROKER_PORT":                  "tcp://10.0.0.1:5000", // what Kubernetes injects
		"OKTA_TOKEN_BROKER_PORT_5000_TCP_ADDR":    "10.0.0.1",
		"OKTA_TOKEN_BROKER_SERVICE_HOST":          "10.0.0.1",
		"OKTA_TOKEN_BROKER_SERVICE_PORT_API":      "5000",
		"OKTA_TOKEN_BROKER_PORTS":                 "x",
		"OKTA_CLIENT_CONNECTIONTIMEOUT":           "30",
		"SOMETHING_ELSE_OKTA_TOKEN_BROKER_LISTEN": "x",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`unknown variable "OKTA_TOKEN_BROKER_CLIENTS": known are`,
		`unknown variable "OKTA_TOKEN_BROKER_LOGLEVEL": did you mean OKTA_TOKEN_BROKER_LOG_LEVEL?`,
		`unknown variable "OKTA_TOKEN_BROKER_PORTS": `,
	}
	if len(got.Warnings) != len(want) {
		t.Fatalf("warnings: %q", got.Warnings)
	}
	for i, warning := range got.Warnings {
		if !strings.HasPrefix(warning, want[i]) || strings.Contains(warning, "s3cr3t") {
			t.Errorf("warning %q, want %q...", warning, want[i])
		}
	}
}

// What is wrong with a variable's value is said of the variable.
func TestMistakesInVariables(t *testing.T) {
	tests := map[string]struct{ value, want string }{
		"OKTA_TOKEN_BROKER_LISTEN":        {"s3cr3t", "OKTA_TOKEN_BROKER_LISTEN: listen: must be host:port or unix:/path"},
		"OKTA_TOKEN_BROKER_LOG_LEVEL":     {"s3cr3t", "OKTA_TOKEN_BROKER_LOG_LEVEL: log.level: must be one of"},
		"OKTA_TOKEN_BROKER_HOSTS":         {"ok,s3cr3t/x", "OKTA_TOKEN_BROKER_HOSTS: hosts[1]: must be a host name"},
		"OKTA_TOKEN_BROKER_ADMIN_LISTEN":  {"127.0.0.1:1", "OKTA_TOKEN_BROKER_ADMIN_LISTEN: admin_listen: is not supported"},
		"OKTA_TOKEN_BROKER_JWKS_LISTEN":   {"s3cr3t", "OKTA_TOKEN_BROKER_JWKS_LISTEN: jwks_listen: must be host:port or unix:/path"},
		"OKTA_TOKEN_BROKER_JWKS_MAX_AGE":  {"s3cr3t", "OKTA_TOKEN_BROKER_JWKS_MAX_AGE: jwks_max_age: must be a duration"},
		"OKTA_TOKEN_BROKER_SIGNING_ALLOW": {"s3cr3t", "OKTA_TOKEN_BROKER_SIGNING_ALLOW: signing.allow: must be one of"},
		"OKTA_CLIENT_ORGURL":              {"http://s3cr3t.okta.com", "OKTA_CLIENT_ORGURL: clients.default.issuer: must begin with https://"},
		"OKTA_CLIENT_SCOPES":              {`s3cr3t"`, "OKTA_CLIENT_SCOPES: clients.default.scopes: a scope has a character"},
		"OKTA_CLIENT_CLIENTID":            {"s3cr3t\x01", "OKTA_CLIENT_CLIENTID: clients.default.client_id: must be up to 128"},
		"OKTA_CLIENT_PRIVATEKEY":          {"s3cr3t", "OKTA_CLIENT_PRIVATEKEY: must be a PEM private key"},
		"OKTA_CLIENT_PRIVATEKEYID":        {"s3cr3t-----", "OKTA_CLIENT_PRIVATEKEYID: keys.default.kid: must be up to 128"},
	}
	for name, tt := range tests {
		_, err := load(t, "clients: {default: {issuer: 'https://acme.okta.com', client_id: c}}\n", map[string]string{name: tt.value})
		if err == nil || !strings.Contains(err.Error(), "\n  "+tt.want) || strings.Count(err.Error(), "\n") != 1 {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: the error repeats a value: %v", name, err)
		}
	}
}
