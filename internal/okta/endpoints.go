package okta

import (
	"net/url"
	"strings"
)

// Endpoints are the URLs of an authorization server that take a client
// assertion. They are derived from the configured issuer, never read from the
// server's metadata: a server that names another's endpoint would get
// assertions made for that one (CVE-2025-27370).
type Endpoints struct {
	Token string
	// Introspect and Revoke are empty for servers that are not Okta.
	Introspect, Revoke string
}

// Audience returns what an assertion for the token endpoint is made for: the
// endpoint itself, as Okta wants it, or the issuer, as RFC 10070 does.
func (e Endpoints) Audience(issuer string, byIssuer bool) string {
	if byIssuer {
		return issuer
	}
	return e.Token
}

// EndpointsOf derives an issuer's endpoints the Okta way: a custom
// authorization server (https://host/oauth2/id) has them right below the
// issuer, the org server below /oauth2. A token endpoint given by name is for a
// server that is not Okta, whose other endpoints are not known.
func EndpointsOf(issuer, tokenEndpoint string) Endpoints {
	if tokenEndpoint != "" {
		return Endpoints{Token: tokenEndpoint}
	}
	base := strings.TrimRight(issuer, "/")
	if u, err := url.Parse(base); err == nil && u.Path == "" {
		base += "/oauth2"
	}
	return Endpoints{
		Token:      base + "/v1/token",
		Introspect: base + "/v1/introspect",
		Revoke:     base + "/v1/revoke",
	}
}

// originOf returns the origin of a URL, or all of what is none. That of an issuer is
// the org authorization server that it belongs to.
func originOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	return u.Scheme + "://" + u.Host
}
