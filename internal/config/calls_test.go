package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResources(t *testing.T) {
	const path, plain = ":3: clients.default.resources.api: ", "must have a path of plain segments"
	tests := []struct {
		base string
		want string // what it is taken as
		bad  string
	}{
		{base: "https://api.acme.com", want: "https://api.acme.com"},
		{base: "https://api.acme.com/", want: "https://api.acme.com"},
		{base: "https://API.acme.com:443/v1/", want: "https://api.acme.com/v1"},
		{base: "HTTPS://api.acme.com/V1", want: "https://api.acme.com/V1"},
		{base: "https://api.acme.com:8443/a/b-c/~d/e.f/@g=h", want: "https://api.acme.com:8443/a/b-c/~d/e.f/@g=h"},
		{base: "https://api.acme.com:80", want: "https://api.acme.com:80"},
		{base: "http://127.0.0.1:80/x", want: "http://127.0.0.1/x"},
		{base: "http://[::1]:5001", want: "http://[::1]:5001"},
		{base: "http://localhost:5001", want: "http://localhost:5001"},
		{base: "https://acme.okta.com", want: "https://acme.okta.com"},
		{base: "https://acme.okta.com/api/v1", want: "https://acme.okta.com/api/v1"},
		{base: "https://acme.okta.com/x/oauth2", want: "https://acme.okta.com/x/oauth2"},
		{base: "https://other.okta.com/oauth2/v1", want: "https://other.okta.com/oauth2/v1"},
		{base: "https://" + strings.Repeat("a", 248), want: "https://" + strings.Repeat("a", 248)},

		{base: "https://" + strings.Repeat("a", 249), bad: "must be a URL of up to 256 bytes"},
		{base: "", bad: "must be a URL"},
		{base: "/api", bad: "must be a URL"},
		{base: "api.acme.com", bad: "must be a URL"},
		{base: "https:///api", bad: "must be a URL"},
		{base: "https://api.acme.com:99999", bad: "must be a URL"},
		{base: "http://api.acme.com", bad: "must begin with https://"},
		{base: "unix:/run/s", bad: "must be a URL"},
		{base: "https://b\u00fccher.acme.com", bad: "must have its host in ASCII"},
		{base: "https://user:s3cr3t@api.acme.com", bad: "must not have a user"},
		{base: "https://api.acme.com?key=s3cr3t", bad: "must not have a user, a query"},
		{base: "https://api.acme.com/?", bad: "must not have a user, a query"},
		{base: "https://api.acme.com/#x", bad: "must not have a user, a query"},
		{base: "https://api.acme.com/x#", bad: "must not have a user, a query"},
		{base: "https://api.acme.com#", bad: "must not have a user, a query"},
		{base: "https://api.acme.com./x", bad: "must have its host without a dot at the end"},
		{base: "https://api.acme.com:0443/x", bad: "must have its port without zeros in front"},
		{base: "https://api.<acme>.com/x", bad: "has characters that no URL has"},
		{base: "https://api.acme.com//", bad: plain},
		{base: "https://api.acme.com//v1", bad: plain},
		{base: "https://api.acme.com/a//b", bad: plain},
		{base: "https://api.acme.com/.", bad: plain},
		{base: "https://api.acme.com/a/../b", bad: plain},
		{base: "https://api.acme.com/a/...", bad: plain},
		{base: "https://api.acme.com/%2e%2e/b", bad: plain},
		{base: "https://api.acme.com/a%2Fb", bad: plain},
		{base: "https://api.acme.com/a%5cb", bad: plain},
		{base: `https://api.acme.com/a\b`, bad: plain},
		{base: "https://api.acme.com/a%00", bad: plain},
		{base: "https://api.acme.com/a b", bad: plain},
		{base: "https://api.acme.com/k\u00e4se", bad: plain},
		{base: "https://api.acme.com/a;b", bad: plain},
		{base: "https://acme.okta.com/oauth2", bad: "is below /oauth2/ of the org"},
		{base: "https://ACME.okta.com:443/OAuth2./v1", bad: "is below /oauth2/ of the org"},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.base, "s3cr3t", "..."), func(t *testing.T) {
			file := "clients:\n default: {issuer: 'https://acme.okta.com', client_id: c, resources:\n  {api: '" + tt.base + "'}}\n"
			if tt.bad != "" {
				wantProblems(t, file, nil, []string{path + tt.bad})
				return
			}
			got, err := load(t, file, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]string{"api": tt.want}, got.Clients["default"].Resources); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Below /oauth2/ of the org that issues a client's tokens nothing is called. Of the rest
// of that org the broker heeds it itself.
func TestResourceAtAnOktaOrg(t *testing.T) {
	const (
		custom = "issuer: 'https://acme.okta.com/oauth2/aus1'"
		org    = "issuer: 'https://acme.okta.com'"
		other  = "issuer: 'https://globex.okta.com'"
		noOkta = "issuer: 'https://acme.okta.com', token_endpoint: 'https://acme.okta.com/t'"
	)
	tests := []struct {
		client string // its issuer
		base   string // of its resource
		taken  bool
	}{
		{custom, "https://acme.okta.com/api/v1", true},
		{custom, "https://acme.okta.com/x/oauth2", true},
		{custom, "https://acme.okta.com", true},
		{custom, "https://acme.okta.com/oauth2", false},
		{custom, "https://ACME.okta.com:443/oauth2/aus1/v1", false},
		{custom, "https://acme.okta.com/.OAuth2./aus1/v1", false},
		{org, "https://acme.okta.com", true},
		{org, "https://acme.okta.com/oauth2/v1", false},
		{other, "https://acme.okta.com/oauth2/v1", true},
		{noOkta, "https://acme.okta.com/oauth2/v1", true},
	}
	for _, tt := range tests {
		t.Run(tt.client+" "+tt.base, func(t *testing.T) {
			file := "clients:\n  a: {" + tt.client + ", client_id: c, resources: {api: '" + tt.base + "'}}\n"
			if !tt.taken {
				wantProblems(t, file, nil, []string{":2: clients.a.resources.api: is below /oauth2/ of the org"})
			} else if _, err := load(t, file, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// A broker that asks itself would not get an answer. By another port, or where a
// listener is off, it is somebody else.
func TestOwnAddresses(t *testing.T) {
	const file = "health_listen: :5001\nproxy_listen: {localhost:80: default}\nclients:\n default: {issuer: 'ISSUER', client_id: c, resources: {api: 'API'}}\n"
	for _, tt := range []struct {
		issuer, api string
		want        []string // none: it is taken
	}{
		{issuer: "http://127.0.0.1:5000", api: "http://localhost", want: []string{":4: clients.default.issuer: is an address of this broker", ":4: clients.default.resources.api: is an address of this broker"}},
		{issuer: "http://[::1]:80", api: "http://127.0.0.1:5001/x", want: []string{":4: clients.default.issuer: is an", ":4: clients.default.resources.api: is an"}},
		{issuer: "https://localhost:5000", api: "http://127.0.0.1:5002"},
	} {
		text := strings.NewReplacer("ISSUER", tt.issuer, "API", tt.api).Replace(file)
		if tt.want != nil {
			wantProblems(t, text, nil, tt.want)
		} else if _, err := load(t, text, nil); err != nil {
			t.Error(err)
		}
	}
}

func TestManyResources(t *testing.T) {
	file := func(count int) string {
		text := "clients:\n default:\n  issuer: https://acme.okta.com\n  client_id: c\n  resources:\n"
		for i := range count {
			text += fmt.Sprintf("   r%d: https://api.acme.com/%d\n", i, i)
		}
		return text
	}
	got, err := load(t, file(32), nil)
	if err != nil || len(got.Clients["default"].Resources) != 32 {
		t.Errorf("32: %v", err)
	}
	wantProblems(t, file(33), nil, []string{":5: clients.default.resources: can be 32 at most"})
}

// A resource's name stands in paths, as ~NAME.
func TestNamesOfResources(t *testing.T) {
	const (
		path   = ":3: clients.default.resources"
		bad    = ": the name must be up to 64 letters, digits, dots, dashes and underscores"
		noName = path + ": a name must be up to 64 letters, digits, dots, dashes and underscores"
	)
	for name, problem := range map[string]string{
		"api": "", "v1.orders_and-more": "", strings.Repeat("r", 64): "",
		".": path + ".." + bad, "..": path + "..." + bad, "-": path + ".-" + bad, "a/b": path + ".a/b" + bad,
		"a%2fb": noName, "~a": noName, "a b": noName, "\u00e9": noName, strings.Repeat("r", 65): noName,
	} {
		file := "clients:\n default: {issuer: 'https://acme.okta.com', client_id: c, resources:\n  {'" + name + "': 'https://api.acme.com'}}\n"
		if problem != "" {
			wantProblems(t, file, nil, []string{problem})
			continue
		}
		if _, err := load(t, file, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// calling is a client that is at an org, one that is not, and a rotator with its
// client.
const calling = `clients:
  default: {issuer: 'https://acme.okta.com', client_id: c}
  custom: {issuer: 'https://acme.okta.com/oauth2/aus1', client_id: d}
  orders: {issuer: 'https://acme.okta.com/oauth2/aus1', client_id: e, resources: {orders: 'https://orders.acme.com'}}
  rotator: {issuer: 'https://acme.okta.com', client_id: r, scopes: [okta.apps.read, okta.apps.manage]}
  managed: {issuer: 'https://acme.okta.com', client_id: m, registration: api, rotator: rotator}
`

func TestProxyListen(t *testing.T) {
	const elsewhere = "other machines could reach it, and no callers are configured"
	tests := []struct {
		name, file string
		want       []string // none: it is taken
	}{
		{name: "one", file: "proxy_listen: {127.0.0.1:5002: default}"},
		{name: "none", file: "proxy_listen: {}"},
		{name: "in lines", file: "proxy_listen:\n  127.0.0.1:5002: default\n  '[::1]:5003': default\n  localhost:5004: managed\n  unix:/run/p.sock: orders"},
		{name: "any port", file: "proxy_listen: {127.0.0.1:0: default, '[::1]:0': managed}"},
		{name: "nobody", file: "proxy_listen: {127.0.0.1:5002: nobody}", want: []string{":7: proxy_listen.127.0.0.1:5002: names no entry of clients"}},
		{name: "nothing", file: "proxy_listen:\n  127.0.0.1:5002:", want: []string{"proxy_listen.127.0.0.1:5002: names no entry of clients"}},
		{name: "a rotator", file: "proxy_listen:\n  127.0.0.1:5002: rotator", want: []string{":8: proxy_listen.127.0.0.1:5002: names a rotator, whose tokens no caller may have"}},
		{name: "nothing to call", file: "proxy_listen:\n  127.0.0.1:5002: custom", want: []string{":8: proxy_listen.127.0.0.1:5002: names a client that has nothing to call"}},
		{name: "every address", file: "proxy_listen:\n  :5002: default\n  0.0.0.0:5003: default\n  '[::]:5004': default", want: []string{
			":8: proxy_listen.:5002: " + elsewhere, ":9: proxy_listen.0.0.0.0:5003: " + elsewhere, ":10: proxy_listen.[::]:5004: " + elsewhere}},
		{name: "another host", file: "proxy_listen: {broker.internal:5002: default}", want: []string{":7: proxy_listen.broker.internal:5002: " + elsewhere}},
		{name: "no port that there is", file: "proxy_listen: {127.0.0.1:99999: default}", want: []string{":7: proxy_listen.127.0.0.1:99999: must be host:port"}},
		{name: "a port in another spelling", file: "proxy_listen: {127.0.0.1:05002: default, '[::1]:00': default}", want: []string{
			":7: proxy_listen.127.0.0.1:05002: must have its port without zeros in front", ":7: proxy_listen.[::1]:00: must have its port without zeros in front"}},
		{name: "a port twice, in two spellings", file: "proxy_listen:\n  127.0.0.1:5002: default\n  :05002: default", want: []string{
			":9: proxy_listen.:05002: must have its port without zeros in front", ":9: proxy_listen.:05002: other machines could reach it"}},
		{name: "a long socket", file: "proxy_listen: {unix:/" + strings.Repeat("s", 103) + ": default}", want: []string{": must be unix:/path, with a path of up to 103 bytes"}},
		{name: "the API's", file: "proxy_listen: {localhost:5000: default}", want: []string{":7: proxy_listen.localhost:5000: is the address of listen, too"}},
		{name: "health's", file: "health_listen: :5002\nproxy_listen: {127.0.0.1:5002: default}", want: []string{":8: proxy_listen.127.0.0.1:5002: is the address of health_listen, too"}},
		{name: "each other's", file: "proxy_listen: {127.0.0.1:5002: default, localhost:5002: default}", want: []string{
			":7: proxy_listen.localhost:5002: is the address of proxy_listen.127.0.0.1:5002, too"}},
		{name: "twice", file: "proxy_listen:\n  127.0.0.1:5002: default\n  127.0.0.1:5002: default", want: []string{":9: proxy_listen.127.0.0.1:5002: stands twice"}},
		{name: "a client first", file: "proxy_listen: {default: s3cr3t:5002}", want: []string{":7: proxy_listen: an address must be host:port or unix:/path"}},
		{name: "a port alone", file: "proxy_listen: {5002: default}", want: []string{":7: proxy_listen: an address must be host:port"}},
		{name: "a URL", file: "proxy_listen: {'http://127.0.0.1:5002': default}", want: []string{":7: proxy_listen: an address must be host:port"}},
		{name: "a value", file: "proxy_listen:\n  ? s3cr3t" + strings.Repeat("MIGHAgEAMBM", 9), want: []string{":8: proxy_listen: an address must be host:port"}},
		{name: "a list", file: "proxy_listen: [127.0.0.1:5002]", want: []string{":7: proxy_listen: must be a mapping"}},
		{name: "a client in parts", file: "proxy_listen: {127.0.0.1:5002: {client: default}}", want: []string{
			":7: proxy_listen.127.0.0.1:5002: must be a string", ":7: proxy_listen.127.0.0.1:5002: names no entry of clients"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want != nil {
				wantProblems(t, calling+tt.file+"\n", nil, tt.want)
				return
			}
			if _, err := load(t, calling+tt.file+"\n", nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// What goes into the maps keeps the places that it came from.
func TestProxyListenIsShownWithItsSource(t *testing.T) {
	got, err := load(t, calling+"proxy_listen:\n  127.0.0.1:5002: default\n  '[::1]:5003': orders\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Setting{
		{"proxy_listen.127.0.0.1:5002", "default", got.File + ":8"},
		{"proxy_listen.[::1]:5003", "orders", got.File + ":9"},
		{"clients.orders.resources.orders", "https://orders.acme.com", got.File + ":4"},
	} {
		if !slices.ContainsFunc(got.Settings(), func(s Setting) bool { return cmp.Equal(s, want) }) {
			t.Errorf("%v is not in %v", want, got.Settings())
		}
	}
}

func TestProofKeys(t *testing.T) {
	const notAPath, aFolder = "must be the path of a PEM file, not a key", "must be the path of a file, not of a folder"
	tests := []struct {
		name, settings string
		want           []string // none: it is taken
	}{
		{name: "in memory", settings: "dpop: required"},
		{name: "in a file", settings: "dpop: auto, dpop_key_file: /var/lib/dpop.pem"},
		{name: "required, in a file", settings: "dpop: required, dpop_key_file: dpop.pem"},
		{name: "misspelt", settings: "dpop: 'yes'", want: []string{":4: clients.default.dpop: must be one of auto, required, off"}},
		{name: "off", settings: "dpop: off, dpop_key_file: dpop.pem", want: []string{":4: clients.default.dpop_key_file: has no effect with dpop: off"}},
		{name: "a key", settings: "dpop_key_file: '-----BEGIN s3cr3t'", want: []string{":4: clients.default.dpop_key_file: " + notAPath}},
		{name: "a key in base64", settings: "dpop_key_file: s3cr3t" + strings.Repeat("MIGHAgEAMBM", 9), want: []string{":4: clients.default.dpop_key_file: " + notAPath}},
		{name: "a JWK", settings: `dpop_key_file: '{"d":"s3cr3t"}'`, want: []string{":4: clients.default.dpop_key_file: " + notAPath}},
		{name: "the root", settings: "dpop_key_file: /", want: []string{":4: clients.default.dpop_key_file: " + aFolder}},
		{name: "a folder", settings: "dpop_key_file: keys/", want: []string{":4: clients.default.dpop_key_file: " + aFolder}},
		{name: "the working folder", settings: "dpop_key_file: .", want: []string{":4: clients.default.dpop_key_file: " + aFolder}},
		{name: "a folder above", settings: "dpop_key_file: keys/..", want: []string{":4: clients.default.dpop_key_file: " + aFolder}},
		{name: "a space", settings: "dpop_key_file: ' '", want: []string{":4: clients.default.dpop_key_file: " + aFolder}},
		{name: "a file of dots", settings: "dpop_key_file: ...pem"},
		{name: "a ring's", settings: "dpop_key_file: ./ring.pem", want: []string{":4: clients.default.dpop_key_file: is the file of keys.default.file, too"}},
		{name: "another client's", settings: "dpop_key_file: ./other.pem", want: []string{":5: clients.other.dpop_key_file: is the file of clients.default.dpop_key_file, too"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := "keys: {default: {file: ring.pem}}\nclients:\n  default:\n    {issuer: 'https://acme.okta.com', client_id: c, " + tt.settings + "}\n" +
				"  other: {issuer: 'https://acme.okta.com', client_id: d, dpop_key_file: other.pem}\n"
			if tt.want != nil {
				wantProblems(t, file, nil, tt.want)
				return
			}
			if _, err := load(t, file, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestIsOrg(t *testing.T) {
	tests := map[string]Client{
		"org":               {Issuer: "https://acme.okta.com"},
		"custom server":     {Issuer: "https://acme.okta.com/oauth2/default"},
		"not Okta":          {Issuer: "https://login.example", TokenEndpoint: "https://login.example/token"},
		"not Okta, a realm": {Issuer: "https://login.example/realms/x", TokenEndpoint: "https://login.example/token"},
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		if got := tests[name].IsOrg(); got != (name == "org") {
			t.Errorf("%s: %v", name, got)
		}
	}
}
