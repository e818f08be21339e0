package fakeokta

import (
	"crypto/rand"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	grantType = "client_credentials"
	maxBody   = 64 << 10 // bytes of a token request
	maxTokens = 100_000  // access tokens remembered; the oldest goes first
)

// A refusal is why no token is given: an OAuth error (RFC 6749, section 5.2).
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

// token is the token endpoint, around what it does: the request counts, and a fault may delay or replace the answer.
func (o *Okta) token(r *http.Request) (answer, error) {
	o.tally.enter()
	defer o.tally.leave()
	fault := o.nextFault()
	form, refused := readForm(r) // first of all: only then does net/http notice that a client goes

	if !fault.After {
		if err := pause(r.Context(), fault.Delay); err != nil {
			return answer{}, err
		}
	}
	var a answer
	if fault.replacesWork() {
		// Every request consumes its jti, so that a retry after a fault does not get by with the old one.
		_, _ = o.authenticate(r.Header, form)
	} else {
		a = o.exchange(r.Header, form, refused)
	}
	if fault.After {
		if err := pause(r.Context(), fault.Delay); err != nil {
			return answer{}, err
		}
	}
	return fault.apply(a)
}

// exchange turns a token request, or what is wrong with its form, into the answer.
func (o *Okta) exchange(header http.Header, form url.Values, refused *refusal) answer {
	var scopes []string
	if refused == nil {
		scopes, refused = o.authorize(header, form)
	}
	if refused != nil {
		o.tally.note(func(c *Counters) { c.Refused[refused.code]++ })
		return jsonAnswer(refused.status, map[string]any{"error": refused.code, "error_description": refused.words})
	}
	token := rand.Text()
	o.tokens.add(token, grant{scopes, o.now().Add(o.life)})
	o.tally.note(func(c *Counters) { c.TokensIssued++ })
	return jsonAnswer(http.StatusOK, map[string]any{
		"token_type":   "Bearer",
		"expires_in":   int64(o.life / time.Second),
		"access_token": token,
		"scope":        strings.Join(scopes, " "),
	})
}

// authorize tells which scopes the client gets. It authenticates before it looks at anything else, so that every request
// consumes its jti.
func (o *Okta) authorize(header http.Header, form url.Values) ([]string, *refusal) {
	a, refused := o.authenticate(header, form)
	if form.Get("grant_type") != grantType {
		return nil, badRequest("unsupported_grant_type",
			"The authorization grant type is not supported by the authorization server.")
	}
	if refused != nil {
		return nil, refused
	}
	return a.grant(form.Get("scope"))
}

// grant is the part of the requested scopes that the app was granted: Okta answers with fewer rather than refuse, as
// long as there is one.
func (a *app) grant(scope string) ([]string, *refusal) {
	requested := strings.Fields(scope)
	if len(requested) == 0 {
		return nil, badRequest("invalid_scope", "No scopes were requested.")
	}
	var granted []string
	for _, s := range requested {
		switch {
		case s == "openid":
			return nil, badRequest("invalid_scope", "Cannot request 'openid' scopes using client credentials.")
		case !strings.HasPrefix(s, "okta."):
			return nil, badRequest("invalid_scope", "Custom scopes are not allowed for this request.")
		case slices.Contains(a.granted, s) && !slices.Contains(granted, s):
			granted = append(granted, s)
		}
	}
	if len(granted) == 0 {
		return nil, badRequest("consent_required", "You are not allowed any of the requested scopes.")
	}
	return granted, nil
}

// readForm reads a token request (RFC 6749, section 3.2): parameters in the body alone, and none of them twice.
func readForm(r *http.Request) (url.Values, *refusal) {
	invalid := func(words string) (url.Values, *refusal) { return nil, badRequest("invalid_request", words) }

	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return invalid("The request must be of content type application/x-www-form-urlencoded.")
	}
	if r.URL.RawQuery != "" {
		return invalid("The parameters must be sent in the request body.")
	}
	if r.Body == nil { // where a client's own request comes through Transport
		return url.Values{}, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return invalid("The request body could not be read.")
	}
	if len(body) > maxBody {
		return nil, &refusal{http.StatusRequestEntityTooLarge, "invalid_request", "The request body is too large."}
	}
	form, err := url.ParseQuery(string(body))
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

// A grant is what an access token stands for.
type grant struct {
	scopes  []string
	expires time.Time
}

// tokenStore remembers the access tokens that were issued. All of one server live equally long, so the oldest is also the
// first to expire.
type tokenStore struct {
	mu     sync.Mutex
	grants map[string]grant
	order  []string // oldest first
}

func (s *tokenStore) add(token string, g grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grants == nil {
		s.grants = map[string]grant{}
	}
	if len(s.order) == maxTokens {
		delete(s.grants, s.order[0])
		s.order = s.order[1:]
	}
	s.grants[token] = g
	s.order = append(s.order, token)
}

// find returns the grant of a token, and whether it is alive.
func (s *tokenStore) find(token string, now time.Time) (grant, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, there := s.grants[token]
	return g, there && now.Before(g.expires)
}
