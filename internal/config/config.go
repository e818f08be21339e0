// Package config is the configuration: one documented struct, filled from
// defaults, a YAML file and the environment, checked strictly and as a whole.
package config

import (
	"cmp"
	"reflect"
	"time"

	"okta-token-broker/internal/secret"
)

// Config is the whole configuration. The yaml tags are the names in the file;
// the comments are the reference that the README repeats.
type Config struct {
	// Listen is where the API listens: host:port on loopback, or
	// unix:/path/to.sock.
	Listen string `yaml:"listen"`
	// AdminListen is kept for a status page, which this version does not have: it
	// must be empty.
	AdminListen string `yaml:"admin_listen"`
	// HealthListen is where /healthz, /readyz and /metrics are served alone, for a
	// kubelet and Prometheus that cannot reach loopback: host:port on any address,
	// such as :8086, or unix:/path/to.sock. Empty: nowhere, but for the first two on
	// the API's listener.
	HealthListen string `yaml:"health_listen"`
	// JWKSListen is where the public keys are served alone, for Okta to fetch them:
	// host:port on any address, such as :8087, or unix:/path/to.sock. Empty: nowhere,
	// but on the API's listener.
	JWKSListen string `yaml:"jwks_listen"`
	// ProxyListen are more addresses to listen at, each with the name of a client: that
	// client's proxy is at / there, as it is at /proxy/CLIENT/ of the API, for SDKs that
	// take a host but no path. Addresses are as for listen; no variable sets this.
	ProxyListen map[string]string `yaml:"proxy_listen"`
	// JWKSMaxAge is how long others may keep the public keys that they fetched: the
	// max-age of their Cache-Control, in whole seconds, 0s to 24h.
	JWKSMaxAge time.Duration `yaml:"jwks_max_age"`
	// Hosts are names to accept in the Host header, without a port, besides
	// localhost and loopback addresses.
	Hosts []string `yaml:"hosts"`
	// MaxTokens is how many tokens are kept at most; the least recently read go
	// first.
	MaxTokens int `yaml:"max_tokens"`
	Log       Log `yaml:"log"`
	// Keys are the key rings by name.
	Keys map[string]Key `yaml:"keys"`
	// Clients are the Okta apps by name. The one called default is meant where a
	// request names none.
	Clients map[string]Client `yaml:"clients"`
	Signing Signing           `yaml:"signing"`
}

// Log says what is logged, to standard error.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `yaml:"level"`
	// Format is text or json.
	Format string `yaml:"format"`
}

// Key is a ring of signing keys in a PEM file.
type Key struct {
	// File is the PEM file. It is made when a key is first needed.
	File string `yaml:"file"`
	// Kid names a key that was stored without metadata, in 128 bytes at most.
	// Empty: its RFC 7638 thumbprint.
	Kid string `yaml:"kid"`
	// Algorithm is that of the keys the broker makes: RS256, RS384, RS512, ES256,
	// ES384 or ES512.
	Algorithm string `yaml:"algorithm"`
	// ReadOnly is for a file that something else keeps, such as a Kubernetes
	// Secret: links are followed, root may own it, the group may read it, and the
	// broker never writes it.
	ReadOnly bool     `yaml:"read_only"`
	Rotation Rotation `yaml:"rotation"`
	// PEM is a key that came in OKTA_CLIENT_PRIVATEKEY, instead of File.
	PEM secret.Text `yaml:"-"`
}

// Equal reports whether both describe the same ring. When it rotates does not count.
func (k Key) Equal(other Key) bool {
	same := k.PEM.Equal(other.PEM)
	k.PEM, other.PEM = secret.Text{}, secret.Text{}
	k.Rotation, other.Rotation = Rotation{}, Rotation{}
	return same && k == other
}

// Rotation is the schedule of a ring.
type Rotation struct {
	// Every is the time from one rotation to the next. 0s: the ring rotates on demand
	// alone.
	Every time.Duration `yaml:"every"`
	// PublishAhead is how long a new key is published before it signs, where a client
	// has registration jwks_uri: 0s to 8760h.
	PublishAhead time.Duration `yaml:"publish_ahead"`
	// RetireAfter is how long an old key is kept once its successor is proven and signs:
	// 0s to 8760h, three seconds at least.
	RetireAfter time.Duration `yaml:"retire_after"`
}

// Client is an app at an authorization server.
type Client struct {
	// Issuer is https://acme.okta.com for the org authorization server, or
	// https://acme.okta.com/oauth2/ID for a custom one. http is for loopback alone.
	Issuer string `yaml:"issuer"`
	// TokenEndpoint is only for servers that are not Okta.
	TokenEndpoint string `yaml:"token_endpoint"`
	// Audience is what assertions are made for: endpoint (Okta), or issuer (RFC
	// 10070).
	Audience string `yaml:"audience"`
	// ClientID is the app's client id. It must not be the name of another client.
	ClientID string `yaml:"client_id"`
	// Scopes are asked for by default, and the most that can be asked for. Without
	// any the server decides what a token may do.
	Scopes []string `yaml:"scopes"`
	// Key names the ring under keys that signs.
	Key string `yaml:"key"`
	// DPoP is auto (DPoP proofs are sent once the server has asked for one), required
	// (from the first request on, and a token that is not bound is refused) or off.
	DPoP string `yaml:"dpop"`
	// DPoPKeyFile is the PEM file of the EC P-256 key that tokens are bound to, which is
	// made at the start where it is not there. Another key in it is taken up within
	// seconds; one that is bad or gone leaves the key in use, and the log says so. Empty:
	// the key is in memory, and bound tokens end with the process.
	DPoPKeyFile string `yaml:"dpop_key_file"`
	// AssertionLifetime is how long the assertions live that the broker itself
	// sends: 1m to 59m.
	AssertionLifetime time.Duration `yaml:"assertion_lifetime"`
	// Prefetch gets the token with the client's own scopes when the broker starts,
	// if the ring has a key then, and keeps it renewed also when nobody reads it.
	Prefetch bool `yaml:"prefetch"`
	// Registration is how Okta learns of a new key: manual (somebody pastes it),
	// jwks_uri (Okta fetches it from jwks_listen) or api (the broker registers it, with
	// the token of rotator).
	Registration string `yaml:"registration"`
	// AppID is the app's id in Okta's API, for registration api. Empty: client_id,
	// which it is for API Services apps.
	AppID string `yaml:"app_id"`
	// Rotator is the client whose tokens register keys, for registration api. It is at
	// the org authorization server of the issuer's host, with okta.apps.read and
	// okta.apps.manage among its scopes. Nobody else gets its tokens or assertions: a
	// client that is its own rotator is served to no caller, either.
	Rotator string `yaml:"rotator"`
	// Resources are base URLs by name, 32 at most, that may be called with the client's
	// tokens: /proxy/CLIENT/~NAME/ leads there. The API of an org needs none.
	Resources map[string]string `yaml:"resources"`
	// CAFile is a PEM file of certificates that verify the server, instead of
	// the system's.
	CAFile string `yaml:"ca_file"`
}

// Signing says what POST / signs.
type Signing struct {
	// Allow is clients (configured client ids, for their own endpoints, whatever
	// their scopes) or any. Empty: any while no client is configured, else clients.
	Allow string `yaml:"allow"`
}

// Names that have a meaning of their own.
const (
	DefaultClient = "default"
	DefaultKey    = "default"

	AudienceEndpoint = "endpoint"
	AudienceIssuer   = "issuer"

	RegistrationManual  = "manual"
	RegistrationJWKSURI = "jwks_uri"
	RegistrationAPI     = "api"

	DPoPAuto     = "auto"
	DPoPRequired = "required"
	DPoPOff      = "off"

	AllowAny     = "any"
	AllowClients = "clients"
)

// Default returns the configuration without file and environment.
func Default() Config {
	return Config{
		Listen:     "127.0.0.1:5000",
		JWKSMaxAge: 5 * time.Minute,
		MaxTokens:  10_000,
		Log:        Log{Level: "info", Format: "text"},
		Keys:       map[string]Key{DefaultKey: defaultKey()},
	}
}

func defaultKey() Key {
	return Key{
		File:      "private_key.pem",
		Algorithm: "RS256",
		Rotation:  Rotation{PublishAhead: 24 * time.Hour, RetireAfter: 24 * time.Hour},
	}
}

func defaultClient() Client {
	return Client{
		Audience:          AudienceEndpoint,
		Key:               DefaultKey,
		DPoP:              DPoPAuto,
		AssertionLifetime: 5 * time.Minute,
		Prefetch:          true,
		Registration:      RegistrationManual,
	}
}

// Like reports whether tokens of one are as good for the other. How Okta learns of
// keys does not count.
func (c Client) Like(other Client) bool {
	for _, c := range []*Client{&c, &other} {
		c.Registration, c.AppID, c.Rotator = "", "", ""
	}
	return reflect.DeepEqual(c, other)
}

// App returns the id of the client's app in Okta's API.
func (c Client) App() string { return cmp.Or(c.AppID, c.ClientID) }

// SignAny reports whether POST / signs for client ids that are not configured.
func (c Config) SignAny() bool {
	return c.Signing.Allow == AllowAny || c.Signing.Allow == "" && len(c.Clients) == 0
}
