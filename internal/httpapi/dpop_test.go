package httpapi_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/okta"
)

// A token that is bound says so, and to which key.
func TestBoundTokens(t *testing.T) {
	for _, setting := range []okta.DPoP{okta.DPoPAuto, okta.DPoPRequired} {
		t.Run(string(setting), func(t *testing.T) {
			r := start(t, setup{dpop: setting})
			r.register(t)
			got := r.send(t, "GET", "/token", "").json(t)
			want := map[string]any{
				"access_token": got["access_token"], "token_type": "DPoP", "expires_in": got["expires_in"], "scope": scopes,
				"cnf": map[string]any{"jkt": r.proofKey.Thumbprint()},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			for _, path := range []string{"/token", "/oauth2/v1/token"} {
				posted := r.send(t, "POST", path, "grant_type=client_credentials", form).json(t)
				want["expires_in"] = posted["expires_in"]
				if diff := cmp.Diff(want, posted); diff != "" {
					t.Errorf("POST %s: %s", path, diff)
				}
			}
			if text := r.send(t, "GET", "/token", "", "Accept: text/plain").body; text != want["access_token"].(string)+"\n" {
				t.Errorf("as text: %q", text)
			}
		})
	}
}

// The broker's tokens are never bound to a caller's key.
func TestACallersProofIsRefused(t *testing.T) {
	for _, setting := range []okta.DPoP{okta.DPoPOff, okta.DPoPRequired} {
		r := start(t, setup{dpop: setting})
		r.register(t)
		for _, q := range slices.Concat(asks("", "", "DPoP: eyJ0eXAi"), asks("", "", "Dpop: "), asks("", "", "Accept: text/plain", "DPoP: eyJ0eXAi")) {
			got := r.send(t, q.method, q.path, q.body, q.headers...)
			words, _ := got.json(t)["error_description"].(string)
			if got.status != 400 || got.json(t)["error"] != "invalid_request" || !strings.Contains(words, "POST /dpop") || !strings.Contains(words, "/proxy/") {
				t.Errorf("%s: status %d: %s", q.operation(), got.status, got.body)
			}
		}
		if n := r.okta.Counters().TokenRequests; n != 0 {
			t.Errorf("%d requests to Okta", n)
		}
	}
}

// credentials asks POST /dpop for what a call has to carry.
func (r *running) credentials(t *testing.T, call map[string]string) map[string]any {
	t.Helper()
	body, err := json.Marshal(call)
	if err != nil {
		t.Fatal(err)
	}
	got := r.send(t, "POST", "/dpop", string(body))
	if got.status != http.StatusOK || got.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("status %d, %v: %s", got.status, got.header, got.body)
	}
	return got.json(t)
}

// call makes a GET at the fake Okta with these credentials, as a caller does itself.
func (r *running) call(t *testing.T, url string, with map[string]any) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", with["authorization"].(string))
	if proof, ok := with["dpop"].(string); ok {
		req.Header.Set("DPoP", proof)
	}
	resp, err := r.okta.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

// Who makes its calls itself gets what Okta takes, and once each.
func TestDPoP(t *testing.T) {
	r := start(t, setup{dpop: okta.DPoPAuto})
	r.register(t)
	token := r.send(t, "GET", "/token", "").accessToken(t)
	users := map[string]string{"method": "GET", "url": issuer + "/api/v1/users?limit=2"}
	with := r.credentials(t, users)
	if len(with) != 2 || with["authorization"] != "DPoP "+token {
		t.Errorf("%v", with)
	}
	claims := claimsOf(t, with["dpop"].(string))
	if claims["htm"] != "GET" || claims["htu"] != issuer+"/api/v1/users" || claims["ath"] != dpop.TokenHash(token) {
		t.Errorf("the proof says %v", claims)
	}
	if resp := r.call(t, users["url"], with); resp.StatusCode != http.StatusOK {
		t.Errorf("the call: %s, %q", resp.Status, resp.Header["Www-Authenticate"])
	}
	if resp := r.call(t, users["url"], with); resp.StatusCode == http.StatusOK {
		t.Error("a proof was good twice")
	}
	if again := r.credentials(t, users); again["dpop"] == with["dpop"] {
		t.Error("a proof was given twice")
	}
	narrow := r.credentials(t, map[string]string{"method": "GET", "url": users["url"], "client": clientID, "scope": "okta.users.read"})
	if narrow["authorization"] == with["authorization"] {
		t.Error("the scope makes no difference")
	}
	for _, secret := range []string{token, with["dpop"].(string)} {
		if strings.Contains(r.logs.String(), secret) {
			t.Error("the log has a secret")
		}
	}
}

// A nonce comes with the resource's answer, and goes into the next proof.
func TestDPoPWithANonce(t *testing.T) {
	r := start(t, setup{dpop: okta.DPoPRequired})
	r.register(t)
	r.okta.SetResourceNonce(true)
	users := map[string]string{"client": "default", "method": "GET", "url": issuer + "/api/v1/users"}
	resp := r.call(t, users["url"], r.credentials(t, users))
	if resp.StatusCode == http.StatusOK || resp.Header.Get("DPoP-Nonce") == "" {
		t.Fatalf("without a nonce: %s", resp.Status)
	}
	users["nonce"] = resp.Header.Get("DPoP-Nonce")
	if resp := r.call(t, users["url"], r.credentials(t, users)); resp.StatusCode != http.StatusOK {
		t.Errorf("with the nonce: %s, %q", resp.Status, resp.Header["Www-Authenticate"])
	}
}

// What is of the greatest length that is served is served.
func TestDPoPBounds(t *testing.T) {
	for _, setting := range []okta.DPoP{okta.DPoPOff, okta.DPoPRequired} {
		r := start(t, setup{dpop: setting})
		r.register(t)
		for name, call := range map[string]map[string]string{
			"method": {"method": strings.Repeat("M", 64), "url": issuer + "/api"},
			"url":    {"method": "GET", "url": issuer + "/" + strings.Repeat("x", 8<<10-len(issuer+"/"))},
			"nonce":  {"method": "GET", "url": issuer + "/api", "nonce": strings.Repeat("n", 1<<10)},
		} {
			if with := r.credentials(t, call); with["authorization"] == nil {
				t.Errorf("the longest %s: %v", name, with)
			}
			body, err := json.Marshal(map[string]string{"method": "GET", "url": issuer + "/api", name: call[name] + "x"})
			if err != nil {
				t.Fatal(err)
			}
			if got := r.send(t, "POST", "/dpop", string(body)); got.status != http.StatusBadRequest || got.json(t)["error"] != "invalid_request" {
				t.Errorf("one more in %s: status %d: %.200s", name, got.status, got.body)
			}
		}
	}
}

func TestDPoPOfABearerToken(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	want := map[string]any{"authorization": "Bearer " + r.send(t, "GET", "/token", "").accessToken(t)}
	if diff := cmp.Diff(want, r.credentials(t, map[string]string{"method": "GET", "url": issuer + "/api/v1/users"})); diff != "" {
		t.Error(diff)
	}
}

// Whatever the token is, it is given for the client's own URLs alone.
func TestDPoPRefuses(t *testing.T) {
	for _, setting := range []okta.DPoP{okta.DPoPOff, okta.DPoPRequired} {
		r := start(t, setup{dpop: setting})
		r.register(t)
		call := func(url string) string { return `{"method":"GET","url":"` + url + `"}` }
		tests := []struct {
			body   string
			status int
			words  string
		}{
			{call("https://evil.test/"), 403, "no other URL"},
			{call(issuer + ".evil.test/"), 403, "no other URL"},
			{call(issuer + "@evil.test/"), 403, "no other URL"},
			{call(issuer + ":8443/api"), 403, "no other URL"},
			{call("http://acme.okta.test/api"), 403, "no other URL"},
			{call("/api/v1/users"), 403, "no other URL"},
			{call(issuer + "/oauth2/v1/token"), 403, "/oauth2/"},
			{call(issuer + "/%6fauth2/v1/token"), 403, "/oauth2/"},
			{call(issuer + "/api/../oauth2/v1/token"), 400, "dots"},
			{call(issuer + "/api/%2e%2e/oauth2"), 400, "dots"},
			{call(issuer + "//oauth2"), 400, "empty segment"},
			{call(issuer + "/api%2foauth2"), 400, "encoded slash"},
			{call(issuer + "/api/%zz"), 400, "percent-encoded"},
			{call(issuer + "/api#%zz"), 400, "malformed"},
			{call(issuer+"/api/v1/users") + "x", 400, "one JSON object"},
			{call(issuer+"/api/v1/users") + "{}", 400, "one JSON object"},
			{`{"method":"GET","method":"PUT","url":"` + issuer + `/api"}`, 400, "each once"},
			{`{"method":"GET","url":"` + issuer + `/` + "\xff" + `"}`, 400, "one JSON object"},
			{`{"method":"GET","url":{"a":"` + issuer + `"}}`, 400, "strings"},
			{`{"method":null,"url":"` + issuer + `/api"}`, 400, "strings"},
			{`{"method":"GET","url":null}`, 400, "strings"},
			{`{"method":"GET","url":"` + issuer + `/api","client":null}`, 400, "strings"},
			{`{"method":"GET","url":"` + issuer + `/api","nonce":null}`, 400, "strings"},
			{`{"method":"GET","url":"` + issuer + `/api","scope": null}`, 400, "strings"},
			{`null`, 400, "method is missing"},
			{`{"method":"GET","url":"` + issuer + `/api","jkt":"s3cr3t"}`, 400, "unknown member 'jkt'"},
			{`{"method":"GET","url":"` + issuer + `/api","client":"nobody"}`, 400, "'nobody'"},
			{`{"method":"GET","url":"` + issuer + `/api","client":"` + strings.Repeat("c", 257) + `"}`, 400, "so long a name"},
			{`{"method":"GET","url":"` + issuer + `/api","scope":"okta.users.manage"}`, 400, "okta.users.manage"},
			{`{"method":"GET","url":"` + issuer + `/` + strings.Repeat("x", 17<<10) + `"}`, 413, "16 KiB"},
		}
		for _, tt := range tests {
			got := r.send(t, "POST", "/dpop", tt.body)
			words, _ := got.json(t)["error_description"].(string)
			if got.status != tt.status || !strings.Contains(words, tt.words) || strings.Contains(words, "s3cr3t") {
				t.Errorf("%.80s: status %d, want %d and %q: %s", tt.body, got.status, tt.status, tt.words, got.body)
			}
		}
		if n := r.okta.Counters().Requests[fakeokta.Users]; n != 0 {
			t.Errorf("%d calls", n)
		}
	}
}

// claimsOf reads a JWT's claims, whoever signed it.
func claimsOf(t *testing.T, jwt string) (claims map[string]any) {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(jwt, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}
