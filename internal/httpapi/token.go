package httpapi

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"okta-token-broker/api"
	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/oauth"
)

// maxClient bounds the name of a client, in bytes.
const maxClient = 256

// getToken answers GET /token.
func (a *API) getToken(w http.ResponseWriter, r *http.Request) {
	query, err := parameters(r.URL.RawQuery)
	if err == nil {
		err = onlyKnown(query, "client", "scope", "min_ttl")
	}
	var ttl time.Duration
	if err == nil {
		ttl, err = minTTL(query)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.token(w, r, broker.TokenRequest{Client: query.Get("client"), Scope: query.Get("scope"), Want: broker.Want{MinTTL: ttl}})
}

// deleteToken answers DELETE /token: the next caller gets another token.
func (a *API) deleteToken(w http.ResponseWriter, r *http.Request) {
	query, err := parameters(r.URL.RawQuery)
	if err == nil {
		err = onlyKnown(query, "client", "scope")
	}
	if err == nil {
		err = checkClient(query.Get("client"))
	}
	if err == nil {
		err = a.broker.Discard(r.Context(), Who(r), broker.TokenRequest{Client: query.Get("client"), Scope: query.Get("scope")})
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	noStore(w)
	w.WriteHeader(http.StatusNoContent)
}

// postToken is a token endpoint by RFC 6749 section 4.4, so that any OAuth
// client library can use the broker as its authorization server.
func (a *API) postToken(w http.ResponseWriter, r *http.Request) {
	req, err := readTokenForm(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.token(w, r, req)
}

// readForm reads the body of a POST that is a form.
func readForm(r *http.Request) (url.Values, error) {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/x-www-form-urlencoded" {
		return nil, &requestError{http.StatusUnsupportedMediaType, "the body must be application/x-www-form-urlencoded"}
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, unreadable(err)
	}
	form, err := parameters(string(body))
	if err != nil {
		return nil, err
	}
	query, err := parameters(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	return form, notInQuery(query, form)
}

func readTokenForm(r *http.Request) (broker.TokenRequest, error) {
	form, err := readForm(r)
	if err != nil {
		return broker.TokenRequest{}, err
	}
	switch form.Get("grant_type") {
	case "client_credentials":
	case "":
		return broker.TokenRequest{}, oauth.Fail(oauth.InvalidRequest, "grant_type is missing")
	default:
		return broker.TokenRequest{}, oauth.Fail(oauth.UnsupportedGrant, "grant_type must be client_credentials")
	}
	ttl, err := minTTL(form)
	if err != nil {
		return broker.TokenRequest{}, err
	}
	client, err := formOrBasicClientID(r, form)
	return broker.TokenRequest{Client: client, Scope: form.Get("scope"), Want: broker.Want{MinTTL: ttl}}, err
}

// minTTL reads how many seconds a token must be good for.
func minTTL(values url.Values) (time.Duration, error) {
	if values.Get("min_ttl") == "" { // RFC 6749 section 3.2: as if it were left out
		return 0, nil
	}
	seconds, err := strconv.ParseUint(values.Get("min_ttl"), 10, 32)
	if most := uint64(24 * time.Hour / time.Second); err != nil || seconds < 1 || seconds > most {
		return 0, oauth.Fail(oauth.InvalidRequest, fmt.Sprintf("min_ttl must be a whole number of seconds from 1 to %d", most))
	}
	return time.Duration(seconds) * time.Second, nil
}

// noCache reports whether the caller wants a token that is fetched now (RFC 9111
// section 5.2.1.4).
func noCache(r *http.Request) bool {
	for _, line := range r.Header.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(directive), "no-cache") {
				return true
			}
		}
	}
	return false
}

// token answers with a token, as JSON or as text.
func (a *API) token(w http.ResponseWriter, r *http.Request, req broker.TokenRequest) {
	err := refuseProof(r)
	if err == nil {
		err = checkClient(req.Client)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	req.Want.Fresh = noCache(r)
	answer, err := a.freshToken(r, req)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	noStore(w)
	if wantsText(r) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, answer.AccessToken+"\n")
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

// refuseProof refuses a caller's own DPoP proof: the token would be bound to another
// key than the caller expects.
func refuseProof(r *http.Request) error {
	if len(r.Header.Values("DPoP")) == 0 {
		return nil
	}
	return oauth.Fail(oauth.InvalidRequest, "the broker binds tokens to a key of its own, never to the caller's: leave out the DPoP header; "+
		"POST /dpop makes the proofs for your calls, and /proxy/ makes the calls")
}

// checkClient refuses a name that an error could not repeat.
func checkClient(name string) error {
	if len(name) > maxClient {
		return oauth.Fail(oauth.UnknownClient, "no client has so long a name")
	}
	return nil
}

// freshToken asks again, once, when the token ended between the look into the
// cache and the answer.
func (a *API) freshToken(r *http.Request, req broker.TokenRequest) (answer api.Token, err error) {
	for range 2 {
		token, err := a.broker.Token(r.Context(), Who(r), req)
		if err != nil {
			return api.Token{}, err
		}
		if answer, err := TokenAnswer(token, time.Now()); err == nil {
			return answer, nil
		}
	}
	return api.Token{}, errEnded()
}

// TokenAnswer puts a token into its wire form. It fails when the token ended in
// the meantime: an expires_in of 0 is "for ever" to some clients.
func TokenAnswer(token oauth.Token, now time.Time) (api.Token, error) {
	left := token.Left(now)
	if left == 0 {
		return api.Token{}, errEnded()
	}
	answer := api.Token{
		AccessToken: token.Access.Reveal(),
		TokenType:   token.Type,
		ExpiresIn:   int64(left / time.Second),
		Scope:       string(token.Scopes),
	}
	if token.JKT != "" {
		answer.Confirmation = &api.Confirmation{JKT: token.JKT}
	}
	return answer, nil
}

func errEnded() error {
	return &oauth.Error{Class: oauth.Unavailable, Description: "the token ended before it could be answered", RetryAfter: time.Second}
}

// parameters reads a query or a form: each parameter once (RFC 6749 section
// 3.2), in UTF-8, without control characters.
func parameters(encoded string) (url.Values, error) {
	values, err := url.ParseQuery(encoded)
	if err != nil {
		return nil, oauth.Fail(oauth.InvalidRequest, "the parameters are not form-encoded")
	}
	for name, value := range values {
		// RFC 8707 and RFC 8693 let these two stand more than once.
		if len(value) > 1 && name != "resource" && name != "audience" {
			return nil, oauth.Fail(oauth.InvalidRequest, "a parameter stands twice")
		}
		if text := name + value[0]; !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			return nil, oauth.Fail(oauth.InvalidRequest, "a parameter has control characters or is not UTF-8")
		}
	}
	return values, nil
}

// onlyKnown refuses other parameters: a mistyped scope would answer a wider
// token than was meant.
func onlyKnown(values url.Values, known ...string) error {
	for name := range values {
		if !slices.Contains(known, name) {
			return oauth.Fail(oauth.InvalidRequest, fmt.Sprintf("unknown parameter %.40q: %s are known", name, strings.Join(known, " and ")))
		}
	}
	return nil
}

// notInQuery refuses what was meant for another place, for the same reason: a
// token endpoint ignores parameters that it does not know (RFC 6749 section
// 3.2), and GET /token's name for the client is one of those here.
func notInQuery(query, form url.Values) error {
	for _, name := range []string{"client", "client_id", "client_secret", "scope", "grant_type", "min_ttl", "token", "token_type_hint"} {
		if query.Has(name) {
			return oauth.Fail(oauth.InvalidRequest, name+" belongs in the body of a POST")
		}
	}
	if form.Has("client") {
		return oauth.Fail(oauth.InvalidRequest, "in a form the client is named by client_id")
	}
	return nil
}

// formOrBasicClientID finds the client in the form or in Basic (RFC 6749 section 2.3.1,
// which encodes both parts). While no callers are configured the secret has no
// meaning.
func formOrBasicClientID(r *http.Request, form url.Values) (string, error) {
	inForm := form.Get("client_id")
	credentials := r.Header.Values("Authorization")
	if len(credentials) == 0 {
		return inForm, nil
	}
	// What cannot be read may name another client than the default one.
	encoded, _, ok := r.BasicAuth()
	if !ok || len(credentials) > 1 {
		return "", oauth.Fail(oauth.UnknownClient, "Authorization must be one header with Basic credentials, or be left out")
	}
	inHeader, err := url.QueryUnescape(encoded)
	if err != nil || !utf8.ValidString(inHeader) || strings.ContainsFunc(inHeader, unicode.IsControl) {
		return "", oauth.Fail(oauth.InvalidRequest, "the user name of Basic is not form-encoded")
	}
	if inForm != "" && inHeader != "" && inForm != inHeader {
		return "", oauth.Fail(oauth.InvalidRequest, "client_id and the user name of Basic name different clients")
	}
	if inHeader != "" {
		return inHeader, nil
	}
	return inForm, nil
}

// wantsText reports whether Accept asks for text and not for JSON.
func wantsText(r *http.Request) bool {
	text := false
	for _, line := range r.Header.Values("Accept") {
		for accept := range strings.SplitSeq(line, ",") {
			switch mediaType, params, err := mime.ParseMediaType(accept); {
			case err != nil || unwanted(params["q"]):
			case mediaType == "application/json":
				return false
			case mediaType == "text/plain":
				text = true
			}
		}
	}
	return text
}

// unwanted reports whether a quality is 0 (RFC 9110 section 12.4.2).
func unwanted(quality string) bool {
	return quality != "" && strings.Trim(quality, "0.") == ""
}
