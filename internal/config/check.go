package config

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/secret"
)

// check finds what is wrong with a configuration, wherever its values came
// from, as origins says, and what may not work as it is meant.
func check(cfg Config, origins map[string]origin) (wrong, doubtful problems) {
	c := checker{origins: origins, listening: cfg.listeners()}
	c.listeners(cfg)
	for i, host := range cfg.Hosts {
		if !regexp.MustCompile(`^[A-Za-z0-9.:-]+$`).MatchString(host) || strings.Count(host, ":") == 1 {
			c.addf(fmt.Sprintf("hosts[%d]", i), "must be a host name or an address, without a port")
		}
	}
	if cfg.JWKSMaxAge < 0 || cfg.JWKSMaxAge > maxJWKSAge {
		c.addf("jwks_max_age", "must be 0s to 24h")
	}
	if cfg.MaxTokens < 1 || cfg.MaxTokens > maxTokens {
		c.addf("max_tokens", "must be 1 to %d", maxTokens)
	}
	c.oneOf("log.level", cfg.Log.Level, "debug", "info", "warn", "error")
	c.oneOf("log.format", cfg.Log.Format, "text", "json")
	if cfg.Signing.Allow != "" {
		c.oneOf("signing.allow", cfg.Signing.Allow, AllowClients, AllowAny)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Keys)) {
		c.key("keys."+name, name, cfg.Keys[name])
		c.rotation("keys."+name+".rotation", name, cfg)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Clients)) {
		client := cfg.Clients[name]
		c.client("clients."+name, name, client, cfg)
		if _, taken := cfg.Clients[client.ClientID]; taken && client.ClientID != name {
			c.addf("clients."+name+".client_id", "is the name of another client: requests could mean either")
		}
	}
	c.keyFiles(cfg)
	c.rotators(cfg)
	return c.found, c.doubts
}

type checker struct {
	found   problems
	doubts  problems
	origins map[string]origin

	listening []listener
}

func (c *checker) addf(path, format string, args ...any) {
	c.found.addf(path, c.origin(path), format, args...)
}

// doubt is addf for what is allowed.
func (c *checker) doubt(path, format string, args ...any) {
	c.doubts.addf(path, c.origin(path), format, args...)
}

// origin returns that of a path, or of its nearest parent.
func (c *checker) origin(path string) (from origin) {
	for from == (origin{}) && path != "" {
		from = c.origins[path]
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return from
}

// later refuses a setting of which this version knows one value alone: to take
// another and do nothing would be worse.
func (c *checker) later(path string, isSet bool, hint string) {
	if isSet {
		c.addf(path, "is not supported by this version: %s", hint)
	}
}

func (c *checker) listeners(cfg Config) {
	all := cfg.listeners()
	for i, l := range all {
		if l.address == "" && l.public {
			continue
		}
		c.listener(l.path, l.address)
		if !l.public && !isPrivate(l.address) {
			c.addf(l.path, "other machines could reach it, and no callers are configured: listen on 127.0.0.1 or on unix:/path")
		}
		for _, before := range all[:i] {
			if before.address != "" && sameAddress(before.address, l.address) {
				c.addf(l.path, "is the address of %s, too", before.path)
			}
		}
	}
	for address, client := range cfg.ProxyListen {
		c.proxied("proxy_listen."+address, client, cfg)
	}
	c.later("admin_listen", cfg.AdminListen != "", "leave it empty")
}

type listener struct {
	path, address string
	public        bool
}

// listeners lists them all, also those that are off.
func (cfg Config) listeners() []listener {
	all := []listener{{path: "listen", address: cfg.Listen}, {"health_listen", cfg.HealthListen, true}, {"jwks_listen", cfg.JWKSListen, true}}
	for _, address := range slices.Sorted(maps.Keys(cfg.ProxyListen)) {
		all = append(all, listener{path: "proxy_listen." + address, address: address})
	}
	return all
}

// isPrivate reports whether an address, if it is one, is of this machine alone.
func isPrivate(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err != nil || strings.HasPrefix(address, "unix:") || isLoopback(host)
}

func (c *checker) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.addf(path, "must be one of %s", strings.Join(allowed, ", "))
	}
}

// name checks the name of a key or client: it goes into URLs and logs.
func (c *checker) name(path, name string) {
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`).MatchString(name) {
		c.addf(path, "the name must be up to 64 letters, digits, dots, dashes and underscores")
	}
}

// maxTokens bounds max_tokens: a token takes some kilobytes.
const maxTokens = 1_000_000

// maxJWKSAge bounds jwks_max_age: a new key is seen a day later at most.
const maxJWKSAge = 24 * time.Hour

// Bounds in bytes: kids and client ids are short, keys are not.
const (
	maxKid      = 128
	maxClientID = 128
)

func (c *checker) key(path, name string, key Key) {
	c.name(path, name)
	switch {
	case !key.PEM.IsZero():
	case key.File == "":
		c.addf(path+".file", "must not be empty")
	case key.File == fmt.Sprint(secret.Text{}):
		c.addf(path+".file", "stands for a key that came in OKTA_CLIENT_PRIVATEKEY: give the path of a PEM file")
	case notAKeyFile(key.File) != "":
		c.addf(path+".file", "%s", notAKeyFile(key.File))
	}
	if len(key.Kid) > maxKid || strings.ContainsFunc(key.Kid, unicode.IsControl) || strings.Contains(key.Kid, "-----") {
		c.addf(path+".kid", "must be up to %d bytes without control characters; a key does not belong there", maxKid)
	}
	c.oneOf(path+".algorithm", key.Algorithm, "RS256", "RS384", "RS512", "ES256", "ES384", "ES512")
}

// maxSocket bounds the path of a Unix socket in bytes: what macOS takes.
const maxSocket = 103

func (c *checker) listener(path, address string) {
	if socket, ok := strings.CutPrefix(address, "unix:"); ok {
		if !strings.HasPrefix(socket, "/") || len(socket) > maxSocket {
			c.addf(path, "must be unix:/path, with a path of up to %d bytes", maxSocket)
		}
		return
	}
	host, port, err := net.SplitHostPort(address)
	switch {
	case err != nil || !isPort(port) || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' }):
		c.addf(path, "must be host:port or unix:/path")
	case leadingZero(port):
		c.addf(path, "must have its port without zeros in front")
	}
}

// sameAddress reports whether two listeners would want the same port.
func sameAddress(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil {
		return a == b
	}
	return portA == portB && strings.Trim(portA, "0") != "" && (hostA == hostB || isLoopback(hostA) == isLoopback(hostB) || isEvery(hostA) || isEvery(hostB))
}

func isEvery(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.IsUnspecified()
}

func (c *checker) client(path, name string, client Client, cfg Config) {
	c.name(path, name)
	switch {
	case client.ClientID == "":
		c.addf(path+".client_id", "is missing%s", orVariable(name, "OKTA_CLIENT_CLIENTID"))
	case len(client.ClientID) > maxClientID || strings.ContainsFunc(client.ClientID, func(r rune) bool { return r <= ' ' || r > '~' }):
		c.addf(path+".client_id", "must be up to %d visible ASCII characters", maxClientID)
	}
	if client.Issuer == "" {
		c.addf(path+".issuer", "is missing%s", orVariable(name, "OKTA_CLIENT_ORGURL"))
	} else {
		c.issuer(path+".issuer", client)
	}
	if client.TokenEndpoint != "" {
		c.url(path+".token_endpoint", client.TokenEndpoint)
	}
	c.oneOf(path+".audience", client.Audience, AudienceEndpoint, AudienceIssuer)
	if _, err := oauth.NewScopes(client.Scopes...); err != nil {
		c.addf(path+".scopes", "%v", err)
	}
	if client.CAFile != "" && !plausiblePath(client.CAFile) {
		c.addf(path+".ca_file", "must be the path of a PEM file")
	}
	c.oneOf(path+".dpop", client.DPoP, DPoPAuto, DPoPRequired, DPoPOff)
	c.proofKey(path+".dpop_key_file", client)
	c.registration(path, client, cfg)
	c.resources(path+".resources", client)
	if _, ok := cfg.Keys[client.Key]; !ok {
		c.addf(path+".key", "names no entry of keys")
	}
	if l := client.AssertionLifetime; l < time.Minute || l > 59*time.Minute {
		c.addf(path+".assertion_lifetime", "must be 1m to 59m: Okta takes one hour at most, and clocks differ")
	}
}

func orVariable(name, variable string) string {
	if name == DefaultClient {
		return ": set it here or in " + variable
	}
	return ""
}

// issuer checks what the endpoints are derived from.
func (c *checker) issuer(path string, client Client) {
	u := c.url(path, client.Issuer)
	if u == nil {
		return
	}
	host := strings.ToLower(u.Hostname())
	if org, domain, _ := strings.Cut(host, "."); strings.HasSuffix(org, "-admin") && strings.Contains(domain, "okta") {
		c.addf(path, "is the address of the admin console: leave out -admin")
	}
	if client.TokenEndpoint != "" {
		return
	}
	id, isCustom := strings.CutPrefix(u.EscapedPath(), "/oauth2/")
	switch {
	case u.Path == "", isCustom && id != "v1" && regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(id):
	case u.Path == "/oauth2/v1/token":
		c.addf(path, "is a token endpoint: leave out /oauth2/v1/token")
	case strings.HasSuffix(u.Path, "/v1/token"):
		c.addf(path, "is a token endpoint: leave out /v1/token")
	default:
		c.addf(path, "must be https://HOST or https://HOST/oauth2/ID; other servers than Okta need token_endpoint as well")
	}
}

// url checks an address that assertions or tokens are sent to.
func (c *checker) url(path, value string) *url.URL {
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Hostname() == "" || len(value) > maxURL || strings.HasSuffix(u.Host, ":") || u.Port() != "" && !isPort(u.Port()):
		c.addf(path, "must be a URL of up to %d bytes, such as https://acme.okta.com", maxURL)
	case leadingZero(u.Port()):
		c.addf(path, "must have its port without zeros in front")
	case strings.HasSuffix(u.Hostname(), "."):
		c.addf(path, "must have its host without a dot at the end")
	case strings.ContainsFunc(u.Host, func(r rune) bool { return r > '~' }):
		c.addf(path, "must have its host in ASCII: write the xn-- form")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		c.addf(path, "must begin with https:// (http:// is for loopback alone)")
	case u.User != nil || strings.ContainsAny(value, "?#"):
		c.addf(path, "must not have a user, a query or a fragment")
	case strings.Trim(value, urlCharacters) != "":
		c.addf(path, "has characters that no URL has: percent-encode them (RFC 3986)")
	case !utf8.ValidString(u.Path):
		c.addf(path, "has a path that is not UTF-8 once it is decoded")
	case u.Scheme == "http" && slices.ContainsFunc(c.listening, func(l listener) bool {
		return l.address != "" && sameAddress(l.address, net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80")))
	}):
		c.addf(path, "is an address of this broker, which would ask itself")
	default:
		return u
	}
	return nil
}

// urlCharacters are those of RFC 3986, appendix A. The library takes more, and sends
// them encoded; a DPoP proof has the URL as it is sent.
const urlCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?#[]@!$&'()*+,;=%"

// maxURL bounds a URL, in bytes: it stands in errors.
const maxURL = 256

func isPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

// leadingZero finds a port in a spelling of its own, which would make one address two.
func leadingZero(port string) bool { return len(port) > 1 && port[0] == '0' }

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.IsLoopback()
}
