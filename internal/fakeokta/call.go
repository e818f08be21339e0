package fakeokta

import (
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	maxBody = 64 << 10 // bytes of a request
	maxUser = 4 << 20  // and of one that creates a user: more than a proxy would keep to send it again

	usersPath = "/api/v1/users"
	appsPath  = "/api/v1/apps/"
)

// Endpoint is a kind of endpoint, for faults, limits and counters. Those of all authorization servers are one kind.
type Endpoint string

// The endpoints. Those that take a client assertion are named after the last segment of their URL, because the audience
// that an assertion must have is made with the name.
const (
	Token      Endpoint = "token"
	Introspect Endpoint = "introspect"
	Revoke     Endpoint = "revoke"
	JWKS       Endpoint = "jwks"     // the keys of an authorization server
	Metadata   Endpoint = "metadata" // RFC 8414 and OpenID Connect discovery
	AppKeys    Endpoint = "appkeys"  // the API of an app's public keys
	Users      Endpoint = "users"    // the protected resource
)

// maxBody is how many bytes of a request the endpoint takes.
func (e Endpoint) maxBody() int64 {
	if e == Users {
		return maxUser
	}
	return maxBody
}

// takesAssertion tells whether clients authenticate to the endpoint (RFC 7523, section 2.2).
func (e Endpoint) takesAssertion() bool {
	return e == Token || e == Introspect || e == Revoke
}

// takesProof tells whether a DPoP proof (RFC 9449) means something to the endpoint.
func (e Endpoint) takesProof() bool {
	return e == Token || e == Users || e == AppKeys
}

// A call is a request on its way through the server.
type call struct {
	*http.Request
	endpoint Endpoint           // empty: what nobody serves
	server   *server            // whose endpoint it is; nil in the management API
	work     func(*call) answer // what the endpoint does
	app      string             // in the path of the key API: the app's id
	key      string             // and the key's
	user     string             // in the path of the protected resource: the user's id or login

	body    []byte
	bodyErr error
	now     time.Time // by the server's clock, as the fault has set it

	// At the endpoints that take a client assertion:
	form    url.Values
	client  *app
	refused *refusal // why client is nil

	// At the endpoints that take a DPoP proof:
	proof    *proof
	unproven *refusal // why proof is nil
	nonce    string   // for the answer's DPoP-Nonce; empty: none
}

// originOf is the scheme and host that the client called.
func (o *Okta) originOf(c *call) string {
	if o.origin != "" {
		return o.origin
	}
	host := c.Host
	if host == "" { // a client's own request, through Transport
		host = c.URL.Host
	}
	scheme, _, _ := strings.Cut(o.url, "://")
	return scheme + "://" + host
}

// read takes the body up, and the form where there should be one.
func (c *call) read() {
	if c.Body != nil { // as it is where a client's own request comes through Transport
		c.body, c.bodyErr = io.ReadAll(io.LimitReader(c.Body, c.endpoint.maxBody()+1))
	}
	if c.endpoint.takesAssertion() {
		c.form, c.refused = c.readForm()
	}
}

// bucket is what the call counts against: each authorization server has its own.
func (c *call) bucket() bucket {
	b := bucket{endpoint: c.endpoint}
	if c.server != nil {
		b.server = c.server.id
	}
	return b
}

// route finds who serves a request. Without anybody the call has no endpoint.
func (o *Okta) route(r *http.Request) (*call, bool) {
	c := &call{Request: r}
	switch {
	case r.URL.Path == usersPath || strings.HasPrefix(r.URL.Path, usersPath+"/"):
		o.routeUsers(c)
	case strings.HasPrefix(r.URL.Path, appsPath):
		o.routeAppKeys(c)
	default:
		o.routeServer(c)
	}
	return c, c.work != nil
}

func (o *Okta) routeServer(c *call) {
	s, rest := o.serverAt(c.URL.Path)
	if s == nil {
		return
	}
	c.server = s
	switch c.Method + " " + rest {
	case "POST /v1/token":
		c.endpoint, c.work = Token, o.token
	case "POST /v1/introspect":
		c.endpoint, c.work = Introspect, o.introspect
	case "POST /v1/revoke":
		c.endpoint, c.work = Revoke, o.revoke
	case "GET /v1/keys":
		c.endpoint, c.work = JWKS, func(*call) answer { return s.keys() }
	case "GET /.well-known/oauth-authorization-server", "GET /.well-known/openid-configuration":
		c.endpoint, c.work = Metadata, func(*call) answer { return s.metadata() }
	}
}

// serverAt splits a path into the authorization server and the part that is the same for all of them. A metadata
// document stands below the issuer, as on Okta, and where RFC 8414, section 3.1, wants it.
func (o *Okta) serverAt(path string) (*server, string) {
	parts := strings.Split(path, "/")[1:]
	switch {
	case len(parts) == 2 && parts[0] == ".well-known": // /.well-known/NAME
		return o.org, path
	case len(parts) == 3 && parts[0] == "oauth2" && parts[1] == "v1": // /oauth2/v1/token
		return o.org, "/v1/" + parts[2]
	case len(parts) == 4 && parts[0] == "oauth2": // /oauth2/ID/v1/token, /oauth2/ID/.well-known/NAME
		return o.server(parts[1]), "/" + parts[2] + "/" + parts[3]
	case len(parts) == 4 && parts[0] == ".well-known" && parts[2] == "oauth2": // /.well-known/NAME/oauth2/ID
		return o.server(parts[3]), "/.well-known/" + parts[1]
	}
	return nil, ""
}

// routeUsers serves /api/v1/users and, by id or login, the users below.
func (o *Okta) routeUsers(c *call) {
	c.user = strings.TrimPrefix(strings.TrimPrefix(c.URL.Path, usersPath), "/")
	var work func(*call) answer
	scope := usersRead
	switch {
	case c.Method == http.MethodGet && c.URL.Path == usersPath:
		work = o.listUsers
	case c.Method == http.MethodPost && c.URL.Path == usersPath:
		work, scope = o.createUser, usersManage
	case c.Method == http.MethodGet && c.user != "" && !strings.Contains(c.user, "/"):
		work = o.getUser
	default:
		return
	}
	c.endpoint, c.work = Users, func(c *call) answer { return o.serveUsers(c, scope, work) }
}

// routeAppKeys serves /api/v1/apps/{appId}/credentials/jwks and what is below.
func (o *Okta) routeAppKeys(c *call) {
	parts := strings.Split(strings.TrimPrefix(c.URL.Path, appsPath), "/")
	if len(parts) < 3 || parts[1] != "credentials" || parts[2] != "jwks" {
		return
	}
	route := c.Method
	if c.app = parts[0]; len(parts) > 3 {
		c.key = parts[3]
		route = strings.Join(slices.Concat([]string{c.Method, "{keyId}"}, parts[4:]), "/")
	}
	var work func(*call, *app) answer
	scope := appsManage
	switch route {
	case "GET":
		work, scope = o.listKeys, appsRead
	case "POST":
		work = o.addKey
	case "GET/{keyId}":
		work, scope = o.getKey, appsRead
	case "POST/{keyId}/lifecycle/activate":
		work = o.activateKey
	case "POST/{keyId}/lifecycle/deactivate":
		work = o.deactivateKey
	case "DELETE/{keyId}":
		work = o.deleteKey
	default:
		return
	}
	c.endpoint, c.work = AppKeys, func(c *call) answer { return o.manage(c, scope, work) }
}
