package okta

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"okta-token-broker/internal/oauth"
)

// What a server quotes back of a proof stays away from callers and logs, as an
// assertion does.
func TestProofsAreFiltered(t *testing.T) {
	words := func(words string) string { return refusing("invalid_dpop_proof", words) }
	part := func(i int) func(string) string {
		return func(jwt string) string { return strings.Split(jwt, ".")[i] }
	}
	whole := func(jwt string) string { return jwt }
	tests := []struct {
		name  string
		echo  func(string) string
		place func(string) string
	}{
		{"whole", whole, words},
		{"as a header", whole, func(s string) string { return words("DPoP: " + s) }},
		{"in quotes", whole, func(s string) string { return words(`the proof "` + s + `" is bad`) }},
		{"header", part(0), words},
		{"claims", part(1), words},
		{"signature", part(2), words},
		{"signature, glued to a word", part(2), func(s string) string { return words("signature" + s + "x") }},
		{"cut short", func(jwt string) string { return jwt[:len(jwt)-9] }, words},
		{"in pieces", whole, func(s string) string { return words(pieces(s, " ")) }},
		{"in pieces with commas", whole, func(s string) string { return words(pieces(s, ", ")) }},
		{"the code", part(2), func(s string) string { return refusing(s, "x") }},
		{"the code, in pieces", part(2), func(s string) string { return refusing(pieces(s, "-"), "x") }},
		{"the errorSummary", whole, func(s string) string { return `{"errorCode":"E0000001","errorSummary":"` + s + `"}` }},
		{"the errorCode", part(2), func(s string) string { return `{"errorCode":"` + s + `"}` }},
		{"no JSON", whole, whole},
		{"HTML", whole, func(s string) string { return "<pre>DPoP: " + s + "</pre>" }},
		{"the nonce wanted", part(2), func(string) string { return refusing("use_dpop_nonce", noNonce) }},
	}
	for _, tt := range tests {
		for _, status := range []int{200, 302, 400, 401, 429, 503} {
			t.Run(tt.name+" "+strconv.Itoa(status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := proving(t, DPoPRequired, func(_ int, p post) *http.Response {
						echo := tt.echo(p.proof())
						return answer(status, tt.place(echo), "Location", endpoint+"?"+p.proof(),
							"X-Okta-Request-Id", echo, "DPoP-Nonce", echo, "DPoP", p.proof(), "WWW-Authenticate", `DPoP error="`+p.proof()+`"`)
					})
					e := w.fails(t)
					wantOneLine(t, e)
					for _, post := range w.wire.sent() {
						wantNothingOf(t, post.proof(), w.texts(e))
						wantNothingOf(t, post.assertion(), w.texts(e))
					}
				})
			})
		}
	}
}

// An exchange that works logs neither what it sent nor what it got.
func TestNothingIsLoggedOfABoundToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBound(t, DPoPAuto)
		token := w.works(t)
		w.okta.ExpireNonces()
		w.works(t)
		shown := w.log.text()
		for i, post := range w.wire.sent() {
			wantNothingOf(t, post.assertion(), shown)
			if post.proof() == "" {
				continue
			}
			wantNothingOf(t, post.proof(), shown)
			if nonce := post.nonce(t); nonce != "" && strings.Contains(shown, nonce) {
				t.Errorf("the nonce of request %d is logged", i+1)
			}
		}
		wantNoRunOf(t, token.Access.Reveal(), shown)
		if !strings.Contains(shown, "correction=proof") || !strings.Contains(shown, "correction=nonce") {
			t.Errorf("the log does not tell what was corrected: %s", shown)
		}
	})
}

// A token that is refused for its type is not shown.
func TestRefusedTokenIsNotShown(t *testing.T) {
	for dpop, kind := range map[DPoP]string{DPoPRequired: oauth.Bearer, DPoPAuto: oauth.DPoP, DPoPOff: oauth.DPoP} {
		w := proving(t, dpop, func(int, post) *http.Response {
			return answer(200, good(map[string]any{"token_type": kind, "access_token": theirToken}), "DPoP-Nonce", theirToken)
		})
		e := w.fails(t)
		wantNoRunOf(t, theirToken, w.texts(e))
	}
}
