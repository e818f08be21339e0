package httpapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"okta-token-broker/api"
	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/oauth"
)

// dpop answers POST /dpop: what a call has to carry that the caller makes itself.
func (a *API) dpop(w http.ResponseWriter, r *http.Request) {
	req, err := readCallRequest(r)
	var with broker.Credentials
	if err == nil {
		with, err = a.broker.Authorize(r.Context(), Who(r), req)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	noStore(w)
	writeJSON(w, http.StatusOK, api.Credentials{Authorization: with.Token.Type + " " + with.Token.Access.Reveal(), DPoP: with.Proof})
}

// readCallRequest reads the body, as POST / does whatever Content-Type says.
func readCallRequest(r *http.Request) (broker.CallRequest, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return broker.CallRequest{}, unreadable(err)
	}
	var raw struct {
		Client string `json:"client"`
		Method string `json:"method"`
		URL    string `json:"url"`
		Nonce  string `json:"nonce"`
		Scope  string `json:"scope"`
	}
	// Duplicate names, invalid UTF-8 and trailing data do not pass.
	if err := json.Unmarshal(body, &raw, json.RejectUnknownMembers(true), json.WithUnmarshalers(json.UnmarshalFromFunc(refuseNull))); err != nil {
		return broker.CallRequest{}, malformed(err)
	}
	switch {
	case raw.Method == "":
		return broker.CallRequest{}, oauth.Fail(oauth.InvalidRequest, "method is missing")
	case raw.URL == "":
		return broker.CallRequest{}, oauth.Fail(oauth.InvalidRequest, "url is missing")
	}
	return broker.CallRequest{Client: raw.Client, Scope: raw.Scope, Method: raw.Method, URL: raw.URL, Nonce: raw.Nonce}, checkClient(raw.Client)
}

// refuseNull refuses null for a string: the library takes it for an empty one.
func refuseNull(value *jsontext.Decoder, _ *string) error {
	if value.PeekKind() == 'n' {
		return errNull
	}
	return errors.ErrUnsupported // the library goes on
}

var errNull = errors.New("null is no string")

// malformed says what is wrong with a JSON body, without its values.
func malformed(err error) error {
	const members = "client, method, url, nonce and scope"
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok && errors.Is(err, json.ErrUnknownName) {
		return oauth.Fail(oauth.InvalidRequest, fmt.Sprintf("unknown member %.40q: %s are known", semantic.JSONPointer.LastToken(), members))
	}
	return oauth.Fail(oauth.InvalidRequest, "the body must be one JSON object whose members are strings, each once: "+members)
}
