package okta

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

// boundTo is a token answer to a request with a proof.
func boundTo(headers ...string) *http.Response {
	return answer(200, good(map[string]any{"token_type": "DPoP"}), headers...)
}

// The newest nonce counts, whichever answer brings it.
func TestNewestNonce(t *testing.T) {
	tests := []struct {
		name   string
		answer func() *http.Response
	}{
		{"token", func() *http.Response { return boundTo("DPoP-Nonce", "newer") }},
		{"refusal", func() *http.Response {
			return answer(400, refusing("invalid_scope", "No scopes were requested."), "DPoP-Nonce", "newer")
		}},
		{"no JSON", func() *http.Response { return answer(200, "<html>", "DPoP-Nonce", "newer") }},
		{"redirect", func() *http.Response { return answer(302, "", "DPoP-Nonce", "newer", "Location", endpoint) }},
		{"limit", func() *http.Response { return answer(429, "", "DPoP-Nonce", "newer", "Retry-After", "1") }},
		{"limit, with words for a nonce", func() *http.Response {
			return answer(429, refusing("use_dpop_nonce", noNonce), "DPoP-Nonce", "newer", "Retry-After", "1")
		}},
		{"Bearer", func() *http.Response { return answer(200, good(), "DPoP-Nonce", "newer") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := proving(t, DPoPRequired, func(n int, _ post) *http.Response {
					switch n {
					case 1:
						return boundTo("DPoP-Nonce", "old")
					case 2:
						return tt.answer()
					}
					return boundTo()
				})
				w.works(t)
				_, _ = w.exchange(t)
				time.Sleep(time.Minute)
				w.works(t)
				w.works(t) // the last answer said nothing
				for i, want := range []string{"", "old", "newer", "newer"} {
					if got := w.wire.sent()[i].nonce(t); got != want {
						t.Errorf("request %d with nonce %q, want %q", i+1, got, want)
					}
				}
				w.wantPosts(t, 4)
			})
		})
	}
}

// After an exchange that had to ask for a nonce, the next begins with the newest that was
// not refused.
func TestNonceOfASecondAttempt(t *testing.T) {
	tests := []struct {
		name   string
		second *http.Response
		want   string // the nonce of the next exchange; empty: none
	}{
		{"taken", boundTo(), "n1"},
		{"taken, and a newer one", boundTo("DPoP-Nonce", "n2"), "n2"},
		{"refused for another thing", answer(400, refusing("invalid_scope", "No scopes were requested.")), "n1"},
		{"refused for another thing, and a newer one", answer(400, refusing("invalid_scope", "No scopes were requested."), "DPoP-Nonce", "n2"), "n2"},
		{"not taken", answer(400, refusing("use_dpop_nonce", noNonce)), ""},
		{"not taken, and a newer one", answer(400, refusing("use_dpop_nonce", noNonce), "DPoP-Nonce", "n2"), "n2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := proving(t, DPoPRequired, func(n int, _ post) *http.Response {
				switch n {
				case 1:
					return answer(400, refusing("use_dpop_nonce", noNonce), "DPoP-Nonce", "n1")
				case 2:
					return tt.second
				}
				return boundTo()
			})
			_, _ = w.exchange(t)
			w.wantProofs(t, "pn")
			w.works(t)
			w.wantPosts(t, 3)
			if got := w.wire.sent()[2].nonce(t); got != tt.want {
				t.Errorf("nonce %q, want %q", got, tt.want)
			}
		})
	}
}

// An exchange takes up one nonce, and does not go round with a server that takes none.
func TestNonceLoop(t *testing.T) {
	for dpop, want := range map[DPoP]string{DPoPRequired: "pn", DPoPAuto: "-pn"} {
		t.Run(string(dpop), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := proving(t, dpop, func(n int, p post) *http.Response {
					if p.proof() == "" {
						return answer(400, refusing("invalid_dpop_proof", noProof))
					}
					return answer(400, refusing("use_dpop_nonce", noNonce), "DPoP-Nonce", "n"+strconv.Itoa(n))
				})
				e := w.fails(t)
				if e.Class != oauth.BadAnswer || !strings.Contains(e.Description, "proxy that keeps DPoP-Nonce headers away") {
					t.Errorf("class %d: %v", e.Class, e)
				}
				w.wantProofs(t, want)
				_, _ = w.exchange(t)
				w.wantProofs(t, "nn")
			})
		})
	}
}

// A nonce that has ended costs one request, also where the server refuses a good one
// now and then.
func TestNoncesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBound(t, DPoPAuto)
		w.works(t)
		w.wantProofs(t, "-pn")
		w.okta.ExpireNonces()
		w.works(t)
		w.wantProofs(t, "nn")
		w.works(t)
		w.wantProofs(t, "n")

		// Okta gives a new nonce each day, with an answer that is good: a client that
		// asks every hour never meets a refusal.
		w.okta.ResetCounters()
		for range 10 * 24 {
			time.Sleep(time.Hour)
			w.works(t)
		}
		if seen := w.okta.Counters(); seen.TokenRequests != 10*24 || seen.NonceRefusals[fakeokta.Token] != 0 {
			t.Errorf("%d requests and %d refusals of nonces for %d tokens", seen.TokenRequests, seen.NonceRefusals[fakeokta.Token], 10*24)
		}
		// After four days without a request the nonce has ended.
		time.Sleep(4 * 24 * time.Hour)
		w.okta.ResetCounters()
		w.works(t)
		if seen := w.okta.Counters(); seen.TokenRequests != 2 {
			t.Errorf("%d requests, want 2", seen.TokenRequests)
		}
	})
}

// A nonce outlives what goes wrong after it came, and one that was used up by that is
// followed by another.
func TestNonceAndServerErrors(t *testing.T) {
	for _, once := range []bool{false, true} { // the server takes each
		for _, breaks := range []bool{false, true} { // or is down for a moment
			synctest.Test(t, func(t *testing.T) {
				made, used := 0, map[string]bool{}
				w := proving(t, DPoPRequired, func(n int, p post) *http.Response {
					nonce := p.nonce(t)
					good := nonce != "" && !used[nonce]
					used[nonce] = once
					switch {
					case n == 2 && breaks:
						return nil
					case n == 2:
						return answer(503, "")
					case !good:
						made++
						return answer(400, refusing("use_dpop_nonce", noNonce), "DPoP-Nonce", "n"+strconv.Itoa(made))
					}
					return boundTo()
				})
				w.works(t)
				if once {
					w.wantProofs(t, "pnnn")
				} else {
					w.wantProofs(t, "pnn")
				}
			})
		}
	}
}

// What is no nonce is not taken for one, and what is one is taken in any spelling of
// the header's name.
func TestNonceHeaders(t *testing.T) {
	tests := []struct {
		name   string
		header http.Header
		want   string // that is sent next; empty: none
	}{
		{"canonical", http.Header{"DPoP-Nonce": {"n1"}}, "n1"},
		{"lower case", http.Header{"dpop-nonce": {"n1"}}, "n1"},
		{"upper case", http.Header{"DPOP-NONCE": {"n1"}}, "n1"},
		{"all that a nonce may have", http.Header{"DPoP-Nonce": {"!#$%&'()*+,-./09:;<=>?@AZ[]^_`az{|}~"}}, "!#$%&'()*+,-./09:;<=>?@AZ[]^_`az{|}~"},
		{"1 KiB", http.Header{"DPoP-Nonce": {strings.Repeat("n", 1024)}}, strings.Repeat("n", 1024)},
		{"two headers", http.Header{"DPoP-Nonce": {"n1", "n2"}}, "n1"},
		{"two headers of one nonce", http.Header{"DPoP-Nonce": {"n1"}, "dpop-nonce": {"n1"}}, "n1"},
		{"two in one header", http.Header{"DPoP-Nonce": {"n1, n2"}}, ""},
		{"none", http.Header{}, ""},
		{"empty", http.Header{"DPoP-Nonce": {""}}, ""},
		{"another header", http.Header{"Nonce": {"n1"}}, ""},
		{"quoted", http.Header{"DPoP-Nonce": {`"n1"`}}, ""},
		{"backslash", http.Header{"DPoP-Nonce": {`n\1`}}, ""},
		{"space", http.Header{"DPoP-Nonce": {"n 1"}}, ""},
		{"tab", http.Header{"DPoP-Nonce": {"n\t1"}}, ""},
		{"not ASCII", http.Header{"DPoP-Nonce": {"n\u00fc"}}, ""},
		{"over 1 KiB", http.Header{"DPoP-Nonce": {strings.Repeat("n", 1025)}}, ""},
		{"2 KiB", http.Header{"DPoP-Nonce": {strings.Repeat("n", 2048)}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				for name, values := range tt.header {
					w.Header()[name] = values
				}
				w.WriteHeader(http.StatusBadRequest)
				_, _ = w.Write([]byte(refusing("use_dpop_nonce", noNonce)))
			}))
			t.Cleanup(server.Close)
			w := newClient(t, server.Client().Transport, setTo(t, DPoPRequired), on(server.URL))
			e := w.fails(t)
			if e.Class != oauth.BadAnswer {
				t.Errorf("class %d: %v", e.Class, e)
			}
			if tt.want == "" {
				w.wantProofs(t, "p")
				return
			}
			w.wantProofs(t, "pn")
			if got := w.wire.sent()[1].nonce(t); got != tt.want {
				t.Errorf("nonce %q, want %q", got, tt.want)
			}
		})
	}
	// Such bytes come over no wire of Go's, but what came through a proxy's library
	// may have them.
	for _, nonce := range []string{"n\x00", "n\r\nX-Evil: 1", "n\x7f", "\x1b[31m"} {
		w := proving(t, DPoPRequired, func(int, post) *http.Response {
			resp := answer(400, refusing("use_dpop_nonce", noNonce))
			resp.Header["Dpop-Nonce"] = []string{nonce}
			return resp
		})
		if e := w.fails(t); e.Class != oauth.BadAnswer {
			t.Errorf("class %d: %v", e.Class, e)
		}
		w.wantProofs(t, "p")
	}
}

// nonceFor is that of a proof for a call of a resource. The caller may give one.
func (w *world) nonceFor(t *testing.T, url, given string) string {
	t.Helper()
	made, _, err := w.client.Proof(t.Context(), dpop.Proof{Method: "GET", URL: url, Nonce: given, TokenHash: dpop.TokenHash("t")})
	if err != nil {
		t.Fatal(err)
	}
	_, claims := decode(t, made)
	nonce, _ := claims["nonce"].(string)
	return nonce
}

// A token endpoint's nonces are not those of the resource at the same origin, nor
// those of another origin.
func TestNoncesOfWhom(t *testing.T) {
	w := newBound(t, DPoPRequired)
	w.works(t)
	const other = "https://api.acme.test/v1"
	steps := []struct {
		from, learned string
		url           string
		given, want   string
	}{
		{url: issuer + "/api/v1/users"}, // nothing of the token endpoint's
		{from: issuer + "/api/v1/users", learned: "r1", url: issuer + "/api/v1/groups?limit=2", want: "r1"},
		{url: other},
		{from: other + "/x?y#z", learned: "o1", url: other + "/a", want: "o1"},
		{url: "https://api.acme.test:8443/v1"}, // another port is another origin
		{from: "https://api.acme.test:8443/x", learned: "p1", url: "https://api.acme.test:8443/v1", want: "p1"},
		{url: other, want: "o1"},
		{url: "http://api.acme.test/v1"}, // and so is another scheme
		{from: "http://api.acme.test/x", learned: "h1", url: "http://api.acme.test/v1", want: "h1"},
		{url: other, want: "o1"},
		{url: issuer, want: "r1"},
		{from: issuer + "/", learned: "r2", url: issuer + "/api", want: "r2"},
		{from: issuer + "/", learned: `"r3"`, url: issuer + "/api", want: "r2"},
		{from: issuer + "/", learned: "", url: issuer + "/api", want: "r2"},
		{url: issuer + "/api", given: "mine", want: "mine"},
		{url: issuer + "/api", want: "r2"}, // what a caller gives is for that call
	}
	for i, step := range steps {
		if step.from != "" {
			w.client.Learn(step.from, dpop.Made{}, dpop.Terms{Nonce: step.learned})
		}
		if got := w.nonceFor(t, step.url, step.given); got != step.want {
			t.Errorf("step %d: a proof for %s has nonce %q, want %q", i+1, step.url, got, step.want)
		}
	}
	w.works(t)
	w.wantProofs(t, "pnn") // the resource's nonces are not sent there: they would be refused
}

// A nonce serves all clients of a server, and so does it where the server is reached
// in another way.
func TestNoncesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBound(t, DPoPRequired)
		w.works(t)
		again := newClient(t, w.okta.Transport(), setTo(t, DPoPRequired), func(s *ServerConfig, c *ClientConfig) {
			s.Like, c.Ring = w.client.cfg.Server, w.ring
		})
		again.works(t)
		again.wantProofs(t, "n")
	})
}
