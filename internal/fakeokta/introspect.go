package fakeokta

import (
	"net/http"
	"strings"
)

// introspect tells a client about one of its own tokens (RFC 7662). Of any other token it says what it says of a dead
// one, so that nobody can learn anything.
func (o *Okta) introspect(c *call) answer {
	g, alive, refused := o.presented(c)
	if refused != nil {
		return o.refuse(refused)
	}
	if !alive {
		return jsonAnswer(http.StatusOK, map[string]any{"active": false})
	}
	members := map[string]any{
		"active":     true,
		"token_type": g.tokenType(),
		"scope":      strings.Join(g.scopes, " "),
		"client_id":  g.client,
		"sub":        g.client,
		"iss":        c.server.issuer,
		"aud":        c.server.audience,
		"jti":        g.jti,
		"iat":        g.issued.Unix(),
		"exp":        g.expires.Unix(),
	}
	if g.jkt != "" {
		members["cnf"] = confirmation(g.jkt)
	}
	return jsonAnswer(http.StatusOK, members)
}

// revoke ends one of the client's own tokens (RFC 7009). It answers 200 as well where there is nothing to end.
func (o *Okta) revoke(c *call) answer {
	_, alive, refused := o.presented(c)
	if refused != nil {
		return o.refuse(refused)
	}
	if alive {
		c.server.tokens.revoke(c.form.Get("token"))
		o.tally.note(func(n *Counters) { n.TokensRevoked++ })
	}
	return emptyAnswer(http.StatusOK)
}

// presented is the token that the form names, and whether it is a living one of the client that asks.
func (o *Okta) presented(c *call) (grant, bool, *refusal) {
	if c.refused != nil {
		return grant{}, false, c.refused
	}
	token := c.form.Get("token")
	if token == "" {
		return grant{}, false, badRequest("invalid_request", "The token parameter is missing.")
	}
	g, alive := c.server.tokens.find(token, o.now())
	return g, alive && g.client == c.client.id, nil
}
