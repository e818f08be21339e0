package proxy

import (
	"net/http"
	"strings"
)

// longestName bounds how much of a name is compared, in bytes. No name below is as
// long.
const longestName = 32

// stripRequest takes out what a caller has no say in: credentials, what proxies
// tell each other, and what would have an upstream see another method, host, path or
// length than was sent. ReverseProxy has taken out the hop-by-hop fields, but for an
// offer to upgrade.
func stripRequest(header http.Header) {
	var folded [longestName]byte
	for name := range header {
		if isCallersNoBusiness(fold(folded[:0], name)) {
			delete(header, name)
		}
	}
}

// fold appends a name, or the beginning of a long one, as an upstream may see it
// that turns fields into CGI variables: there is no difference between cases, nor
// between hyphen and underscore (RFC 3875 section 4.1.18).
func fold(to []byte, name string) []byte {
	for i := 0; i < min(len(name), longestName); i++ {
		switch c := name[i]; {
		case 'A' <= c && c <= 'Z':
			to = append(to, c|0x20)
		case c == '_':
			to = append(to, '-')
		default:
			to = append(to, c)
		}
	}
	return to
}

func isCallersNoBusiness(name []byte) bool {
	switch string(name) {
	case "authorization", "dpop", "cookie", "cookie2",
		"connection", "upgrade", "http2-settings",
		"content-length", "transfer-encoding", "keep-alive", // in their underscore forms
		"client-cert", "client-cert-chain", // RFC 9440
		"forwarded", "via", "client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip",
		"x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-originating-ip", "x-remote-ip", "x-remote-addr",
		"x-host", "x-http-host-override", "x-original-host", "x-original-uri", "x-original-url", "x-rewrite-url",
		"x-http-method", "x-http-method-override", "x-method-override",
		"x-original-forwarded-for", "x-envoy-external-address", "x-envoy-original-path":
		return true
	}
	return hasPrefix(name, "proxy-") || hasPrefix(name, "x-forwarded")
}

func hasPrefix(name []byte, prefix string) bool {
	return len(name) >= len(prefix) && string(name[:len(prefix)]) == prefix
}

// stripAnswer takes out what an upstream has no say in, or what is meant for whoever
// sent the request: its cookies, its nonces, and what it says of its own origin,
// which a browser would take for the broker's.
func stripAnswer(header http.Header) {
	for name := range header {
		switch name {
		case "Set-Cookie", "Set-Cookie2", "Dpop-Nonce", "Alt-Svc", "Clear-Site-Data", "Refresh", "Strict-Transport-Security":
			delete(header, name)
		default:
			if strings.HasPrefix(name, "Access-Control-") {
				delete(header, name)
			}
		}
	}
}
