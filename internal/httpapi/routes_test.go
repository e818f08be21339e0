package httpapi

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"

	"okta-token-broker/api"
)

// openapi.yaml has the routes that the server has, and no others.
func TestRoutesAreThoseOfTheContract(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			documented = append(documented, method+" "+path)
		}
	}
	served := append(routesOf(t, New(Config{}).router), proxied(t)...)
	slices.Sort(documented)
	slices.Sort(served)
	if diff := cmp.Diff(documented, served); diff != "" || len(served) == 0 {
		t.Errorf("openapi.yaml and the server: %s", diff)
	}
}

// The listener that the internet reaches has no route but these.
func TestRoutesOfTheJWKSListener(t *testing.T) {
	want := []string{"GET /.well-known/jwks.json", "GET /keys/{ring}/jwks.json", "HEAD /.well-known/jwks.json", "HEAD /keys/{ring}/jwks.json"}
	if diff := cmp.Diff(want, routesOf(t, New(Config{}).JWKS().(chi.Routes))); diff != "" {
		t.Error(diff)
	}
}

// proxied are the routes in front of the router: openapi.yaml has those of the methods
// that APIs use, and each reaches the proxy with its path as it came.
func proxied(t *testing.T) (routes []string) {
	t.Helper()
	const path = "/proxy/x/a%2Fb//c"
	var reached string
	a := New(Config{Proxy: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached = r.Method + " " + r.RequestURI })})
	for _, method := range []string{"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"} {
		req := httptest.NewRequestWithContext(t.Context(), method, path, nil)
		req.Host = "localhost"
		if a.ServeHTTP(httptest.NewRecorder(), req); reached == method+" "+path {
			routes = append(routes, method+" /proxy/{client}/{path}")
		}
	}
	return routes
}

func routesOf(t *testing.T, router chi.Routes) (routes []string) {
	t.Helper()
	err := chi.Walk(router, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		routes = append(routes, method+" "+route)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(routes)
	return routes
}
