package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// refused is for what must be answered with 400, or by 403 below /oauth2/, and
// reach nobody.
const refused = ""

// corpus is request targets, sent as they stand. What arrives is the target that
// the upstream sees.
func corpus() []struct{ target, arrives string } {
	return []struct{ target, arrives string }{
		// What is legitimate goes out as it came.
		{"/proxy/default/api/v1/users", "/api/v1/users"},
		{"/proxy/default/api/v1/users/", "/api/v1/users/"},
		{"/proxy/default/api/v1/users/a%40b.com", "/api/v1/users/a%40b.com"},
		{"/proxy/default/api/v1/users/a@b.com", "/api/v1/users/a@b.com"},
		{"/proxy/default/api/v1/groups/%C3%BC%20x", "/api/v1/groups/%C3%BC%20x"},
		{"/proxy/default/api/v1/groups/100%25", "/api/v1/groups/100%25"},
		{"/proxy/default/api/v1/groups/100%25%20sure", "/api/v1/groups/100%25%20sure"},
		{"/proxy/default/api/v1/x;v=1/y;w", "/api/v1/x;v=1/y;w"},
		{"/proxy/default/api/v1/x%3Fy%23z", "/api/v1/x%3Fy%23z"},
		{"/proxy/default/api/v1/a.b..c/.d", "/api/v1/a.b..c/.d"},
		{"/proxy/default/api/v1/!$&'()*+,=:~-_", "/api/v1/!$&'()*+,=:~-_"},
		{"/proxy/default/api/v1/%61%7e", "/api/v1/%61%7e"},
		{"/proxy/default/.well-known/okta-organization", "/.well-known/okta-organization"},
		{"/proxy/default/api/oauth2/v1", "/api/oauth2/v1"},
		{"/proxy/default/oauth2x/v1", "/oauth2x/v1"},
		{"/proxy/default/api?next=/../oauth2//%2e%2e%5c%00", "/api?next=/../oauth2//%2e%2e%5c%00"},
		{"/proxy/default/api?http://evil.test/#x", "/api?http://evil.test/#x"},
		{"/proxy/default/~api/x", "/base/x"},
		{"/proxy/default/%7Eapi/x", "/%7Eapi/x"},
		{"/proxy/default/api/~api/x", "/api/~api/x"},
		// Dots.
		{"/proxy/default/..", refused},
		{"/proxy/default/../", refused},
		{"/proxy/default/../other/api", refused},
		{"/proxy/default/api/../oauth2/v1/token", refused},
		{"/proxy/default/api/./x", refused},
		{"/proxy/default/api/.", refused},
		{"/proxy/default/api/...", refused},
		{"/proxy/default/api/%2e%2e/x", refused},
		{"/proxy/default/api/%2E%2e/x", refused},
		{"/proxy/default/api/.%2e/x", refused},
		{"/proxy/default/api/%2e./x", refused},
		{"/proxy/default/api/%2e/x", refused},
		{"/proxy/default/api/..%20/x", refused},
		{"/proxy/default/api/%20../x", refused},
		{"/proxy/default/api/..;/x", refused},
		{"/proxy/default/api/..;a=b/x", refused},
		{"/proxy/default/api/..%3b/x", refused},
		{"/proxy/default/api/%2e%2e;/x", refused},
		{"/proxy/default/api/.;/x", refused},
		{"/proxy/default/~api/../x", refused},
		{"/proxy/default/~api/%2e%2e/x", refused},
		{"/proxy/default/~api/..", refused},
		{"/proxy/default/~api/x/../../y", refused},
		{"/proxy/default/~api/..%2fx", refused},
		{"/proxy/default/~api%2f..%2fx", refused},
		{"/proxy/default/~../x", refused},
		{"/proxy/default/~%2e%2e/x", refused},
		// Encoded more than once.
		{"/proxy/default/api/%252e%252e/x", refused},
		{"/proxy/default/api/%25252e%25252e/x", refused},
		{"/proxy/default/api/%2525252e%2525252e/x", refused},
		{"/proxy/default/api/%252525252525252561", refused},
		{"/proxy/default/api/%25252561", refused},
		{"/proxy/default/api/%252561", "/api/%252561"},
		{"/proxy/default/api/%%32%65%%32%65/x", refused},
		{"/proxy/default/api/a%252fb", refused},
		{"/proxy/default/api/a%255cb", refused},
		{"/proxy/default/api/a%2500b", refused},
		{"/proxy/default/api/..%253b/x", refused},
		// Slashes and backslashes.
		{"/proxy/default//", refused},
		{"/proxy/default//oauth2/v1/token", refused},
		{"/proxy/default//evil.test/x", refused},
		{"/proxy/default/api//x", refused},
		{"/proxy/default/api/x//", refused},
		{"/proxy/default/api/x/;", refused},
		{"/proxy/default/api/x/;v=1", refused},
		{"/proxy/default/;/oauth2/v1/token", refused},
		{"/proxy/default/;x=y/oauth2/v1/token", refused},
		{"/proxy/default/api/a%2fb", refused},
		{"/proxy/default/api/a%2Fb", refused},
		{"/proxy/default%2fapi/x", refused},
		{`/proxy/default/api\x`, refused},
		{`/proxy/default/..\x`, refused},
		{`/proxy/default/\evil.test/x`, refused},
		{"/proxy/default/api/..%5cx", refused},
		{"/proxy/default/api%5C..%5Cx", refused},
		{"/proxy/default/@evil.test/x", "/@evil.test/x"},
		{"/proxy/default@evil.test/x", refused},
		{"/proxy/default:80/x", refused},
		// Bytes that have no place in a path.
		{"/proxy/default/api/%00", refused},
		{"/proxy/default/api/x%00.json", refused},
		{"/proxy/default/api/%0d%0aX-Evil:%201", refused},
		{"/proxy/default/api/%09", refused},
		{"/proxy/default/api/%7f", refused},
		{"/proxy/default/api/\x00", refused},
		{"/proxy/default/api/\x01", refused},
		{"/proxy/default/api/\u00fc", refused},
		{"/proxy/default/api/#x", refused},
		{`/proxy/default/api/"x"`, refused},
		{"/proxy/default/api/<x>", refused},
		{"/proxy/default/api/[x]", refused},
		{"/proxy/default/api/{x}|^`", refused},
		{"/proxy/default/api/%zz", refused},
		{"/proxy/default/api/%4", refused},
		// Not UTF-8, or too long for it, or what looks like a delimiter.
		{"/proxy/default/api/%ff", refused},
		{"/proxy/default/api/%c0%ae%c0%ae/x", refused},
		{"/proxy/default/api/%c0%afx", refused},
		{"/proxy/default/api/%e0%80%afx", refused},
		{"/proxy/default/api/%u002e%u002e/x", refused},
		{"/proxy/default/api/%EF%BC%8E%EF%BC%8E/x", refused},
		{"/proxy/default/api/%EF%BC%8Fx", refused},
		{"/proxy/default/api/%E2%80%A5/x", refused},
		{"/proxy/default/api/%EF%BC%85%32%65", refused},
		// The org's token endpoint and its like.
		{"/proxy/default/oauth2", refused},
		{"/proxy/default/oauth2/", refused},
		{"/proxy/default/oauth2/v1/token", refused},
		{"/proxy/default/oauth2/default/v1/token", refused},
		{"/proxy/default/OAuth2/v1/token", refused},
		{"/proxy/default/%6fauth2/v1/token", refused},
		{"/proxy/default/oauth%32/v1/token", refused},
		{"/proxy/default/%256fauth2/v1/token", refused},
		{"/proxy/default/%25256Fauth2/v1/token", refused},
		{"/proxy/default/oauth2;x/v1/token", refused},
		{"/proxy/default/oauth2%3bx/v1/token", refused},
		{"/proxy/default/oauth2./v1/token", refused},
		{"/proxy/default/oauth2%20/v1/token", refused},
		{"/proxy/default/%20oauth2/v1/token", refused},
		{"/proxy/default/oauth2%2fv1/token", refused},
		{"/proxy/default/oauth2%00/v1/token", refused},
		{"/proxy/default/oauth2?x", refused},
		{"/proxy/default/%EF%BD%8Fauth2/v1/token", refused},
		{"/proxy/default/%E2%93%9Eauth2/v1/token", refused},
		// Other forms of a request target (RFC 9112 section 3.2).
		{"http://evil.test/api", refused},
		{"http://evil.test/proxy/default/api", refused},
		{"https://localhost/proxy/default/api", refused},
		{"http://127.0.0.1/proxy/default/api", refused},
		{"http:/proxy/default/api", refused},
		{"//evil.test/proxy/default/api", refused},
		{"//proxy/default/api", refused},
		{"evil.test:80", refused},
		{"proxy/default/api", refused},
		{"*", refused},
		{"", refused},
		{"/proxy/default/api x", refused},
		{"/../proxy/default/api", refused},
		{"/proxy/./default/api", refused},
		{"/proxy/../token", refused},
	}
}

// Whatever path a caller sends, it arrives as it is, or not at all.
func TestPaths(t *testing.T) {
	r := recording(t, &standIn{})
	address := strings.TrimSuffix(r.url, "/proxy/default")
	tests := corpus()
	if len(tests) < 60 {
		t.Fatalf("the corpus has %d entries", len(tests))
	}
	for _, tt := range tests {
		t.Run(tt.target, func(t *testing.T) {
			check := func(address, target string) {
				t.Helper()
				got := rawDo(t, address, "GET "+target+" HTTP/1.1\r\nHost: evil.test\r\n\r\n")
				seen := r.take()
				if tt.arrives == refused {
					if (got.StatusCode != 400 && got.StatusCode != 403) || seen != nil {
						t.Errorf("%s is answered %s, and the upstream saw %v", target, got.Status, seen)
					}
					return
				}
				if got.StatusCode != 200 || len(seen) != 1 || seen[0].line != "GET "+tt.arrives || seen[0].host == "evil.test" {
					t.Errorf("%s is answered %s with %s, and the upstream saw %v; want %s", target, got.Status, got.body, seen, tt.arrives)
				}
			}
			check(address, tt.target)
			if own, ok := strings.CutPrefix(tt.target, "/proxy/default/"); ok {
				check(r.own, "/"+own)
			}
		})
	}
}

// What a caller does with the framing of a request makes no other request of it,
// and not one that differs from what the proxy has seen.
func TestFraming(t *testing.T) {
	const path = "POST /api HTTP/1.1\r\nHost: localhost\r\n"
	const smuggled = "GET /oauth2/v1/keys HTTP/1.1\r\nHost: evil.test\r\n\r\n"
	tests := []struct {
		name, sent string
		body       string // that arrives
		refused    bool
	}{
		{"length", path + "Content-Length: 3\r\n\r\nabc" + smuggled, "abc", false},
		{"chunks", path + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + smuggled, "abc", false},
		{"length and chunks", path + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n" + smuggled, "abcd", false},
		{"chunks and length", path + "Transfer-Encoding: chunked\r\nContent-Length: 100\r\n\r\n4\r\nabcd\r\n0\r\n\r\n" + smuggled, "abcd", false},
		{"the same length twice", path + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + smuggled, "abc", false},
		{"two lengths", path + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd" + smuggled, "", true},
		{"two lengths in a line", path + "Content-Length: 3, 4\r\n\r\nabcd" + smuggled, "", true},
		{"a negative length", path + "Content-Length: -1\r\n\r\n" + smuggled, "", true},
		{"a length with a sign", path + "Content-Length: +3\r\n\r\nabc" + smuggled, "", true},
		{"a hexadecimal length", path + "Content-Length: 0x3\r\n\r\nabc" + smuggled, "", true},
		{"a space before the colon", path + "Content-Length : 3\r\n\r\nabc" + smuggled, "", true},
		{"chunks of another coding", path + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + smuggled, "", true},
		{"chunks twice", path + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, "", true},
		{"chunks that are not chunks", path + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled, "", true},
		{"chunks behind a tab", path + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + smuggled, "", true},
		{"a length with an underscore", path + "Content_Length: 100\r\nContent-Length: 3\r\n\r\nabc" + smuggled, "abc", false},
		{"chunks with an underscore", path + "Transfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc" + smuggled, "abc", false},
		{"a folded line", path + "X-Folded: a\r\n Authorization: Bearer evil\r\nContent-Length: 3\r\n\r\nabc" + smuggled, "abc", false},
		{"a folded first line", "POST /api HTTP/1.1\r\n Host: localhost\r\n\r\n", "", true},
		{"a NUL in a field", path + "X-Evil: a\x00b\r\n\r\n", "", true},
		{"a name with a space", path + "X Evil: a\r\n\r\n", "", true},
		{"a line without a colon", path + "evil\r\n\r\n", "", true},
		{"no Host", "POST /api HTTP/1.1\r\n\r\n", "", true},
		{"two Hosts", path + "Host: evil.test\r\n\r\n", "", true},
		{"a Host with a path", "POST /api HTTP/1.1\r\nHost: localhost/evil\r\n\r\n", "", true},
		{"a trailer", path + "Transfer-Encoding: chunked\r\nTrailer: Authorization, Cookie\r\n\r\n3\r\nabc\r\n0\r\nAuthorization: Bearer evil\r\nCookie: evil=1\r\n\r\n", "abc", false},
		{"a query for a host", "POST /api HTTP/1.1\r\nHost: evil.test:1?x\r\n\r\n", "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := recording(t, &standIn{})
			got := rawDo(t, r.own, tt.sent)
			seen := r.take()
			if tt.refused {
				if got.StatusCode != http.StatusBadRequest && got.StatusCode != http.StatusNotImplemented || seen != nil {
					t.Errorf("answered %s, and the upstream saw %v", got.Status, seen)
				}
				return
			}
			if got.StatusCode != http.StatusOK || len(seen) != 1 {
				t.Fatalf("answered %s, and the upstream saw %v", got.Status, seen)
			}
			one := seen[0]
			if one.line != "POST /api" || one.body != tt.body || fmt.Sprint(one.header["Authorization"]) != "[Bearer the-token-0]" || one.header["Cookie"] != nil || one.trailer != nil {
				t.Errorf("the upstream saw %v", one)
			}
			for name := range one.header {
				if strings.Contains(name, "_") {
					t.Errorf("the upstream saw the field %s", name)
				}
			}
		})
	}
}
