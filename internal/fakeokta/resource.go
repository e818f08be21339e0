package fakeokta

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// admit lets a call of the management API pass that carries a living token of the org server with that scope: as a
// Bearer (RFC 6750), or, where the token is bound, with a proof of its key (RFC 9449, section 7).
func (o *Okta) admit(c *call, scope string) (grant, *answer) {
	scheme, token := authorization(c.Header)
	g, alive := o.org.tokens.find(token, o.now())
	switch {
	case strings.EqualFold(scheme, "DPoP"):
		if refused := o.checkBinding(c, token, g, alive); refused != nil {
			return grant{}, o.challengeDPoP(refused)
		}
	case !alive || !strings.EqualFold(scheme, "Bearer"):
		a := challenge(apiError(http.StatusUnauthorized, "E0000011", "Invalid token provided"), "Bearer")
		return grant{}, &a
	case g.jkt != "": // or a thief needs no key (RFC 9449, section 7.2)
		return grant{}, o.challengeDPoP(invalidToken(
			"The access token is bound to a DPoP key, and must not be sent as a Bearer token."))
	}
	if !slices.Contains(g.scopes, scope) {
		a := challenge(forbidden(), fmt.Sprintf(`%s error="insufficient_scope", scope="%s"`, g.tokenType(), scope))
		return grant{}, &a
	}
	return g, nil
}

func invalidToken(words string) *refusal {
	return &refusal{http.StatusUnauthorized, "invalid_token", words}
}

func forbidden() answer {
	return apiError(http.StatusForbidden, "E0000006", "You do not have permission to perform the requested action")
}

// authorization is the scheme and the token of a request; both empty, which is nobody's, if there is not exactly one.
func authorization(h http.Header) (scheme, token string) {
	if len(h.Values("Authorization")) != 1 {
		return "", ""
	}
	scheme, token, _ = strings.Cut(h.Get("Authorization"), " ")
	return scheme, token
}

func challenge(a answer, words string) answer {
	a.header.Set("WWW-Authenticate", words)
	return a
}

// challengeDPoP refuses a call as Okta does: all that is to say stands in the challenge, and the body is empty.
func (o *Okta) challengeDPoP(r *refusal) *answer {
	o.tally.note(func(n *Counters) { n.ResourceRefused[r.code]++ })
	var algs []string
	for _, alg := range algorithms() {
		algs = append(algs, string(alg))
	}
	a := challenge(emptyAnswer(r.status), fmt.Sprintf(`DPoP algs="%s", realm="%s", error="%s", error_description="%s"`,
		strings.Join(algs, " "), o.url, r.code, r.words))
	return &a
}
