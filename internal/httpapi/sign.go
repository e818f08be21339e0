package httpapi

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"okta-token-broker/api"
	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/oauth"
)

// sign answers POST / in the words and shapes of the Flask server that this
// endpoint comes from.
func (a *API) sign(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		a.fail(w, r, unreadable(err))
		return
	}
	req, err := readSignRequest(body)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	req.Rotate = strings.EqualFold(r.URL.Query().Get("rotate"), "true")
	signed, err := a.broker.Sign(r.Context(), Who(r), req)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	noStore(w)
	writeJSON(w, http.StatusOK, SignedAnswer(signed))
}

// SignedAnswer puts a signed assertion into its wire form.
func SignedAnswer(signed broker.Signed) api.Signed {
	return api.Signed{JWK: signed.JWK, JWT: signed.JWT, PrivateKeyChanged: signed.KeyChanged}
}

// readSignRequest reads the body, with the Flask server's words for what is
// wrong with it.
func readSignRequest(body []byte) (broker.SignRequest, error) {
	// Values stay raw, because their types have errors of their own. Duplicate
	// names, invalid UTF-8 and trailing data do not pass.
	var raw struct {
		ClientID jsontext.Value `json:"client_id"`
		Audience jsontext.Value `json:"audience"`
		Kid      jsontext.Value `json:"kid"`
		ValidFor jsontext.Value `json:"valid_for"`
	}
	if err := json.Unmarshal(body, &raw); err != nil || !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return broker.SignRequest{}, oauth.Fail(oauth.InvalidRequest, "Invalid JSON request body. Check the integrity of the data.")
	}
	switch {
	case absent(raw.ClientID) && absent(raw.Audience):
		return broker.SignRequest{}, oauth.Fail(oauth.InvalidRequest, "audience and client_id are mandatory!")
	case absent(raw.ClientID):
		return broker.SignRequest{}, oauth.Fail(oauth.InvalidRequest, "client_id is mandatory!")
	case absent(raw.Audience):
		return broker.SignRequest{}, oauth.Fail(oauth.InvalidRequest, "audience is mandatory!")
	}

	var req broker.SignRequest
	var errs [4]error
	req.ClientID, errs[0] = field("client_id", raw.ClientID)
	req.Audience, errs[1] = field("audience", raw.Audience)
	if !absent(raw.Kid) && string(raw.Kid) != `""` {
		req.Kid, errs[2] = field("kid", raw.Kid)
	}
	req.ValidFor, errs[3] = validFor(raw.ValidFor)
	for _, err := range errs {
		if err != nil {
			return broker.SignRequest{}, err
		}
	}
	return req, nil
}

func absent(value jsontext.Value) bool { return value == nil || value.Kind() == 'n' }

// field reads a string.
func field(name string, value jsontext.Value) (string, error) {
	text, err := jsontext.AppendUnquote(nil, value)
	if err != nil {
		return "", oauth.Fail(oauth.InvalidRequest, name+" must be a string!")
	}
	return string(text), nil
}

// validFor reads a number of seconds. An integer is what Python's json reads as
// one: digits alone.
func validFor(value jsontext.Value) (time.Duration, error) {
	if absent(value) {
		return 0, nil
	}
	if strings.Trim(strings.TrimPrefix(string(value), "-"), "0123456789") != "" {
		return 0, oauth.Fail(oauth.InvalidRequest, "valid_for must be a integer!")
	}
	// Out of range it becomes the largest or the smallest number of 32 bits.
	seconds, _ := strconv.ParseInt(string(value), 10, 32)
	return time.Duration(seconds) * time.Second, nil
}
