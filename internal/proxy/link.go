package proxy

import (
	"net/url"
	"strings"
)

// rewriteLinks rewrites the URLs in a Link header field (RFC 8288 section 3). A link
// whose URL goes, goes, and so does what a client that splits at commas or brackets
// would read in another way.
func rewriteLinks(field string, rewrite func(string) (string, bool)) string {
	var kept []string
	for rest := field; ; {
		rest = strings.TrimLeft(rest, " \t,")
		target, after, isLink := strings.Cut(strings.TrimPrefix(rest, "<"), ">")
		end := endOfLink(after)
		if !isLink || rest[0] != '<' || end < 0 {
			return strings.Join(kept, ", ")
		}
		told, ok := rewrite(target)
		if ok && !strings.ContainsAny(after[:end], "<>") {
			kept = append(kept, "<"+told+">"+after[:end])
		}
		rest = after[end:]
	}
}

// endOfLink finds the end of a link's parameters. Where quotes are open there is none.
func endOfLink(params string) int {
	quoted := false
	for i := 0; i < len(params); i++ {
		switch c := params[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			return i
		}
	}
	if quoted {
		return -1
	}
	return len(params)
}

// rewriteURL rewrites a header field that is a URL. Empty: it goes.
func rewriteURL(field string, rewrite func(string) (string, bool)) string {
	told, ok := rewrite(field)
	if !ok {
		return ""
	}
	return told
}

// sameOrigin reports whether two URLs have the same origin (RFC 6454 section 5).
func sameOrigin(u, base *url.URL) bool {
	return u.Scheme == base.Scheme &&
		strings.EqualFold(u.Hostname(), base.Hostname()) && port(u) == port(base)
}

func port(u *url.URL) string {
	switch explicit := u.Port(); {
	case explicit != "":
		return explicit
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}
