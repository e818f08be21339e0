package httpapi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// What the examples of openapi.yaml call by other names than these tests do.
const (
	exampleIssuer  = "https://acme.okta.com"
	exampleHost    = "acme.okta.com"
	exampleOther   = "https://login.globex.com" // is not Okta
	exampleKey     = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
	exampleRequest = "aVrx3wnSQTZdyTQ9bnQhuAAAAuY"
)

// operations calls f with each operation of openapi.yaml.
func operations(t *testing.T, f func(method, path string, op *openapi3.Operation)) {
	t.Helper()
	doc, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			f(method, path, op)
		}
	}
}

// parameters are those of an operation and of its path.
func parameters(t *testing.T, path string, op *openapi3.Operation) openapi3.Parameters {
	t.Helper()
	doc, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(doc.Paths.Value(path).Parameters, op.Parameters)
}

// examplesOf returns the examples of a body, by name.
func examplesOf(body *openapi3.MediaType) map[string]any {
	all := map[string]any{}
	for name, example := range body.Examples {
		all[name] = example.Value.Value
	}
	if body.Example != nil {
		all["the only one"] = body.Example
	}
	return all
}

// That an example fits its schema is checked where the file is read.
func TestEverythingHasAnExample(t *testing.T) {
	operations(t, func(method, path string, op *openapi3.Operation) {
		for _, parameter := range parameters(t, path, op) {
			if parameter.Value.Example == nil {
				t.Errorf("%s %s: parameter %s has no example", method, path, parameter.Value.Name)
			}
		}
		bodies := map[string]openapi3.Content{}
		if op.RequestBody != nil {
			bodies["request"] = op.RequestBody.Value.Content
		}
		for status, response := range op.Responses.Map() {
			bodies[status] = response.Value.Content
			for name, header := range response.Value.Headers {
				if header.Value.Example == nil {
					t.Errorf("%s %s: %s: %s has no example", method, path, status, name)
				}
			}
		}
		for place, content := range bodies {
			for mediaType, body := range content {
				if len(examplesOf(body)) == 0 {
					t.Errorf("%s %s: %s: %s has no example", method, path, place, mediaType)
				}
			}
		}
	})
}

// Who sends the examples of openapi.yaml is served.
func TestRequestExamplesAreServed(t *testing.T) {
	sent := 0
	operations(t, func(method, path string, op *openapi3.Operation) {
		r := start(t, setup{upstream: agreeable{}}) // DELETE /token takes it ill that GET came just before
		r.register(t)
		send := func(path, body string, headers ...string) {
			sent++
			if got := r.send(t, method, path, body, headers...); got.status != http.StatusOK && got.status != http.StatusNoContent {
				t.Errorf("%s %s %s: status %d: %s", method, path, body, got.status, got.body)
			}
		}
		query := url.Values{}
		var headers []string
		for _, parameter := range parameters(t, path, op) {
			name, example := parameter.Value.Name, fmt.Sprint(parameter.Value.Example)
			switch parameter.Value.In {
			case openapi3.ParameterInHeader:
				headers = append(headers, name+": "+example)
			case openapi3.ParameterInPath:
				path = strings.ReplaceAll(path, "{"+name+"}", example)
			default:
				query.Set(name, example)
			}
		}
		if op.RequestBody == nil {
			send(path+"?"+query.Encode(), "", headers...)
			return
		}
		for mediaType, body := range op.RequestBody.Value.Content {
			for _, example := range examplesOf(body) {
				contentType := "Content-Type: " + strings.Replace(mediaType, "*/*", "text/plain", 1)
				send(path+"?"+query.Encode(), encode(t, mediaType, example), append(headers, contentType)...)
			}
		}
	})
	if sent < 10 {
		t.Errorf("%d requests", sent)
	}
}

// agreeable is an upstream that answers with what it is sent.
type agreeable struct{}

func (agreeable) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	answer.Header().Set("Content-Type", "text/plain")
	if r.Body == nil {
		return answer.Result(), nil
	}
	defer r.Body.Close()
	_, err := io.Copy(answer, r.Body)
	return answer.Result(), err
}

// encode writes an example as the body of a request.
func encode(t *testing.T, mediaType string, example any) string {
	t.Helper()
	if mediaType == "application/x-www-form-urlencoded" {
		parameters := url.Values{}
		for name, value := range example.(map[string]any) {
			parameters.Set(name, fmt.Sprint(value))
		}
		return parameters.Encode()
	}
	body, err := json.Marshal(example)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(body), exampleIssuer, issuer)
}
