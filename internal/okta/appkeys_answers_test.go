package okta

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"okta-token-broker/internal/oauth"
)

// An answer that Okta does not give changes nothing, and says nothing of what it
// holds.
func TestAppKeysOddAnswers(t *testing.T) {
	key := newKey(t, "")
	ours := func(change map[string]any) string { return `{"keys":[` + withMembers(t, key, change) + `]}` }
	const (
		noJSON = "the answer is not application/json"
		noList = "the answer is not a JSON list of an app's keys"
		noID   = "the list gives the key no id that can stand in a path"
	)
	id := func(id any) string { return ours(map[string]any{"id": id, "status": "INACTIVE"}) }
	tests := map[string]struct {
		odd   *http.Response
		words string
	}{
		"redirect":          {answer(307, "", "Location", "https://elsewhere.test/"), "the key API answered status 307"},
		"status is 999":     {answer(999, "[]"), "the key API answered status 999"},
		"page":              {answer(200, "<html>", "Content-Type", "text/html"), noJSON},
		"no type":           {answer(200, ours(nil), "Content-Type", ""), noJSON},
		"too much":          {answer(200, `[`+strings.Repeat(" ", maxKeyAnswer)+`]`), "the answer is over 512 KiB"},
		"nothing":           {answer(200, ""), noList},
		"no content":        {answer(204, ""), noList},
		"a key":             {answer(200, withMembers(t, key, nil)), noList},
		"no keys":           {answer(200, `{}`), noList},
		"null":              {answer(200, `null`), noList},
		"null keys":         {answer(200, `{"keys":null}`), noList},
		"two lists":         {answer(200, `{"keys":[],"jwks":{"keys":[]}}`), noList},
		"twice keys":        {answer(200, `{"keys":[],"keys":[]}`), noList},
		"twice a kid":       {answer(200, `[{"kid":"a","kid":"b"}]`), noList},
		"kid is a number":   {answer(200, `[{"kid":7}]`), noList},
		"trailing":          {answer(200, `[] []`), noList},
		"not UTF-8":         {answer(200, "[{\"kid\":\"\xff\"}]"), noList},
		"the keys are deep": {answer(200, `{"keys":{"keys":[]}}`), noList},
		"id is a path":      {answer(200, id("../../users")), noID},
		"id is a dot":       {answer(200, id("..")), noID},
		"no id":             {answer(200, id(nil)), noID},
		"id is the token":   {answer(200, id(strings.Split(theirToken, ".")[1])), noID},
		"id is very long":   {answer(200, id(strings.Repeat("p", 200))), noID},
		"id is of no host":  {answer(200, id("@elsewhere.test")), noID},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := scriptedKeys(t, func(*http.Request) (*http.Response, error) { return tt.odd, nil })
			e := explained(t, k.Register(t.Context(), key))
			want := issuer + " gave an answer that is not usable: " + tt.words + "; check clients.rotator.issuer, and that no proxy answers in its place"
			if e.Class != oauth.BadAnswer || e.Error() != want {
				t.Errorf("class %d: %s", e.Class, e)
			}
			if got := k.api.took(); got != "GET" {
				t.Errorf("called %q", got)
			}
			k.wantSafeWords(t, e)
		})
	}
	for name, odd := range map[string]string{
		"another key":   withMembers(t, newKey(t, ""), nil),
		"inactive":      withMembers(t, key, map[string]any{"status": "INACTIVE"}),
		"another kid":   withMembers(t, key, map[string]any{"kid": "another"}),
		"not JSON":      "done",
		"list of a key": "[" + withMembers(t, key, nil) + "]",
	} {
		t.Run("registered: "+name, func(t *testing.T) {
			k := scriptedKeys(t, func(r *http.Request) (*http.Response, error) {
				if r.Method == http.MethodGet {
					return answer(200, "[]"), nil
				}
				return answer(201, odd), nil
			})
			e := explained(t, k.Register(t.Context(), key))
			if e.Class != oauth.BadAnswer || !strings.Contains(e.Description, "does not show the key that was registered") {
				t.Errorf("class %d: %s", e.Class, e.Description)
			}
		})
	}
}

// An error that quotes the request does not bring the token back.
func TestAppKeysErrorsHoldNoToken(t *testing.T) {
	echo := func(r *http.Request) string { return r.Header.Get("Authorization") }
	for name, script := range map[string]func(*http.Request) (*http.Response, error){
		"summary": func(r *http.Request) (*http.Response, error) {
			return answer(400, `{"errorCode":"E0000001","errorSummary":"you sent `+echo(r)+`"}`, "X-Okta-Request-Id", echo(r)[10:]), nil
		},
		"cause": func(r *http.Request) (*http.Response, error) {
			return answer(403, `{"errorCode":"E0000006","errorSummary":"no","errorCauses":[{"errorSummary":"`+echo(r)+`"}]}`), nil
		},
		"code": func(r *http.Request) (*http.Response, error) {
			return answer(400, `{"errorCode":"`+echo(r)[10:]+`"}`), nil
		},
		"body": func(r *http.Request) (*http.Response, error) {
			resp := answer(200, "")
			resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("["), failing{errors.New(echo(r))}))
			return resp, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := scriptedKeys(t, script)
			e := explained(t, k.Register(t.Context(), newKey(t, "")))
			k.wantSafeWords(t, e)
		})
	}
}

// wantSafeWords checks that nobody who reads an error or the log learns the token,
// or gets a server's words unfiltered.
func (k *keyWorld) wantSafeWords(t *testing.T, e *oauth.Error) {
	t.Helper()
	wantNoRunOf(t, theirToken, k.rotator.texts(e))
	if e.Upstream != nil {
		wantOneLine(t, e)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
