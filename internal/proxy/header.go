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
		"via", "client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip",
		"x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-originating-ip", "x-proxyuser-ip",
		"x-host", "x-http-host-override", "x-rewrite-url", "x-scheme", "x-url-scheme", "front-end-https",
		"x-http-method", "x-http-method-override", "x-method-override", "remote-user":
		return true
	}
	return hasPrefix(name, "forwarded") || hasPrefix(name, "x-forward") || // -For, X-Forwarder-For
		hasPrefix(name, "proxy-") || hasPrefix(name, "wl-proxy-") ||
		hasPrefix(name, "x-original-") || hasPrefix(name, "x-remote-") || hasPrefix(name, "x-envoy-") || hasPrefix(name, "x-arr-") ||
		hasPrefix(name, "client-cert") || // RFC 9440
		hasPrefix(name, "x-client-cert") || hasPrefix(name, "ssl-client-") || hasPrefix(name, "x-ssl-client-")
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

// stripTrailer takes out of an answer's trailer what the header must not have, and what
// belongs in the header: a client that merges the two would take it for the answer's
// framing, for where it leads, or for how it is to be read (RFC 9110 section 6.5.1).
func stripTrailer(trailer http.Header) {
	stripAnswer(trailer)
	for name := range trailer {
		switch name {
		case "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Connection", "Proxy-Authenticate",
			"Content-Length", "Content-Type", "Content-Encoding", "Content-Range", "X-Content-Type-Options",
			"Www-Authenticate", "Cache-Control", "Pragma", "Expires", "Age", "Date", "Vary", "Retry-After", "Host",
			"Link", "Location", "Content-Location": // URLs that nobody has rewritten
			delete(trailer, name)
		}
	}
}
