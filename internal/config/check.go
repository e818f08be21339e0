package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"okta-token-broker/internal/oauth"
)

// check finds what is wrong with a configuration, wherever its values came
// from. lines gives the line of a path that the file has.
func check(cfg Config, lines map[string]int) problems {
	c := checker{lines: lines}
	if _, _, err := net.SplitHostPort(cfg.Listen); err != nil && !strings.HasPrefix(cfg.Listen, "unix:/") {
		c.addf("listen", "must be host:port or unix:/path")
	}
	for i, host := range cfg.Hosts {
		if !regexp.MustCompile(`^[A-Za-z0-9.:-]+$`).MatchString(host) || strings.Count(host, ":") == 1 {
			c.addf(fmt.Sprintf("hosts[%d]", i), "must be a host name or an address, without a port")
		}
	}
	c.oneOf("log.level", cfg.Log.Level, "debug", "info", "warn", "error")
	c.oneOf("log.format", cfg.Log.Format, "text", "json")
	if cfg.Signing.Allow != "" {
		c.oneOf("signing.allow", cfg.Signing.Allow, AllowClients, AllowAny)
	}
	files := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Keys)) {
		c.key("keys."+name, name, cfg.Keys[name])
		if file := filepath.Clean(cfg.Keys[name].File); cfg.Keys[name].PEM.IsZero() {
			if other, taken := files[file]; taken {
				c.addf("keys."+name+".file", "keys.%s has the same file: two rings cannot share one", other)
			}
			files[file] = name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Clients)) {
		client := cfg.Clients[name]
		c.client("clients."+name, name, client, cfg.Keys)
		if _, taken := cfg.Clients[client.ClientID]; taken && client.ClientID != name {
			c.addf("clients."+name+".client_id", "is the name of another client: requests could mean either")
		}
	}
	return c.found
}

type checker struct {
	found problems
	lines map[string]int
}

// addf gives a problem the line of its path, or that of the nearest parent.
func (c *checker) addf(path, format string, args ...any) {
	line := 0
	for at := path; line == 0 && at != ""; {
		line = c.lines[at]
		at = at[:max(strings.LastIndexByte(at, '.'), 0)]
	}
	c.found.addf(path, line, format, args...)
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

// maxKid bounds a configured kid, in bytes: kids are short, keys are not.
const maxKid = 128

func (c *checker) key(path, name string, key Key) {
	c.name(path, name)
	switch {
	case !key.PEM.IsZero():
	case key.File == "":
		c.addf(path+".file", "must not be empty")
	case !plausiblePath(key.File):
		c.addf(path+".file", "must be the path of a PEM file, not a key")
	}
	if len(key.Kid) > maxKid || strings.ContainsFunc(key.Kid, unicode.IsControl) || strings.Contains(key.Kid, "-----") {
		c.addf(path+".kid", "must be up to %d bytes without control characters; a key does not belong there", maxKid)
	}
	c.oneOf(path+".algorithm", key.Algorithm, "RS256", "RS384", "RS512", "ES256", "ES384", "ES512")
}

func (c *checker) client(path, name string, client Client, keys map[string]Key) {
	c.name(path, name)
	switch {
	case client.ClientID == "":
		c.addf(path+".client_id", "is missing%s", orVariable(name, "OKTA_CLIENT_CLIENTID"))
	case len(client.ClientID) > 255 || strings.ContainsFunc(client.ClientID, func(r rune) bool { return r <= ' ' || r > '~' }):
		c.addf(path+".client_id", "must be up to 255 visible ASCII characters")
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
	if _, ok := keys[client.Key]; !ok {
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
	parts := strings.Split(u.Path, "/")
	if u.Path != "" && (len(parts) != 3 || parts[1] != "oauth2" || parts[2] == "" || parts[2] == "v1") {
		c.addf(path, "must be https://HOST or https://HOST/oauth2/ID, without a slash at the end; other servers than Okta need token_endpoint as well")
	}
}

// url checks an address that assertions are sent to.
func (c *checker) url(path, value string) *url.URL {
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		c.addf(path, "must be a URL, such as https://acme.okta.com")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		c.addf(path, "must begin with https:// (http:// is for loopback alone)")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		c.addf(path, "must not have a user, a query or a fragment")
	default:
		return u
	}
	return nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
