package proxy

import (
	"net/url"
	"strings"
)

// rewriteLinks rewrites the URLs in a Link header field (RFC 8288 section 3), and
// leaves the rest as it is.
func rewriteLinks(field string, rewrite func(string) string) string {
	var out strings.Builder
	quoted := false
	done := 0 // of field, this much is in out
	for i := 0; i < len(field); i++ {
		switch c := field[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == '<':
			end := strings.IndexByte(field[i:], '>')
			if end < 0 {
				return out.String() + field[done:]
			}
			out.WriteString(field[done : i+1])
			out.WriteString(rewrite(field[i+1 : i+end]))
			i += end
			done = i
		}
	}
	return out.String() + field[done:]
}

// sameOrigin reports whether u is at base's origin. Where u has no scheme, it is
// base's (RFC 3986 section 4.2).
func sameOrigin(u, base *url.URL) bool {
	return (u.Scheme == "" || u.Scheme == base.Scheme) && u.User == nil &&
		strings.EqualFold(u.Hostname(), base.Hostname()) && port(u, base.Scheme) == port(base, base.Scheme)
}

func port(u *url.URL, scheme string) string {
	switch explicit := u.Port(); {
	case explicit != "":
		return explicit
	case scheme == "https":
		return "443"
	}
	return "80"
}
