package httpapi_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"okta-token-broker/api"
)

// contract is api/openapi.yaml. Every answer in these tests is held against it.
var contract = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI())
	if err == nil {
		doc.Servers = nil // the tests' ports
		err = doc.Validate(context.Background())
	}
	return doc, err
})

var contractRoutes = sync.OnceValues(func() (routers.Router, error) {
	doc, err := contract()
	if err != nil {
		return nil, err
	}
	return gorillamux.NewRouter(doc)
})

// wantByContract checks that openapi.yaml knows an answer: its status, its
// headers, its fields.
func wantByContract(t *testing.T, req *http.Request, a answer) {
	t.Helper()
	all, err := contractRoutes()
	if err != nil {
		t.Fatal(err)
	}
	if req.URL.Path == "" {
		req.URL.Path = "/"
	}
	route, params, err := all.FindRoute(req)
	if err != nil { // what the file does not list, no route may serve
		if a.status != http.StatusNotFound && a.status != http.StatusMethodNotAllowed && a.status != http.StatusForbidden {
			t.Errorf("%s %s is not in openapi.yaml and answers %d", req.Method, req.URL.Path, a.status)
		}
		if (a.status == http.StatusMethodNotAllowed) != (a.header.Get("Allow") != "") {
			t.Errorf("%s %s: status %d, Allow %q", req.Method, req.URL.Path, a.status, a.header.Get("Allow"))
		}
		return
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, Route: route, PathParams: params},
		Status:                 a.status,
		Header:                 a.header,
		Body:                   io.NopCloser(strings.NewReader(a.body)),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		t.Errorf("%s %s answers what openapi.yaml does not know: %v", req.Method, req.URL.Path, err)
	}
}

// Every operation of the contract is served.
func TestContractIsServed(t *testing.T) {
	doc, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, setup{})
	r.register(t)
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if got := r.send(t, method, path, ""); got.status == http.StatusNotFound || got.status == http.StatusMethodNotAllowed {
				t.Errorf("%s %s: status %d", method, path, got.status)
			}
		}
	}
	if got := r.send(t, "GET", "/openapi.yaml", ""); !bytes.Equal([]byte(got.body), api.OpenAPI()) {
		t.Error("/openapi.yaml is not the file")
	}
}
