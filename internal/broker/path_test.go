package broker

import (
	"net/url"
	"path"
	"strings"
	"testing"

	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/oauth"
)

// A client may call its org outside /oauth2/, what is below its resources, and no
// other URL, however it is written.
func TestMayCall(t *testing.T) {
	const (
		yes      = oauth.Internal // no error
		denied   = oauth.AccessDenied
		invalid  = oauth.InvalidRequest
		org      = "default" // its org
		resource = "service" // its resources
		both     = "both"
		whole    = "whole" // its custom server's org, as a resource
		below    = "below" // its custom server's org, with a path
		none     = "custom"
	)
	tests := []struct {
		client, url string
		want        oauth.Class
	}{
		{org, acme, yes},
		{org, acme + "/", yes},
		{org, acme + "/api/v1/users", yes},
		{org, acme + "/api/v1/users/", yes},
		{org, acme + "/api/v1/users?limit=2&after=/../oauth2//%2e%2e", yes},
		{org, acme + "/api/v1/users#/oauth2/v1/token", yes},
		{org, acme + "/api/v1/users/a%40b.com", yes},
		{org, acme + "/api/v1/users/a@b.com", yes},
		{org, acme + "?limit=2", yes},
		{org, acme + "#x", yes},
		{org, acme + "/.well-known/okta-organization", yes},
		{org, acme + "/api/oauth2/v1", yes},
		{org, acme + "/oauth2x", yes},
		{whole, acme + "/api/v1/users", yes},
		{whole, acme + "/oauth2/default/v1/token", denied},
		{whole, acme + "/%6fauth2/v1/token", denied},
		{whole, "https://ACME.okta.com:443/oauth2/v1/token", denied},
		// Other origins.
		{org, "", denied},
		{org, "/api/v1/users", denied},
		{org, "api/v1/users", denied},
		{org, "//acme.okta.com/api", denied},
		{org, "http://acme.okta.com/api", denied},
		{org, "ftp://acme.okta.com/api", denied},
		{org, "https:/acme.okta.com/api", denied},
		{org, "https:acme.okta.com/api", denied},
		{org, `https:\\acme.okta.com\api`, denied},
		{org, "https:///acme.okta.com/api", denied},
		{org, "https://acme.okta.com.evil.test/", denied},
		{org, "https://acme.okta.com.evil.test", denied},
		{org, "https://acme.okta.computer/", denied},
		{org, "https://evil.test/https://acme.okta.com/", denied},
		{org, "https://evil.test/?https://acme.okta.com/", denied},
		{org, "https://evil.test#https://acme.okta.com/", denied},
		{org, "https://acme.okta.com@evil.test/", denied},
		{org, "https://acme.okta.com:x@evil.test/", denied},
		{org, "https://user@acme.okta.com/", denied},
		{org, "https://user:password@acme.okta.com/", denied},
		{org, "https://@acme.okta.com/", denied},
		{org, "https://acme.okta.com:443/api", yes},
		{org, "https://acme.okta.com:443", yes},
		{org, "https://acme.okta.com:443:443/api", denied},
		{org, "https://acme.okta.com:0443/api", denied},
		{org, "https://acme.okta.com:8443/api", denied},
		{org, "https://acme.okta.com:/api", denied},
		{org, "https://acme.okta.com./api", denied},
		{org, "https://ACME.okta.com/api", yes},
		{org, "https://ACME.okta.com/OAuth2/v1/token", denied},
		{org, "HTTPS://acme.okta.com/api", yes},
		{org, "https://acme-admin.okta.com/api", denied},
		{org, "https://sub.acme.okta.com/api", denied},
		{org, "https://okta.com/api", denied},
		{org, " https://acme.okta.com/api", denied},
		{org, "https://acme.okta.com /api", denied},
		{org, "https://acme.okta.com\t/api", denied},
		{org, "https://acme.okta.com\x00/api", denied},
		{org, `https://acme.okta.com\@evil.test/`, denied},
		{org, `https://acme.okta.com\.evil.test/`, denied},
		{org, "https://acme.okta.com%2fapi", denied},
		{org, "https://acme.okta.com%00.evil.test/", denied},
		{org, "https://acme.okta.com;/api", denied},
		{org, "https://xn--acme-.okta.com/api", denied},
		{org, "https://[::1]/api", denied},
		{org, "https://127.0.0.1/api", denied},
		// The org's token endpoint and its like.
		{org, acme + "/oauth2", denied},
		{org, acme + "/oauth2/", denied},
		{org, acme + "/oauth2?x", denied},
		{org, acme + "/oauth2#x", denied},
		{org, acme + "/oauth2/v1/token", denied},
		{org, acme + "/oauth2/default/v1/token", denied},
		{org, acme + "/OAUTH2/v1/token", denied},
		{org, acme + "/OAuth2/v1/token", denied},
		{org, acme + "/%6fauth2/v1/token", denied},
		{org, acme + "/%6F%61%75%74%68%32", denied},
		{org, acme + "/%256fauth2/v1/token", denied},
		{org, acme + "/%25256fauth2/v1/token", denied},
		{org, acme + "/oauth2;x=y/v1/token", denied},
		{org, acme + "/oauth2%3b/v1/token", denied},
		{org, acme + "/oauth2%3fx/v1/token", denied},
		{org, acme + "/oauth2%23x", denied},
		{org, acme + "/api/..%3fx", invalid},
		{org, acme + "/api/%2e%2e%23", invalid},
		{org, acme + "/oauth2./v1/token", denied},
		{org, acme + "/oauth2%20/v1/token", denied},
		{org, acme + "/%EF%BD%8Fauth2/v1/token", invalid},
		{org, acme + "/%C3%B6auth2/v1/token", invalid},
		{org, acme + "/%C2%80oauth2/v1/token", invalid},
		{org, acme + "/api/%C3%B6", yes},
		{org, acme + "/~api", yes},
		{org, acme + "//oauth2/v1/token", invalid},
		{org, acme + "/./oauth2/v1/token", invalid},
		{org, acme + "/api/../oauth2/v1/token", invalid},
		{org, acme + "/api/..%2foauth2/v1/token", invalid},
		{org, acme + "/;/oauth2/v1/token", invalid},
		{org, acme + "/%2e/oauth2/v1/token", invalid},
		{org, acme + "/oauth2%2fv1%2ftoken", invalid},
		{org, acme + `/oauth2\v1\token`, invalid},
		{org, acme + "/oauth2%5cv1", invalid},
		// Paths that lead elsewhere, or nowhere.
		{org, acme + "/..", invalid},
		{org, acme + "/api/%2e%2e/x", invalid},
		{org, acme + "/api/%252e%252e/x", invalid},
		{org, acme + "/api/%2e%2e%20/x", invalid},
		{org, acme + "/api/%20%2e/x", invalid},
		{org, acme + "/api/..;/x", invalid},
		{org, acme + "/api//x", invalid},
		{org, acme + "//evil.test/x", invalid},
		{org, acme + "/api/a%2fb", invalid},
		{org, acme + "/api/a%5Cb", invalid},
		{org, acme + "/api/%00", invalid},
		{org, acme + "/api/%7f", invalid},
		{org, acme + "/api/%1F", invalid},
		{org, acme + "/api/%0d%0aX-Evil:1", invalid},
		{org, acme + "/api/\r\nX-Evil: 1", invalid},
		{org, acme + "/api/\u00fc", invalid},
		{org, acme + "/api/%ff", invalid},
		{org, acme + "/api/%zz", invalid},
		{org, acme + "/api/%4", invalid},
		{org, acme + "/api/ x", invalid},
		{org, acme + "/api/%E2%80%A5/x", invalid},
		{org, acme + "/api/%252525252525252561", invalid},
		{org, acme + "/api/%25252561", invalid},
		{org, acme + "/api/%252561", yes},
		{org, acme + "/api/;", invalid},
		{org, acme + "/api/..%EF%B9%94/x", invalid},
		{org, acme + "/api/..%EF%BC%9B/x", invalid},
		{org, acme + "/api/..%EF%B9%A8x", invalid},
		{org, acme + "/api/;x=y", invalid},
		// Resources, with a base path and with a port.
		{resource, api, yes},
		{resource, api + "/", yes},
		{resource, api + "/x?y#z", yes},
		{resource, api + "/oauth2/v1/x", yes}, // it is its own
		{resource, "https://root.acme.test:8443", yes},
		{resource, "https://root.acme.test:8443/x", yes},
		{resource, "https://root.acme.test/x", denied},
		{resource, "https://root.acme.test:8443/%C3%B6", yes},
		{resource, "http://plain.acme.test/x", yes},
		{resource, "http://plain.acme.test:80/x", yes},
		{resource, "http://plain.acme.test:443/x", denied},
		{resource, "https://plain.acme.test:80/x", denied},
		{resource, "https://root.acme.test:84430/x", denied},
		{resource, "https://root.acme.test:8443@evil.test/", denied},
		{resource, "https://api.acme.test/", denied},
		{resource, "https://api.acme.test/bas", denied},
		{resource, "https://api.acme.test/based", denied},
		{resource, "https://api.acme.test/base%2fx", denied},
		{resource, "https://api.acme.test/base;x/y", denied},
		{resource, "https://api.acme.test/BASE/x", denied},
		{resource, "https://api.acme.test/%62ase/x", denied},
		{resource, "https://api.acme.test//base/x", denied},
		{resource, "https://api.acme.test/other/../base/x", denied},
		{resource, api + "/../x", invalid},
		{resource, api + "/..", invalid},
		{resource, api + "/%2e%2e/x", invalid},
		{resource, api + "/%252e%252e/x", invalid},
		{resource, api + "/..%2f..%2fx", invalid},
		{resource, api + "/..;/x", invalid},
		{resource, api + "//x", invalid},
		{resource, acme + "/api/v1/users", denied},
		{resource, acme + "/oauth2/default/v1/token", denied},
		{both, acme + "/api/v1/groups", yes},
		{both, api + "/x", yes},
		{both, acme + "/oauth2/v1/token", denied},
		{below, acme + "/api/v1/apps", yes},
		{below, acme + "/api/v1/apps/oauth2/x", yes}, // the first segment is another
		{below, acme + "/api/v1/apps/%C3%B6", yes},
		{below, acme + "/api/v1/users", denied},
		{below, acme + "/oauth2/default/v1/token", denied},
		{none, acme + "/api/v1/users", denied},
		{none, acme + "/oauth2/default/v1/userinfo", denied},
		{none, api, denied},
	}
	b := callers(t, &strings.Builder{})
	for _, tt := range tests {
		_, err := b.Authorize(t.Context(), caller.Local("test"), CallRequest{Client: tt.client, Method: "GET", URL: tt.url})
		if (err == nil) != (tt.want == yes) || err != nil && oauth.ClassOf(err) != tt.want {
			t.Errorf("%s %q: %v, want class %d", tt.client, tt.url, err, tt.want)
		}
	}
}

// FuzzMayCall holds what a client may call against its origin and base: whatever is
// allowed begins with one of them, and stays there however often it is decoded.
func FuzzMayCall(f *testing.F) {
	for _, path := range []string{
		"/api/v1/users", "/oauth2/v1/token", "/%6fauth2", "/api/%2e%2e/x", "/a%40b?x#y", "#x/%2e%2e", "?x/..", ".evil.test/", "@evil.test/", ":443/", "/%25%32%65/",
		"//x", "/;/oauth2", "/OAUTH2;x", "/oauth2%20", "%2f", `\`, "/%c0%ae", "/%EF%BC%8E",
	} {
		f.Add(acme+path, true)
		f.Add(api+path, false)
	}
	org := &Client{Name: "org", OktaOrigin: acme, Org: true}
	service := &Client{Name: "service", Resources: map[string]string{"api": api}}
	f.Fuzz(func(t *testing.T, target string, isOrg bool) {
		client, base := service, api
		if isOrg {
			client, base = org, acme
		}
		if client.mayCall(target) != nil {
			return
		}
		u, err := url.Parse(target)
		if err != nil {
			return // there is no proof of it, and nothing is sent
		}
		if port := u.Port(); u.User != nil || u.Scheme != "https" || port != "" && port != "443" {
			t.Fatalf("%q is not at the origin of %s", target, base)
		}
		below, is := strings.CutPrefix("https://"+strings.ToLower(u.Hostname())+u.EscapedPath(), base)
		if !is || below != "" && below[0] != '/' {
			t.Fatalf("%q is not below %s", target, base)
		}
		_, rest := CutSegment(withoutQuery(target)[len("https://"):]) // as it is sent
		rest = strings.TrimPrefix(rest, strings.TrimPrefix(base, "https://"+strings.ToLower(u.Hostname())))
		for range 8 {
			for i, segment := range strings.Split(strings.ReplaceAll(rest, `\`, "/"), "/") {
				name, _, _ := strings.Cut(segment, ";")
				if name == "." || name == ".." || isOrg && i == 1 && strings.EqualFold(name, "oauth2") {
					t.Fatalf("%q has %q", target, segment)
				}
			}
			rest = unescape(rest)
		}
	})
}

// unescape decodes what is percent-encoded, and leaves the rest.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if isEncoded(s[i:]) {
			out.WriteByte(unHex(s[i+1])<<4 | unHex(s[i+2]))
			i += 2
			continue
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// FuzzPath holds a path that passes against what other servers may make of it: it
// stays where it is, however often it is decoded and cleaned.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{
		"/api/v1/users/a%40b.com", "/..", "/%2e%2e/x", "/%252e%252e;x/y", "/OAuth2%3b/v1/token", "/a%2fb", "//x", "/a;/b", "/100%25%20x",
		"/%25%32%65", "/%EF%BC%8E", "/x/%ff", "/%5c", "", "/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sent string) {
		if CheckPath(sent, true) != nil || sent == "" {
			return
		}
		u, err := url.ParseRequestURI("/base" + sent)
		if err != nil || u.EscapedPath() != "/base"+sent || u.RawQuery != "" || u.Host != "" {
			t.Fatalf("%q is a path, and read as %v, %v", sent, u, err)
		}
		for seen := sent; ; {
			for _, form := range []string{seen, withoutParameters(seen), strings.ReplaceAll(seen, `\`, "/")} {
				trailing := strings.TrimSuffix(form, "/")
				if cleaned := path.Clean("/base" + form); cleaned != "/base"+trailing {
					t.Fatalf("%q cleans to %q", form, cleaned)
				}
				if first, _ := CutSegment(strings.TrimPrefix(form, "/")); strings.EqualFold(strings.TrimSpace(first), "oauth2") {
					t.Fatalf("%q is below /oauth2/", sent)
				}
			}
			if strings.ContainsAny(seen, "\x00\r\n\\") {
				t.Fatalf("%q has %q in it", sent, seen)
			}
			next, err := url.PathUnescape(seen)
			if err != nil || next == seen {
				return
			}
			seen = next
		}
	})
}

func withoutParameters(path string) string {
	segments := strings.Split(path, "/")
	for i := range segments {
		segments[i], _, _ = strings.Cut(segments[i], ";")
	}
	return strings.Join(segments, "/")
}
