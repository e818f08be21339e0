package httpapi

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/google/uuid"

	"okta-token-broker/api"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 16 << 10

// guard refuses what a web page can send to a local port, before anything
// happens: a page can POST text/plain to localhost without asking, and reaches
// it under a name of its own by DNS rebinding. There is no CORS header to ask
// for, so a browser has nothing to do here.
func (a *API) guard(write errorWriter) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1) {
				// net/http drops a Content-Length beside Transfer-Encoding, and in
				// HTTP/1.0 that one; what follows on the connection may be another's
				// idea of this body (RFC 9112 section 6.1).
				w.Header().Set("Connection", "close")
			}
			if reason := a.refuses(r); reason != "" {
				write(w, r, http.StatusForbidden, api.Error{Error: "access_denied", Description: reason})
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// refuses says why a request is not served. Empty: it is.
func (a *API) refuses(r *http.Request) string {
	switch site := r.Header.Values("Sec-Fetch-Site"); {
	case len(r.Header.Values("Origin")) > 0:
		return "requests with an Origin header, as web pages send them, are not served"
	case len(site) > 0 && !slices.Equal(site, []string{"none"}):
		return "requests with a Sec-Fetch-Site header, as web pages send them, are not served"
	case forwarded(r.Header):
		return "requests with a Forwarded or X-Forwarded header, as proxies add them, are not served"
	case !overSocket(r) && !a.knownHost(r.Host):
		return "the Host header is neither localhost nor a loopback address nor listed under hosts in the configuration"
	}
	return ""
}

// forwarded reports whether a proxy made the request, for somebody who could not
// have made it. None that is known writes underscores: those are the proxy's to strip.
func forwarded(header http.Header) bool {
	for name := range header {
		if name == "Forwarded" || name == "X-Forwarded" || strings.HasPrefix(name, "X-Forwarded-") {
			return true
		}
	}
	return false
}

// overSocket reports whether the request came over a Unix socket, which no web
// page can reach and whose clients make up a Host.
func overSocket(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}

func (a *API) knownHost(host string) bool {
	name := host
	if h, port, err := net.SplitHostPort(host); err == nil && strings.Trim(port, "0123456789") == "" {
		name = h
	}
	// A Host without a port keeps the brackets of an IPv6 address.
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")); err == nil {
		return addr.IsLoopback()
	}
	return strings.EqualFold(name, "localhost") ||
		slices.ContainsFunc(*a.hosts.Load(), func(h string) bool { return strings.EqualFold(h, name) })
}

func limitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

// recoverPanics answers 500 with an id that finds the stack in the log.
func (a *API) recoverPanics(write errorWriter) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				p := recover()
				if p == nil {
					return
				}
				if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(p)
				}
				id := uuid.NewString()
				a.log.Error("panic while answering", "request_id", id, "panic", p, "stack", string(debug.Stack()))
				write(w, r, http.StatusInternalServerError, api.Error{Error: "server_error", Description: "the broker failed; its log has more under request id " + id})
			}()
			next.ServeHTTP(w, r)
		})
	}
}
