package okta

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"okta-token-broker/internal/oauth"
)

// What Okta says, and what the caller is told then, is tested at GET /token.
// Here: what depends on the configuration, and servers that are not Okta.
func TestErrorsNameTheConfiguration(t *testing.T) {
	const jwk = "`okta-token-broker keys jwk --key signer`"
	custom := func(s *ServerConfig, _ *ClientConfig) { s.Issuer = issuer + "/oauth2/aus1" }
	byIssuer := func(_ *ServerConfig, c *ClientConfig) { c.AudienceIssuer = true }
	tests := []struct {
		status      int
		code, words string
		change      func(*ServerConfig, *ClientConfig)
		class       oauth.Class
		advice      []string
	}{
		{401, "invalid_client", "The audience claim for client_assertion must be the endpoint invoked for the request.", nil, oauth.Refused, []string{"audience, " + endpoint + ":", "clients.billing.issuer", "clients.billing.audience"}},
		{401, "invalid_client", "The audience claim for client_assertion must be the endpoint invoked for the request.", custom, oauth.Refused, []string{"audience, " + issuer + "/oauth2/aus1/v1/token:"}},
		{401, "invalid_client", "The audience claim for client_assertion must be the endpoint invoked for the request.", byIssuer, oauth.Refused, []string{"audience, " + issuer + ":"}},
		{401, "invalid_client", "The client_assertion JWT kid is invalid.", nil, oauth.Refused, []string{jwk, "{kid}", "keys.signer.kid"}},
		{401, "invalid_client", "The client_assertion signature is invalid.", nil, oauth.Refused, []string{jwk, "{kid}", "keys.signer.kid"}},
		{401, "invalid_client", "The client does not have a JWKSet configured, but the client_assertion requires one.", nil, oauth.Refused, []string{jwk, "{kid}"}},
		{401, "invalid_client", "Invalid value for 'client_id' parameter.", nil, oauth.Refused, []string{strconv.Quote(clientID), "clients.billing.client_id", "clients.billing.issuer"}},
		{401, "invalid_client", "", nil, oauth.Refused, []string{"clients.billing.client_id", jwk, "{kid}", "clock"}},
		{400, "invalid_client", "", nil, oauth.Refused, []string{"clients.billing.client_id", jwk, "{kid}", "clock"}},
		{401, "", "", nil, oauth.Refused, []string{"clients.billing.client_id", jwk, "{kid}", "clock"}},
		{401, "", "", custom, oauth.Refused, []string{"clients.billing.client_id", jwk, "{kid}", "clock"}},
		{400, "invalid_request", "no key of that kid was found", elsewhere, oauth.Refused, []string{jwk, "{kid}", "keys.signer.kid"}}, // Ory
		{400, "invalid_request", "skidata is unknown", elsewhere, oauth.Refused, []string{"refused the request"}},
		{401, "unauthorized_client", "Invalid client or Invalid client credentials", elsewhere, oauth.Refused, []string{"clients.billing.client_id", jwk, "clock"}}, // Keycloak
		{400, "unauthorized_client", "AADSTS700016: unknown application", elsewhere, oauth.Refused, []string{"clients.billing.client_id", jwk}},
		{401, "invalid_client", "Algorithm RS256 is not allowed", elsewhere, oauth.Refused, []string{"clients.billing.client_id", jwk}},
		{403, "access_denied", "Client is not authorized to access this", elsewhere, oauth.Refused, []string{"policies", "clients.billing.scopes"}},
		{404, "", "", elsewhere, oauth.Refused, []string{endpoint + " is not there", "clients.billing.token_endpoint"}},
		{400, "invalid_scope", "One or more scopes are not configured for the authorization server resource.", custom, oauth.InvalidScope, []string{issuer + "/oauth2/aus1 does not have", "to the org, " + issuer, "clients.billing.scopes"}},
		{400, "invalid_scope", "Custom scopes are not allowed for this request.", nil, oauth.InvalidScope, []string{issuer + "/oauth2/ID", "clients.billing.scopes"}},
		{401, "access_denied", "Policy evaluation failed for this request, please check the policy configurations.", custom, oauth.Refused, []string{issuer + "/oauth2/aus1", "Access Policies"}},
		{404, "", "", custom, oauth.Refused, []string{issuer + "/oauth2/aus1/v1/token is not there", "clients.billing.issuer", "clients.billing.token_endpoint"}},
	}
	for _, tt := range tests {
		t.Run(strings.TrimSpace(strconv.Itoa(tt.status)+" "+tt.code+" "+tt.words), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tt.change == nil {
					tt.change = func(*ServerConfig, *ClientConfig) {}
				}
				w := newClient(t, roundTripper(func(*http.Request) (*http.Response, error) {
					return answer(tt.status, refusing(tt.code, tt.words), "X-Okta-Request-Id", "ZaBc-123_.x"), nil
				}), tt.change)
				e := w.fails(t)
				if e.Class != tt.class {
					t.Errorf("class %d, want %d: %v", e.Class, tt.class, e)
				}
				for _, want := range tt.advice {
					want = strings.ReplaceAll(want, "{kid}", strconv.Quote(w.active().ID()))
					if !strings.Contains(e.Description, want) {
						t.Errorf("no %q in: %s", want, e.Description)
					}
				}
				want := &oauth.Upstream{Status: tt.status, Code: tt.code, Description: tt.words, RequestID: "ZaBc-123_.x"}
				if diff := cmp.Diff(want, e.Upstream); diff != "" {
					t.Errorf("upstream (-want +got)\n%s", diff)
				}
				w.wantPosts(t, 1)
			})
		})
	}
}

// No row of the table hides another, and none leaves a placeholder behind.
func TestEveryRowIsReached(t *testing.T) {
	for _, change := range []func(*ServerConfig, *ClientConfig){func(*ServerConfig, *ClientConfig) {}, elsewhere} {
		w := newClient(t, nil, change)
		server := w.client.cfg.Server
		all := server.rows()
		for i, row := range all {
			f := &failure{kind: refused, status: max(row.status, 400), code: row.code, description: row.words}
			if got := meaning(server.rows(), f); got != row {
				t.Errorf("row %d is hidden by the row for %d %q %q", i, got.status, got.code, got.words)
			}
			f.row, f.endpoint = row, endpoint
			e := w.client.explain(f, w.active())
			if strings.ContainsAny(e.Description, "{}") {
				t.Errorf("a placeholder is left in: %s", e.Description)
			}
			if !server.isOkta && strings.Contains(strings.NewReplacer("okta-token-broker", "", endpoint, "").Replace(e.Description), "kta") {
				t.Errorf("Okta's pages and addresses do not help with another server: %s", e.Description)
			}
		}
		if last := all[len(all)-1]; last.status != 0 || last.code != "" || last.words != "" {
			t.Errorf("the last row does not match everything: %+v", last)
		}
	}
}

// elsewhere is a server that is not Okta.
func elsewhere(s *ServerConfig, _ *ClientConfig) {
	s.Issuer, s.TokenEndpoint = "https://id.acme.test/realms/a", endpoint
}

// What a server quotes back of an assertion, or sends in place of words, stays
// away from callers and logs.
func TestUpstreamWordsAreFiltered(t *testing.T) {
	const (
		foreign = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm90aGVyIn0.c2lnbmF0dXJlLW9mLWFub3RoZXI"
		before  = "The token "
	)
	code := func(code string) string { return refusing(code, "x") }
	words := func(words string) string { return refusing("invalid_request", words) }
	part := func(i int) func(string) string {
		return func(jwt string) string { return strings.Split(jwt, ".")[i] }
	}
	whole := func(jwt string) string { return jwt }
	cut := func(jwt string) string { return jwt[:len(jwt)-9] }
	head := func(jwt string) string { return jwt[:strings.LastIndex(jwt, ".")] }
	tail := func(jwt string) string { return jwt[strings.Index(jwt, ".")+1:] }
	tests := []struct {
		name  string
		echo  func(string) string
		place func(string) string
	}{
		{"whole", whole, words},
		{"whole, in words", whole, func(s string) string { return words(before + s + " is bad") }},
		{"whole, in quotes", whole, func(s string) string { return words(before + `"` + s + `".`) }},
		{"whole, as the form has it", whole, func(s string) string { return words("client_assertion=" + s + "&scope=a") }},
		{"whole, twice", whole, func(s string) string { return words(s + s) }},
		{"whole, behind much else", whole, func(s string) string { return words(strings.Repeat("a", 280) + s) }},
		{"header", part(0), words},
		{"claims", part(1), words},
		{"signature", part(2), words},
		{"signature, glued to a word", part(2), func(s string) string { return words("signature" + s + "x") }},
		{"header and claims", head, words},
		{"claims and signature", tail, words},
		{"cut short", cut, words},
		{"in pieces", whole, func(s string) string { return words(pieces(s, " ")) }},
		{"in pieces with commas", whole, func(s string) string { return words(pieces(s, ", ")) }},
		{"the code is its signature, in pieces", part(2), func(s string) string { return code(pieces(s, "-")) }},
		{"the errorSummary", whole, func(s string) string { return `{"errorCode":"E0000001","errorSummary":"` + s + `"}` }},
		{"the code is it", whole, code},
		{"the code is its header", part(0), code},
		{"the code is its claims", part(1), code},
		{"the code is its signature", part(2), code},
		{"the code holds its signature", part(2), func(s string) string { return code("sig-" + s) }},
		{"the errorCode is its signature", part(2), func(s string) string { return `{"errorCode":"` + s + `"}` }},
		{"no JSON", whole, whole},
		{"HTML", whole, func(s string) string { return "<pre>client_assertion=" + s + "</pre>" }},
		{"an error of another type", whole, func(s string) string { return `{"error":{"token":"` + s + `"}}` }},
	}
	for _, tt := range tests {
		for _, status := range []int{200, 302, 400, 401, 429, 503} {
			t.Run(tt.name+" "+strconv.Itoa(status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newClient(t, roundTripper(func(r *http.Request) (*http.Response, error) {
						if err := r.ParseForm(); err != nil {
							return nil, err
						}
						jwt := r.PostForm.Get("client_assertion")
						return answer(status, tt.place(tt.echo(jwt)), "Location", endpoint+"?"+jwt), nil
					}))
					e := w.fails(t)
					wantOneLine(t, e)
					for _, post := range w.wire.sent() {
						wantNothingOf(t, post.assertion(), w.texts(e))
					}
				})
			})
		}
	}
	for _, body := range []string{words(before + foreign + " is bad"), words("[" + foreign + "]"), code(foreign)} {
		t.Run("another's JWT", func(t *testing.T) {
			w := always(t, 400, body, "X-Okta-Request-Id", foreign)
			e := w.fails(t)
			wantOneLine(t, e)
			wantNothingOf(t, foreign, w.texts(e))
		})
	}
	t.Run("request id", func(t *testing.T) {
		w := newClient(t, roundTripper(func(r *http.Request) (*http.Response, error) {
			if err := r.ParseForm(); err != nil {
				return nil, err
			}
			return answer(400, "", "X-Okta-Request-Id", part(2)(r.PostForm.Get("client_assertion"))), nil
		}))
		e := w.fails(t)
		wantNothingOf(t, w.wire.sent()[0].assertion(), w.texts(e))
	})
}

// pieces cuts s into parts that are too short to be noticed alone.
func pieces(s, between string) string {
	var cut strings.Builder
	for len(s) > 12 {
		cut.WriteString(s[:12] + between)
		s = s[12:]
	}
	return cut.String() + s
}

// wantNothingOf looks for the parts of a JWT in what is shown.
func wantNothingOf(t *testing.T, jwt, shown string) {
	t.Helper()
	for i, name := range []string{"header", "claims", "signature"} {
		part, all := alphanumeric(strings.Split(jwt, ".")[i]), alphanumeric(shown)
		if at := strings.Index(all, part[:min(len(part), 60)]); at >= 0 {
			t.Errorf("the JWT's %s stands, maybe in pieces, behind %q", name, all[max(0, at-80):at])
			return
		}
	}
}

// wantOneLine checks that words from a server are within RFC 6749 section 5.2's
// characters.
func wantOneLine(t *testing.T, e *oauth.Error) {
	t.Helper()
	if e.Upstream == nil {
		t.Fatal("no upstream")
	}
	odd := func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }
	for _, s := range []string{e.Upstream.Code, e.Upstream.Description, e.Upstream.RequestID} {
		if strings.ContainsFunc(s, odd) || len(s) > 300 {
			t.Errorf("%d bytes of upstream words: %q", len(s), s)
		}
	}
	if text := e.Error() + e.Description; strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) || len(text) > 2000 {
		t.Errorf("%d bytes of error: %q", len(text), text)
	}
}

func TestUpstreamWordsAreBounded(t *testing.T) {
	tests := []struct {
		name string
		body string
		want oauth.Upstream
	}{
		{"control characters", refusing("invalid_request", "a\x00b\r\nlevel=ERROR\x1b[31m\u0085\u2028c\x7f"), oauth.Upstream{Code: "invalid_request", Description: "a b level=ERROR [31m c"}},
		{"quotes", refusing("invalid_request", `say "no" \ 'no'`), oauth.Upstream{Code: "invalid_request", Description: "say 'no' 'no'"}},
		{"not ASCII", refusing("invalid_request", "nicht zulässig"), oauth.Upstream{Code: "invalid_request", Description: "nicht zul ssig"}},
		{"long", refusing("invalid_request", strings.Repeat("a", 301)), oauth.Upstream{Code: "invalid_request", Description: strings.Repeat("a", 300)}},
		{"1 MB", refusing("invalid_request", strings.Repeat("a ", 1<<19)), oauth.Upstream{}},
		{"code with a space", refusing("invalid request", "a"), oauth.Upstream{Description: "a"}},
		{"code with a newline", `{"error":"a\nb","error_description":"a"}`, oauth.Upstream{Description: "a"}},
		{"long code", refusing(strings.Repeat("a", 129), "a"), oauth.Upstream{Description: "a"}},
		{"not JSON", "<html>" + marker, oauth.Upstream{}},
		{"empty", "", oauth.Upstream{}},
		{"null", "null", oauth.Upstream{}},
		{"a list", `["` + marker + `"]`, oauth.Upstream{}},
		{"both forms", `{"error":"invalid_scope","error_description":"a","errorCode":"E0000001","errorSummary":"b"}`, oauth.Upstream{Code: "invalid_scope", Description: "a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := always(t, 400, tt.body)
			e := w.fails(t)
			tt.want.Status = 400
			if diff := cmp.Diff(&tt.want, e.Upstream); diff != "" {
				t.Errorf("upstream (-want +got)\n%s", diff)
			}
			wantOneLine(t, e)
			if all := w.texts(e); strings.Contains(all, marker) {
				t.Errorf("the answer's own bytes are in %q", all)
			}
		})
	}
	t.Run("request id", func(t *testing.T) {
		for id, want := range map[string]string{
			"":                       "",
			"Yxx-_.9":                "Yxx-_.9",
			"a b":                    "",
			`a"b`:                    "",
			strings.Repeat("a", 128): strings.Repeat("a", 128),
			strings.Repeat("a", 129): "",
		} {
			e := always(t, 400, "", "X-Okta-Request-Id", id).fails(t)
			if e.Upstream == nil || e.Upstream.RequestID != want {
				t.Errorf("request id %q: %+v, want %q", id, e.Upstream, want)
			}
		}
	})
}

// x/oauth2's error holds the whole answer, so it must not come through.
func TestLibraryErrorStaysInside(t *testing.T) {
	bodies := []string{
		`{"error":"server_error","stack":"` + marker + `"}`,
		`{"error":"invalid_scope","error_uri":"https://` + marker + `"}`,
		`{"access_token":"` + marker + `","token_type":"Bearer","error":"x"}`,
		"error=invalid_scope&error_uri=" + marker,
		marker,
	}
	synctest.Test(t, func(t *testing.T) {
		for _, status := range []int{199, 200, 204, 299, 301, 400, 401, 403, 404, 418, 429, 500, 599, 999} {
			for _, body := range bodies {
				for _, contentType := range []string{"application/json", "text/plain", "text/html"} {
					w := always(t, status, body, "Content-Type", contentType)
					e := w.fails(t)
					if all := w.texts(e); strings.Contains(all, marker) || strings.Contains(all, "oauth2:") {
						t.Errorf("%d %s %s: %q", status, contentType, body, all)
					}
					if _, is := errors.AsType[*oauth2.RetrieveError](e); is {
						t.Errorf("%d %s %s: a RetrieveError in %v", status, contentType, body, e)
					}
				}
			}
		}
	})
}
