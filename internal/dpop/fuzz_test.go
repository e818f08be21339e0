package dpop

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzTargetURI holds whatever URL may be asked for against what a proof must not
// do: speak of another host, or of more than was asked.
func FuzzTargetURI(f *testing.F) {
	for _, seed := range []string{
		"https://acme.okta.test", "https://acme.okta.test/api/v1/users/a%40b.com?limit=2#x", "http://[::1]:5001/%2e%2e/",
		`https://acme.okta.test\@evil.test/`, "https://a@b/", "https:///x", "//evil/x", "https://a?b://c/d", "https://a#://b/",
		"https://acme.okta.test/%ff", "https://acme.okta.test/%00", "https://acme.okta.test/a%3fb%23c", "HTTP://A:80/", "https://a:/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		decoded, decodedErr := targetURI(raw, true)
		htu, err := targetURI(raw, false)
		if err != nil {
			if decodedErr == nil {
				t.Fatalf("%q is refused, and taken when decoded", raw)
			}
			return
		}
		if !strings.HasPrefix(raw, strings.TrimSuffix(htu, "/")) || strings.ContainsAny(htu, "?#") {
			t.Errorf("of %q the htu is %q", raw, htu)
		}
		if again, err := targetURI(htu, false); err != nil || again != htu {
			t.Errorf("of the htu %q the htu is %q, %v", htu, again, err)
		}
		asked, err := url.Parse(raw)
		if err != nil {
			t.Fatalf("%q is taken: %v", raw, err)
		}
		said, err := url.Parse(htu)
		if err != nil || said.Scheme != asked.Scheme || said.Host != asked.Host || said.User != nil || said.Host == "" {
			t.Errorf("of %q the htu is %q: %v", raw, htu, err)
		}
		if want := asked.EscapedPath(); said.EscapedPath() != want && want != "" {
			t.Errorf("of %q the htu is %q", raw, htu)
		}
		if decodedErr == nil && (!utf8.ValidString(decoded) || !strings.HasPrefix(decoded, htu[:len(htu)-len(said.EscapedPath())])) {
			t.Errorf("of %q the decoded htu is %q", raw, decoded)
		}
	})
}
