package okta

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"okta-token-broker/internal/oauth"
)

// Okta's words, and what whoever runs the broker is told.
func TestErrorsSayWhatToFix(t *testing.T) {
	const (
		jwk    = "`okta-token-broker keys jwk --key signer`"
		issuer = "clients.billing.issuer"
		dpop   = "Proof of possession"
	)
	tests := []struct {
		status      int
		code, words string
		class       oauth.Class
		advice      []string
		posts       int
	}{
		{401, "invalid_client", "The audience claim for client_assertion must be the endpoint invoked for the request.", oauth.Refused, []string{issuer, "clients.billing.audience", endpoint}, 1},
		{401, "invalid_client", "The client_assertion token has an expiration too far into the future.", oauth.Refused, []string{"clock", "clients.billing.assertion_lifetime"}, 1},
		{401, "invalid_client", "The client_assertion token is expired.", oauth.Refused, []string{"clock"}, 1},
		{401, "invalid_client", "The client_assertion token must be issued before the current time.", oauth.Refused, []string{"clock"}, 1},
		{401, "invalid_client", "The client_assertion token has already been used.", oauth.Refused, []string{"proxy"}, 2},
		{401, "invalid_client", "The client_assertion JWT kid is invalid.", oauth.Refused, []string{jwk, "keys.signer.kid"}, 1},
		{401, "invalid_client", "The client_assertion signature is invalid.", oauth.Refused, []string{jwk, "keys.signer.kid"}, 1},
		{401, "invalid_client", "The client_assertion signing algorithm is invalid.", oauth.Refused, []string{jwk}, 1},
		{401, "invalid_client", "The client_assertion JWT key 'use' is invalid.", oauth.Refused, []string{jwk}, 1},
		{401, "invalid_client", "The client does not have a JWKSet configured, but the client_assertion requires one.", oauth.Refused, []string{jwk}, 1},
		{401, "invalid_client", "Error retrieving the client JWKSet from jwks_uri.", oauth.Unavailable, []string{"jwks_uri"}, 1},
		{401, "invalid_client", "Invalid value for 'client_id' parameter.", oauth.Refused, []string{"clients.billing.client_id", issuer}, 1},
		{401, "invalid_client", "", oauth.Refused, []string{"clients.billing.client_id", jwk, "clock"}, 1},
		{401, "", "", oauth.Refused, []string{"clients.billing.client_id", "public key"}, 1},
		{400, "invalid_scope", "No scopes were requested.", oauth.InvalidScope, []string{"clients.billing.scopes"}, 1},
		{400, "invalid_scope", "One or more scopes are not configured for the authorization server resource.", oauth.InvalidScope, []string{"clients.billing.scopes"}, 1},
		{400, "invalid_scope", "Custom scopes are not allowed for this request.", oauth.InvalidScope, []string{"clients.billing.scopes"}, 1},
		{400, "invalid_scope", "Cannot request 'openid' scopes using client credentials.", oauth.InvalidScope, []string{"clients.billing.scopes"}, 1},
		{400, "consent_required", "You are not allowed any of the requested scopes.", oauth.Refused, []string{"Okta API Scopes"}, 1},
		{401, "access_denied", "Policy evaluation failed for this request, please check the policy configurations.", oauth.Refused, []string{"access policies"}, 1},
		{400, "access_denied", "User is not assigned to the client application. Denied scopes: [a]", oauth.Refused, []string{"access policies"}, 1},
		{403, "access_denied", "Access denied by network zone.", oauth.Refused, []string{"network zone"}, 1},
		{400, "unauthorized_client", "The client is not authorized to use the provided grant type.", oauth.Refused, []string{"client credentials grant", "general settings"}, 1},
		{400, "unsupported_grant_type", "The authorization grant type is not supported by the authorization server.", oauth.Refused, []string{issuer}, 1},
		{400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof.", oauth.Refused, []string{dpop}, 1},
		{400, "invalid_dpop_proof", "The DPoP proof JWT header is missing.", oauth.Refused, []string{dpop}, 1},
		{429, "invalid_grant", "API call exceeded rate limit due to too many requests.", oauth.Unavailable, []string{"rate"}, 1},
		{429, "E0000047", "API call exceeded rate limit due to too many requests.", oauth.Unavailable, []string{"rate"}, 1},
		{400, "temporarily_unavailable", "The authorization server is overloaded or in maintenance.", oauth.Unavailable, []string{"maintenance"}, 3},
		{500, "server_error", "The authorization server encountered an unexpected condition.", oauth.Unavailable, []string{"server failed"}, 3},
		{500, "E0000009", "Internal Server Error", oauth.Unavailable, []string{"server failed"}, 3},
		{503, "E0000010", "Service is in read only mode", oauth.Unavailable, []string{"server failed"}, 3},
		{400, "E0000021", "Bad request. Accept and/or Content-Type headers likely do not match supported values.", oauth.Refused, []string{"refused the request"}, 1},
		{404, "E0000022", "The endpoint does not support the provided HTTP method", oauth.Refused, []string{"refused the request"}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.code+" "+tt.words, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := refusing(tt.code, tt.words)
				if strings.HasPrefix(tt.code, "E0") {
					body = `{"errorCode":"` + tt.code + `","errorSummary":"` + tt.words + `","errorLink":"x","errorId":"oaeX","errorCauses":[]}`
				}
				w := always(t, tt.status, body, "X-Okta-Request-Id", "ZaBc-123_.x")
				e := w.fails(t)
				if e.Class != tt.class {
					t.Errorf("class %d, want %d: %v", e.Class, tt.class, e)
				}
				for _, want := range tt.advice {
					if !strings.Contains(e.Description, want) {
						t.Errorf("no %q in: %s", want, e.Description)
					}
				}
				if slices.Contains(tt.advice, jwk) && !strings.Contains(e.Description, strconv.Quote(w.active().ID())) {
					t.Errorf("the active kid is not in: %s", e.Description)
				}
				if strings.ContainsAny(e.Description, "{}") {
					t.Errorf("a placeholder is left in: %s", e.Description)
				}
				want := &oauth.Upstream{Status: tt.status, Code: tt.code, Description: tt.words, RequestID: "ZaBc-123_.x"}
				if diff := cmp.Diff(want, e.Upstream); diff != "" {
					t.Errorf("upstream (-want +got)\n%s", diff)
				}
				w.wantPosts(t, tt.posts)
			})
		})
	}
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
		{"header and claims", head, words},
		{"claims and signature", tail, words},
		{"cut short", cut, words},
		{"the errorSummary", whole, func(s string) string { return `{"errorCode":"E0000001","errorSummary":"` + s + `"}` }},
		{"the code is it", whole, code},
		{"the code is its header", part(0), code},
		{"the code is its claims", part(1), code},
		{"the code is its signature", part(2), code},
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

// wantNothingOf looks for the parts of a JWT in what is shown.
func wantNothingOf(t *testing.T, jwt, shown string) {
	t.Helper()
	for i, name := range []string{"header", "claims", "signature"} {
		if at := strings.Index(shown, strings.Split(jwt, ".")[i]); at >= 0 {
			t.Errorf("the JWT's %s stands behind %q", name, shown[max(0, at-80):at])
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
