package okta

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

const (
	noProof = "The DPoP proof JWT header is missing."
	noNonce = "Authorization server requires nonce in DPoP proof."
)

// setTo sets a client's dpop, and gives it a proof key of its own.
func setTo(t testing.TB, dpop DPoP) func(*ServerConfig, *ClientConfig) {
	t.Helper()
	key, err := keys.New("ES256")
	if err != nil {
		t.Fatal(err)
	}
	return func(_ *ServerConfig, c *ClientConfig) { c.DPoP, c.ProofKey = dpop, key }
}

// newBound is a client whose app requires DPoP.
func newBound(t *testing.T, dpop DPoP) *world {
	t.Helper()
	return newWorldOf(t, fakeokta.Config{URL: issuer}, fakeokta.App{DPoP: true}, setTo(t, dpop))
}

// proving is scripted for a client whose dpop is set.
func proving(t testing.TB, dpop DPoP, script func(n int, p post) *http.Response, changes ...func(*ServerConfig, *ClientConfig)) *world {
	t.Helper()
	var w *world
	w = newClient(t, roundTripper(func(*http.Request) (*http.Response, error) {
		sent := w.wire.sent()
		resp := script(len(sent), sent[len(sent)-1])
		if resp == nil { // the connection breaks
			return nil, io.EOF
		}
		return resp, nil
	}), append(changes, setTo(t, dpop))...)
	return w
}

func (p post) proof() string { return p.header.Get("DPoP") }

// nonce is that of a request's proof.
func (p post) nonce(t *testing.T) string {
	t.Helper()
	_, claims := decode(t, p.proof())
	nonce, _ := claims["nonce"].(string)
	return nonce
}

// wantProofs checks which requests came since it was asked last: "-" for one without
// a proof, "p" for one with a proof, "n" for one whose proof has a nonce. Nothing in
// two of all the requests may be the same.
func (w *world) wantProofs(t *testing.T, want string) {
	t.Helper()
	var got strings.Builder
	sent := w.wire.sent()
	for _, post := range sent[w.checked:] {
		switch {
		case post.proof() == "":
			got.WriteByte('-')
		case post.nonce(t) == "":
			got.WriteByte('p')
		default:
			got.WriteByte('n')
		}
		if n := len(post.header.Values("DPoP")); n > 1 {
			t.Errorf("a request has %d proofs", n)
		}
	}
	w.checked = len(sent)
	if got.String() != want {
		t.Errorf("requests %q, want %q", got.String(), want)
	}
	wantDistinct(t, sent)
}

// What a client sends depends on its setting, and with auto on what the server said;
// Okta's own words teach it.
func TestDPoP(t *testing.T) {
	const auto, required, off = DPoPAuto, DPoPRequired, DPoPOff
	tests := []struct {
		name            string
		dpop            DPoP
		requires, binds bool   // what the app does
		first, second   string // what the exchanges send
		kind            string // of the token, empty: there is none
		class           oauth.Class
		says            []string
	}{
		{name: "auto", dpop: auto, requires: true, first: "-pn", second: "n", kind: oauth.DPoP},
		{name: "auto, not required", dpop: auto, first: "-", second: "-", kind: oauth.Bearer},
		{name: "auto, not required but honoured", dpop: auto, binds: true, first: "-", second: "-", kind: oauth.Bearer},
		{name: "required", dpop: required, requires: true, first: "pn", second: "n", kind: oauth.DPoP},
		{name: "required, honoured", dpop: required, binds: true, first: "pn", second: "n", kind: oauth.DPoP},
		{name: "required, and the app is without", dpop: required, first: "p", second: "p",
			class: oauth.BadAnswer, says: []string{"Bearer", "clients.billing.dpop is required", "auto"}},
		{name: "off", dpop: off, first: "-", second: "-", kind: oauth.Bearer},
		{name: "off, and the app requires it", dpop: off, requires: true, first: "-", second: "-",
			class: oauth.Refused, says: []string{"DPoP", "clients.billing.dpop is off", "auto"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				app := fakeokta.App{DPoP: tt.requires, HonoursDPoP: tt.binds}
				w := newWorldOf(t, fakeokta.Config{URL: issuer}, app, setTo(t, tt.dpop))
				for _, want := range []string{tt.first, tt.second} {
					if tt.kind == "" {
						e := w.fails(t)
						if e.Class != tt.class {
							t.Errorf("class %d, want %d: %v", e.Class, tt.class, e)
						}
						for _, words := range tt.says {
							if !strings.Contains(e.Description, words) {
								t.Errorf("no %q in: %s", words, e.Description)
							}
						}
					} else if token := w.works(t); token.Type != tt.kind || (token.JKT != "") != (tt.kind == oauth.DPoP) {
						t.Errorf("%s token of key %q, want %s", token.Type, token.JKT, tt.kind)
					}
					w.wantProofs(t, want)
					time.Sleep(time.Minute)
				}
				for _, post := range w.wire.sent() {
					if post.url != endpoint {
						t.Errorf("asked at %s, want nothing but the token endpoint", post.url)
					}
				}
				if seen := w.okta.Counters(); seen.ReusedJTI+seen.ReusedProofs != 0 {
					t.Errorf("the server saw %d assertions and %d proofs again", seen.ReusedJTI, seen.ReusedProofs)
				}
			})
		})
	}
}

// What was learned holds on when the app is changed: Okta takes a proof that it has
// no need of.
func TestDPoPTurnedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBound(t, DPoPAuto)
		w.works(t)
		if err := w.okta.SetDPoP(clientID, false); err != nil {
			t.Fatal(err)
		}
		if token := w.works(t); token.Type != oauth.Bearer || token.JKT != "" {
			t.Errorf("%s token of key %q, want the Bearer token that the server gave", token.Type, token.JKT)
		}
		w.wantProofs(t, "-pnn")
		if err := w.okta.SetDPoP(clientID, true); err != nil {
			t.Fatal(err)
		}
		if token := w.works(t); token.Type != oauth.DPoP {
			t.Errorf("%s token, want DPoP", token.Type)
		}
		w.wantProofs(t, "n")
	})
}

// One answer teaches a client for good that proofs are needed, whatever comes of the
// exchange.
func TestDPoPIsLearned(t *testing.T) {
	tests := []struct {
		name        string
		status      int
		code, words string
		learned     bool
	}{
		{"missing", 400, "invalid_dpop_proof", noProof, true},
		{"missing, 401", 401, "invalid_dpop_proof", noProof, true},
		{"nonce", 400, "use_dpop_nonce", noNonce, true},
		{"another word for it", 400, "invalid_dpop_proof", "A proof is needed.", true},
		{"no word for it", 400, "invalid_dpop_proof", "", true},
		{"the words for a clock", 400, "invalid_dpop_proof", "The DPoP proof JWT is issued in the future.", true},
		{"the words for a URL", 400, "invalid_dpop_proof", "The 'htu' claim is invalid.", true},
		{"another code", 400, "invalid_scope", noProof, false},
		{"a client that is not known", 401, "invalid_client", noProof, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := proving(t, DPoPAuto, func(n int, _ post) *http.Response {
					if n == 1 {
						return answer(tt.status, refusing(tt.code, tt.words))
					}
					return answer(400, refusing("invalid_scope", "One or more scopes are not configured for the authorization server resource."))
				})
				for range 2 {
					if e := w.fails(t); tt.learned && e.Class != oauth.InvalidScope {
						t.Errorf("class %d: %v", e.Class, e)
					}
				}
				want := "--"
				if tt.learned {
					want = "-pp"
				}
				w.wantProofs(t, want)
			})
		})
	}
}

// A client that may not prove is told so, and sends nothing more; one that has proved
// is not told to.
func TestDPoPAdvice(t *testing.T) {
	const off, lost = "clients.billing.dpop is off", "proxy that takes DPoP headers away"
	tests := []struct {
		name        string
		dpop        DPoP
		code, words string
		sends       string
		says        string
	}{
		{"off, missing", DPoPOff, "invalid_dpop_proof", noProof, "-", off},
		{"off, nonce", DPoPOff, "use_dpop_nonce", noNonce, "-", off},
		{"off, no words", DPoPOff, "invalid_dpop_proof", "", "-", off},
		{"off, words for a clock", DPoPOff, "invalid_dpop_proof", "issued in the future", "-", off},
		{"required, missing", DPoPRequired, "invalid_dpop_proof", noProof, "p", lost},
		{"auto, missing for ever", DPoPAuto, "invalid_dpop_proof", noProof, "-p", lost},
		{"required, refused for ever", DPoPRequired, "invalid_dpop_proof", "", "pp", "does not accept the broker's DPoP proofs"},
		{"required, nonce without a nonce", DPoPRequired, "use_dpop_nonce", noNonce, "p", "DPoP-Nonce"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := proving(t, tt.dpop, func(int, post) *http.Response { return answer(400, refusing(tt.code, tt.words)) })
				e := w.fails(t)
				want := oauth.Refused
				if tt.code == "use_dpop_nonce" && tt.dpop != DPoPOff {
					want = oauth.BadAnswer
				}
				if e.Class != want || !strings.Contains(e.Description, tt.says) {
					t.Errorf("class %d, and no %q in: %s", e.Class, tt.says, e.Description)
				}
				w.wantProofs(t, tt.sends)
			})
		})
	}
}

// The token's type and the request's proof have to fit.
func TestTokenType(t *testing.T) {
	tests := []struct {
		dpop DPoP
		kind string
		want string // empty: refused
	}{
		{DPoPOff, "bearer", oauth.Bearer},
		{DPoPOff, "DPoP", ""},
		{DPoPAuto, "BEARER", oauth.Bearer},
		{DPoPAuto, "dpop", ""}, // it sends no proof yet
		{DPoPRequired, "dpop", oauth.DPoP},
		{DPoPRequired, "DPOP", oauth.DPoP},
		{DPoPRequired, "bearer", ""},
		{DPoPRequired, "N_A", ""},
		{DPoPRequired, "DPoP ", ""},
		{DPoPRequired, "", ""},
	}
	for _, tt := range tests {
		t.Run(string(tt.dpop)+" "+tt.kind, func(t *testing.T) {
			w := proving(t, tt.dpop, func(int, post) *http.Response {
				return answer(200, good(map[string]any{"token_type": tt.kind, "access_token": marker}))
			})
			token, err := w.exchange(t)
			if tt.want != "" {
				if err != nil || token.Type != tt.want {
					t.Errorf("%s token, %v; want %s", token.Type, err, tt.want)
				}
				return
			}
			e := explained(t, err)
			if e.Class != oauth.BadAnswer || strings.Contains(w.texts(e), marker) {
				t.Errorf("class %d, want BadAnswer without the token: %s", e.Class, w.texts(e))
			}
			w.wantPosts(t, 1)
		})
	}
}

// Many exchanges at once learn together, and each has its own of everything.
func TestDPoPAtOnce(t *testing.T) {
	for _, dpop := range []DPoP{DPoPAuto, DPoPRequired} {
		t.Run(string(dpop), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const callers = 50
				w := newBound(t, dpop)
				var all sync.WaitGroup
				for range callers {
					all.Go(func() {
						if token, err := w.exchange(t); err != nil || token.Type != oauth.DPoP {
							t.Errorf("%s token, %v", token.Type, err)
						}
					})
				}
				all.Wait()
				seen := w.okta.Counters()
				if seen.BoundTokens != callers || seen.ReusedJTI+seen.ReusedProofs != 0 || seen.TokenRequests > 3*callers {
					t.Errorf("%d bound tokens in %d requests, %d assertions and %d proofs again",
						seen.BoundTokens, seen.TokenRequests, seen.ReusedJTI, seen.ReusedProofs)
				}
			})
		})
	}
}
