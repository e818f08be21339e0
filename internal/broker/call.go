package broker

import (
	"cmp"
	"context"
	"log/slog"
	"net/url"
	"strings"

	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/oauth"
)

// Prover proves that a client holds the key which its tokens are bound to (RFC
// 9449).
type Prover interface {
	// Proof makes a proof, with a key and a time, a nonce where there is none, and the
	// path in the form that the server compares.
	Proof(ctx context.Context, proof dpop.Proof) (signed string, made dpop.Made, err error)
	// Learn takes up what the server of a URL says of a proof.
	Learn(url string, made dpop.Made, said dpop.Terms)
}

// CallRequest is a call to a resource server that a caller wants to make, or to have
// made.
type CallRequest struct {
	// Client and Scope are as in a TokenRequest.
	Client, Scope string
	// Method is as it is sent.
	Method string
	// URL is as it is sent. Query and fragment do not count.
	URL string
	// Nonce is what the resource server wants in the proof. Empty: the newest that is
	// known.
	Nonce string
}

// Credentials are what a call carries.
type Credentials struct {
	// Token goes into Authorization, under its type.
	Token oauth.Token
	// Proof goes into the DPoP header. Empty: there is none.
	Proof string

	made dpop.Made // Proof
}

// Authorize returns what a call has to carry: the client's token, and for one that
// is bound to a key a fresh proof. It refuses a URL that the client may not call.
func (b *Broker) Authorize(ctx context.Context, who caller.Caller, req CallRequest) (Credentials, error) {
	credentials, err := b.authorize(ctx, who, req)
	b.audit(ctx, "audit: call", who, err, slog.String("client", cmp.Or(req.Client, DefaultClient)), slog.String("scope", req.Scope),
		slog.String("method", req.Method), slog.String("url", audited(req.URL)))
	return credentials, err
}

// authorize works with one client throughout: a World that is swapped meanwhile may
// have another of that name, whose token is not for this one's URLs, nor its key for
// that one's tokens.
func (b *Broker) authorize(ctx context.Context, who caller.Caller, req CallRequest) (Credentials, error) {
	client, token, err := b.fetch(ctx, who, TokenRequest{Client: req.Client, Scope: req.Scope}, req.allowed)
	if err != nil {
		return Credentials{}, err
	}
	return client.credentials(ctx, req, token)
}

// allowed refuses a call that the client may not make, or of which there can be no
// proof, also where none is needed.
func (req CallRequest) allowed(client *Client) error {
	if err := checkMethod(req.Method); err != nil {
		return err
	}
	if err := client.mayCall(req.URL); err != nil {
		return err
	}
	if err := (dpop.Proof{Method: req.Method, URL: req.URL, Nonce: req.Nonce}).Check(); err != nil {
		return oauth.Fail(oauth.InvalidRequest, err.Error())
	}
	return nil
}

// audited is what the record has of a URL: what can hold a secret is left out.
func audited(raw string) string {
	raw = withoutQuery(raw)
	if !strings.Contains(raw, "@") {
		return raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "malformed"
	}
	u.User = nil
	return u.String()
}

func withoutQuery(raw string) string {
	if i := strings.IndexAny(raw, "?#"); i >= 0 {
		return raw[:i]
	}
	return raw
}

// credentials adds the proof that a token needs.
func (c *Client) credentials(ctx context.Context, req CallRequest, token oauth.Token) (Credentials, error) {
	if token.Type != oauth.DPoP {
		return Credentials{Token: token}, nil
	}
	proof := dpop.Proof{Method: req.Method, URL: req.URL, Nonce: req.Nonce, TokenHash: dpop.TokenHash(token.Access.Reveal())}
	signed, made, err := c.Prover.Proof(ctx, proof)
	switch {
	case err != nil && ctx.Err() != nil:
		return Credentials{}, ctx.Err()
	case err != nil:
		return Credentials{}, &oauth.Error{Class: oauth.Internal, Description: "the DPoP proof could not be signed; the broker's log has the reason", Err: err}
	}
	return Credentials{token, signed, made}, nil
}

// Target is where the calls of a client go.
type Target struct {
	// Client is its name in the configuration.
	Client string
	// URL is the base of all paths: the origin of the client's org, or a resource.
	URL string
	// AtOkta says that URL is at the origin of the Okta org that has the client's
	// authorization server, where nothing below /oauth2/ is called.
	AtOkta bool
}

// Target returns where a client's calls go: to its org, or to its resource of that
// name.
func (b *Broker) Target(who caller.Caller, client, resource string) (Target, error) {
	of, _, err := b.tokenKey(who, TokenRequest{Client: client})
	if err != nil {
		return Target{}, err
	}
	base, there := of.Resources[resource]
	switch {
	case there:
		return of.target(base), nil
	case resource != "":
		return Target{}, oauth.Fail(oauth.InvalidRequest, "no such resource is configured: see clients."+of.Name+".resources")
	case !of.Org:
		return Target{}, oauth.Fail(oauth.InvalidRequest, "the issuer of client "+of.Name+" is not an Okta org, so where calls go is not known: name one of its resources (clients."+of.Name+".resources) as ~NAME")
	}
	return of.target(of.OktaOrigin), nil
}

// Targets are all that Target returns for the client.
func (c *Client) Targets() []Target {
	var all []Target
	if c.Org {
		all = append(all, c.target(c.OktaOrigin))
	}
	for _, base := range c.Resources {
		all = append(all, c.target(base))
	}
	return all
}

func (c *Client) target(base string) Target {
	return Target{Client: c.Name, URL: base, AtOkta: c.OktaOrigin != "" && within(base, c.OktaOrigin)}
}

// checkMethod refuses the methods that are for proxies, and those whose answer is the
// request, with the token in it (RFC 9110 section 9.3).
func checkMethod(method string) error {
	switch strings.ToUpper(method) {
	case "CONNECT", "TRACE", "TRACK":
		return oauth.Fail(oauth.InvalidRequest, "the method is not called for anybody")
	}
	return nil
}

// mayCall refuses a URL that is neither at the client's org, outside /oauth2/, nor
// below one of its resources.
func (c *Client) mayCall(target string) error {
	origin, path := cutOrigin(withoutQuery(target))
	for _, allowed := range c.Targets() {
		if within(origin+path, allowed.URL) {
			return CheckPath(path, allowed.AtOkta)
		}
	}
	return oauth.Fail(oauth.AccessDenied, "client "+c.Name+" may call its org (where its issuer is one) and what clients."+c.Name+".resources lists, and no other URL")
}

// cutOrigin cuts a URL behind its scheme and host, and writes these in lower case and
// without the port that the scheme has anyway, as the bases are written (RFC 3986 section
// 6.2). The path stays.
func cutOrigin(raw string) (origin, path string) {
	scheme, rest, _ := strings.Cut(raw, "://")
	host, path := CutSegment(rest)
	scheme, host = strings.ToLower(scheme), strings.ToLower(host)
	switch scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return scheme + "://" + host, path
}

// within reports whether a URL is a base or below it. A base has no slash at its end.
func within(target, base string) bool {
	rest, is := strings.CutPrefix(target, base)
	return is && (rest == "" || rest[0] == '/')
}
