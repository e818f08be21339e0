package fakeokta

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"maps"
	"net/http"
)

// An answer is a response before it is written: to a connection, or into a *http.Response.
type answer struct {
	status int
	header http.Header // replaces the headers that every answer has; a nil value removes one
	body   io.Reader
	cut    bool // the connection ends before the body does
	slow   bool // the body comes bit by bit, and must be sent so
}

// jsonAnswer makes an answer of v, which the callers in this package choose so that it can be encoded.
func jsonAnswer(status int, v any) answer {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(v); err != nil {
		body.WriteString(err.Error()) // a Rewrite put in what JSON cannot hold: let the test see it
	}
	return answer{status: status, header: http.Header{"Content-Type": {"application/json"}}, body: &body}
}

func emptyAnswer(status int) answer {
	return answer{status: status, header: http.Header{}, body: http.NoBody}
}

// oauthError is an error in the form of RFC 6749, section 5.2.
func oauthError(status int, code, words string) answer {
	return jsonAnswer(status, map[string]any{"error": code, "error_description": words})
}

// apiError is an error in the form of Okta's management API.
func apiError(status int, code, summary string, causes ...string) answer {
	list := []any{}
	for _, cause := range causes {
		list = append(list, map[string]any{"errorSummary": cause})
	}
	return jsonAnswer(status, map[string]any{
		"errorCode":    code,
		"errorSummary": summary,
		"errorLink":    code,
		"errorId":      "oae" + rand.Text(),
		"errorCauses":  list,
	})
}

// headers are those of a, on top of the ones that every answer has.
func (o *Okta) headers(a answer) http.Header {
	h := http.Header{
		"Date":              {o.now().UTC().Format(http.TimeFormat)},
		"Cache-Control":     {"no-cache, no-store"},
		"Pragma":            {"no-cache"},
		"X-Okta-Request-Id": {rand.Text()},
	}
	maps.Copy(h, a.header)
	return h
}
