package fakeokta

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

const usersScope = "okta.users.read"

// users is the protected resource: GET /api/v1/users for bearers of a token with okta.users.read.
func (o *Okta) users(c *call) answer {
	if _, refused := o.admit(c, usersScope); refused != nil {
		return *refused
	}
	return jsonAnswer(http.StatusOK, o.people())
}

// admit lets a call of the management API pass that bears (RFC 6750) a living token of the org server with that scope.
func (o *Okta) admit(c *call, scope string) (grant, *answer) {
	g, alive := o.org.tokens.find(bearer(c.Header), o.now())
	if !alive {
		a := challenge(apiError(http.StatusUnauthorized, "E0000011", "Invalid token provided"), "Bearer")
		return grant{}, &a
	}
	if !slices.Contains(g.scopes, scope) {
		a := challenge(forbidden(), `Bearer error="insufficient_scope", scope="`+scope+`"`)
		return grant{}, &a
	}
	return g, nil
}

func forbidden() answer {
	return apiError(http.StatusForbidden, "E0000006", "You do not have permission to perform the requested action")
}

// bearer is the token that a request carries; empty, which is nobody's token, if there is not exactly one.
func bearer(h http.Header) string {
	if len(h.Values("Authorization")) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(h.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return token
}

func challenge(a answer, scheme string) answer {
	a.header.Set("WWW-Authenticate", scheme)
	return a
}

// people are the users of the org, in the shape of Okta's Users API.
func (o *Okta) people() []any {
	var list []any
	for i, name := range [][2]string{{"Ada", "Example"}, {"Ben", "Sample"}, {"Cleo", "Specimen"}, {"Dan", "Template"}} {
		id := fmt.Sprintf("00u1fakeokta%08d", i+1)
		login := strings.ToLower(name[0]+"."+name[1]) + "@example.com"
		list = append(list, map[string]any{
			"id":              id,
			"status":          "ACTIVE",
			"created":         "2024-01-15T09:30:00.000Z",
			"activated":       "2024-01-15T09:30:00.000Z",
			"statusChanged":   "2024-01-15T09:30:00.000Z",
			"lastLogin":       nil,
			"lastUpdated":     "2024-01-15T09:30:00.000Z",
			"passwordChanged": nil,
			"type":            map[string]any{"id": "oty1fakeokta00000001"},
			"profile": map[string]any{
				"firstName":   name[0],
				"lastName":    name[1],
				"mobilePhone": nil,
				"secondEmail": nil,
				"login":       login,
				"email":       login,
			},
			"credentials": map[string]any{"provider": map[string]any{"type": "OKTA", "name": "OKTA"}},
			"_links":      map[string]any{"self": map[string]any{"href": o.url + usersPath + "/" + id}},
		})
	}
	return list
}
