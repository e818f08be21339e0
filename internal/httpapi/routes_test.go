package httpapi

import (
	"net/http"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"

	"okta-token-broker/api"
)

// Every route is in the contract; the other direction is TestContractIsServed.
func TestRoutesAreInTheContract(t *testing.T) {
	text := string(api.OpenAPI())
	count := 0
	err := chi.Walk(New(Config{}).router, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		count++
		_, item, found := strings.Cut(text, "\n  "+route+":\n")
		item, _, _ = strings.Cut(item, "\n  /")
		if !found || !strings.Contains("\n"+item, "\n    "+strings.ToLower(method)+":\n") {
			t.Errorf("%s %s is not in openapi.yaml", method, route)
		}
		return nil
	})
	if err != nil || count == 0 {
		t.Errorf("%d routes, %v", count, err)
	}
}
