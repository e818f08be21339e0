// Package httpapi is the HTTP interface: routes, guards, and the writing of
// answers and errors. What a request may do is for the broker to say.
package httpapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"

	"okta-token-broker/api"
	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
)

// Config is what an API needs.
type Config struct {
	Broker *broker.Broker
	// Hosts are accepted as Host besides localhost and loopback addresses.
	Hosts []string
	// Proxy answers every method on all paths below /proxy/, which it gets as they came.
	// Errors it leaves to WriteError. Nil: there are no such paths.
	Proxy http.Handler
	// Metrics answers /metrics of the health listener. Nil: it is not served.
	Metrics http.Handler
	// JWKSMaxAge is how long others may keep the public keys, in whole seconds.
	JWKSMaxAge time.Duration
	// Awaited lists the keys that Okta does not know yet, for the detail of /readyz. It
	// must be quick. Nil: none.
	Awaited func() []api.AwaitedKey
	// Quiet is how long no request has to come before a draining listener is closed.
	// 0: half a second.
	Quiet time.Duration
	// Drain is how long requests in flight then have to finish. 0: 15 seconds.
	Drain time.Duration
	// Log takes panics and answers that tell the caller to look there.
	Log *slog.Logger
}

// API is the handler of the API listener. It is safe for concurrent use.
type API struct {
	broker   *broker.Broker
	hosts    atomic.Pointer[[]string]
	maxAge   atomic.Int64 // of public keys, in seconds
	metrics  http.Handler
	awaited  func() []api.AwaitedKey
	log      *slog.Logger
	router   *chi.Mux
	proxied  http.Handler  // nil: there is no proxy
	calls    chan struct{} // has what is in flight of them
	waiting  chan struct{} // has the calls that wait for one of those to end,
	callWait time.Duration // which they do for so long
	quiet    time.Duration
	drain    time.Duration
	draining atomic.Bool

	lastRequest atomic.Int64 // when it began, in Unix nanoseconds
}

// New makes the handler.
func New(cfg Config) *API {
	a := &API{broker: cfg.Broker, metrics: cfg.Metrics, awaited: cfg.Awaited, log: cfg.Log, router: chi.NewRouter()}
	a.SetHosts(cfg.Hosts)
	a.SetJWKSMaxAge(cfg.JWKSMaxAge)
	a.quiet, a.drain = cmp.Or(cfg.Quiet, quietTime), cmp.Or(cfg.Drain, drainTime)
	a.calls, a.waiting, a.callWait = make(chan struct{}, partOfFiles(maxCalls, 8)), make(chan struct{}, partOfFiles(maxCalls/2, 16)), callWait
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Proxy != nil {
		a.proxied = a.Proxied(cfg.Proxy)
	}
	a.router.Use(a.recoverPanics(writeError), a.guard(writeError), limitBody)
	answerUnrouted(a.router, "no such path: see /openapi.yaml")
	a.router.Post("/", a.sign)
	a.router.Get("/token", a.getToken)
	a.router.Post("/token", a.postToken)
	a.router.Delete("/token", a.deleteToken)
	a.router.Post("/revoke", a.revoke)
	a.router.Post("/oauth2/v1/token", a.postToken)
	a.router.Post("/dpop", a.dpop)
	a.router.Get("/openapi.yaml", openAPI)
	a.routeJWKS(a.router)
	a.routeHealth(a.router)
	return a
}

// Health returns a handler of /healthz, /readyz and /metrics alone, for a listener
// that anybody may reach.
func (a *API) Health() http.Handler {
	router := chi.NewRouter()
	answerUnrouted(router, "no such path: /healthz, /readyz and /metrics are all there is")
	a.routeHealth(router)
	if a.metrics != nil {
		router.Method(http.MethodGet, "/metrics", a.metrics)
	}
	return router
}

func (a *API) routeHealth(router *chi.Mux) {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		router.MethodFunc(method, "/healthz", a.healthz)
		router.MethodFunc(method, "/readyz", a.readyz)
	}
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The router knows some methods alone, and no body over 16 KiB.
	if a.proxied != nil && strings.HasPrefix(r.URL.Path, "/proxy/") {
		a.proxied.ServeHTTP(w, r)
		return
	}
	a.arrived(w)
	a.router.ServeHTTP(w, r)
}

// arrived notes that a request has come. While the broker stops its connection ends with
// the answer: one that is kept would end just as the next request comes over it.
func (a *API) arrived(w http.ResponseWriter) {
	a.lastRequest.Store(time.Now().UnixNano())
	if a.draining.Load() {
		w.Header().Set("Connection", "close")
	}
}

// SetHosts replaces Config.Hosts.
func (a *API) SetHosts(hosts []string) { a.hosts.Store(&hosts) }

// SetJWKSMaxAge replaces Config.JWKSMaxAge.
func (a *API) SetJWKSMaxAge(age time.Duration) { a.maxAge.Store(int64(age / time.Second)) }

// Drain makes /readyz answer 503, so that no new work is sent here, and ends kept
// connections with their next answer.
func (a *API) Drain() { a.draining.Store(true) }

// Who returns the caller. Only this machine can reach a listener that asks for
// no credentials.
func Who(*http.Request) caller.Caller { return caller.Local("local") }

func openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(api.OpenAPI())
}

func (a *API) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, api.Health{Status: "ok"})
}

func (a *API) readyz(w http.ResponseWriter, _ *http.Request) {
	if a.draining.Load() {
		writeJSON(w, http.StatusServiceUnavailable, api.Health{Status: "draining"})
		return
	}
	ready := api.Health{Status: "ready"}
	if a.awaited != nil {
		// A key that Okta does not know yet is no reason to send no requests: another
		// one goes on serving.
		ready.Awaited = a.awaited()
	}
	writeJSON(w, http.StatusOK, ready)
}

// answerUnrouted answers 404, and 405 with the methods that the path has: chi
// names them only in its own, plain-text, answer.
func answerUnrouted(router *chi.Mux, description string) {
	notFound := func(w http.ResponseWriter, r *http.Request) {
		writeError(w, r, http.StatusNotFound, api.Error{Error: "not_found", Description: description})
	}
	router.NotFound(notFound)
	router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPost} {
			if router.Match(chi.NewRouteContext(), method, r.URL.Path) {
				allowed = append(allowed, method)
			}
		}
		if allowed == nil { // chi comes here with a method it does not know, whatever the path
			notFound(w, r)
			return
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeError(w, r, http.StatusMethodNotAllowed, api.Error{Error: "invalid_request", Description: "the path does not take this method: see the Allow header"})
	})
}

func writeJSON(w http.ResponseWriter, status int, answer any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // people read errors in a terminal, and a > there
	if err := encoder.Encode(answer); err != nil {
		panic("marshalling an answer: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes())
}

// noStore keeps tokens and assertions out of caches (RFC 6749 section 5.1).
func noStore(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
}
