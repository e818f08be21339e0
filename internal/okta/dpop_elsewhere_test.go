package okta

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/oauth"
)

// scriptedReply is one answer of a script: a token for status 200.
type scriptedReply struct {
	status      int
	code, words string
	nonce       string
	ahead       time.Duration // of the Date
}

func (r scriptedReply) response(kind string) *http.Response {
	body := refusing(r.code, r.words)
	if r.status == http.StatusOK {
		body = good(map[string]any{"token_type": kind})
	}
	return answer(r.status, body, "DPoP-Nonce", r.nonce, "Date", dateAt(r.ahead))
}

// Servers that are not Okta have words of their own. The last reply of a script goes on.
func TestDPoPElsewhere(t *testing.T) {
	var (
		token   = scriptedReply{status: 200}
		missing = scriptedReply{status: 400, code: "invalid_dpop_proof"}
		nonce   = scriptedReply{status: 400, code: "use_dpop_nonce", words: "nonce is required in the DPoP proof", nonce: "n1"}
	)
	refused := func(status int, code, words string) scriptedReply {
		return scriptedReply{status: status, code: code, words: words}
	}
	skewed := func(r scriptedReply, ahead time.Duration) scriptedReply {
		r.ahead = ahead
		return r
	}
	tests := []struct {
		name   string
		dpop   DPoP
		script []scriptedReply
		kind   string // the token_type
		sends  string
		second string // what the next exchange sends, where there was a token
		says   string // the error
	}{
		// oidc-provider.
		{"oidc-provider", DPoPAuto, []scriptedReply{refused(400, "invalid_grant", "grant request is invalid"), nonce, token}, "DPoP", "-pn", "n", ""},
		{"oidc-provider, an older one", DPoPAuto, []scriptedReply{refused(400, "invalid_request", "DPoP proof JWT not provided"), nonce, token}, "DPoP", "-pn", "n", ""},
		{"oidc-provider, required", DPoPRequired, []scriptedReply{nonce, token}, "DPoP", "pn", "n", ""},
		{"oidc-provider, a used proof", DPoPRequired, []scriptedReply{refused(400, "invalid_grant", "grant request is invalid"), token}, "DPoP", "pp", "p", ""},
		{"oidc-provider, an old proof", DPoPRequired, []scriptedReply{
			{status: 400, code: "use_dpop_nonce", words: "DPoP proof iat is not recent enough, use a DPoP nonce instead", nonce: "n1"}, token,
		}, "DPoP", "pn", "n", ""},
		{"oidc-provider, an old nonce", DPoPRequired, []scriptedReply{
			{status: 400, code: "use_dpop_nonce", words: "invalid nonce in DPoP proof", nonce: "n2"}, token,
		}, "DPoP", "pn", "n", ""},
		{"oidc-provider, key binding", DPoPRequired, []scriptedReply{refused(400, "invalid_dpop_proof", "invalid DPoP key binding")}, "", "pp", "", "does not accept the broker's DPoP proofs"},
		{"oidc-provider, off", DPoPOff, []scriptedReply{refused(400, "invalid_grant", "grant request is invalid")}, "", "-", "", "clients.billing.dpop must not be off"},
		// Such a refusal may have another cause, and teaches nothing by itself.
		{"invalid_grant for ever", DPoPAuto, []scriptedReply{refused(400, "invalid_grant", "")}, "", "-pp", "-pp", "refuses the client credentials grant"},
		{"invalid_grant, then a Bearer token", DPoPAuto, []scriptedReply{refused(400, "invalid_grant", ""), token}, "Bearer", "-p", "-", ""},
		// Keycloak.
		{"under a code for resources", DPoPAuto, []scriptedReply{refused(401, "invalid_token", "DPoP proof required"), token}, "DPoP", "-p", "p", ""},
		{"Keycloak", DPoPAuto, []scriptedReply{refused(400, "invalid_request", "DPoP proof is missing"), token}, "DPoP", "-p", "p", ""},
		{"Keycloak, lower case", DPoPAuto, []scriptedReply{refused(400, "invalid_request", "DPoP proof is missing"), token}, "dpop", "-p", "p", ""},
		{"Keycloak, off", DPoPOff, []scriptedReply{refused(400, "invalid_request", "DPoP proof is missing")}, "", "-", "", "clients.billing.dpop is off"},
		{"Keycloak, fast clock", DPoPRequired, []scriptedReply{skewed(refused(400, "invalid_request", "DPoP proof is not active"), -time.Minute), token}, "DPoP", "pp", "p", ""},
		{"Keycloak, a used proof", DPoPRequired, []scriptedReply{refused(400, "invalid_request", "DPoP proof has already been used"), token}, "DPoP", "pp", "p", ""},
		{"Keycloak, not ours", DPoPRequired, []scriptedReply{refused(400, "invalid_request", "DPoP header verification failure")}, "", "pp", "", "does not accept the broker's DPoP proofs"},
		// Any other.
		{"no words", DPoPAuto, []scriptedReply{missing, token}, "DPoP", "-p", "p", ""},
		{"no words, with a nonce", DPoPAuto, []scriptedReply{{status: 400, code: "invalid_dpop_proof", nonce: "n1"}, token}, "DPoP", "-n", "n", ""},
		{"no words, 401", DPoPAuto, []scriptedReply{refused(401, "invalid_dpop_proof", ""), token}, "DPoP", "-p", "p", ""},
		{"no words, twice", DPoPAuto, []scriptedReply{missing, missing, token}, "DPoP", "-pp", "p", ""},
		{"no words, for ever", DPoPAuto, []scriptedReply{missing}, "", "-pp", "", "check that " + endpoint},
		{"nonce first", DPoPAuto, []scriptedReply{nonce, token}, "DPoP", "-n", "n", ""},
		{"nonce first, 401", DPoPAuto, []scriptedReply{{status: 401, code: "use_dpop_nonce", nonce: "n1"}, token}, "DPoP", "-n", "n", ""},
		{"nonce, but none comes", DPoPRequired, []scriptedReply{{status: 400, code: "use_dpop_nonce"}}, "", "p", "", "proxy that keeps DPoP-Nonce headers away"},
		{"another bad request", DPoPAuto, []scriptedReply{refused(400, "invalid_request", "scope is malformed")}, "", "-", "", "refused the request"},
		{"off, no words", DPoPOff, []scriptedReply{missing}, "", "-", "", "clients.billing.dpop is off"},
		{"off, limited", DPoPOff, []scriptedReply{refused(429, "use_dpop_nonce", "")}, "", "-", "", "limits the rate"},
		{"failing", DPoPRequired, []scriptedReply{refused(500, "", ""), nonce, refused(503, "", ""), token}, "DPoP", "ppnn", "n", ""},
		{"failing for ever", DPoPRequired, []scriptedReply{nonce, refused(503, "use_dpop_nonce", "")}, "", "pnnn", "", "failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := proving(t, tt.dpop, func(n int, _ post) *http.Response {
					return tt.script[min(n, len(tt.script))-1].response(tt.kind)
				}, elsewhere)
				token, err := w.exchange(t)
				w.wantProofs(t, tt.sends)
				switch {
				case tt.says != "":
					if e := explained(t, err); !strings.Contains(e.Description, tt.says) {
						t.Errorf("no %q in: %s", tt.says, e.Description)
					}
				case err != nil:
					t.Fatal(err)
				case !strings.EqualFold(token.Type, tt.kind) || (token.JKT != "") != (token.Type == oauth.DPoP):
					t.Errorf("%s token of key %q, want %s", token.Type, token.JKT, tt.kind)
				}
				if tt.second != "" {
					_, _ = w.exchange(t)
					w.wantProofs(t, tt.second)
				}
			})
		})
	}
}

// What another server goes on to say of proofs is explained, and remembered as long as it
// may last: it says so of the client, but for a nonce, where the next one may do.
func TestDPoPAdviceElsewhere(t *testing.T) {
	const lost = "proxy that takes DPoP headers away"
	tests := []struct {
		status      int
		code, words string
		class       oauth.Class
		reach       oauth.Reach
		sends       string
		says        string
	}{
		{400, "invalid_dpop_proof", "", oauth.Refused, oauth.ReachClient, "pp", "does not accept the broker's DPoP proofs"},
		{400, "invalid_dpop_proof", "DPoP proof htu mismatch", oauth.Refused, oauth.ReachClient, "p", "another URL than the DPoP proof is for"},
		{400, "invalid_dpop_proof", "DPoP HTTP URL mismatch", oauth.Refused, oauth.ReachClient, "p", "another URL than the DPoP proof is for"},
		{400, "invalid_dpop_proof", "DPoP proof is not active", oauth.Refused, oauth.ReachClient, "pp", "the broker's differ: synchronise"},
		{400, "invalid_request", "DPoP HTTP URL mismatch", oauth.Refused, oauth.ReachClient, "p", "another URL than the DPoP proof is for"},
		{400, "invalid_request", "DPoP proof has already been used", oauth.Refused, oauth.ReachClient, "pp", "does not accept the broker's DPoP proofs"},
		{400, "invalid_request", "DPoP proof is missing", oauth.Refused, oauth.ReachClient, "p", lost},
		{401, "invalid_token", "DPoP proof required", oauth.Refused, oauth.ReachClient, "p", lost},
		{400, "invalid_grant", "", oauth.Refused, oauth.ReachClient, "pp", "refuses the client credentials grant"},
		{400, "use_dpop_nonce", "", oauth.BadAnswer, oauth.ReachScopes, "p", "proxy that keeps DPoP-Nonce headers away"},
	}
	for _, tt := range tests {
		t.Run(strings.TrimSpace(tt.code+" "+tt.words), func(t *testing.T) {
			w := proving(t, DPoPRequired, func(int, post) *http.Response { return answer(tt.status, refusing(tt.code, tt.words)) }, elsewhere)
			e := w.fails(t)
			if e.Class != tt.class || e.Reach != tt.reach || !strings.Contains(e.Description, tt.says) {
				t.Errorf("class %d, reach %d, or no %q in: %s", e.Class, e.Reach, tt.says, e.Description)
			}
			w.wantProofs(t, tt.sends)
		})
	}
}

// Servers at Okta's paths, which need no token_endpoint, are understood as well. Their
// words teach nothing before a token is bound.
func TestDPoPInOktasPlace(t *testing.T) {
	tests := []struct{ code, words string }{
		{"invalid_grant", "grant request is invalid"},      // oidc-provider
		{"invalid_request", "DPoP proof JWT not provided"}, // an older one
		{"invalid_request", "DPoP proof is missing"},       // Keycloak
		{"invalid_dpop_proof", "a DPoP proof is required"},
	}
	for _, tt := range tests {
		t.Run(tt.code+", "+tt.words, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := []scriptedReply{
					{status: 400, code: tt.code, words: tt.words},
					{status: 400, code: "use_dpop_nonce", nonce: "n1"},
					{status: 200},
				}
				w := proving(t, DPoPAuto, func(n int, _ post) *http.Response { return script[min(n, 3)-1].response("DPoP") })
				w.works(t)
				w.wantProofs(t, "-pn")
				w.works(t)
				w.wantProofs(t, "n")

				w = proving(t, DPoPOff, func(int, post) *http.Response { return script[0].response("") })
				if e := w.fails(t); !strings.Contains(e.Description, "clients.billing.dpop") {
					t.Errorf("off: %s", e.Description)
				}
				w.wantProofs(t, "-")

				w = proving(t, DPoPAuto, func(int, post) *http.Response { return script[0].response("") })
				_ = w.fails(t)
				w.wantProofs(t, "-pp")
				_ = w.fails(t)
				if learned := script[0].code == dpop.InvalidProof; learned {
					w.wantProofs(t, "pp")
				} else {
					w.wantProofs(t, "-pp")
				}
			})
		})
	}
}

// A proof that was made for a skewed clock is made by the server's.
func TestDPoPElsewhereClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := proving(t, DPoPRequired, func(n int, _ post) *http.Response {
			r := scriptedReply{status: 400, code: "invalid_request", words: "DPoP proof is not active", ahead: -time.Minute}
			if n > 1 {
				r.status = 200
			}
			return r.response("DPoP")
		}, elsewhere)
		w.works(t)
		_, claims := decode(t, w.wire.sent()[1].proof())
		wantTime(t, claims["iat"], time.Now().Add(-time.Minute-5*time.Second), time.Second)
	})
}
