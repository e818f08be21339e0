package httpapi

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"

	"okta-token-broker/api"
	"okta-token-broker/internal/broker"
)

// JWKS returns a handler of the public keys alone, for a listener that the whole
// internet may reach: Okta fetches them from outside, under a name that is not
// known here.
func (a *API) JWKS() http.Handler {
	router := chi.NewRouter()
	router.Use(a.recoverPanics(writeError), hangUpOnBody)
	answerUnrouted(router, "no such path: /.well-known/jwks.json and /keys/RING/jwks.json are all there is")
	a.routeJWKS(router)
	return router
}

func (a *API) routeJWKS(router *chi.Mux) {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		router.MethodFunc(method, "/.well-known/jwks.json", func(w http.ResponseWriter, r *http.Request) {
			a.jwks(w, r, broker.DefaultRing)
		})
		router.MethodFunc(method, "/keys/{ring}/jwks.json", func(w http.ResponseWriter, r *http.Request) {
			a.jwks(w, r, chi.URLParam(r, "ring"))
		})
	}
}

// jwks answers a JWK Set (RFC 7517 section 5), or that it is the one that the
// client has.
func (a *API) jwks(w http.ResponseWriter, r *http.Request, ring string) {
	set, ok := a.broker.JWKS(ring)
	if !ok {
		writeError(w, r, http.StatusNotFound, api.Error{Error: "not_found", Description: "no such key ring, or no client uses it"})
		return
	}
	sum := sha256.Sum256(set)
	etag := `"` + base64.RawURLEncoding.EncodeToString(sum[:]) + `"`
	w.Header().Set("ETag", etag)
	w.Header().Set("Cache-Control", "public, max-age="+strconv.FormatInt(a.maxAge.Load(), 10))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if hasETag(r.Header.Values("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Content-Length", strconv.Itoa(len(set)))
	_, _ = w.Write(set)
}

// hasETag reports whether the fields of If-None-Match name an entity tag, or any
// ("*"). Weak ones are compared as well (RFC 9110 section 13.1.2). The tag must
// have no comma.
func hasETag(fields []string, etag string) bool {
	for _, field := range fields {
		if strings.TrimSpace(field) == "*" {
			return true
		}
		for tag := range strings.SplitSeq(field, ",") {
			if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == etag {
				return true
			}
		}
	}
	return false
}

// hangUpOnBody ends the connection after a request that has a body, or whose end
// is in doubt: no request has one here, and nobody is going to read it.
func hangUpOnBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 || !r.ProtoAtLeast(1, 1) {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
