package dpop

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// maxURL bounds a URL, in bytes.
const maxURL = 8 << 10

// targetURI returns the htu for a URL: the URL without query and fragment (RFC
// 9449 section 4.2), otherwise byte for byte as it is sent, because servers
// normalize in different ways. Of a URL without a path, "/" is sent.
func targetURI(raw string, decoded bool) (string, error) {
	if raw == "" || len(raw) > maxURL {
		return "", fmt.Errorf("the URL must have 1 to %d bytes", maxURL)
	}
	for _, c := range []byte(raw) {
		// What RFC 3986 has, appendix A. The library takes more, and encodes it.
		if !isAlphanumeric(c) && !strings.ContainsRune("-._~:/?#[]@!$&'()*+,;=%", rune(c)) {
			return "", errors.New("the URL has characters that must be percent-encoded")
		}
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil: // its text repeats the URL
		return "", errors.New("the URL is malformed")
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return "", errors.New("the URL must be absolute, and http or https")
	case u.User != nil:
		return "", errors.New("the URL must not have a user")
	}
	sent, _, _ := strings.Cut(raw, "#")
	sent, _, _ = strings.Cut(sent, "?")
	host := strings.Index(sent, "://") + len("://")
	slash := strings.IndexByte(sent[host:], '/')
	if slash < 0 {
		return sent + "/", nil
	}
	base, path := sent[:host+slash], sent[host+slash:]
	if decoded {
		path = u.Path
	}
	if !utf8.ValidString(path) { // which JSON cannot hold
		return "", errors.New("the URL's path is not UTF-8")
	}
	return base + path, nil
}
