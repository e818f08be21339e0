package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"okta-token-broker/api"
	"okta-token-broker/internal/fakeokta"
)

// contract is api/openapi.yaml. Every request that send makes, and every
// answer, is held against it.
var contract = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI())
	if err == nil {
		doc.Servers = nil // the tests' ports
		err = doc.Validate(context.Background(), openapi3.EnableExamplesValidation())
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

// documented is what openapi.yaml says about a request.
type documented struct {
	input *openapi3filter.RequestValidationInput
	// elsewhere: the path is not in the file or does not have the method. Then
	// the operation is one that only has the answers to that.
	elsewhere bool
	allow     []string // the methods that the path has
}

// inTheContract finds a request in openapi.yaml. It leaves req as it is.
func inTheContract(t *testing.T, req *http.Request) documented {
	t.Helper()
	doc, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	all, err := contractRoutes()
	if err != nil {
		t.Fatal(err)
	}
	body := req.GetBody
	req = req.Clone(req.Context())
	if body != nil {
		if req.Body, err = body(); err != nil {
			t.Fatal(err)
		}
	}
	if req.URL.Path == "" {
		req.URL.Path = "/"
	}
	// "The path [...] with any number of slashes", for which OpenAPI has no template.
	if rest, ok := strings.CutPrefix(req.URL.Path, "/proxy/"); ok {
		client, path, _ := strings.Cut(rest, "/")
		req.URL.Path = "/proxy/" + client + "/" + strings.ReplaceAll(path, "/", "-")
	}
	d := documented{input: &openapi3filter.RequestValidationInput{Request: req, Options: &openapi3filter.Options{
		SkipSettingDefaults:   true, // they are the server's to set
		IncludeResponseStatus: true,
		AuthenticationFunc:    openapi3filter.NoopAuthenticationFunc,
	}}}
	d.input.Route, d.input.PathParams, err = all.FindRoute(req)
	if err != nil {
		d.elsewhere = true
		for _, method := range []string{"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"} {
			other := req.Clone(req.Context())
			other.Method = method
			if _, _, err := all.FindRoute(other); err == nil {
				d.allow = append(d.allow, method)
			}
		}
		known := doc.Components.Responses
		d.input.Route = &routers.Route{Spec: doc, Operation: &openapi3.Operation{Responses: openapi3.NewResponses(
			openapi3.WithStatus(http.StatusForbidden, known["Forbidden"]),
			openapi3.WithStatus(http.StatusNotFound, known["NotFound"]),
			openapi3.WithStatus(http.StatusMethodNotAllowed, known["MethodNotAllowed"]),
		)}}
	}
	return d
}

// forbids returns why openapi.yaml does not allow the request, or nil. Its
// schemas decide, and some sentences for which OpenAPI has no schema.
func (d documented) forbids() error {
	req, operation := d.input.Request, d.input.Route.Operation
	if d.elsewhere {
		return errors.New("no such route")
	}
	query, queryErr := url.ParseQuery(req.URL.RawQuery)
	switch operation.OperationID {
	case "sign", "dpop": // which leave a query that cannot be read to itself
		// "The body is read as JSON whatever Content-Type says."
		req.Header.Set("Content-Type", "application/json")
	case "getToken", "deleteToken":
		// "GET and DELETE /token refuse parameters that they do not know." "Each stands once."
		if queryErr != nil {
			return queryErr
		}
		for name, values := range query {
			if operation.Parameters.GetByInAndName("query", name) == nil || len(values) > 1 {
				return fmt.Errorf("parameter %q is unknown or stands twice", name)
			}
		}
	case "postToken", "postOktaToken", "revoke":
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return err
		}
		req.Body = io.NopCloser(strings.NewReader(string(body)))
		form, formErr := url.ParseQuery(string(body))
		if err := errors.Join(queryErr, formErr); err != nil {
			return err
		}
		// "Each stands once." "The form's parameters are refused in the query."
		for name := range operation.RequestBody.Value.Content["application/x-www-form-urlencoded"].Schema.Value.Properties {
			if query.Has(name) || len(form[name]) > 1 {
				return fmt.Errorf("parameter %q is in the query or stands twice", name)
			}
		}
	}
	return openapi3filter.ValidateRequest(context.Background(), d.input)
}

// response is what openapi.yaml says about a status, or nil. Where it says nothing of
// that one, but of all others, the answer is an upstream's, which is passed on.
func (d documented) response(status int) (_ *openapi3.Response, passedOn bool) {
	responses := d.input.Route.Operation.Responses
	if ref := responses.Status(status); ref != nil {
		return ref.Value, false
	}
	if ref := responses.Default(); ref != nil {
		return ref.Value, true
	}
	return nil, false
}

// wantByContract checks that openapi.yaml allows a request that was served, and
// knows the answer: its status, its headers, its fields.
func wantByContract(t *testing.T, req *http.Request, a answer) {
	t.Helper()
	d := inTheContract(t, req)
	at := req.Method + " " + req.URL.Path
	response, passedOn := d.response(a.status)
	if response == nil {
		t.Errorf("%s answers %d, which openapi.yaml does not know: %s", at, a.status, a.body)
		return
	}
	known := []string{"Content-Type", "Content-Length", "Date", "Connection"} // HTTP's own
	for name, header := range response.Headers {
		known = append(known, http.CanonicalHeaderKey(name))
		if header.Value.Required && len(a.header.Values(name)) != 1 {
			t.Errorf("%s answers %d with %s: %q", at, a.status, name, a.header.Values(name))
		}
	}
	for name := range a.header {
		if !passedOn && !slices.Contains(known, name) {
			t.Errorf("%s answers %d with %s, which openapi.yaml does not know", at, a.status, name)
		}
	}
	if (a.status == http.StatusMethodNotAllowed) != (a.header.Get("Allow") != "") || a.header.Get("Allow") != "" && a.header.Get("Allow") != strings.Join(d.allow, ", ") {
		t.Errorf("%s answers %d, Allow %q; openapi.yaml has %q", at, a.status, a.header.Get("Allow"), d.allow)
	}
	if len(response.Content) == 0 && (a.body != "" || a.header.Get("Content-Type") != "") && req.Method != http.MethodHead {
		t.Errorf("%s answers %d with a body, which openapi.yaml does not know: %s", at, a.status, a.body)
	}
	err := openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: d.input,
		Status:                 a.status,
		Header:                 a.header,
		Body:                   io.NopCloser(strings.NewReader(a.body)),
		Options:                d.input.Options,
	})
	if err != nil {
		t.Errorf("%s answers what openapi.yaml does not know: %v", at, err)
	}
	if a.status < 300 {
		if err := d.forbids(); err != nil {
			t.Errorf("%s is answered %d, and openapi.yaml does not allow the request: %v", at, a.status, err)
		}
	}
}

func TestContractIsServed(t *testing.T) {
	if got := start(t, setup{}).send(t, "GET", "/openapi.yaml", ""); got.status != http.StatusOK || got.body != string(api.OpenAPI()) {
		t.Errorf("status %d, and not the file", got.status)
	}
}

// What openapi.yaml forbids, the server refuses.
func TestWhatTheContractForbidsIsRefused(t *testing.T) {
	r := start(t, setup{signAny: true})
	r.register(t)
	const grant = "grant_type=client_credentials"
	const call = `{"method": "GET", "url": "` + issuer + `/api"`
	long := strings.Repeat("x", 2049)
	tests := []struct {
		method, path string
		headers      []string
		bodies       []string
		status       int
	}{
		{"GET", "/token?scopes=okta.users.read", nil, nil, 400},
		{"GET", "/token?Scope=okta.users.read", nil, nil, 400},
		{"GET", "/token?client_id=default", nil, nil, 400},
		{"GET", "/token?scope=okta.users.read&scope=okta.groups.read", nil, nil, 400},
		{"GET", "/token?client=default&client=default", nil, nil, 400},
		{"GET", "/token?client=" + strings.Repeat("x", 257), nil, nil, 400},
		{"GET", "/token?client=a%0Ab", nil, nil, 400},
		{"GET", "/token?client=a%C2%85b", nil, nil, 400},
		{"GET", "/token?client=%zz", nil, nil, 400},
		{"GET", "/token?scope=a%22b", nil, nil, 400},
		{"GET", "/token?scope=a%5Cb", nil, nil, 400},
		{"GET", "/token?scope=k%C3%A4se", nil, nil, 400},
		{"GET", "/token?scope=" + strings.Repeat("x", 8193), nil, nil, 400},
		{"GET", "/token?min_ttl=0", nil, nil, 400},
		{"GET", "/token?min_ttl=86401", nil, nil, 400},
		{"GET", "/token?min_ttl=1.5", nil, nil, 400},
		{"GET", "/token?min_ttl=60&min_ttl=60", nil, nil, 400},
		{"DELETE", "/token?min_ttl=60", nil, nil, 400},
		{"DELETE", "/token?scope=okta.users.read&scope=okta.users.read", nil, nil, 400},
		{"DELETE", "/token?client=a%0Ab", nil, nil, 400},
		{"DELETE", "/token?scope=a%22b", nil, nil, 400},
		{"POST", "/token", nil, []string{grant}, 415},
		{"POST", "/token", []string{"Content-Type: application/json"}, []string{`{"grant_type":"client_credentials"}`}, 415},
		{"POST", "/token", []string{"Content-Type: text/plain"}, []string{grant}, 415},
		{"POST", "/token?" + grant, []string{form}, []string{grant}, 400},
		{"POST", "/token?client=default", []string{form}, []string{grant}, 400},
		{"POST", "/token?client_id=default", []string{form}, []string{grant}, 400},
		{"POST", "/token?client_secret=x", []string{form}, []string{grant}, 400},
		{"POST", "/token?scope=okta.users.read", []string{form}, []string{grant}, 400},
		{"POST", "/token", []string{form}, []string{
			"", "scope=okta.users.read", "grant_type=", "grant_type=password", "grant_type=CLIENT_CREDENTIALS",
			grant + "&" + grant,
			grant + "&client=default",
			grant + "&client_id=default&client_id=default",
			grant + "&client_id=" + strings.Repeat("x", 257),
			grant + "&client_id=a%00b",
			grant + "&scope=a&scope=b",
			grant + "&scope=a%09b",
			grant + "&scope=" + strings.Repeat("x", 8193),
			grant + "&scope=%zz",
			grant + "&min_ttl=0", grant + "&min_ttl=86401", grant + "&min_ttl=soon", grant + "&min_ttl=60&min_ttl=60",
		}, 400},
		{"POST", "/token?min_ttl=60", []string{form}, []string{grant}, 400},
		{"POST", "/revoke", nil, []string{"token=x"}, 415},
		{"POST", "/revoke?token=x", []string{form}, []string{"token=x"}, 400},
		{"POST", "/revoke?token_type_hint=access_token", []string{form}, []string{"token=x"}, 400},
		{"POST", "/revoke?client_id=default", []string{form}, []string{"token=x"}, 400},
		{"POST", "/revoke", []string{form}, []string{
			"", "token=", "token_type_hint=access_token", "token=x&token=x", "token=x&client=default", "token=a%0Ab",
			"token=x&client_id=default&client_id=default", "token=x&client_id=" + strings.Repeat("x", 257), "token=%zz",
		}, 400},
		{"POST", "/", nil, []string{
			"", "x", "null", "[]", `"x"`, "{}",
			`{"client_id": "a"}`, `{"audience": "b"}`, `{"client_id": "a", "audience": null}`,
			`{"client_id": 1, "audience": "b"}`, `{"client_id": "a", "audience": ["b"]}`,
			`{"client_id": "", "audience": "b"}`, `{"client_id": "a", "audience": ""}`,
			`{"client_id": "a\u0000", "audience": "b"}`, `{"client_id": "a", "audience": "b\u009f"}`,
			`{"client_id": "` + long + `", "audience": "b"}`, `{"client_id": "a", "audience": "` + long + `"}`,
			good + `, "kid": 1}`, good + `, "kid": "a\nb"}`, good + `, "kid": "` + long + `"}`,
			good + `, "valid_for": -1}`, good + `, "valid_for": 3601}`, good + `, "valid_for": 1.5}`,
			good + `, "valid_for": "10"}`, good + `, "valid_for": true}`, good + `, "valid_for": {}}`,
		}, 400},
		{"POST", "/dpop", nil, []string{
			"", "x", "null", "[]", `"x"`, "{}", "\ufeff" + call + "}", "method=GET&url=https%3A%2F%2Fx",
			`{"method": "GET"}`, `{"url": "` + issuer + `/api"}`, `{"method": null, "url": "` + issuer + `/api"}`,
			`{"method": "", "url": "` + issuer + `/api"}`, `{"method": "G T", "url": "` + issuer + `/api"}`,
			`{"method": "` + strings.Repeat("X", 65) + `", "url": "` + issuer + `/api"}`, `{"method": 1, "url": "` + issuer + `/api"}`,
			`{"method": "GET", "url": ""}`, `{"method": "GET", "url": "` + issuer + `/a b"}`, `{"method": "GET", "url": "` + issuer + `/k\u00e4se"}`,
			`{"method": "GET", "url": "` + issuer + `/` + strings.Repeat("x", 8192) + `"}`, `{"method": "GET", "url": ["` + issuer + `/api"]}`,
			call + `, "nonce": "a b"}`, call + `, "nonce": "a\"b"}`, call + `, "nonce": "` + strings.Repeat("x", 1025) + `"}`, call + `, "nonce": 1}`,
			call + `, "client": 1}`, call + `, "client": "` + strings.Repeat("x", 257) + `"}`, call + `, "client": "a\nb"}`,
			call + `, "scope": "a\"b"}`, call + `, "scope": ["okta.users.read"]}`, call + `, "scope": "` + strings.Repeat("x", 8193) + `"}`,
			call + `, "htm": "GET"}`, call + `, "Client": "default"}`, call + `, "ath": "x"}`, call + `, "scopes": "okta.users.read"}`,
		}, 400},
		{"GET", "/dpop", nil, nil, 405},
		{"GET", "/keys//jwks.json", nil, nil, 404},
		{"HEAD", "/keys/-x/jwks.json", nil, nil, 404},
		{"GET", "/keys/" + strings.Repeat("x", 65) + "/jwks.json", nil, nil, 404},
		{"POST", "/keys/default/jwks.json", nil, nil, 405},
		{"DELETE", "/.well-known/jwks.json", nil, nil, 405},
		{"PUT", "/", nil, []string{good + "}"}, 405},
		{"GET", "/oauth2/v1/token", nil, nil, 405},
		{"GET", "/tokens", nil, nil, 404},
	}
	for _, tt := range tests {
		if tt.bodies == nil {
			tt.bodies = []string{""}
		}
		for _, body := range tt.bodies {
			req := r.request(t, tt.method, tt.path, body, tt.headers...)
			if err := inTheContract(t, req).forbids(); err == nil {
				t.Errorf("openapi.yaml allows %s %.80s %.80s", tt.method, tt.path, body)
			}
			if got := r.send(t, tt.method, tt.path, body, tt.headers...); got.status != tt.status {
				t.Errorf("%s %.80s %.80s: status %d, want %d: %s", tt.method, tt.path, body, got.status, tt.status, got.body)
			}
		}
	}
	if n := r.okta.Counters().Requests; n[fakeokta.Token] != 0 || n[fakeokta.Revoke] != 0 {
		t.Errorf("refused requests caused requests to Okta: %v", n)
	}
}

// "What is not well-formed HTTP [...] is answered as text, and the connection is
// closed."
func TestWhatIsNotHTTPIsAnsweredAsText(t *testing.T) {
	r := start(t, setup{})
	tests := map[string]string{
		"400": "GET /healthz HTTP/1.1\r\n\r\n",
		"417": "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: more\r\n\r\n",
		"431": "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 17<<10) + "\r\n\r\n",
		"501": "POST /token HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
		"505": "GET /healthz HTTP/3.0\r\nHost: localhost\r\n\r\n",
	}
	for status, request := range tests {
		got := raw(t, r.url, request) // which ends when the connection is closed
		if !strings.HasPrefix(got, "HTTP/1.1 "+status) || strings.Contains(got, "{") {
			t.Errorf("got %q, want %s", got, status)
		}
	}
}
