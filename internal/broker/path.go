package broker

import (
	"strings"
	"unicode/utf8"

	"okta-token-broker/internal/oauth"
)

// maxEncoded is how often a path may be percent-encoded over and over.
const maxEncoded = 3

// lookalikes are what some servers take for dot, slash, backslash, percent sign
// and semicolon: their compatibility forms (Unicode TR 15).
const lookalikes = "\u2024\u2025\u2026\ufe52\uff0e\u2044\u2215\uff0f\ufe68\uff3c\ufe6a\uff05\ufe54\uff1b"

// CheckPath refuses a path of a call, as it is on the wire, that an upstream could take
// for another one, and in front of an org what is below /oauth2/. A path has to be in
// the form that leaves no doubt:
//
//   - no dot segments and no empty segments, also not with parameters (;x) behind;
//   - no encoded slash, backslash or control character, nor anything that is not UTF-8;
//   - only the characters that RFC 3986 has in a path.
//
// An upstream, or a proxy before it, may decode once more than it should: so what holds
// of the path must hold of it however often it is decoded.
func CheckPath(path string, atOkta bool) error {
	if path != "" && path[0] != '/' {
		return refuse("must begin with a slash")
	}
	for i := range len(path) {
		if !isPathByte(path[i]) || path[i] == '%' && !isEncoded(path[i:]) {
			return refuse("has characters that must be percent-encoded")
		}
	}
	for range maxEncoded + 1 { // the last time there must be nothing left to decode
		if err := checkSegments(path, atOkta); err != nil {
			return err
		}
		decoded, err := decode(path)
		if err != nil || decoded == path {
			return err
		}
		path = decoded
	}
	return refuse("is percent-encoded too often")
}

// isPathByte reports whether RFC 3986 section 3.3 has c in a path.
func isPathByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-._~%!$&'()*+,;=:@/", c) >= 0
}

func checkSegments(path string, atOkta bool) error {
	if !utf8.ValidString(path) {
		return refuse("is not UTF-8")
	}
	first := true
	for rest := path; rest != ""; {
		segment, after := CutSegment(rest[1:])
		name := segment
		if end := strings.IndexAny(segment, ";?#"); end >= 0 { // some servers drop what follows before they look
			name = segment[:end]
		}
		switch {
		case name == "" && (segment != "" || after != ""):
			return refuse("has an empty segment: there may be a slash too many where it begins or between its parts")
		case name != "" && strings.Trim(name, ". ") == "": // some drop trailing dots and spaces
			return refuse("has a segment of dots")
		case atOkta && first && isOAuth2(name):
			return oauth.Fail(oauth.AccessDenied, "what is below /oauth2/ is not called for anybody: ask the broker for tokens at /token")
		case atOkta && first && strings.ContainsFunc(name, func(r rune) bool { return r > '~' }):
			return refuse("begins with a segment that is not ASCII")
		case strings.ContainsAny(segment, lookalikes):
			return refuse("has a look-alike of a dot, a slash or another delimiter")
		}
		rest, first = after, false
	}
	return nil
}

func isOAuth2(name string) bool {
	return strings.EqualFold(strings.Trim(name, ". "), "oauth2")
}

// decode undoes the percent-encoding, where it is one, once.
func decode(path string) (string, error) {
	if !strings.Contains(path, "%") {
		return path, nil
	}
	var decoded strings.Builder
	for i := 0; i < len(path); i++ {
		if !isEncoded(path[i:]) {
			decoded.WriteByte(path[i])
			continue
		}
		c := unHex(path[i+1])<<4 | unHex(path[i+2])
		if c < ' ' || c == 0x7f || c == '/' || c == '\\' {
			return "", refuse("has an encoded slash, backslash or control character")
		}
		decoded.WriteByte(c)
		i += 2
	}
	return decoded.String(), nil
}

// isEncoded reports whether s begins with a percent-encoded byte.
func isEncoded(s string) bool {
	return len(s) > 2 && s[0] == '%' && isHex(s[1]) && isHex(s[2])
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unHex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

func refuse(reason string) error {
	return oauth.Fail(oauth.InvalidRequest, "the path "+reason)
}

// CutSegment cuts a path in front of its first slash.
func CutSegment(s string) (segment, rest string) {
	if i := strings.IndexByte(s, '/'); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}
