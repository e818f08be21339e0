package config

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// mostRetired is how many retired keys a ring can hold beside the active and the next
// one.
const mostRetired = 6

// maxPublished bounds publish_ahead and retire_after.
const maxPublished = 8760 * time.Hour

// rotation checks the schedule of a ring.
func (c *checker) rotation(path, ring string, cfg Config) {
	key := cfg.Keys[ring]
	r := key.Rotation
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"publish_ahead", r.PublishAhead}, {"retire_after", r.RetireAfter}} {
		if d.value < 0 || d.value > maxPublished {
			c.addf(path+"."+d.name, "must be 0s to 8760h")
		}
	}
	switch {
	case r.Every == 0:
	case r.Every < time.Second:
		c.addf(path+".every", "must be 0s, or 1s at least")
	case r.Every <= r.PublishAhead && cfg.Fetched(ring):
		c.addf(path+".every", "must be longer than publish_ahead, for which a new key is published before it signs")
	case !slices.ContainsFunc(slices.Collect(maps.Values(cfg.Clients)), func(client Client) bool { return client.Key == ring }):
		c.addf(path+".every", "no client uses the ring, and nothing else could show that Okta knows a new key: set it to 0s")
	}
	if r.Every > 0 && r.RetireAfter/r.Every > mostRetired {
		c.doubt(path+".retire_after", "is more than %d times every, and a ring holds eight keys: older ones go earlier", mostRetired)
	}
	if reason := fixed(key); r.Every > 0 && reason != "" {
		c.addf(path+".every", "the broker cannot rotate this ring: %s", reason)
	}
}

// fixed says why the broker cannot change a ring. Empty: it can.
func fixed(key Key) string {
	switch {
	case !key.PEM.IsZero():
		return "its key came in OKTA_CLIENT_PRIVATEKEY; store it in a file of the broker's own"
	case key.ReadOnly:
		return "it is read_only, and who keeps the file rotates it"
	}
	return ""
}

// registration checks how Okta learns of a client's new keys.
func (c *checker) registration(path string, client Client, cfg Config) {
	c.oneOf(path+".registration", client.Registration, RegistrationManual, RegistrationJWKSURI, RegistrationAPI)
	isURI, isAPI := client.Registration == RegistrationJWKSURI, client.Registration == RegistrationAPI
	if reason := fixed(cfg.Keys[client.Key]); (isURI || isAPI) && reason != "" {
		c.addf(path+".registration", "there will be no new key in keys.%s: %s; set it to manual", client.Key, reason)
	}
	if isURI && cfg.JWKSListen == "" {
		c.doubt(path+".registration", "Okta fetches the keys from outside, and jwks_listen is empty: set it, for nothing else of the broker may be reachable from there")
	}
	if isAPI {
		c.api(path, client, cfg)
		return
	}
	for _, setting := range []struct{ name, value string }{{"app_id", client.AppID}, {"rotator", client.Rotator}} {
		if setting.value != "" {
			c.addf(path+"."+setting.name, "has no effect but with registration: api")
		}
	}
}

// api checks a client whose keys are registered in the app's key API, which the
// org alone has.
func (c *checker) api(path string, client Client, cfg Config) {
	if client.TokenEndpoint != "" {
		c.addf(path+".registration", "servers that are not Okta have no key API: set it to manual")
		return
	}
	// The id goes into the paths of the key API.
	if id := regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`); client.AppID != "" && !id.MatchString(client.AppID) {
		c.addf(path+".app_id", "must be up to 128 letters, digits, dashes and underscores: it stands in the address of the app's page")
	} else if client.ClientID != "" && !id.MatchString(client.App()) {
		c.addf(path+".app_id", "is missing, and client_id cannot be an app's id: it stands in the address of the app's page")
	}
	rotator, there := cfg.Clients[client.Rotator]
	switch {
	case client.Rotator == "":
		c.addf(path+".rotator", "is missing: name the client whose tokens register keys")
	case !there:
		c.addf(path+".rotator", "names no entry of clients")
	case rotator.TokenEndpoint == "" && !sameHost(rotator.Issuer, client.Issuer):
		c.addf(path+".rotator", "has an issuer at another host: it must be the org that this client is at")
	}
}

// rotators checks the clients whose tokens register keys. No caller may have such
// a token, under whatever name: it could put a key of its own into the apps.
func (c *checker) rotators(cfg Config) {
	named := map[string]string{} // the first that each registers for
	for _, name := range slices.Sorted(maps.Keys(cfg.Clients)) {
		client := cfg.Clients[name]
		if _, there := cfg.Clients[client.Rotator]; there && named[client.Rotator] == "" && client.Registration == RegistrationAPI {
			named[client.Rotator] = name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Clients)) {
		if named[name] == "" && slices.Contains(cfg.Clients[name].Scopes, "okta.apps.manage") {
			c.doubt("clients."+name+".scopes", "okta.apps.manage lets every caller change apps and their keys, since no client names this one as its rotator")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		for _, other := range slices.Sorted(maps.Keys(cfg.Clients)) {
			if other != name && cfg.Clients[other].Key == cfg.Clients[name].Key && cfg.Clients[name].Registration == RegistrationManual {
				c.doubt("clients."+name+".key", "is the ring of clients.%s, too: new keys of that one wait until somebody has pasted them for this one; give the rotator a ring of its own", other)
				break
			}
		}
		rotator, path, by := cfg.Clients[name], "clients."+name, "clients."+named[name]+".rotator names this client"
		if rotator.TokenEndpoint != "" || strings.Contains(rotator.Issuer, "/oauth2/") {
			c.addf(path+".issuer", "must be the org, without token_endpoint and /oauth2/ID: %s", by)
		}
		for _, scope := range []string{"okta.apps.read", "okta.apps.manage"} {
			if !slices.Contains(rotator.Scopes, scope) {
				c.addf(path+".scopes", "must have %s: %s", scope, by)
			}
		}
		for _, other := range slices.Sorted(maps.Keys(cfg.Clients)) {
			// Whatever the host: an org has several names.
			if other != name && rotator.ClientID != "" && cfg.Clients[other].ClientID == rotator.ClientID {
				c.addf("clients."+other+".client_id", "is that of clients.%s, whose tokens no caller may have: clients.%s.rotator names it", name, named[name])
			}
		}
	}
}

// sameHost reports whether two issuers have the same scheme, host and port. Where
// one is no URL, which is a problem of its own, nothing says that they have not.
func sameHost(a, b string) bool {
	one, errA := url.Parse(a)
	other, errB := url.Parse(b)
	return errA != nil || errB != nil || one.Host == "" || other.Host == "" ||
		one.Scheme == other.Scheme && one.Host == other.Host
}

// IsRotator reports whether a client registers keys, of another client or its own.
func (c Config) IsRotator(name string) bool {
	for _, client := range c.Clients {
		if client.Registration == RegistrationAPI && client.Rotator == name {
			return true
		}
	}
	return false
}

// Fetched reports whether Okta fetches a ring's keys, for some client.
func (c Config) Fetched(ring string) bool {
	for _, client := range c.Clients {
		if client.Key == ring && client.Registration == RegistrationJWKSURI {
			return true
		}
	}
	return false
}

// Managed reports whether Okta can learn of a ring's new keys without anybody's
// help: some client registers them, or has Okta fetch them.
func (c Config) Managed(ring string) bool {
	for _, client := range c.Clients {
		if client.Key == ring && client.Registration != RegistrationManual {
			return true
		}
	}
	return false
}
