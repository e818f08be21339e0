package httpapi_test

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// The second client, of another server.
const (
	otherIssuer = "https://globex.okta.test"
	otherID     = "0oaz9y8x7w"
	otherScopes = "okta.apps.read okta.users.read"
)

// newInMemory is a broker without a socket, with the client default of acme and
// the client other of globex. Their tokens say whose they are and what for.
func newInMemory(tb testing.TB, signAny bool) *running {
	tb.Helper()
	logs := &logBuffer{}
	log := newLog(logs, slog.LevelError)
	p := parts{ring: newRing(tb, keys.Config{Log: log}), signAny: signAny, log: log}
	p.apps = []app{newApp(tb, "default", issuer, clientID, scopes), newApp(tb, "other", otherIssuer, otherID, otherScopes)}
	for _, app := range p.apps {
		register(tb, app.okta, app.client.ID, activeKey(tb, p.ring).JWK())
		app.okta.SetFault(fakeokta.Fault{Rewrite: func(answer map[string]any) {
			answer["access_token"] = tokenOf(app.client.Name, answer["scope"].(string))
		}})
	}
	return &running{okta: p.apps[0].okta, ring: p.ring, api: p.assemble(tb), logs: logs}
}

// tokenOf is the access token of a client, by its name.
func tokenOf(name, scope string) string { return name + "/" + strings.ReplaceAll(scope, " ", "+") }

// try is send for a request that may be anything.
func (r *running) try(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	got := r.send(t, method, path, body, headers...)
	if got.status == http.StatusInternalServerError {
		t.Errorf("status 500: %s\n%s", got.body, r.logs)
	}
	return got
}

// maxDescription bounds error_description in bytes.
const maxDescription = 1 << 10

// wantTokenOf checks that an answer is an error, or the token that this client
// may have for this scope.
func wantTokenOf(t *testing.T, a answer, client, scope string) {
	t.Helper()
	if a.status != http.StatusOK {
		if words, _ := a.json(t)["error_description"].(string); len(words) > maxDescription {
			t.Errorf("error_description has %d bytes", len(words))
		}
		return
	}
	names := map[string]string{"": "default", clientID: "default", "default": "default", otherID: "other", "other": "other"}
	all := map[string]oauth.Scopes{"default": scopes, "other": otherScopes}
	name, known := names[client]
	if !known {
		t.Fatalf("a token for %q: %s", client, a.body)
	}
	want, err := oauth.ParseScopes(scope)
	if err != nil || !want.Within(all[name]) {
		t.Fatalf("a token for %q: %s", scope, a.body)
	}
	if want == "" {
		want = all[name]
	}
	if strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
		if a.body != tokenOf(name, string(want))+"\n" {
			t.Errorf("client %q, scope %q: token %s", client, scope, a.body)
		}
		return
	}
	if got := a.json(t); got["access_token"] != tokenOf(name, string(want)) || got["scope"] != string(want) {
		t.Errorf("client %q, scope %q: %s", client, scope, a.body)
	}
}

// wantOnce checks that no parameter stands twice in what was served. RFC 8707
// and RFC 8693 let two of those that the broker ignores.
func wantOnce(t *testing.T, encoded ...string) {
	t.Helper()
	for _, text := range encoded {
		values, err := url.ParseQuery(text)
		if err != nil {
			t.Errorf("%q was served", text)
		}
		for name, value := range values {
			if len(value) > 1 && name != "resource" && name != "audience" {
				t.Errorf("%q was served", text)
			}
		}
	}
}

func FuzzTokenQuery(f *testing.F) {
	for _, query := range []string{
		"", "client=default", "client=other", "client=" + otherID, "client=&scope=", "client=nobody",
		"scope=okta.users.read", "client=other&scope=okta.apps.read+okta.users.read", "scope=okta.users.read%20okta.users.read",
		"scope=okta.users.manage", "scope=okta.users.read&scope=okta.groups.read", "scopes=okta.users.read", "client=default;scope=x",
		"scope=%zz", "client=a%00b", "client=%ff", "client=a%0d%0ab", "scope=a%22b", "client=a%22%5Cb", "client=k%C3%A4se", "Client=other", "client%5B%5D=other", "&&=", "client",
		"min_ttl=1", "client=other&min_ttl=2700", "min_ttl=2701", "min_ttl=86400", "min_ttl=86401", "min_ttl=0", "min_ttl=-1", "min_ttl=0060", "min_ttl=%2B60",
		"min_ttl=", "min_ttl=1.5", "min_ttl=1h", "min_ttl=4294967297", "min_ttl=18446744073709551617", "min_ttl=60&min_ttl=60", "Min_ttl=60",
	} {
		f.Add(query, "text/plain")
		f.Add(query, "")
	}
	for _, accept := range []string{"*/*", "text/plain;q=0", "application/json, text/plain", "text/plain; q=\"", ",,text/plain", "TEXT/PLAIN;q=0.5"} {
		f.Add("", accept)
	}
	m := newInMemory(f, false)
	f.Fuzz(func(t *testing.T, query, accept string) {
		got := m.try(t, "GET", "/token?"+query, "", "Accept: "+accept)
		meant, _ := url.ParseQuery(query)
		wantTokenOf(t, got, meant.Get("client"), meant.Get("scope"))
		if got.status == http.StatusOK {
			wantOnce(t, query)
		}
	})
}

func FuzzTokenForm(f *testing.F) {
	const urlencoded, grant = "application/x-www-form-urlencoded", "grant_type=client_credentials"
	basic := func(user string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":none")) }
	for _, body := range []string{
		"", grant, grant + "&client_id=other", grant + "&client_id=" + clientID + "&client_secret=x", grant + "&scope=okta.users.read",
		grant + "&client_id=other&scope=okta.apps.read", grant + "&scope=okta.apps.read", grant + "&scope=", grant + "&" + grant,
		grant + "&client=other", "grant_type=password", grant + "&resource=a&resource=b&audience=c&audience=d", grant + "&x=%zz",
		grant + "&client_id=a%00b", grant + ";client_id=other", `{"grant_type":"client_credentials"}`,
		grant + "&min_ttl=60", grant + "&client_id=other&scope=okta.apps.read&min_ttl=2700", grant + "&min_ttl=2701", grant + "&min_ttl=0",
		grant + "&min_ttl=", grant + "&min_ttl=86401", grant + "&min_ttl=60s", grant + "&min_ttl=60&min_ttl=60",
	} {
		f.Add(urlencoded, "", "", body)
		f.Add(urlencoded, basic("other"), "", body)
	}
	for _, authorization := range []string{basic("default"), basic(otherID), basic("oth%65r"), basic("%zz"), basic(""), "Bearer x", "Basic", "Basic !!!"} {
		f.Add(urlencoded, authorization, "", grant)
	}
	for _, query := range []string{"client_id=other", "client=other", "scope=okta.users.read", "min_ttl=60", "x=1", "x=1&x=2", "a=1;b=2", grant} {
		f.Add(urlencoded, "", query, grant)
	}
	for _, contentType := range []string{"", "application/json", urlencoded + "; charset=UTF-8", urlencoded + "; a=b; a=c", "multipart/form-data", urlencoded + ", text/plain"} {
		f.Add(contentType, "", "", grant)
	}
	m := newInMemory(f, false)
	f.Fuzz(func(t *testing.T, contentType, authorization, query, body string) {
		headers := []string{"Content-Type: " + contentType}
		if authorization != "" {
			headers = append(headers, "Authorization: "+authorization)
		}
		got := m.try(t, "POST", "/token?"+query, body, headers...)
		meant, _ := url.ParseQuery(body)
		client := meant.Get("client_id")
		if user, _, ok := (&http.Request{Header: http.Header{"Authorization": {authorization}}}).BasicAuth(); ok && client == "" {
			client, _ = url.QueryUnescape(user)
		}
		wantTokenOf(t, got, client, meant.Get("scope"))
		if got.status == http.StatusOK {
			wantOnce(t, query, body)
		}
	})
}

// A token goes out for the client's own URLs alone, as whatever a URL can be read.
func FuzzDPoP(f *testing.F) {
	call := func(url string) string { return `{"method":"GET","url":"` + url + `"}` }
	for _, body := range []string{
		"", "{}", "null", call(issuer), call(issuer + "/"), call(issuer + "/api/v1/users?limit=2#x"), call(issuer + "/?a=/oauth2/"), call(issuer + "#%0x"), call(issuer + ".evil.test/"),
		call(issuer + "@evil.test/"), call(issuer + `\\@evil.test/`), call(issuer + ":1/"), call(issuer + "/oauth2/v1/token"), call(issuer + "/OAuth2;x/v1"),
		call(issuer + "/a/..%2foauth2"), call(issuer + "/%252e%252e/oauth2"), call("HTTPS://acme.okta.test/"), call("https://acme.okTa.test/O!uth2;x/v1"), call("https://acme.okta.test:443/"), call("https://acme.ok\u212aa.test/"), call("https://acme.o\u212ata.test/"), call("//acme.okta.test/"), call(otherIssuer + "/api"),
		`{"client":"other","method":"GET","url":"` + otherIssuer + `/api","nonce":"n","scope":"okta.apps.read"}`, `{"client":"other","method":"GET","url":"` + issuer + `/api"}`,
		`{"method":"G\u0000","url":"` + issuer + `"}`, `{"method":"GET","url":"` + issuer + `\r\nX: y"}`, call(issuer) + call(issuer), `{"url":1}`, `{"method":"GET","url":"` + issuer + `","htu":"x"}`,
	} {
		f.Add(body)
	}
	m := newInMemory(f, false)
	f.Fuzz(func(t *testing.T, body string) {
		got := m.try(t, "POST", "/dpop", body)
		var call struct{ Client, Method, URL, Scope string }
		if err := json.Unmarshal([]byte(body), &call); err != nil || got.status != http.StatusOK {
			if got.status == http.StatusOK {
				t.Errorf("%v, and it was served", err)
			}
			return
		}
		issuers := map[string]string{"": issuer, clientID: issuer, "default": issuer, otherID: otherIssuer, "other": otherIssuer}
		u, err := url.Parse(call.URL)
		// Case does not count in a scheme and a host, nor does the port that the scheme has
		// anyway (RFC 3986 section 6.2).
		if err != nil || !strings.EqualFold(u.Scheme+"://"+strings.TrimSuffix(u.Host, ":443"), issuers[call.Client]) || strings.ContainsFunc(u.Host, func(r rune) bool { return r > unicode.MaxASCII }) || u.User != nil || strings.HasPrefix(strings.ToLower(u.Path), "/oauth2/") || slices.Contains(strings.Split(u.Path, "/"), "..") {
			t.Errorf("client %q, %q were served", call.Client, call.URL)
		}
		token, _ := strings.CutPrefix(got.json(t)["authorization"].(string), "Bearer ")
		wantTokenOf(t, answer{status: http.StatusOK, header: http.Header{"Content-Type": {"text/plain"}}, body: token + "\n"}, call.Client, call.Scope)
	})
}

func FuzzSign(f *testing.F) {
	const ours = `{"client_id":"` + clientID + `","audience":"` + issuer + `/oauth2/v1/token"`
	for _, body := range []string{
		"", "{}", "[]", "null", ours + "}", ours + `,"kid":"k","valid_for":3600}`, ours + `,"kid":null,"valid_for":null}`, ours + `,"kid":""}`,
		ours + `,"valid_for":0}`, ours + `,"valid_for":-1}`, ours + `,"valid_for":3601}`, ours + `,"valid_for":1.5}`, ours + `,"valid_for":"10"}`,
		ours + `,"iss":"x","exp":1}`, ours + `,"Valid_For":60,"KID":"x"}`, ours + `,"client_id":"x"}`, ours + `} x`, "\ufeff" + ours + "}", ours + `,"kid":"a\u0000"}`, ours + `,"kid":"\ud800"}`,
		`{"client_id":"` + otherID + `","audience":"` + otherIssuer + `/oauth2/v1/introspect"}`, `{"client_id":"` + otherID + `","audience":"` + otherIssuer + `/oauth2/v1/authorize"}`,
		`{"client_id":"x","audience":"` + otherIssuer + `/oauth2/v1/token"}`, `{"client_id":"` + clientID + `","audience":"` + otherIssuer + `/oauth2/v1/token"}`,
		"client_id=x&audience=y",
	} {
		for _, signAny := range []bool{false, true} {
			f.Add(signAny, "", body)
			f.Add(signAny, "rotate=TRUE", body)
		}
	}
	f.Add(false, "rotate=true&rotate=false", ours+"}")
	f.Add(false, "rotate=1;%zz", ours+"}")
	worlds := map[bool]*running{false: newInMemory(f, false), true: newInMemory(f, true)}
	f.Fuzz(func(t *testing.T, signAny bool, query, body string) {
		got := worlds[signAny].try(t, "POST", "/?"+query, body)
		if got.status != http.StatusOK {
			if words, _ := got.json(t)["Error"].(string); len(words) > maxDescription {
				t.Errorf("Error has %d bytes", len(words))
			}
			return
		}
		var asked map[string]any // encoding/json takes other spellings for a struct's fields
		if err := json.Unmarshal([]byte(body), &asked); err != nil {
			t.Fatalf("%v, and it was served", err)
		}
		issuers := map[any]string{clientID: issuer, otherID: otherIssuer}
		base := issuers[asked["client_id"]] + "/oauth2/v1/"
		if !signAny && !slices.Contains([]any{base + "token", base + "introspect", base + "revoke"}, asked["audience"]) {
			t.Errorf("client %q, audience %q were served", asked["client_id"], asked["audience"])
		}
		signed := verified(t, got)
		want, _ := asked["valid_for"].(float64)
		if want == 0 {
			want = 600
		}
		life, _ := signed.claims["exp"].(float64)
		from, _ := signed.claims["iat"].(float64)
		if signed.claims["iss"] != asked["client_id"] || signed.claims["sub"] != asked["client_id"] || signed.claims["aud"] != asked["audience"] ||
			len(signed.claims) != 6 || life-from != want {
			t.Errorf("%s was answered with %v", body, signed.claims)
		}
		kid, _ := asked["kid"].(string)
		if len(signed.header) != 4 || signed.header["kid"] != signed.jwk["kid"] || kid != "" && signed.header["kid"] != kid {
			t.Errorf("%s was answered with %v", body, signed.header)
		}
		if rotate, _ := url.ParseQuery(query); signed.Changed != strings.EqualFold(rotate.Get("rotate"), "true") {
			t.Errorf("query %q: private_key_changed is %v", query, signed.Changed)
		}
	})
}
