package okta

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// Revoke revokes an access token at the server (RFC 7009). A token that the
// server does not know is no error, as section 2.2 has it. The error is an
// *oauth.Error: InvalidRequest where the server has no revocation endpoint that is
// known.
func (c *Client) Revoke(ctx context.Context, token string) error {
	if c.cfg.Server.endpoints.Revoke == "" {
		return oauth.Fail(oauth.InvalidRequest, "the revocation endpoint of "+c.cfg.Server.issuer+" is not known: it is not Okta")
	}
	return c.do(ctx, func(ctx context.Context, with variant) *failure { return c.revoke(ctx, with.key, token) })
}

// revoke makes one assertion, for the revocation endpoint, and one POST to it.
func (c *Client) revoke(ctx context.Context, key *keys.Key, token string) *failure {
	server := c.cfg.Server
	made, fail := c.sign(ctx, key, server.endpoints.Revoke)
	if fail != nil {
		return fail
	}
	form := url.Values{
		"token": {token}, "token_type_hint": {"access_token"},
		"client_assertion_type": {assertionTypeJWT}, "client_assertion": {made.jwt},
	}
	check := &checker{server: server, secrets: asSent(made.jwt, token)}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.endpoints.Revoke, strings.NewReader(form.Encode()))
	if err != nil {
		return &failure{kind: signing, err: err}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if fail := check.revoked(req); fail != nil {
		return made.heed(server, fail)
	}
	return nil
}

// revoked sends the request and reads the answer, whose status is all that counts
// (RFC 7009 section 2.2). But a page is from a proxy, and the token lives on.
func (c *checker) revoked(req *http.Request) *failure {
	resp, body, fail := c.send(req) //nolint:bodyclose // send has closed it
	if fail != nil {
		return fail
	}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case isError(resp.StatusCode):
		return c.refusal(resp, body)
	case resp.StatusCode != http.StatusOK:
		return c.unusable(resp, fmt.Errorf("the revocation endpoint answered status %d", resp.StatusCode))
	case mediaType == "text/html" && len(body) > 0:
		return c.unusable(resp, errors.New("the answer is an HTML page"))
	}
	return nil
}
