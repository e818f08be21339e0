package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/secret"
)

// load reads a file with this text and these variables.
func load(t *testing.T, text string, env map[string]string) (*Loaded, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "broker.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var environ []string
	for name, value := range env {
		environ = append(environ, name+"="+value)
	}
	return Load(Source{File: path, Environ: environ})
}

func TestEverySetting(t *testing.T) {
	got, err := load(t, `
listen: unix:/run/broker.sock
admin_listen: ""
health_listen: ":8086"
jwks_listen: ":8087"
proxy_listen: {127.0.0.1:5002: managed, "[::1]:5003": other, unix:/run/proxy.sock: other}
jwks_max_age: 1h
hosts: [broker.internal, other]
max_tokens: 500
log: {level: debug, format: json}
keys:
  corp:
    file: /keys/corp.pem
    kid: abc
    algorithm: ES256
    rotation: {every: 720h, publish_ahead: 1h, retire_after: 2h}
  mounted: {file: /keys/mounted.pem, read_only: true}
clients:
  default:
    issuer: https://acme.okta.com
    client_id: 0oa1
    scopes: [okta.apps.read, okta.apps.manage]
  other:
    issuer: https://auth.example.com/realms/x
    token_endpoint: https://auth.example.com/realms/x/token
    audience: issuer
    client_id: 12345
    key: corp
    dpop: off
    assertion_lifetime: 90s
    prefetch: false
    registration: manual
    resources: {orders: 'https://Orders.example.com:443/v1/', local: 'http://127.0.0.1:80'}
    ca_file: /etc/ca.pem
  managed:
    issuer: https://acme.okta.com/oauth2/default
    client_id: 0oa2
    dpop: required
    dpop_key_file: /keys/dpop.pem
    registration: api
    app_id: 0oaApp-2_
    rotator: default
    resources: {self: 'https://acme.okta.com/api/v1'}
signing: {allow: any}
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	ring := defaultKey()
	ring.File, ring.Kid, ring.Algorithm = "/keys/corp.pem", "abc", "ES256"
	ring.Rotation = Rotation{Every: 30 * 24 * time.Hour, PublishAhead: time.Hour, RetireAfter: 2 * time.Hour}
	mounted := defaultKey()
	mounted.File, mounted.ReadOnly = "/keys/mounted.pem", true
	want := Config{
		Listen:       "unix:/run/broker.sock",
		HealthListen: ":8086",
		JWKSListen:   ":8087",
		ProxyListen:  map[string]string{"127.0.0.1:5002": "managed", "[::1]:5003": "other", "unix:/run/proxy.sock": "other"},
		JWKSMaxAge:   time.Hour,
		Hosts:        []string{"broker.internal", "other"},
		MaxTokens:    500,
		Log:          Log{Level: "debug", Format: "json"},
		Keys:         map[string]Key{"default": defaultKey(), "corp": ring, "mounted": mounted},
		Clients: map[string]Client{
			"default": {
				Issuer: "https://acme.okta.com", Audience: "endpoint", ClientID: "0oa1", Key: "default",
				Scopes: []string{"okta.apps.read", "okta.apps.manage"}, DPoP: "auto", AssertionLifetime: 5 * time.Minute,
				Prefetch: true, Registration: "manual",
			},
			"other": {
				Issuer: "https://auth.example.com/realms/x", TokenEndpoint: "https://auth.example.com/realms/x/token", Audience: "issuer",
				ClientID: "12345", Key: "corp", DPoP: "off", AssertionLifetime: 90 * time.Second,
				Registration: "manual", CAFile: "/etc/ca.pem",
				Resources: map[string]string{"orders": "https://orders.example.com/v1", "local": "http://127.0.0.1"},
			},
			"managed": {
				Issuer: "https://acme.okta.com/oauth2/default", Audience: "endpoint", ClientID: "0oa2", Key: "default", DPoP: "required",
				DPoPKeyFile: "/keys/dpop.pem", AssertionLifetime: 5 * time.Minute, Prefetch: true, Registration: "api", AppID: "0oaApp-2_", Rotator: "default",
				Resources: map[string]string{"self": "https://acme.okta.com/api/v1"},
			},
		},
		Signing: Signing{Allow: "any"},
	}
	if diff := cmp.Diff(want, got.Config, cmp.Comparer(sameSecret)); diff != "" {
		t.Error(diff)
	}
}

func sameSecret(a, b secret.Text) bool { return a.Reveal() == b.Reveal() }

func TestMistakes(t *testing.T) {
	const client = "clients: {default: {issuer: 'https://acme.okta.com', client_id: c}}\n"
	tests := []struct {
		name, file string
		env        map[string]string
		want       []string // each on a line of its own
	}{
		{name: "listen", file: "\nlisten: nonsense\n", want: []string{":2: listen: must be host:port or unix:/path"}},
		{name: "max_tokens", file: "max_tokens: 0\n", want: []string{":1: max_tokens: must be 1 to 1000000"}},
		{name: "max_tokens, in words", file: "max_tokens: many\n", want: []string{":1: max_tokens: must be a whole number"}},
		{name: "port", file: "listen: 127.0.0.1:99999\nhealth_listen: 127.0.0.1:http\n", want: []string{":1: listen: must be host:port", ":2: health_listen: must be host:port"}},
		{name: "every address", file: "listen: 0.0.0.0:5000\n", want: []string{":1: listen: other machines could reach it"}},
		{name: "another host", file: "listen: broker.internal:5000\n", want: []string{":1: listen: other machines could reach it"}},
		{name: "a key that was shown", file: "keys: {default: {file: '[redacted]'}}\n", want: []string{":1: keys.default.file: stands for a key that came in OKTA_CLIENT_PRIVATEKEY"}},
		{name: "a client with a dot", file: "clients: {default.issuer: {issuer: 'https://acme.okta.com', client_id: c}}\n", env: map[string]string{"OKTA_CLIENT_ORGURL": "https://acme.okta.com"}, want: []string{"clients.default.client_id: is missing"}},
		{name: "socket", file: "listen: unix:rel\nhealth_listen: unix:/" + strings.Repeat("s", 103) + "\n", want: []string{":1: listen: must be unix:/path", ":2: health_listen: must be unix:/path"}},
		{name: "one port twice", file: "listen: 127.0.0.1:5000\nhealth_listen: :5000\n", want: []string{":2: health_listen: is the address of listen"}},
		{name: "one port twice, spelled otherwise", file: "listen: LOCALHOST:5000\nhealth_listen: 127.0.0.1:5000\n", want: []string{":2: health_listen: is the address of listen"}},
		{name: "folded base64 for a path", file: "keys:\n  default:\n    file: >-\n      s3cr3t" + strings.Repeat("MIGHAgEAMBM", 5) + "\n      " + strings.Repeat("MIGHAgEAMBM", 5) + "\n", want: []string{"keys.default.file: must be the path of a PEM file"}},
		{name: "a key for a client_id", file: "clients: {default: {issuer: 'https://acme.okta.com', client_id: s3cr3t" + strings.Repeat("MIGHAgEAMBM", 14) + "}}\n", want: []string{"clients.default.client_id: must be up to 128"}},
		{name: "alias", file: "clients:\n  a: &a {issuer: 'https://acme.okta.com', client_id: c}\n  b: *a\n", want: []string{
			":2: clients.a: anchors and aliases are not supported", ":2: clients.a.issuer: is missing", ":2: clients.a.client_id: is missing",
			":3: clients.b: anchors and aliases are not supported", ":3: clients.b.issuer: is missing", ":3: clients.b.client_id: is missing"}},
		{name: "merge", file: "log:\n  <<: {level: debug}\n", want: []string{":2: log: anchors and aliases are not supported"}},
		{name: "tag", file: "listen: !!null 0.0.0.0:5000\nkeys: {default: {read_only: !!bool garbage}}\n", want: []string{":1: listen: tags are not supported", ":2: keys.default.read_only: tags are not supported"}},
		{name: "one letter", file: "f: x\n", want: []string{":1: f: unknown name: known are"}},
		{name: "blank scopes", file: client, env: map[string]string{"OKTA_CLIENT_SCOPES": " , "}, want: []string{"OKTA_CLIENT_SCOPES: clients.default.scopes: names no scope"}},
		{name: "kid with a key", file: "keys: {default: {kid: '-----BEGIN s3cr3t'}}\n", want: []string{":1: keys.default.kid: must be up to 128"}},
		{name: "long kid", env: map[string]string{"OKTA_CLIENT_PRIVATEKEYID": "s3cr3t" + strings.Repeat("k", 128)}, want: []string{"keys.default.kid: must be up to 128"}},
		{name: "base64 for a path", file: "keys: {default: {file: s3cr3t/" + strings.Repeat("MIGHAgEAMBM", 9) + "}}\n", want: []string{"keys.default.file: must be the path of a PEM file"}},
		{name: "ca_file with a key", file: "clients: {default: {issuer: 'https://acme.okta.com', client_id: c, ca_file: '-----BEGIN s3cr3t'}}\n", want: []string{":1: clients.default.ca_file: must be the path"}},
		{name: "flow without a space", file: "clients: {default: {issuer: 'https://acme.okta.com', client_id: c, secret:s3cr3t}}\n", want: []string{":1: clients.default: a name must be"}},
		{name: "value for a name", file: "keys:\n  default:\n    ? s3cr3t" + strings.Repeat("MIGHAgEAMBM", 9) + "\n", want: []string{":3: keys.default: a name must be"}},
		{name: "unknown anchor", file: "listen: *s3cr3t\n", want: []string{"not valid YAML"}},
		{name: "two meanings", file: "clients:\n  a: {issuer: 'https://a.okta.com', client_id: b}\n  b: {issuer: 'https://b.okta.com', client_id: c}\n", want: []string{":2: clients.a.client_id: is the name of another client"}},
		{name: "near miss", file: "lisen: x\n", want: []string{":1: lisen: unknown name: did you mean listen?"}},
		{name: "far miss", file: "\ncolour: x\n", want: []string{":2: colour: unknown name: known are admin_listen, clients, health_listen, hosts, jwks_listen, jwks_max_age, keys, listen, log, max_tokens, proxy_listen, signing"}},
		{name: "nested near miss", file: "clients:\n  default:\n    isuer: x\n    client_id: c\n", want: []string{
			":3: clients.default.isuer: unknown name: did you mean issuer?", ":2: clients.default.issuer: is missing"}},
		{name: "duplicate", file: "listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n", want: []string{":2: listen: stands twice"}},
		{name: "duplicate client", file: client + "keys: {a: {file: x}, a: {file: y}}\n", want: []string{":2: keys.a: stands twice"}},
		{name: "second document", file: client + "---\n" + client, want: []string{"second YAML document"}},
		{name: "not YAML", file: "listen: [\n", want: []string{"not valid YAML"}},
		{name: "a list at the top", file: "- listen\n", want: []string{"must be a mapping"}},
		{name: "several at once, in order", file: "log: {level: loud, format: xml}\nhosts: localhost\nsigning: {allow: all}\n", want: []string{
			":1: log.level: must be one of debug, info, warn, error", ":1: log.format: must be one of text, json",
			":2: hosts: must be a list", ":3: signing.allow: must be one of clients, any"}},
		{name: "bool", file: "keys: {default: {read_only: maybe}}\n", want: []string{":1: keys.default.read_only: must be true or false"}},
		{name: "duration", file: "clients:\n  default:\n    issuer: https://acme.okta.com\n    client_id: c\n    assertion_lifetime: 300\n", want: []string{
			":5: clients.default.assertion_lifetime: must be a duration"}},
		{name: "duration out of range", file: "clients:\n  default:\n    issuer: https://acme.okta.com\n    client_id: c\n    assertion_lifetime: 1h\n", want: []string{
			":5: clients.default.assertion_lifetime: must be 1m to 59m"}},
		{name: "issuer missing", file: "clients: {default: {client_id: c}}\n", want: []string{"clients.default.issuer: is missing: set it here or in OKTA_CLIENT_ORGURL"}},
		{name: "host with a port", file: "hosts: [ok, 'a:80', '', '*']\n", want: []string{"hosts[1]: must be a host name", "hosts[2]: must be", "hosts[3]: must be"}},
		{name: "one file twice, spelled otherwise", file: "keys: {a: {file: k.pem}, b: {file: ./k.pem}}\n", want: []string{"keys.b.file: is the file of keys.a.file, too: two rings cannot share one"}},
		{name: "PEM for a path", file: "keys: {default: {file: '-----BEGIN PRIVATE KEY----- s3cr3t'}}\n", want: []string{"keys.default.file: must be the path of a PEM file"}},
		{name: "JWK for a path", file: "keys: {default: {file: '{\"d\":\"s3cr3t\"}'}}\n", want: []string{"keys.default.file: must be the path of a PEM file"}},
		{name: "JWK in the variable", env: map[string]string{"OKTA_CLIENT_PRIVATEKEY": `{"kty":"EC","d":"s3cr3t"}`}, want: []string{"OKTA_CLIENT_PRIVATEKEY: must be a PEM"}},
		{name: "base64 in the variable", env: map[string]string{"OKTA_CLIENT_PRIVATEKEY": "s3cr3t" + strings.Repeat("MIGHAgEAMBMGByqGSM49", 9)}, want: []string{"OKTA_CLIENT_PRIVATEKEY: must be a PEM"}},
		{name: "hex in the variable", env: map[string]string{"OKTA_CLIENT_PRIVATEKEY": "s3cr3t0123456789abcdef0123456789abcdef"}, want: []string{"OKTA_CLIENT_PRIVATEKEY: must be a PEM"}},
		{name: "base64 with slashes in the variable", env: map[string]string{"OKTA_CLIENT_PRIVATEKEY": "s3cr3t/" + strings.Repeat("MIGHAgEAMBM/", 9)}, want: []string{"OKTA_CLIENT_PRIVATEKEY: must be a PEM"}},
		{name: "variable alone", env: map[string]string{"OKTA_CLIENT_ORGURL": "https://acme.okta.com"}, want: []string{"clients.default.client_id: is missing: set it here or in OKTA_CLIENT_CLIENTID"}},
		{name: "algorithm", file: "keys: {default: {algorithm: HS256}}\n", want: []string{"keys.default.algorithm: must be one of RS256"}},
		{name: "file", file: "keys: {default: {file: ''}}\n", want: []string{"keys.default.file: must not be empty"}},
		{name: "a folder", file: "keys: {default: {file: keys/}}\n", want: []string{"keys.default.file: must be the path of a file, not of a folder"}},
		{name: "one file twice", file: "keys: {a: {file: k.pem}, b: {file: k.pem}}\n", want: []string{"keys.b.file: is the file of keys.a.file, too: two rings cannot share one"}},
		{name: "name", file: "clients: {'a/b': {issuer: 'https://acme.okta.com', client_id: c}}\n", want: []string{"the name must be up to 64"}},
		{name: "client_id", file: "clients: {default: {issuer: 'https://acme.okta.com', client_id: 'a b'}}\n", want: []string{"client_id: must be up to 128"}},
		{name: "ring", file: "clients: {default: {issuer: 'https://acme.okta.com', client_id: c, key: other}}\n", want: []string{"clients.default.key: names no entry of keys"}},
		{name: "scope", file: "clients: {default: {issuer: 'https://acme.okta.com', client_id: c, scopes: ['a b']}}\n", want: []string{"clients.default.scopes: a scope has a character"}},
		{name: "health_listen", file: "health_listen: nonsense\n", want: []string{":1: health_listen: must be host:port or unix:/path"}},
		{name: "one address twice", file: "listen: 127.0.0.1:1\nhealth_listen: 127.0.0.1:1\n", want: []string{":2: health_listen: is the address of listen, too"}},
		{name: "a listener of later", file: "admin_listen: 127.0.0.1:1\n", want: []string{":1: admin_listen: is not supported by this version"}},
		{name: "jwks_listen", file: "jwks_listen: nonsense\n", want: []string{":1: jwks_listen: must be host:port or unix:/path"}},
		{name: "jwks_listen at other listeners", file: "listen: 127.0.0.1:1\nhealth_listen: :2\njwks_listen: 0.0.0.0:2\n", want: []string{":3: jwks_listen: is the address of health_listen, too"}},
		{name: "jwks_listen at the API", file: "listen: unix:/run/s\njwks_listen: unix:/run/s\n", want: []string{":2: jwks_listen: is the address of listen, too"}},
		{name: "one address for all", file: "listen: 127.0.0.1:1\nhealth_listen: :1\njwks_listen: :1\n", want: []string{
			":2: health_listen: is the address of listen, too", ":3: jwks_listen: is the address of listen, too", ":3: jwks_listen: is the address of health_listen, too"}},
		{name: "jwks_max_age", file: "jwks_max_age: 24h1s\n", want: []string{":1: jwks_max_age: must be 0s to 24h"}},
		{name: "jwks_max_age, negative", file: "jwks_max_age: -1s\n", want: []string{":1: jwks_max_age: must be 0s to 24h"}},
		{name: "dpop, misspelt", file: "clients: {default: {issuer: 'https://acme.okta.com', client_id: c, dpop: 'no'}}\n", want: []string{":1: clients.default.dpop: must be one of auto, required, off"}},
		{name: "registration", file: "clients: {default: {issuer: 'https://acme.okta.com', client_id: c, registration: API}}\n", want: []string{":1: clients.default.registration: must be one of manual, jwks_uri, api"}},
		{name: "audience", file: "clients: {default: {issuer: 'https://acme.okta.com', client_id: c, audience: both}}\n", want: []string{"clients.default.audience: must be one of endpoint, issuer"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantProblems(t, tt.file, tt.env, tt.want)
		})
	}
}

// wantProblems checks that a configuration is refused for these reasons alone,
// each on a line of its own.
func wantProblems(t *testing.T, file string, env map[string]string, want []string) {
	t.Helper()
	_, err := load(t, file, env)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range want {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("the error repeats a secret: %v", err)
	}
	if lines := strings.Count(err.Error(), "\n"); lines != len(want) {
		t.Errorf("%d problems, want %d: %v", lines, len(want), err)
	}
}

func TestIssuers(t *testing.T) {
	tests := []struct {
		issuer, endpoint string
		bad              string
	}{
		{issuer: "https://acme.okta.com"},
		{issuer: "https://login.acme.com"},
		{issuer: "https://acme.okta.com/oauth2/default"},
		{issuer: "https://acme.okta.com/oauth2/aus123"},
		{issuer: "http://127.0.0.1:5001"},
		{issuer: "http://localhost:5001"},
		{issuer: "http://[::1]:5001"},
		{issuer: "https://tenant.example.com/", endpoint: "https://tenant.example.com/oauth/token"},
		{issuer: "https://host/realms/x", endpoint: "https://host/realms/x/protocol/openid-connect/token"},
		{issuer: "https://acme.okta.com/oauth2/..", bad: "must be https://HOST"},
		{issuer: "https://acme.okta.com/oauth2/%2e%2e", bad: "must be https://HOST"},
		{issuer: "https://acme.okta.com/oauth2/default%00", bad: "must be https://HOST"},
		{issuer: "https://acme.okta.com:", bad: "must be a URL"},
		{issuer: "https://acme.okta.com:99999", bad: "must be a URL"},
		{issuer: "https://b\u00fccher.okta.com", bad: "must have its host in ASCII"},
		{issuer: "https://" + strings.Repeat("a", 250) + ".com", bad: "must be a URL"},
		{issuer: "acme.okta.com", bad: "must be a URL"},
		{issuer: "https://", bad: "must be a URL"},
		{issuer: "https://a b", bad: "must be a URL"},
		{issuer: "http://acme.okta.com", bad: "must begin with https://"},
		{issuer: "ftp://acme.okta.com", bad: "must begin with https://"},
		{issuer: "https://user:pw@acme.okta.com", bad: "must not have a user"},
		{issuer: "https://acme.okta.com?x=1", bad: "must not have a user, a query"},
		{issuer: "https://acme.okta.com#x", bad: "must not have a user, a query"},
		{issuer: "https://acme-admin.okta.com", bad: "leave out -admin"},
		{issuer: "https://ACME-admin.oktapreview.com", bad: "leave out -admin"},
		{issuer: "https://acme.okta.com/oauth2", bad: "must be https://HOST"},
		{issuer: "https://acme.okta.com/oauth2/v1", bad: "must be https://HOST"},
		{issuer: "https://acme.okta.com/oauth2/default/v1/token", bad: "is a token endpoint: leave out /v1/token"},
		{issuer: "https://acme.okta.com/oauth2/v1/token", bad: "is a token endpoint: leave out /oauth2/v1/token"},
		{issuer: "https://acme.okta.com//", bad: ""},
		{issuer: "https://acme.okta.com/oauth2/default/.well-known/openid-configuration", bad: "must be https://HOST"},
		{issuer: "https://acme.okta.com/oauth2//v1/token", bad: "leave out"},
		{issuer: "https://acme.okta.com/v1/token", bad: "is a token endpoint: leave out /v1/token"},
		{issuer: "https://host/realms/x", bad: "other servers than Okta need token_endpoint"},
		{issuer: "https://host", endpoint: "http://host/token", bad: "token_endpoint: must begin with https://"},
		{issuer: "https://host", endpoint: "token", bad: "token_endpoint: must be a URL"},
		{issuer: "https://acme.okta.com.", bad: "issuer: must have its host without a dot at the end"},
		{issuer: "https://acme.okta.com.:443", bad: "issuer: must have its host without a dot at the end"},
		{issuer: "https://host", endpoint: "https://host./token", bad: "token_endpoint: must have its host without a dot at the end"},
		{issuer: "https://host", endpoint: "https://host:8443/token"},
		{issuer: "https://host", endpoint: "https://host:08443/token", bad: "token_endpoint: must have its port without zeros in front"},
		{issuer: "https://acme.okta.com:0443", bad: "issuer: must have its port without zeros in front"},
		{issuer: "https://host", endpoint: "https://host/a%20b/%7Bx%7D/t%C3%B6k/!$&()*+,;=:@~"},
		{issuer: "https://host", endpoint: "https://host/a b", bad: "token_endpoint: has characters that no URL has: percent-encode them"},
		{issuer: "https://host", endpoint: "https://host/{x}/token", bad: "token_endpoint: has characters that no URL has"},
		{issuer: "https://host", endpoint: `https://host/a\b`, bad: "token_endpoint: has characters that no URL has"},
		{issuer: "https://host", endpoint: `https://host/"a"`, bad: "token_endpoint: has characters that no URL has"},
		{issuer: "https://host", endpoint: `https://h"st/a`, bad: "token_endpoint: has characters that no URL has"},
		{issuer: "https://host", endpoint: "https://host/t\u00f6k", bad: "token_endpoint: has characters that no URL has"},
		{issuer: "https://host", endpoint: "https://host/t%F6k", bad: "token_endpoint: has a path that is not UTF-8 once it is decoded"},
		{issuer: "https://host", endpoint: "https://host/token#", bad: "token_endpoint: must not have a user, a query or a fragment"},
		{issuer: "https://host", endpoint: "https://host/token?", bad: "token_endpoint: must not have a user, a query or a fragment"},
		{issuer: "https://host/realms/a b", endpoint: "https://host/token", bad: "issuer: has characters that no URL has"},
		{issuer: "https://host/x#", endpoint: "https://host/token", bad: "issuer: must not have a user, a query or a fragment"},
		{issuer: "https://acme.okta.com#", bad: "issuer: must not have a user, a query or a fragment"},
		{issuer: "https://acme.okta.com/#/", bad: "issuer: must not have a user, a query or a fragment"},
	}
	for _, tt := range tests {
		text := "clients: {default: {issuer: '" + tt.issuer + "', token_endpoint: '" + tt.endpoint + "', client_id: c}}"
		_, err := load(t, text, nil)
		if tt.bad == "" && err != nil || tt.bad != "" && (err == nil || !strings.Contains(err.Error(), tt.bad)) {
			t.Errorf("%s %s: got %v, want %q", tt.issuer, tt.endpoint, err, tt.bad)
		}
		if err != nil && strings.Contains(err.Error(), "user:pw") {
			t.Errorf("the error repeats a password: %v", err)
		}
	}
}

func TestWhichFile(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(name, level string) {
		t.Helper()
		if err := os.WriteFile(name, []byte("log: {level: "+level+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	level := func(file, variable string) string {
		t.Helper()
		cfg, err := Load(Source{File: file, Environ: []string{FileVariable + "=" + variable}})
		if err != nil {
			t.Fatal(err)
		}
		return cfg.Log.Level
	}
	if got := level("", ""); got != "info" {
		t.Errorf("without a file: %s", got)
	}
	write(DefaultFile, "warn")
	write("flag.yaml", "debug")
	write("variable.yaml", "error")
	if got := level("", ""); got != "warn" {
		t.Errorf("%s: %s", DefaultFile, got)
	}
	if got := level("", "variable.yaml"); got != "error" {
		t.Errorf("variable: %s", got)
	}
	if got := level("flag.yaml", "variable.yaml"); got != "debug" {
		t.Errorf("flag: %s", got)
	}
	if _, err := Load(Source{File: "nowhere.yaml"}); err == nil {
		t.Error("a named file that is not there passes")
	}
}

func TestSignAny(t *testing.T) {
	one := map[string]Client{"default": {}}
	tests := []struct {
		allow   string
		clients map[string]Client
		want    bool
	}{
		{"", nil, true},
		{"", one, false},
		{"clients", nil, false},
		{"clients", one, false},
		{"any", nil, true},
		{"any", one, true},
	}
	for _, tt := range tests {
		if got := (Config{Clients: tt.clients, Signing: Signing{Allow: tt.allow}}).SignAny(); got != tt.want {
			t.Errorf("allow %q with %d clients: %v", tt.allow, len(tt.clients), got)
		}
	}
}

// A file of nothing but mistakes is refused in no time, and in a few lines.
func TestMistakesAreBounded(t *testing.T) {
	_, err := load(t, strings.Repeat("a: 1\n", maxFile/5), nil)
	if lines := strings.Count(err.Error(), "\n"); lines != maxProblems+1 || !strings.HasSuffix(err.Error(), "more than 100 problems: the rest is not shown") {
		t.Errorf("%d lines: %.1000s", lines, err)
	}
	if _, err := Load(Source{File: "/dev/zero"}); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("got %v", err)
	}
}
