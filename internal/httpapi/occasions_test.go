package httpapi_test

import (
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"okta-token-broker/api"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
)

// occasion makes the server answer a status of openapi.yaml, and an example of
// its body word by word.
type occasion struct {
	status   int
	example  string                    // "" where the words differ each time
	world    func(*testing.T) *running // nil: a broker that works
	inBubble bool                      // the world is made in one of synctest
	requests []request
}

type request struct {
	method, path, body string
	headers            []string
}

func (r request) operation() string {
	path, _, _ := strings.Cut(r.path, "?")
	return r.method + " " + path
}

func get(path string, headers ...string) []request {
	return []request{{method: "GET", path: path, headers: headers}}
}

// posts is a form for both token endpoints.
func posts(query, body string, headers ...string) []request {
	headers = append([]string{form}, headers...)
	return []request{{"POST", "/token" + query, body, headers}, {"POST", "/oauth2/v1/token" + query, body, headers}}
}

// asks is a request for a token in all three ways.
func asks(query, body string, headers ...string) []request {
	return append(get("/token"+query, headers...), posts("", "grant_type=client_credentials"+body, headers...)...)
}

func drops(query string, headers ...string) []request {
	return []request{{"DELETE", "/token" + query, "", headers}}
}

func revokes(query, body string, headers ...string) []request {
	return []request{{"POST", "/revoke" + query, body, append([]string{form}, headers...)}}
}

func dpops(body string, headers ...string) []request {
	return []request{{"POST", "/dpop", body, headers}}
}

// calls makes a call with every method that openapi.yaml has but HEAD, of which it
// says nothing.
func calls(path string, headers ...string) (all []request) {
	for _, method := range []string{"DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT"} {
		all = append(all, request{method, "/proxy/" + path, "", headers})
	}
	return all
}

func signs(query, body string, headers ...string) []request {
	return []request{{"POST", "/" + query, body, headers}}
}

// everywhere is a request to each operation but POST /.
func everywhere(header string) []request {
	all := slices.Concat(asks("", "", header), drops("", header), revokes("", "token=x", header), dpops(toUsers+"}", header), calls("default/api/v1/users", header))
	all = append(all, get("/openapi.yaml", header)...)
	return slices.Concat(all, looksAt("/healthz", header), looksAt("/readyz", header), looksAt(ringDefault, header), looksAt(ringByName, header))
}

// toUsers is a call for POST /dpop, without its end.
const toUsers = `{"method":"GET","url":"` + issuer + `/api/v1/users"`

const (
	ringDefault = "/.well-known/jwks.json"
	ringByName  = "/keys/default/jwks.json"
)

// looksAt asks for a page, and for its head alone.
func looksAt(path string, headers ...string) []request {
	return []request{{"GET", path, "", headers}, {"HEAD", path, "", headers}}
}

// faulty is a broker whose server misbehaves, whatever is asked for.
func faulty(fault fakeokta.Fault, registered bool) func(*testing.T) *running {
	return func(t *testing.T) *running {
		r := start(t, setup{})
		if registered {
			r.register(t)
		}
		fault := fault
		fault.Header = http.Header{"X-Okta-Request-Id": {exampleRequest}}
		r.okta.SetFault(fault)
		r.okta.SetFaultAt(fakeokta.Revoke, fault)
		return r
	}
}

// limitedBefore is a broker that was told a moment ago to wait for 42 seconds.
func limitedBefore(t *testing.T) *running {
	r := newWell(t)
	r.okta.SetFault(fakeokta.Fault{
		Status: 429, Body: oauthError("E0000047", "API call exceeded rate limit due to too many requests."),
		Header: http.Header{"X-Okta-Request-Id": {exampleRequest}, "Retry-After": {"42"}},
	})
	r.send(t, "GET", "/token", "")
	return r
}

// slow is a broker whose server does not answer in time.
func slow(t *testing.T) *running {
	r := newWell(t)
	r.okta.SetFault(fakeokta.Fault{Hang: true})
	r.okta.SetFaultAt(fakeokta.Revoke, fakeokta.Fault{Hang: true})
	return r
}

// aging is a broker with a token that is no new one, and a server that is down.
func aging(t *testing.T) *running {
	r := newWell(t)
	r.send(t, "GET", "/token", "")
	time.Sleep(20 * time.Minute)
	r.okta.SetFault(fakeokta.Fault{Reset: true})
	return r
}

// justFetched is a broker with a new token.
func justFetched(t *testing.T) *running {
	r := newWell(t)
	r.send(t, "GET", "/token", "")
	return r
}

// exhausted is a broker that has revoked as much as a client may at once.
func exhausted(t *testing.T) *running {
	r := newWell(t)
	for range 20 {
		r.send(t, "POST", "/revoke", "token=x", form)
	}
	return r
}

// foreign is a broker of a server that is not Okta.
func foreign(t *testing.T) *running {
	return newOrg(t, upstreamError{by: func(_ *testing.T, o *org) {
		o.server.Issuer, o.server.TokenEndpoint = foreignIssuer, endpoint
	}}).broker(t)
}

func oauthError(code, words string) string {
	return `{"error":"` + code + `","error_description":"` + words + `"}`
}

// unwritable is a broker whose key ring cannot be written.
func unwritable(err error) func(*testing.T) *running {
	return func(t *testing.T) *running {
		return start(t, setup{store: brokenStore{newFile(t), err}})
	}
}

// toUpstream is a broker whose calls go to this upstream.
func toUpstream(upstream http.RoundTripper) func(*testing.T) *running {
	return func(t *testing.T) *running {
		r := start(t, setup{upstream: upstream})
		r.register(t)
		return r
	}
}

// breaking is an upstream that ends every connection.
type breaking struct{}

func (breaking) RoundTrip(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }

func draining(t *testing.T) *running {
	r := start(t, setup{})
	r.api.Drain()
	return r
}

// elsewise is a broker whose only ring is not called default.
func elsewise(t *testing.T) *running {
	ring := newRing(t, keys.Config{Name: "corp"})
	acme := newApp(t, "default", issuer, clientID, scopes)
	r := &running{okta: acme.okta, ring: ring, api: parts{ring: ring, apps: []app{acme}}.assemble(t)}
	r.url = serve(t, r.api, "")
	return r
}

// awaiting is a broker with a key that somebody has to add to the app.
func awaiting(t *testing.T) *running {
	return start(t, setup{awaited: func() []api.AwaitedKey {
		return []api.AwaitedKey{{Ring: "default", Kid: "25c27275-6d6c-42b3-9960-414f1ffaff02", State: "next"}}
	}})
}

func occasions() []occasion {
	const ours = `{"client_id":"` + clientID + `","audience":"` + issuer + `/oauth2/v1/token"`
	const page = "Origin: http://evil.test"
	big := strings.Repeat("x", 16<<10+1)
	const nobody = "Authorization: Basic bm9ib2R5OnNlY3JldA=="
	const grant, token = "grant_type=client_credentials", "token=x"
	failed := func(status int, code, words string) fakeokta.Fault {
		return fakeokta.Fault{Status: status, Body: oauthError(code, words)}
	}
	page200 := fakeokta.Fault{Status: 200, Body: "<html>", ContentType: "text/html"}
	limited := failed(429, "E0000047", "API call exceeded rate limit due to too many requests.")
	asksAndRevokes := slices.Concat(asks("", ""), revokes("", token))
	const users = "default/api/v1/users"
	callsAndProofs := slices.Concat(dpops(toUsers+"}"), calls(users))
	all := slices.Concat(asksAndRevokes, callsAndProofs)
	return []occasion{
		{status: 200, requests: slices.Concat(asks("", ""), revokes("", token), signs("", ours+"}"), get("/openapi.yaml"))},
		{status: 200, requests: asks("", "", "Accept: text/plain")},
		{status: 200, requests: dpops(toUsers + "}")},
		{status: 200, world: toUpstream(agreeable{}), requests: append(calls(users), request{method: "HEAD", path: "/proxy/" + users})},
		{status: 200, example: "ok", requests: get("/healthz")},
		{status: 200, example: "ready", requests: get("/readyz")},
		{status: 200, example: "awaited", world: awaiting, requests: get("/readyz")},
		{status: 200, requests: []request{{method: "HEAD", path: "/healthz"}, {method: "HEAD", path: "/readyz"}}},
		{status: 200, requests: append(looksAt(ringDefault), looksAt(ringByName)...)},
		{status: 204, world: newWell, inBubble: true, requests: drops("")},
		{status: 503, example: "draining", world: draining, requests: get("/readyz")},
		{status: 503, world: draining, requests: []request{{method: "HEAD", path: "/readyz"}}},
		{status: 304, requests: append(looksAt(ringDefault, "If-None-Match: *"), looksAt(ringByName, "If-None-Match: *")...)},

		{status: 400, example: "unknownParameter", requests: get("/token?scopes=okta.users.read")},
		{status: 400, example: "unknownParameter", requests: drops("?min_ttl=60")},
		{status: 400, example: "twice", requests: slices.Concat(get("/token?scope=a&scope=b"), drops("?scope=a&scope=b"))},
		{status: 400, example: "malformedMinTTL", requests: asks("?min_ttl=0", "&min_ttl=0")},
		{status: 400, example: "longMinTTL", requests: asks("?min_ttl=2701", "&min_ttl=2701")},
		{status: 400, example: "tokenMissing", requests: revokes("", "token_type_hint=access_token")},
		{status: 400, example: "inTheQuery", requests: revokes("?token=x", token)},
		{status: 400, example: "notOkta", world: foreign, inBubble: true, requests: revokes("", token)},
		{status: 400, example: "grantMissing", requests: posts("", "scope=okta.users.read")},
		{status: 400, example: "otherGrant", requests: posts("", "grant_type=password")},
		{status: 400, example: "inTheQuery", requests: posts("?scope=okta.users.read", grant)},
		{status: 400, example: "unknownClient",
			requests: slices.Concat(asks("?client=nobody", "&client_id=nobody"), drops("?client=nobody"), revokes("", token+"&client_id=nobody"))},
		{status: 400, example: "widerScope",
			requests: append(asks("?scope=okta.users.manage", "&scope=okta.users.manage"), drops("?scope=okta.users.manage")...)},
		{status: 400, example: "scopeNotGranted", requests: asks("", ""),
			world: faulty(failed(400, "invalid_scope", "One or more scopes are not configured for the authorization server resource."), true)},
		{status: 400, example: "callersProof", requests: asks("", "", "DPoP: eyJ0eXAiOiJkcG9wK2p3dCJ9")},

		{status: 400, example: "notJSON", requests: dpops("method=GET")},
		{status: 400, example: "unknownMember", requests: dpops(toUsers + `,"scopes":"okta.users.read"}`)},
		{status: 400, example: "methodMissing", requests: dpops(`{"url":"x"}`)},
		{status: 400, example: "urlMissing", requests: dpops(`{"method":"GET"}`)},
		{status: 400, example: "method", requests: dpops(`{"method":"G T","url":"` + issuer + `/"}`)},
		{status: 400, example: "url", requests: dpops(`{"method":"GET","url":"` + issuer + `/a b"}`)},
		{status: 400, example: "nonce", requests: dpops(toUsers + `,"nonce":"a b"}`)},
		{status: 400, example: "dots", requests: append(dpops(`{"method":"GET","url":"`+issuer+`/a/../b"}`), calls("default/a/../b")...)},
		{status: 400, example: "unknownClient", requests: append(dpops(toUsers+`,"client":"nobody"}`), calls("nobody/x", nobody)...)},
		{status: 400, example: "widerScope", requests: dpops(toUsers + `,"scope":"okta.users.manage"}`)},
		{status: 400, example: "scopeNotGranted", requests: callsAndProofs,
			world: faulty(failed(400, "invalid_scope", "One or more scopes are not configured for the authorization server resource."), true)},
		{status: 400, example: "upgrade", requests: calls(users, "Upgrade: websocket")},
		{status: 400, example: "noResource", requests: calls("default/~orders/1")},
		{status: 401, example: "unknownClient", requests: dpops(toUsers+`,"client":"nobody"}`, nobody)},
		{status: 403, example: "elsewhere", requests: dpops(`{"method":"GET","url":"https://evil.test/"}`)},
		{status: 403, example: "oauth2", requests: append(dpops(`{"method":"POST","url":"`+issuer+`/oauth2/v1/token"}`), calls("default/oauth2/v1/token")...)},
		{status: 502, example: "upstreamBroke", world: toUpstream(breaking{}), requests: calls(users)},

		{status: 401, example: "unknownClient",
			requests: slices.Concat(asks("?client=nobody", "&client_id=nobody", nobody), drops("?client=nobody", nobody), revokes("", token, nobody))},
		{status: 403, example: "origin", requests: everywhere(page)},
		{status: 403, example: "fetchSite", requests: everywhere("Sec-Fetch-Site: cross-site")},
		{status: 403, example: "host", requests: everywhere("Host: evil.test")},
		{status: 404, example: "path", requests: get("/tokens")},
		{status: 404, example: "ring", world: elsewise, requests: append(looksAt(ringDefault), looksAt(ringByName)...)},
		{status: 405, example: "method", requests: []request{{method: "PATCH", path: "/token"}}},
		{status: 413, example: "tooLarge", requests: slices.Concat(posts("", big), revokes("", big), dpops(big))},
		{status: 415, example: "type", requests: []request{
			{method: "POST", path: "/token"}, {method: "POST", path: "/oauth2/v1/token"}, {method: "POST", path: "/revoke"},
		}},
		{status: 429, example: "tooSoon", world: justFetched, inBubble: true, requests: drops("")},
		{status: 429, example: "tooSoon", world: exhausted, inBubble: true, requests: revokes("", token)},
		{status: 500, example: "noKey", world: unwritable(keys.ErrReadOnly), requests: all},
		{status: 502, example: "keyNotRegistered", world: faulty(fakeokta.Fault{}, false), requests: all},
		{status: 502, example: "notAToken", world: faulty(page200, true), requests: append(asks("", ""), dpops(toUsers+"}")...)},
		{status: 502, example: "aPage", world: faulty(page200, true), requests: revokes("", token)},
		{status: 503, example: "limited", world: faulty(limited, true), requests: all},
		{status: 503, example: "limitedBefore", world: limitedBefore, inBubble: true, requests: all},
		{status: 503, example: "broken", world: faulty(fakeokta.Fault{Reset: true}, true), requests: all},
		{status: 503, example: "minTTL", world: aging, inBubble: true, requests: asks("?min_ttl=2700", "&min_ttl=2700")},
		{status: 504, example: "slow", world: slow, inBubble: true, requests: all},

		{status: 400, example: "notJSON", requests: signs("", "client_id=x")},
		{status: 400, example: "bothMissing", requests: signs("", "{}")},
		{status: 400, example: "clientMissing", requests: signs("", `{"audience":"x"}`)},
		{status: 400, example: "audienceMissing", requests: signs("", `{"client_id":"x"}`)},
		{status: 400, example: "notInteger", requests: signs("", ours+`,"valid_for":"600"}`)},
		{status: 400, example: "tooHigh", requests: signs("", ours+`,"valid_for":3601}`)},
		{status: 403, example: "origin", requests: signs("", ours+"}", page)},
		{status: 403, example: "client", requests: signs("", `{"client_id":"x","audience":"x"}`)},
		{status: 403, example: "audience", requests: signs("", `{"client_id":"`+clientID+`","audience":"x"}`)},
		{status: 413, example: "tooLarge", requests: signs("", big)},
		{status: 500, example: "readOnly", world: unwritable(keys.ErrReadOnly), requests: signs("?rotate=true", ours+"}")},
		{status: 500, example: "notWritten", world: unwritable(&fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS}), requests: signs("?rotate=true", ours+"}")},
		{status: 507, example: "noSpace", world: unwritable(syscall.ENOSPC), requests: signs("?rotate=true", ours+"}")},
	}
}
