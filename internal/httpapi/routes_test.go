package httpapi

import (
	"net/http"
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
	served := routesOf(t, New(Config{}).router)
	slices.Sort(documented)
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
