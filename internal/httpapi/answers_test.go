package httpapi_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
)

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

// passedOn stands for the status of an answer that an upstream gave.
const passedOn = 0

func (r *record) addDocumented(operation string, status int, response *openapi3.Response) {
	r.add(operation, status, "", "")
	if status == passedOn {
		return
	}
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
	if body.Schema == nil { // it is an upstream's
		return nil
	}
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
	operation, status, response := documentedAs(t, q.operation(), a.status)
	r.add(operation, status, "", "")
	if status == passedOn {
		return
	}
	for name := range response.Headers {
		if a.header.Get(name) != "" {
			r.add(operation, a.status, "header", name)
		}
	}
	if q.method == "HEAD" {
		return
	}
	mediaType, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	if mediaType != "" {
		r.add(operation, a.status, "type", mediaType)
	}
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
	words := strings.NewReplacer(exampleIssuer, issuer, exampleHost, host, exampleOther, foreignIssuer, exampleKey, key).Replace(string(body))
	if diff := cmp.Diff(answer{body: words}.json(t), got); diff != "" {
		t.Errorf("%s: example %s: %s", operation, o.example, diff)
	}
}

// documentedAs returns the operation that an answer belongs to, "elsewhere" for
// those to a path or a method that is not in the file; and what is said of its status,
// or of those that are passed on.
func documentedAs(t *testing.T, operation string, status int) (string, int, *openapi3.Response) {
	t.Helper()
	method, target, _ := strings.Cut(operation, " ")
	req, err := http.NewRequestWithContext(t.Context(), method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := inTheContract(t, req)
	operation = "elsewhere"
	if !d.elsewhere {
		operation = method + " " + d.input.Route.Path
	}
	response, isPassedOn := d.response(status)
	if response == nil {
		t.Fatalf("%s %d is not in openapi.yaml", operation, status)
	}
	if isPassedOn {
		status = passedOn
	}
	return operation, status, response
}

// The server gives every answer of openapi.yaml, and the errors in the words of
// the examples.
func TestTheServerGivesEveryAnswerOfTheContract(t *testing.T) {
	wanted := &record{has: map[string]bool{}}
	operations(t, func(method, path string, op *openapi3.Operation) {
		for code, response := range op.Responses.Map() {
			status := passedOn
			if code != "default" {
				var err error
				if status, err = strconv.Atoi(code); err != nil {
					t.Fatal(err)
				}
			}
			wanted.addDocumented(method+" "+path, status, response.Value)
		}
	})
	for operation, status := range map[string]int{"GET /nowhere": 404, "PUT /": 405} {
		_, _, response := documentedAs(t, operation, status)
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
				inItsWorld := func(t *testing.T) {
					r := o.world(t)
					got := r.send(t, q.method, q.path, q.body, q.headers...)
					key := ""
					if ring := r.ring.Keys(); len(ring) > 0 {
						key = ring[0].ID()
					}
					seen.addAnswer(t, o, q, key, got)
				}
				t.Run(fmt.Sprint(o.status, " ", o.example, " ", q.operation()), func(t *testing.T) {
					t.Parallel()
					if o.inBubble {
						synctest.Test(t, inItsWorld)
						return
					}
					inItsWorld(t)
				})
			}
		}
	})
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
