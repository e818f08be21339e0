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

// orgOf returns the org authorization server that an issuer belongs to: the
// issuer without the path of a custom one.
func orgOf(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil {
		return issuer
	}
	return u.Scheme + "://" + u.Host
}
