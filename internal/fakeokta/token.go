package fakeokta

import (
	"crypto/rand"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const grantType = "client_credentials"

// A refusal is why a client does not get what it asks for: an OAuth error (RFC 6749, section 5.2).
type refusal struct {
	status      int
	code, words string
}

func invalidClient(words string) *refusal {
	return &refusal{http.StatusUnauthorized, "invalid_client", words}
}

func badRequest(code, words string) *refusal {
	return &refusal{http.StatusBadRequest, code, words}
}

func (o *Okta) refuse(r *refusal) answer {
	o.tally.note(func(n *Counters) { n.Refused[r.code]++ })
	return oauthError(r.status, r.code, r.words)
}

// token is the token endpoint (RFC 6749, section 4.4).
func (o *Okta) token(c *call) answer {
	if refused := o.mayAsk(c); refused != nil {
		return o.refuse(refused)
	}
	jkt, refused := o.bind(c)
	if refused != nil {
		return o.refuse(refused)
	}
	scopes, refused := o.authorize(c)
	if refused != nil {
		return o.refuse(refused)
	}
	// Not at c.now: a fault's skew is for one request, and must not move the end of a token, which lasts.
	now := o.now()
	g := grant{
		client: c.client.id, scopes: scopes, jti: "AT." + rand.Text(), jkt: jkt,
		issued: now, expires: now.Add(c.server.life),
	}
	token := c.server.issue(g)
	o.tally.note(func(n *Counters) {
		n.TokensIssued++
		if jkt != "" {
			n.BoundTokens++
		}
	})
	return jsonAnswer(http.StatusOK, map[string]any{
		"token_type":   g.tokenType(),
		"expires_in":   int64(c.server.life / time.Second),
		"access_token": token,
		"scope":        strings.Join(scopes, " "),
	})
}

// mayAsk refuses a request whose form, grant type or client is wrong.
func (o *Okta) mayAsk(c *call) *refusal {
	if c.form != nil && c.form.Get("grant_type") != grantType {
		return badRequest("unsupported_grant_type",
			"The authorization grant type is not supported by the authorization server.")
	}
	return c.refused
}

// authorize tells which scopes the client gets.
func (o *Okta) authorize(c *call) ([]string, *refusal) {
	var requested []string
	for scope := range strings.FieldsSeq(c.form.Get("scope")) {
		if scope == "openid" {
			return nil, badRequest("invalid_scope", "Cannot request 'openid' scopes using client credentials.")
		}
		if !slices.Contains(requested, scope) {
			requested = append(requested, scope)
		}
	}
	switch {
	case len(requested) == 0:
		return nil, badRequest("invalid_scope", "No scopes were requested.")
	case c.server == o.org:
		return c.client.grant(requested)
	}
	return requested, c.server.allow(c.client.id, requested)
}

// grant is the part of the requested scopes that the app was granted on the org server: Okta answers with fewer rather
// than refuse, as long as there is one.
func (a *app) grant(requested []string) ([]string, *refusal) {
	var granted []string
	for _, scope := range requested {
		switch {
		case !strings.HasPrefix(scope, "okta."):
			return nil, badRequest("invalid_scope", "Custom scopes are not allowed for this request.")
		case slices.Contains(a.granted, scope):
			granted = append(granted, scope)
		}
	}
	if len(granted) == 0 {
		return nil, badRequest("consent_required", "You are not allowed any of the requested scopes.")
	}
	return granted, nil
}

// readForm reads a form that a client posts (RFC 6749, section 3.2): parameters in the body alone, and none of them
// twice. The form is nil where it is refused.
func (c *call) readForm() (url.Values, *refusal) {
	invalid := func(words string) (url.Values, *refusal) { return nil, badRequest("invalid_request", words) }

	mediaType, _, err := mime.ParseMediaType(c.Header.Get("Content-Type"))
	switch {
	case err != nil || mediaType != "application/x-www-form-urlencoded":
		return invalid("The request must be of content type application/x-www-form-urlencoded.")
	case c.URL.RawQuery != "":
		return invalid("The parameters must be sent in the request body.")
	case c.bodyErr != nil:
		return invalid("The request body could not be read.")
	case len(c.body) > maxBody:
		return nil, &refusal{http.StatusRequestEntityTooLarge, "invalid_request", "The request body is too large."}
	}
	form, err := url.ParseQuery(string(c.body))
	if err != nil {
		return invalid("The request body is not a form.")
	}
	for name, values := range form {
		if len(values) > 1 {
			return invalid(fmt.Sprintf("The parameter %q must not be sent more than once.", name))
		}
	}
	return form, nil
}
