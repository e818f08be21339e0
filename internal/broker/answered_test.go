package broker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/dpop"
)

// challenged is a field of WWW-Authenticate as Okta's.
func challenged(code, description string) []string {
	return []string{fmt.Sprintf(`DPoP algs="ES256", error="%s", error_description="%s"`, code, description)}
}

// What follows from an answer: another token, another proof, or nothing.
func TestAnswered(t *testing.T) {
	const url = acme + "/api/v1/users"
	const escaped = acme + "/api/v1/users/a%40b?x=y"
	me := caller.Local("test")
	tests := []struct {
		name   string
		nobody bool // asks
		client string
		scope  string
		url    string // of the call
		given  string // the nonce that the caller asked for
		answer Answer
		token  string // with which the call is made again; empty: it is not
		proof  string // with {ath}
		learns []string
		decode map[string]bool // what was learned of paths
		warns  bool            // that the client should have proofs
	}{
		{name: "good", answer: Answer{Status: 200}},
		{name: "good, with a nonce", answer: Answer{Status: 200, Nonce: "n1"}, learns: []string{"n1"}},
		{name: "no rights, with a nonce", answer: Answer{Status: 403, Nonce: "n1", Challenge: challenged("insufficient_scope", "")}, learns: []string{"n1"}},
		{name: "limited", answer: Answer{Status: 429}},
		{name: "bad request", answer: Answer{Status: 400, Challenge: challenged("invalid_request", "")}},

		{name: "nonce", answer: Answer{Status: 401, Nonce: "n1", Challenge: challenged("use_dpop_nonce", "")}, token: "default 1 a b", proof: "proof 2: GET " + url + " nonce=n1 decoded=false ath={ath}"},
		{name: "nonce, 400", answer: Answer{Status: 400, Nonce: "n1", Challenge: challenged("use_dpop_nonce", "")}, token: "default 1 a b", proof: "proof 2: GET " + url + " nonce=n1 decoded=false ath={ath}"},
		{name: "nonce after another", given: "n0", answer: Answer{Status: 401, Nonce: "n1", Challenge: challenged("use_dpop_nonce", "")}, token: "default 1 a b", proof: "proof 2: GET " + url + " nonce=n1 decoded=false ath={ath}"},
		{name: "nonce that does not come", answer: Answer{Status: 401, Challenge: challenged("use_dpop_nonce", "")}},
		{name: "nonce that is none", answer: Answer{Status: 401, Nonce: `"n1"`, Challenge: challenged("use_dpop_nonce", "")}},
		{name: "nonce, though there are words for a path", answer: Answer{Status: 401, Nonce: "n1", Challenge: challenged("use_dpop_nonce", "htu was not looked at")}, token: "default 1 a b", proof: "proof 2: GET " + url + " nonce=n1 decoded=false ath={ath}"},
		{name: "nonce, final", answer: Answer{Status: 401, Nonce: "n1", Challenge: challenged("use_dpop_nonce", ""), Final: true}, learns: []string{"n1"}},

		{name: "proof", answer: Answer{Status: 401, Challenge: challenged("invalid_dpop_proof", "The DPoP proof JWT has already been used.")}, token: "default 1 a b", proof: "proof 2: GET " + url + " nonce= decoded=false ath={ath}"},
		{name: "htu", url: escaped, answer: Answer{Status: 401, Challenge: challenged("invalid_dpop_proof", "'htu' claim in the DPoP proof JWT is invalid.")}, token: "default 1 a b", proof: "proof 2: GET " + escaped + " nonce= decoded=true ath={ath}", decode: map[string]bool{escaped: true}},
		{name: "htu, final", url: escaped, answer: Answer{Status: 401, Challenge: challenged("invalid_dpop_proof", "'htu' claim in the DPoP proof JWT is invalid."), Final: true}, decode: map[string]bool{escaped: true}},
		{name: "htu, Keycloak", url: escaped, answer: Answer{Status: 401, Challenge: challenged("invalid_dpop_proof", "DPoP HTTP URL mismatch")}, token: "default 1 a b", proof: "proof 2: GET " + escaped + " nonce= decoded=true ath={ath}", decode: map[string]bool{escaped: true}},
		{name: "htu with nothing to decode", answer: Answer{Status: 401, Challenge: challenged("invalid_dpop_proof", "'htu' claim in the DPoP proof JWT is invalid.")}},
		{name: "htu with nothing to decode but a query", url: url + "?a=%40", answer: Answer{Status: 401, Challenge: challenged("invalid_dpop_proof", "'htu' claim in the DPoP proof JWT is invalid.")}},

		{name: "token", answer: Answer{Status: 401, Challenge: challenged("invalid_token", "")}, token: "default 2 a b", proof: "proof 2: GET " + url + " nonce= decoded=false ath={ath}"},
		{name: "token, and a nonce", answer: Answer{Status: 401, Nonce: "n1", Challenge: challenged("invalid_token", "")}, token: "default 2 a b", proof: "proof 2: GET " + url + " nonce=n1 decoded=false ath={ath}", learns: []string{"n1"}},
		{name: "token, without words", answer: Answer{Status: 401}, token: "default 2 a b", proof: "proof 2: GET " + url + " nonce= decoded=false ath={ath}"},
		{name: "token, with words for a path", url: escaped, answer: Answer{Status: 401, Challenge: challenged("invalid_token", "htu")}, token: "default 2 a b", proof: "proof 2: GET " + escaped + " nonce= decoded=false ath={ath}"},
		{name: "token of one scope", scope: "b", answer: Answer{Status: 401, Challenge: challenged("invalid_token", "")}, token: "default 2 b", proof: "proof 2: GET " + url + " nonce= decoded=false ath={ath}"},
		{name: "token, final", answer: Answer{Status: 401, Challenge: challenged("invalid_token", ""), Final: true}},
		{name: "token, but no 401", answer: Answer{Status: 400, Challenge: challenged("invalid_token", "")}},

		{name: "Bearer", client: "bearer", answer: Answer{Status: 401}, token: "bearer 2 a b"},
		{name: "Bearer, and words for a proof", client: "bearer", answer: Answer{Status: 400, Nonce: "n1", Challenge: challenged("use_dpop_nonce", "")}, warns: true, learns: []string{"n1"}},
		{name: "without a key", client: "off", answer: Answer{Status: 401, Nonce: "n1", Challenge: challenged("use_dpop_nonce", "")}, warns: true, token: "off 2 a b"},

		{name: "nobody asks", nobody: true, answer: Answer{Status: 401, Nonce: "n1"}},
		{name: "another URL", url: "https://evil.test/", answer: Answer{Status: 401, Nonce: "n1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tt.client == "" {
					tt.client = "default"
				}
				var log strings.Builder
				b := callers(t, &log)
				request := CallRequest{Client: tt.client, Scope: tt.scope, Method: "GET", URL: url, Nonce: tt.given}
				had, err := b.Authorize(t.Context(), me, request)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute) // beyond the limiter
				if tt.url != "" {
					request.URL = tt.url
				}
				who := me
				if tt.nobody {
					who = caller.Caller{}
				}
				next, ok := b.Answered(t.Context(), who, request, had, tt.answer)
				secret := next.Token.Access.Reveal()
				proof := strings.Replace(tt.proof, "{ath}", dpop.TokenHash(secret), 1)
				if ok != (tt.token != "") || secret != tt.token || ok && next.Proof != proof {
					t.Errorf("ok %t, token %q, proof %q; want %q, %q", ok, secret, next.Proof, tt.token, proof)
				}
				var learned []string
				var decode map[string]bool
				if tt.client != "off" {
					decode = b.prover(tt.client).decode
					for _, said := range b.prover(tt.client).nonces {
						of, nonce, _ := strings.Cut(said, " ")
						if of != request.URL {
							t.Errorf("a nonce of %s was learned for %s", request.URL, of)
						}
						learned = append(learned, nonce)
					}
				}
				if warned := strings.Contains(log.String(), "a resource wants DPoP proofs"); warned != tt.warns {
					t.Errorf("warned %t, want %t: %s", warned, tt.warns, log.String())
				}
				if diff := cmp.Diff(tt.learns, learned); diff != "" {
					t.Errorf("nonces (-want +got)\n%s", diff)
				}
				if diff := cmp.Diff(tt.decode, decode); diff != "" {
					t.Errorf("paths (-want +got)\n%s", diff)
				}
			})
		})
	}
}

// The time of a refusal is learned where the proof may have been refused for its time,
// and no other.
func TestAnsweredLearnsTheTime(t *testing.T) {
	const plain, escaped = acme + "/api/a", acme + "/api/a%40b"
	date := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := []struct {
		name   string
		url    string
		answer Answer
		learns bool
	}{
		{"proof", escaped, Answer{Status: 400, Challenge: challenged("invalid_dpop_proof", "The DPoP proof JWT is issued in the future.")}, true},
		{"proof, without words", escaped, Answer{Status: 401, Challenge: challenged("invalid_dpop_proof", "")}, true},
		{"proof, final", escaped, Answer{Status: 401, Challenge: challenged("invalid_dpop_proof", ""), Final: true}, true},
		{"htu", escaped, Answer{Status: 401, Challenge: challenged("invalid_dpop_proof", "'htu' claim in the DPoP proof JWT is invalid.")}, false},
		{"htu with nothing to decode", plain, Answer{Status: 401, Challenge: challenged("invalid_dpop_proof", "'htu' claim in the DPoP proof JWT is invalid.")}, false},
		{"nonce, final", escaped, Answer{Status: 401, Nonce: "n1", Challenge: challenged("use_dpop_nonce", ""), Final: true}, false},
		{"nonce", escaped, Answer{Status: 401, Nonce: "n1", Challenge: challenged("use_dpop_nonce", "")}, false},
		{"token", escaped, Answer{Status: 401, Challenge: challenged("invalid_token", "")}, false},
		{"good", escaped, Answer{Status: 200, Nonce: "n1"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := callers(t, &strings.Builder{})
			me, request := caller.Local("test"), CallRequest{Client: "default", Method: "GET", URL: tt.url}
			had, err := b.Authorize(t.Context(), me, request)
			if err != nil {
				t.Fatal(err)
			}
			tt.answer.Date = date
			b.Answered(t.Context(), me, request, had, tt.answer)
			if got := b.prover("default").dates; (len(got) == 1 && got[0].Equal(date)) != tt.learns || !tt.learns && got != nil {
				t.Errorf("learned %v", got)
			}
		})
	}
}

// A server that refuses the decoded path gets the encoded one again.
func TestAnsweredTriesTheOtherPath(t *testing.T) {
	b := callers(t, &strings.Builder{})
	me, request := caller.Local("test"), CallRequest{Client: "default", Method: "GET", URL: acme + "/api/a%40b"}
	with, err := b.Authorize(t.Context(), me, request)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false, true} {
		var ok bool
		if with, ok = b.Answered(t.Context(), me, request, with, Answer{Status: 401, Challenge: challenged("invalid_dpop_proof", "htu")}); !ok || with.made.Decoded != want {
			t.Errorf("refusal %d: ok %t, decoded %t, want %t", i+1, ok, with.made.Decoded, want)
		}
	}
}

// What a resource wants of a client without a key is logged, and of the URL no part that
// can hold a secret.
func TestAnsweredWarningHasNoQuery(t *testing.T) {
	var log strings.Builder
	b := callers(t, &log)
	me, request := caller.Local("test"), CallRequest{Client: "bearer", Method: "GET", URL: acme + "/api?token=hidden"}
	had, err := b.Authorize(t.Context(), me, request)
	if err != nil {
		t.Fatal(err)
	}
	b.Answered(t.Context(), me, request, had, Answer{Status: 400, Challenge: challenged("use_dpop_nonce", "")})
	if got := log.String(); !strings.Contains(got, "a resource wants DPoP proofs") || !strings.Contains(got, "url="+acme+"/api\n") || strings.Contains(got, "hidden") {
		t.Error(got)
	}
}

// For a caller who has left there is no proof, so nothing is sent for it.
func TestAnsweredEndsWithItsCaller(t *testing.T) {
	b := callers(t, &strings.Builder{})
	me, request := caller.Local("test"), CallRequest{Client: "default", Method: "GET", URL: acme + "/api"}
	had, err := b.Authorize(t.Context(), me, request)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if next, ok := b.Answered(ctx, me, request, had, Answer{Status: 401, Nonce: "n1", Challenge: challenged("use_dpop_nonce", "")}); ok || next != (Credentials{}) {
		t.Errorf("ok %t, token %q, proof %q; want nothing", ok, next.Token.Access.Reveal(), next.Proof)
	}
}

// One limiter holds for all that a refused token may lead to.
func TestAnsweredIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := callers(t, &strings.Builder{})
		me, request := caller.Local("test"), CallRequest{Client: "default", Method: "GET", URL: acme + "/api"}
		had, err := b.Authorize(t.Context(), me, request)
		if err != nil {
			t.Fatal(err)
		}
		refused := Answer{Status: 401, Challenge: challenged("invalid_token", "")}
		steps := []struct {
			after time.Duration
			had   Credentials
			want  string // empty: the 401 is passed on
		}{
			{0, had, "default 2 a b"}, // though it was fetched a moment before
			{0, had, "default 2 a b"}, // replaced already
			{9 * time.Second, had, "default 2 a b"},
		}
		for i, step := range steps {
			time.Sleep(step.after)
			if next, ok := b.Answered(t.Context(), me, request, step.had, refused); next.Token.Access.Reveal() != step.want || ok != (step.want != "") {
				t.Errorf("step %d: ok %t, token %q, want %q", i+1, ok, next.Token.Access.Reveal(), step.want)
			}
		}
		// A second 401, for the token that has just come, is passed on; once ten seconds
		// are over, that one is replaced, too.
		now, err := b.Authorize(t.Context(), me, request)
		if err != nil {
			t.Fatal(err)
		}
		if next, ok := b.Answered(t.Context(), me, request, now, refused); ok {
			t.Errorf("token %q, want none", next.Token.Access.Reveal())
		}
		time.Sleep(time.Second)
		if next, ok := b.Answered(t.Context(), me, request, now, refused); !ok || next.Token.Access.Reveal() != "default 3 a b" {
			t.Errorf("ok %t, token %q", ok, next.Token.Access.Reveal())
		}
	})
}

// For a token of a client that has changed since nobody can prove any more: the new
// client's takes its place, whatever the resource did not like. A nonce that came is
// for all its calls: it is not for a proof with the old key.
func TestAnsweredAfterSwap(t *testing.T) {
	refusals := []Answer{
		{Status: 401, Nonce: "n1", Challenge: challenged("use_dpop_nonce", "")},
		{Status: 400, Nonce: "n1", Challenge: challenged("use_dpop_nonce", "")},
		{Status: 401, Challenge: challenged("invalid_dpop_proof", "'htu' claim in the DPoP proof JWT is invalid.")},
		{Status: 401, Challenge: challenged("invalid_token", "")},
	}
	for _, to := range []string{"service", "off"} { // another key, and none
		for _, answer := range refusals {
			synctest.Test(t, func(t *testing.T) {
				b := callers(t, &strings.Builder{})
				me, request := caller.Local("test"), CallRequest{Client: "default", Method: "GET", URL: acme + "/api"}
				had, err := b.Authorize(t.Context(), me, request)
				if err != nil {
					t.Fatal(err)
				}
				after := *b.world.Load().Clients[to]
				after.Name, after.Org = "default", true
				b.Swap(&World{Clients: map[string]*Client{"default": &after}})
				next, ok := b.Answered(t.Context(), me, request, had, answer)
				if !ok || next.Token.Access.Reveal() != to+" 1 a b" || next.Token.Type != had.Token.Type && next.Proof != "" {
					t.Errorf("%v: ok %t, token %q, proof %q; want the new client's", answer, ok, next.Token.Access.Reveal(), next.Proof)
				}
				if to == "service" {
					var learns []string
					if answer.Nonce != "" {
						learns = []string{request.URL + " " + answer.Nonce}
					}
					if diff := cmp.Diff(learns, after.Prover.(*prover).nonces); diff != "" || after.Prover.(*prover).made != 1 {
						t.Errorf("%v: the new client made %d proofs; nonces (-want +got)\n%s", answer, after.Prover.(*prover).made, diff)
					}
				}
				if next, ok := b.Answered(t.Context(), me, request, next, Answer{Status: 200}); ok {
					t.Errorf("%v: token %q after a good answer", answer, next.Token.Access.Reveal())
				}
			})
		}
	}
}
