package httpapi_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
)

// occasion makes the server answer a status of openapi.yaml, and an example of
// its body word by word.
type occasion struct {
	status   int
	example  string                    // "" where the words differ each time
	world    func(*testing.T) *running // nil: a broker that works
	requests []request
}

type request struct {
	method, path, body string
	headers            []string
}

func (r request) operation() string {
	path, _, _ := strings.Cut(r.path, "?")
	return r.method + " " + path
}

func get(path string, headers ...string) []request {
	return []request{{method: "GET", path: path, headers: headers}}
}

// posts is a form for both token endpoints.
func posts(query, body string, headers ...string) []request {
	headers = append([]string{form}, headers...)
	return []request{{"POST", "/token" + query, body, headers}, {"POST", "/oauth2/v1/token" + query, body, headers}}
}

// asks is a request for a token in all three ways.
func asks(query, body string, headers ...string) []request {
	return append(get("/token"+query, headers...), posts("", "grant_type=client_credentials"+body, headers...)...)
}

func signs(query, body string, headers ...string) []request {
	return []request{{"POST", "/" + query, body, headers}}
}

// everywhere is a request to each operation but POST /.
func everywhere(header string) []request {
	all := asks("", "", header)
	for _, path := range []string{"/healthz", "/readyz", "/openapi.yaml"} {
		all = append(all, request{"GET", path, "", []string{header}})
	}
	return append(all, request{"HEAD", "/healthz", "", []string{header}}, request{"HEAD", "/readyz", "", []string{header}})
}

// faulty is a broker whose server misbehaves.
func faulty(fault fakeokta.Fault, registered bool) func(*testing.T) *running {
	return func(t *testing.T) *running {
		r := start(t, setup{})
		if registered {
			r.register(t)
		}
		fault := fault
		fault.Header = http.Header{"X-Okta-Request-Id": {exampleRequest}}
		r.okta.SetFault(fault)
		return r
	}
}

// unwritable is a broker whose key ring cannot be written.
func unwritable(err error) func(*testing.T) *running {
	return func(t *testing.T) *running {
		return start(t, setup{store: brokenStore{newFile(t), err}})
	}
}

func draining(t *testing.T) *running {
	r := start(t, setup{})
	r.api.Drain()
	return r
}

func occasions() []occasion {
	const ours = `{"client_id":"` + clientID + `","audience":"` + issuer + `/oauth2/v1/token"`
	const page = "Origin: http://evil.test"
	big := strings.Repeat("x", 16<<10+1)
	failed := func(status int, code, words string) fakeokta.Fault {
		return fakeokta.Fault{Status: status, Body: `{"error":"` + code + `","error_description":"` + words + `"}`}
	}
	return []occasion{
		{status: 200, requests: slices.Concat(asks("", ""), signs("", ours+"}"), get("/openapi.yaml"))},
		{status: 200, requests: asks("", "", "Accept: text/plain")},
		{status: 200, example: "ok", requests: get("/healthz")},
		{status: 200, example: "ready", requests: get("/readyz")},
		{status: 200, requests: []request{{method: "HEAD", path: "/healthz"}, {method: "HEAD", path: "/readyz"}}},
		{status: 503, example: "draining", world: draining, requests: get("/readyz")},
		{status: 503, world: draining, requests: []request{{method: "HEAD", path: "/readyz"}}},

		{status: 400, example: "unknownParameter", requests: get("/token?scopes=okta.users.read")},
		{status: 400, example: "twice", requests: get("/token?scope=okta.users.read&scope=okta.groups.read")},
		{status: 400, example: "grantMissing", requests: posts("", "scope=okta.users.read")},
		{status: 400, example: "otherGrant", requests: posts("", "grant_type=password")},
		{status: 400, example: "inTheQuery", requests: posts("?scope=okta.users.read", "grant_type=client_credentials")},
		{status: 400, example: "unknownClient", requests: asks("?client=nobody", "&client_id=nobody")},
		{status: 400, example: "widerScope", requests: asks("?scope=okta.users.manage", "&scope=okta.users.manage")},
		{status: 400, example: "scopeNotGranted", requests: asks("", ""),
			world: faulty(failed(400, "invalid_scope", "One or more scopes are not configured for the authorization server resource."), true)},
		{status: 401, example: "unknownClient", requests: asks("?client=nobody", "&client_id=nobody", "Authorization: Basic bm9ib2R5OnNlY3JldA==")},
		{status: 403, example: "origin", requests: everywhere(page)},
		{status: 403, example: "fetchSite", requests: everywhere("Sec-Fetch-Site: cross-site")},
		{status: 403, example: "host", requests: everywhere("Host: evil.test")},
		{status: 404, example: "path", requests: get("/tokens")},
		{status: 405, example: "method", requests: []request{{method: "DELETE", path: "/token"}}},
		{status: 413, example: "tooLarge", requests: posts("", big)},
		{status: 415, example: "type", requests: []request{{method: "POST", path: "/token"}, {method: "POST", path: "/oauth2/v1/token"}}},
		{status: 500, example: "noKey", world: unwritable(keys.ErrReadOnly), requests: asks("", "")},
		{status: 502, example: "keyNotRegistered", world: faulty(fakeokta.Fault{}, false), requests: asks("", "")},
		{status: 502, example: "notAToken", requests: asks("", ""),
			world: faulty(fakeokta.Fault{Status: 200, Body: "<html>", ContentType: "text/html"}, true)},
		{status: 503, example: "limited", requests: asks("", ""),
			world: faulty(failed(429, "E0000047", "API call exceeded rate limit due to too many requests."), true)},
		{status: 503, example: "broken", world: faulty(fakeokta.Fault{Reset: true}, true), requests: asks("", "")},

		{status: 400, example: "notJSON", requests: signs("", "client_id=x")},
		{status: 400, example: "bothMissing", requests: signs("", "{}")},
		{status: 400, example: "clientMissing", requests: signs("", `{"audience":"x"}`)},
		{status: 400, example: "audienceMissing", requests: signs("", `{"client_id":"x"}`)},
		{status: 400, example: "notInteger", requests: signs("", ours+`,"valid_for":"600"}`)},
		{status: 400, example: "tooHigh", requests: signs("", ours+`,"valid_for":3601}`)},
		{status: 403, example: "origin", requests: signs("", ours+"}", page)},
		{status: 403, example: "client", requests: signs("", `{"client_id":"x","audience":"x"}`)},
		{status: 403, example: "audience", requests: signs("", `{"client_id":"`+clientID+`","audience":"x"}`)},
		{status: 413, example: "tooLarge", requests: signs("", big)},
		{status: 500, example: "readOnly", world: unwritable(keys.ErrReadOnly), requests: signs("?rotate=true", ours+"}")},
		{status: 500, example: "notWritten", world: unwritable(&fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS}), requests: signs("?rotate=true", ours+"}")},
		{status: 507, example: "noSpace", world: unwritable(syscall.ENOSPC), requests: signs("?rotate=true", ours+"}")},
	}
}

// record is what answers had: statuses, headers, media types, error codes and
// examples, each with the operation.
type record struct {
	mu  sync.Mutex
	has map[string]bool
}

func (r *record) add(operation string, status int, kind, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.has[strings.TrimSpace(fmt.Sprint(operation, " ", status, " ", kind, " ", what))] = true
}

func (r *record) addDocumented(operation string, status int, response *openapi3.Response) {
	r.add(operation, status, "", "")
	for name := range response.Headers {
		r.add(operation, status, "header", name)
	}
	for mediaType, body := range response.Content {
		r.add(operation, status, "type", mediaType)
		for name := range body.Examples {
			r.add(operation, status, "example", name)
		}
		for _, member := range codeMembers() {
			for _, code := range codesOf(body, member) {
				r.add(operation, status, member, code)
			}
		}
	}
}

// codeMembers are the members of an answer that hold one word of a list.
func codeMembers() []string { return []string{"error", "status"} }

// codesOf returns the words that a member of this body can be: a response
// narrows the list of the schema that it shares with others.
func codesOf(body *openapi3.MediaType, member string) []string {
	var codes []string
	for _, part := range body.Schema.Value.AllOf {
		if property := part.Value.Properties[member]; property != nil && part.Ref == "" {
			for _, code := range property.Value.Enum {
				codes = append(codes, code.(string))
			}
		}
	}
	return codes
}

// addAnswer also compares the answer with the example that is meant.
func (r *record) addAnswer(t *testing.T, o occasion, q request, key string, a answer) {
	t.Helper()
	if a.status != o.status {
		t.Errorf("%s: status %d, want %d: %s", q.operation(), a.status, o.status, a.body)
		return
	}
	operation, response := documentedAs(t, q.operation(), a.status)
	r.add(operation, a.status, "", "")
	for name := range response.Headers {
		if a.header.Get(name) != "" {
			r.add(operation, a.status, "header", name)
		}
	}
	if q.method == "HEAD" {
		return
	}
	mediaType, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	r.add(operation, a.status, "type", mediaType)
	if o.example == "" {
		return
	}
	r.add(operation, a.status, "example", o.example)
	got := a.json(t)
	for _, member := range codeMembers() {
		if code, ok := got[member].(string); ok {
			r.add(operation, a.status, member, code)
		}
	}
	example := response.Content["application/json"].Examples[o.example]
	if example == nil {
		t.Fatalf("%s has no example %s", operation, o.example)
	}
	body, err := json.Marshal(example.Value.Value)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.NewReplacer(exampleIssuer, issuer, exampleKey, key).Replace(string(body))
	if diff := cmp.Diff(answer{body: words}.json(t), got); diff != "" {
		t.Errorf("%s: example %s: %s", operation, o.example, diff)
	}
}

// documentedAs returns the operation that an answer belongs to, "elsewhere" for
// those to a path or a method that is not in the file.
func documentedAs(t *testing.T, operation string, status int) (string, *openapi3.Response) {
	t.Helper()
	method, target, _ := strings.Cut(operation, " ")
	req, err := http.NewRequestWithContext(t.Context(), method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := inTheContract(t, req)
	if d.elsewhere {
		operation = "elsewhere"
	}
	response := d.response(status)
	if response == nil {
		t.Fatalf("%s %d is not in openapi.yaml", operation, status)
	}
	return operation, response
}

// The server gives every answer of openapi.yaml, and the errors in the words of
// the examples.
func TestTheServerGivesEveryAnswerOfTheContract(t *testing.T) {
	wanted := &record{has: map[string]bool{}}
	operations(t, func(method, path string, op *openapi3.Operation) {
		for code, response := range op.Responses.Map() {
			var status int
			if _, err := fmt.Sscan(code, &status); err != nil {
				t.Fatal(err)
			}
			wanted.addDocumented(method+" "+path, status, response.Value)
		}
	})
	for operation, status := range map[string]int{"GET /nowhere": 404, "PUT /": 405} {
		_, response := documentedAs(t, operation, status)
		wanted.addDocumented("elsewhere", status, response)
	}

	seen := &record{has: map[string]bool{}}
	t.Run("group", func(t *testing.T) {
		sound := start(t, setup{})
		sound.register(t)
		for _, o := range occasions() {
			for _, q := range o.requests {
				if o.world == nil {
					seen.addAnswer(t, o, q, "", sound.send(t, q.method, q.path, q.body, q.headers...))
					continue
				}
				t.Run(fmt.Sprint(o.status, " ", o.example, " ", q.operation()), func(t *testing.T) {
					t.Parallel()
					r := o.world(t)
					got := r.send(t, q.method, q.path, q.body, q.headers...)
					key := ""
					if ring := r.ring.Keys(); len(ring) > 0 {
						key = ring[0].ID()
					}
					seen.addAnswer(t, o, q, key, got)
				})
			}
		}
	})
	for _, q := range asks("", "") {
		synctest.Test(t, func(t *testing.T) {
			m := newInMemory(t, false)
			m.okta.SetFault(fakeokta.Fault{Delay: time.Minute})
			seen.addAnswer(t, occasion{status: 504, example: "slow"}, q, "", m.send(t, q.method, q.path, q.body, q.headers...))
		})
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(wanted.has)), slices.Sorted(maps.Keys(seen.has))); diff != "" {
		t.Errorf("openapi.yaml (-) and the server (+): %s", diff)
	}
}

// Each code that openapi.yaml lists belongs to a status.
func TestEveryErrorCodeHasAStatus(t *testing.T) {
	doc, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	for _, response := range doc.Components.Responses {
		for _, body := range response.Value.Content {
			for _, code := range codesOf(body, "error") {
				codes[code] = true
			}
		}
	}
	var listed []string
	for _, code := range doc.Components.Schemas["Error"].Value.Properties["error"].Value.Enum {
		listed = append(listed, code.(string))
	}
	slices.Sort(listed)
	if diff := cmp.Diff(listed, slices.Sorted(maps.Keys(codes))); diff != "" {
		t.Error(diff)
	}
}
