package httpapi

import (
	"net/http"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/oauth"
)

// revoke answers POST /revoke (RFC 7009 section 2): 200 also for a token that
// nobody knows.
func (a *API) revoke(w http.ResponseWriter, r *http.Request) {
	req, err := readRevokeForm(r)
	if err == nil {
		err = a.broker.Revoke(r.Context(), Who(r), req)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	noStore(w)
	w.WriteHeader(http.StatusOK)
}

func readRevokeForm(r *http.Request) (broker.RevokeRequest, error) {
	form, err := readForm(r)
	if err != nil {
		return broker.RevokeRequest{}, err
	}
	if form.Get("token") == "" {
		return broker.RevokeRequest{}, oauth.Fail(oauth.InvalidRequest, "token is missing")
	}
	client, err := formOrBasicClientID(r, form)
	if err == nil {
		err = checkClient(client)
	}
	return broker.RevokeRequest{Token: form.Get("token"), Client: client}, err
}
