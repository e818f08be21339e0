package config

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// maxResources bounds the resources of a client.
const maxResources = 32

// IsOrg reports whether the client is at an org authorization server, whose host has
// Okta's API, too: then calls can go there.
func (c Client) IsOrg() bool {
	u, err := url.Parse(c.Issuer)
	return err == nil && u.Path == "" && c.TokenEndpoint == ""
}

// OktaOrigin is the origin of the org that has the client's authorization server, be
// that the org's own or a custom one. Empty: the server is not Okta's.
func (c Client) OktaOrigin() string {
	u, err := url.Parse(c.Issuer)
	if err != nil || c.TokenEndpoint != "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// resources checks the base URLs that calls of a client can go to.
func (c *checker) resources(path string, client Client) {
	if len(client.Resources) > maxResources {
		c.addf(path, "can be %d at most", maxResources)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(client.Resources)) {
		c.resource(path+"."+name, name, client)
	}
}

func (c *checker) resource(path, name string, client Client) {
	c.name(path, name)
	base := c.url(path, client.Resources[name])
	if base == nil {
		return
	}
	// Servers on the way may read a path in different ways. In this form all read it
	// in one.
	plain := regexp.MustCompile(`^[A-Za-z0-9._~!$&'()*+,=:@-]+$`)
	for _, segment := range strings.Split(base.EscapedPath(), "/")[1:] {
		if !plain.MatchString(segment) || strings.Trim(segment, ".") == "" {
			c.addf(path, "must have a path of plain segments: none empty or of dots alone, and nothing percent-encoded")
			return
		}
	}
	if client.OktaOrigin() != base.Scheme+"://"+base.Host {
		return
	}
	if first, _, _ := strings.Cut(strings.TrimPrefix(base.Path, "/"), "/"); strings.EqualFold(strings.Trim(first, "."), "oauth2") {
		c.addf(path, "is below /oauth2/ of the org, where nothing is called for anybody")
	}
}

// proofKey checks where a client's DPoP key is.
func (c *checker) proofKey(path string, client Client) {
	switch {
	case client.DPoPKeyFile == "":
	case notAKeyFile(client.DPoPKeyFile) != "":
		c.addf(path, "%s", notAKeyFile(client.DPoPKeyFile))
	case client.DPoP == DPoPOff:
		c.addf(path, "has no effect with dpop: off")
	}
}

// proxied checks the client that a listener is for.
func (c *checker) proxied(path, name string, cfg Config) {
	client, there := cfg.Clients[name]
	switch {
	case !there:
		c.addf(path, "names no entry of clients")
	case cfg.IsRotator(name):
		c.addf(path, "names a rotator, whose tokens no caller may have")
	case !client.IsOrg() && len(client.Resources) == 0:
		c.addf(path, "names a client that has nothing to call: its issuer is no org, and it has no resources")
	}
}
