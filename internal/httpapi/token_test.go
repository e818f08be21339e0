package httpapi_test

import (
	"context"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"okta-token-broker/internal/fakeokta"
)

func TestGetToken(t *testing.T) {
	r := start(t, setup{})
	r.register(t)

	first := r.send(t, "GET", "/token", "")
	got := first.json(t)
	want := map[string]any{"access_token": got["access_token"], "token_type": "Bearer", "expires_in": got["expires_in"], "scope": scopes}
	if diff := cmp.Diff(want, got); diff != "" || first.status != 200 {
		t.Fatalf("status %d: %s", first.status, diff)
	}
	if left := got["expires_in"].(float64); left < 3590 || left > 3600 || left != float64(int(left)) {
		t.Errorf("expires_in %v", left)
	}
	for name, value := range map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache"} {
		if first.header.Get(name) != value {
			t.Errorf("%s: %q", name, first.header.Get(name))
		}
	}

	same := map[string]string{
		"again":                "/token",
		"by name":              "/token?client=default",
		"by client id":         "/token?client=" + clientID,
		"all scopes":           "/token?scope=okta.users.read+okta.groups.read",
		"all scopes, twice":    "/token?scope=okta.users.read%20okta.groups.read%20okta.users.read",
		"parameters left open": "/token?client=&scope=",
	}
	for name, path := range same {
		if again := r.send(t, "GET", path, "").json(t); again["access_token"] != got["access_token"] {
			t.Errorf("%s: another token", name)
		}
	}
	if n := r.okta.Counters().TokenRequests; n != 1 {
		t.Errorf("%d requests to Okta, want 1", n)
	}

	narrow := r.send(t, "GET", "/token?scope=okta.users.read", "").json(t)
	if narrow["scope"] != "okta.users.read" || narrow["access_token"] == got["access_token"] {
		t.Errorf("narrower scope: %v", narrow["scope"])
	}
}

func TestTokenAsText(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	token := r.send(t, "GET", "/token", "").json(t)["access_token"].(string)
	tests := []struct {
		accept string
		text   bool
	}{
		{"text/plain", true},
		{"TEXT/PLAIN; q=0.5", true},
		{"text/plain, */*;q=0.1", true},
		{"application/json", false},
		{"application/json, text/plain, */*", false}, // what axios sends
		{"*/*", false},
		{"text/plain;q=0", false},
		{"text/plain;q=0.000", false},
		{"text/plain;q=0.001", true},
		{"text/html", false},
		{"", false},
	}
	for _, tt := range tests {
		got := r.send(t, "GET", "/token", "", "Accept: "+tt.accept)
		if tt.text != (got.body == token+"\n") || tt.text != strings.HasPrefix(got.header.Get("Content-Type"), "text/plain") || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("Accept %q: %v %q", tt.accept, got.header, got.body)
		}
	}
	if bad := r.send(t, "GET", "/token?scope=x", "", "Accept: text/plain"); bad.json(t)["error"] != "invalid_scope" {
		t.Errorf("an error as text: %s", bad.body)
	}
}

func TestPostToken(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	token := r.send(t, "GET", "/token", "").json(t)["access_token"]
	const grant = "grant_type=client_credentials"
	tests := []struct {
		name, body string
		headers    []string
		scope      string
	}{
		{name: "no client", body: grant, scope: scopes},
		{name: "client in the form", body: grant + "&client_id=default", scope: scopes},
		{name: "Okta's id in the form", body: grant + "&client_id=" + clientID, scope: scopes},
		{name: "a secret is ignored", body: grant + "&client_id=default&client_secret=x", scope: scopes},
		{name: "Basic", body: grant, headers: []string{"Authorization: Basic ZGVmYXVsdDpzZWNyZXQ="}, scope: scopes},
		{name: "Basic and the form agree", body: grant + "&client_id=default", headers: []string{"Authorization: Basic ZGVmYXVsdDpzZWNyZXQ="}, scope: scopes},
		{name: "charset", body: grant, headers: []string{"Content-Type: application/x-www-form-urlencoded; charset=UTF-8"}, scope: scopes},
		{name: "unknown parameters are ignored", body: grant + "&audience=x&resource=y&resource=z", scope: scopes},
		{name: "scope", body: grant + "&scope=okta.users.read", scope: "okta.users.read"},
	}
	for _, path := range []string{"/token", "/oauth2/v1/token"} {
		for _, tt := range tests {
			t.Run(path+" "+tt.name, func(t *testing.T) {
				if len(tt.headers) == 0 || !strings.HasPrefix(tt.headers[0], "Content-Type") {
					tt.headers = append(tt.headers, form)
				}
				got := r.send(t, "POST", path, tt.body, tt.headers...)
				if body := got.json(t); got.status != 200 || body["scope"] != tt.scope || (body["access_token"] == token) != (tt.scope == scopes) {
					t.Errorf("status %d: %s", got.status, got.body)
				}
				if got.header.Get("Cache-Control") != "no-store" {
					t.Error("the token may be cached")
				}
			})
		}
	}
}

func TestTokenErrors(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	const grant = "grant_type=client_credentials"
	const basic = "Authorization: Basic bm9ib2R5OnNlY3JldA==" // nobody:secret
	tests := []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code, words              string
	}{
		{"unknown client", "GET", "/token?client=nobody", "", nil, 400, "invalid_client", "'nobody'"},
		{"long client", "GET", "/token?client=" + strings.Repeat("x", 300), "", nil, 400, "invalid_client", "long"},
		{"wider scope", "GET", "/token?scope=okta.users.manage", "", nil, 400, "invalid_scope", "okta.users.manage"},
		{"partly wider scope", "GET", "/token?scope=okta.users.read+okta.users.manage", "", nil, 400, "invalid_scope", "okta.users.manage"},
		{"long scope", "GET", "/token?scope=" + strings.Repeat("x", 8000), "", nil, 400, "invalid_scope", "x...: clients.default.scopes"},
		{"scope in other case", "GET", "/token?scope=OKTA.users.read", "", nil, 400, "invalid_scope", ""},
		{"scope with a quote", "GET", "/token?scope=a%22b", "", nil, 400, "invalid_scope", "character"},
		{"scope with a tab", "GET", "/token?scope=a%09b", "", nil, 400, "invalid_request", "control"},
		{"NUL", "GET", "/token?client=a%00b", "", nil, 400, "invalid_request", "control"},
		{"CRLF", "GET", "/token?client=a%0d%0ab", "", nil, 400, "invalid_request", "control"},
		{"not UTF-8", "GET", "/token?client=%ff", "", nil, 400, "invalid_request", "UTF-8"},
		{"twice", "GET", "/token?scope=okta.users.read&scope=okta.groups.read", "", nil, 400, "invalid_request", "twice"},
		{"mistyped parameter", "GET", "/token?scopes=okta.users.read", "", nil, 400, "invalid_request", "'scopes': client and scope and min_ttl"},
		{"min_ttl malformed", "GET", "/token?min_ttl=soon", "", nil, 400, "invalid_request", "from 1 to 86400"},
		{"min_ttl in a POST's query", "POST", "/token?min_ttl=60", grant, []string{form}, 400, "invalid_request", "body"},
		{"long parameter", "GET", "/token?" + strings.Repeat("x", 200) + "=1", "", nil, 400, "invalid_request", "'" + strings.Repeat("x", 40) + "'"},
		{"GET's client in a form", "POST", "/token", grant + "&client=default", []string{form}, 400, "invalid_request", "client_id"},
		{"scope in a POST's query", "POST", "/token?scope=okta.users.read", grant, []string{form}, 400, "invalid_request", "body"},
		{"bad escape", "GET", "/token?scope=%zz", "", nil, 400, "invalid_request", "form-encoded"},
		{"semicolon", "GET", "/token?client=default;scope=x", "", nil, 400, "invalid_request", "form-encoded"},
		{"JSON body", "POST", "/token", "{}", []string{"Content-Type: application/json"}, 415, "invalid_request", "x-www-form-urlencoded"},
		{"no content type", "POST", "/token", grant, nil, 415, "invalid_request", "x-www-form-urlencoded"},
		{"grant missing", "POST", "/token", "scope=x", []string{form}, 400, "invalid_request", "grant_type"},
		{"other grant", "POST", "/token", "grant_type=password", []string{form}, 400, "unsupported_grant_type", "client_credentials"},
		{"grant twice", "POST", "/token", grant + "&" + grant, []string{form}, 400, "invalid_request", "twice"},
		{"form: unknown client", "POST", "/token", grant + "&client_id=nobody", []string{form}, 400, "invalid_client", "'nobody'"},
		{"Basic: unknown client", "POST", "/token", grant, []string{form, basic}, 401, "invalid_client", "'nobody'"},
		{"Basic that is not base64", "POST", "/token", grant, []string{form, "Authorization: Basic !!!"}, 401, "invalid_client", "Basic credentials"},
		{"Basic without a colon", "POST", "/token", grant, []string{form, "Authorization: basic bm9wZQ=="}, 401, "invalid_client", "Basic credentials"},
		{"Basic and a tab", "POST", "/token", grant, []string{form, "Authorization: Basic\tZGVmYXVsdDo="}, 401, "invalid_client", "Basic credentials"},
		{"Basic glued", "POST", "/token", grant, []string{form, "Authorization: BasicZGVmYXVsdDo="}, 401, "invalid_client", "Basic credentials"},
		{"two headers", "POST", "/token", grant, []string{form, "Authorization: Basic ZGVmYXVsdDo=", "Authorization: Basic ZGVmYXVsdDo="}, 401, "invalid_client", "one header"},
		{"Bearer", "POST", "/token", grant, []string{form, "Authorization: Bearer x"}, 401, "invalid_client", "Basic credentials"},
		{"empty header", "POST", "/token", grant, []string{form, "Authorization: "}, 401, "invalid_client", "Basic credentials"},
		{"odd query", "POST", "/token?client_id%00=a;scope=a", grant, []string{form}, 400, "invalid_request", ""},
		{"Basic and form differ", "POST", "/token", grant + "&client_id=default", []string{form, basic}, 400, "invalid_request", "different"},
		{"form too large", "POST", "/token", grant + "&x=" + strings.Repeat("x", 16<<10), []string{form}, 413, "invalid_request", "16 KiB"},
		{"no such path", "GET", "/tokens", "", nil, 404, "not_found", ""},
		{"no such path below", "GET", "/token/", "", nil, 404, "not_found", ""},
		{"double slash", "GET", "//token", "", nil, 404, "not_found", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := r.send(t, tt.method, tt.path, tt.body, tt.headers...)
			body := got.json(t)
			words, _ := body["error_description"].(string)
			if got.status != tt.status || body["error"] != tt.code || !strings.Contains(words, tt.words) || words == "" {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			if got.header.Get("Content-Type") != "application/json" {
				t.Errorf("type %s", got.header.Get("Content-Type"))
			}
			if challenge := got.header.Get("WWW-Authenticate"); (tt.status == 401) != (challenge != "") {
				t.Errorf("WWW-Authenticate: %q", challenge)
			}
		})
	}
	if n := r.okta.Counters().TokenRequests; n != 0 {
		t.Errorf("refused requests caused %d requests to Okta", n)
	}
}

func TestTokenWithoutClients(t *testing.T) {
	r := start(t, setup{noClient: true})
	got := r.send(t, "GET", "/token", "")
	words, _ := got.json(t)["error_description"].(string)
	for _, name := range []string{"OKTA_CLIENT_ORGURL", "OKTA_CLIENT_CLIENTID", "OKTA_CLIENT_SCOPES", "clients.default.issuer", "clients.default.client_id"} {
		if got.status != 400 || !strings.Contains(words, name) {
			t.Errorf("status %d, and %s is not named: %s", got.status, name, words)
		}
	}
}

func TestUnmodifiedOAuthClient(t *testing.T) {
	for _, style := range []oauth2.AuthStyle{oauth2.AuthStyleAutoDetect, oauth2.AuthStyleInHeader, oauth2.AuthStyleInParams} {
		for _, path := range []string{"/token", "/oauth2/v1/token"} {
			r := start(t, setup{})
			r.register(t)
			client := clientcredentials.Config{
				ClientID: clientID, ClientSecret: "none", TokenURL: r.url + path, Scopes: []string{"okta.users.read"}, AuthStyle: style,
			}
			token, err := client.Token(t.Context())
			if err != nil || !token.Valid() || token.Type() != "Bearer" || token.Extra("scope") != "okta.users.read" {
				t.Errorf("style %v at %s: token %v, %v", style, path, token.Valid(), err)
			}
		}
	}
}

// The README's Go lines.
func TestGoSnippet(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	config := clientcredentials.Config{
		TokenURL: r.url + "/token",
		ClientID: "default",
	}
	token, err := config.Token(t.Context())
	if err != nil || token.AccessToken != r.send(t, "GET", "/token", "").json(t)["access_token"] {
		t.Errorf("%v", err)
	}
}

// An expires_in of 0 would be "for ever" to x/oauth2.
func TestExpiresInIsNeverZero(t *testing.T) {
	t.Parallel() // it takes five seconds of real time
	r := start(t, setup{})
	r.register(t)
	r.okta.SetFault(fakeokta.Fault{Rewrite: func(answer map[string]any) { answer["expires_in"] = 2 }})
	var callers sync.WaitGroup
	for end, i := time.Now().Add(5*time.Second), 0; i < 16; i++ {
		callers.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				got := r.send(t, "GET", "/token", "")
				if left, _ := got.json(t)["expires_in"].(float64); got.status != 200 || left < 1 {
					t.Errorf("status %d: %s", got.status, got.body)
				}
			}
		})
	}
	callers.Wait()
}

func TestManyCallersCostOneRequest(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	r.okta.SetFault(fakeokta.Fault{Delay: 300 * time.Millisecond}) // so that all of them find the cache cold
	var wg sync.WaitGroup
	bodies := make([]string, 200)
	for i := range bodies {
		wg.Go(func() { bodies[i] = r.send(t, "GET", "/token", "", "Accept: text/plain").body })
	}
	wg.Wait()
	for _, body := range bodies {
		if body != bodies[0] || strings.Contains(body, "error") {
			t.Fatalf("two answers: %q and %q", bodies[0], body)
		}
	}
	if n := r.okta.Counters().TokenRequests; n != 1 {
		t.Errorf("%d requests to Okta, want 1", n)
	}
}

func TestACallerThatLeavesFailsNobody(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	r.okta.SetFault(fakeokta.Fault{Delay: 400 * time.Millisecond})
	ctx, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer leave()
	req, err := http.NewRequestWithContext(ctx, "GET", r.url+"/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Fatal("the first caller did not leave")
	}
	if got := r.send(t, "GET", "/token", ""); got.status != 200 {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	if n := r.okta.Counters().TokenRequests; n != 1 {
		t.Errorf("%d requests to Okta, want 1", n)
	}
}

func TestRotatingTwiceWithoutTellingOkta(t *testing.T) {
	for _, proven := range []bool{false, true} {
		r := start(t, setup{})
		r.register(t)
		if proven {
			r.send(t, "GET", "/token?scope=okta.users.read", "")
		}
		for range 2 {
			verified(t, r.send(t, "POST", "/?rotate=true", `{"client_id":"`+clientID+`","audience":"`+issuer+`/oauth2/v1/token"}`))
		}
		got := r.send(t, "GET", "/token", "")
		if got.status != 200 {
			t.Errorf("proven before: %v: status %d: %s", proven, got.status, got.body)
		}
		if c := r.okta.Counters(); c.ReusedJTI != 0 {
			t.Errorf("%d assertions were used twice", c.ReusedJTI)
		}
	}
}

// Neither a caller nor an error can write lines of any length.
func TestAuditRecordsAreBounded(t *testing.T) {
	r := unwritable(&fs.PathError{Op: "open", Path: strings.Repeat("x", 8000), Err: syscall.EROFS})(t)
	r.send(t, "GET", "/token?scope="+strings.Repeat("x", 8000), "")
	r.send(t, "GET", "/token", "")
	records := 0
	for line := range strings.Lines(r.logs.String()) {
		if !strings.Contains(line, "audit: token") {
			continue
		}
		records++
		if len(line) > 1300 || !strings.Contains(line, "refused=") || !strings.Contains(line, "xxx...") {
			t.Errorf("%d bytes: %s", len(line), line)
		}
	}
	if records != 2 {
		t.Errorf("%d records", records)
	}
}

// What a log at debug level may not hold.
func TestLogsHoldNoSecret(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	jwt := verified(t, r.send(t, "POST", "/", `{"client_id":"`+clientID+`","audience":"`+issuer+`/oauth2/v1/token"}`)).JWT
	token := r.send(t, "GET", "/token", "").json(t)["access_token"].(string)
	assertion := r.okta.Counters().LastAssertion
	r.okta.RemoveKey(clientID, r.ring.Keys()[0].ID())
	r.send(t, "POST", "/token", "grant_type=client_credentials&scope=okta.users.read&client_secret=very-secret", form)
	r.send(t, "POST", "/token", "grant_type=client_credentials&scope=okta.users.read", form, "Authorization: Basic ZGVmYXVsdDp2ZXJ5LXNlY3JldA==")
	logs := r.logs.String()
	if !strings.Contains(logs, "token fetched") || !strings.Contains(logs, "fetching a token failed") {
		t.Fatalf("the log has nothing to search: %s", logs)
	}
	for name, secret := range map[string]string{"access token": token, "assertion": assertion, "JWT": jwt, "PEM": "PRIVATE KEY", "a caller's secret": "very-secret", "a caller's Basic": "ZGVmYXVs"} {
		if strings.Contains(logs, secret) {
			t.Errorf("the log holds the %s", name)
		}
	}
}
