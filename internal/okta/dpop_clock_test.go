package okta

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

// Okta's words for the times and the jti of a proof.
const (
	proofOfFuture = "The DPoP proof JWT is issued in the future."
	proofTooOld   = "The DPoP proof JWT was issued more than five minutes in the past."
	proofUsed     = "The DPoP proof JWT has already been used."
)

// A proof is dated a little back by the server's clock.
func TestProofClock(t *testing.T) {
	tests := []struct {
		ahead time.Duration // of the server's clock
		first string
	}{
		{-9 * time.Minute, "ppn"}, // the first is refused for its assertion
		{-time.Minute, "ppn"},
		{-31 * time.Second, "ppn"},
		{-20 * time.Second, "pn"}, // for its proof, and brings the nonce
		{-6 * time.Second, "pn"},
		{-3 * time.Second, "pn"},
		{0, "pn"},
		{3 * time.Second, "pn"},
		{time.Minute, "pn"},
		{4*time.Minute + 50*time.Second, "pn"},
		{5 * time.Minute, "ppn"},
		{9 * time.Minute, "ppn"},
	}
	for _, tt := range tests {
		t.Run(tt.ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newBound(t, DPoPRequired)
				w.okta.SetClockOffset(tt.ahead)
				w.works(t)
				w.wantProofs(t, tt.first)
				w.works(t)
				w.wantProofs(t, "n")
				sent := w.wire.sent()
				_, claims := decode(t, sent[len(sent)-1].proof())
				wantTime(t, claims["iat"], time.Now().Add(tt.ahead-5*time.Second), time.Second)
			})
		})
	}
}

// Between clocks that hardly differ no proof is of the future for long, whatever part
// of a second a Date header leaves out.
func TestProofClockNearby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for ahead := -7 * time.Second; ahead <= 7*time.Second; ahead += 130 * time.Millisecond {
			w := newBound(t, DPoPRequired)
			w.okta.SetClockOffset(ahead)
			time.Sleep(370 * time.Millisecond)
			w.works(t)
			if posts := len(w.wire.sent()); posts > 3 {
				t.Errorf("%d requests, with the server %v ahead", posts, ahead)
			}
			posts := len(w.wire.sent())
			for range 5 {
				time.Sleep(770 * time.Millisecond)
				w.works(t)
			}
			w.wantPosts(t, posts+5)
		}
	})
}

// A proof that is refused for its time is made again once: by the clock of the answer
// where that is another, else by the one at hand.
func TestProofRefusedForItsTime(t *testing.T) {
	tests := []struct {
		name  string
		words string
		ahead time.Duration // of the Date
		times int           // that it is refused
		sends string
		moved time.Duration // of the last proof
		fails bool
	}{
		{"fast clock", proofOfFuture, -2 * time.Minute, 1, "pp", -2 * time.Minute, false},
		{"slow clock", proofTooOld, 6 * time.Minute, 1, "pp", 6 * time.Minute, false},
		{"clocks agree", proofOfFuture, 0, 1, "pp", 0, false},
		{"clocks agree, past", proofTooOld, 0, 1, "pp", 0, false},
		{"clocks agree, for ever", proofOfFuture, 0, 9, "pp", 0, true},
		{"fast clock, for ever", proofOfFuture, -2 * time.Minute, 9, "pp", -2 * time.Minute, true},
		{"absurd", proofTooOld, 2 * time.Hour, 9, "pp", 0, true},
		{"used", proofUsed, 0, 1, "pp", 0, false},
		{"used, for ever", proofUsed, 0, 9, "pp", 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := proving(t, DPoPRequired, func(n int, _ post) *http.Response {
					if n <= tt.times {
						return answer(400, refusing("invalid_dpop_proof", tt.words), "Date", dateAt(tt.ahead))
					}
					return boundTo()
				})
				if !tt.fails {
					w.works(t)
				} else if e := w.fails(t); e.Class != oauth.Refused || e.Upstream.Description != tt.words {
					t.Errorf("class %d: %v", e.Class, e)
				}
				w.wantProofs(t, tt.sends)
				sent := w.wire.sent()
				_, claims := decode(t, sent[len(sent)-1].proof())
				wantTime(t, claims["iat"], time.Now().Add(tt.moved-5*time.Second), time.Second)
			})
		})
	}
}

// A clock and a nonce are two corrections, and so is the other key.
func TestProofCorrectionsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBound(t, DPoPAuto)
		known := w.active().ID()
		w.rotate(t)
		w.okta.SetClockOffset(-9 * time.Minute)
		// The kid is refused first, and brings the Date.
		if token := w.works(t); token.Kid != known || token.Type != oauth.DPoP {
			t.Errorf("%s token of key %q, want DPoP of %q", token.Type, token.Kid, known)
		}
		w.wantProofs(t, "--pn")
	})
}

// Servers compare htu with a path that they have decoded, or not. Both are tried where
// they differ.
func TestHTU(t *testing.T) {
	const (
		encoded = "https://id.acme.test/a%40b/token"
		decoded = "https://id.acme.test/a@b/token"
		plain   = "https://id.acme.test/token"
	)
	at := func(url string) func(*ServerConfig, *ClientConfig) {
		return func(s *ServerConfig, _ *ClientConfig) { s.Issuer, s.TokenEndpoint = "https://id.acme.test", url }
	}
	tests := []struct {
		name        string
		endpoint    string
		code, words string
		takes       string   // the htu
		htus        []string // that are sent
		fails       bool
	}{
		{"as on the wire", encoded, "invalid_dpop_proof", "DPoP proof htu mismatch", encoded, []string{encoded}, false},
		{"decoded", encoded, "invalid_dpop_proof", "DPoP proof htu mismatch", decoded, []string{encoded, decoded}, false},
		{"decoded, quoted", encoded, "invalid_dpop_proof", "The 'htu' claim is invalid.", decoded, []string{encoded, decoded}, false},
		{"decoded, Keycloak", encoded, "invalid_request", "DPoP HTTP URL mismatch", decoded, []string{encoded, decoded}, false},
		{"decoded, Keycloak, by the code of RFC 9449", encoded, "invalid_dpop_proof", "DPoP HTTP URL mismatch", decoded, []string{encoded, decoded}, false},
		{"neither", encoded, "invalid_dpop_proof", "DPoP proof htu mismatch", "", []string{encoded, decoded}, true},
		{"nothing to decode", plain, "invalid_dpop_proof", "DPoP proof htu mismatch", "", []string{plain}, true},
		{"nothing to decode, Keycloak, by the code of RFC 9449", plain, "invalid_dpop_proof", "DPoP HTTP URL mismatch", "", []string{plain}, true},
		{"nothing to decode, Keycloak", plain, "invalid_request", "DPoP HTTP URL mismatch", "", []string{plain}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			htu := func(p post) string {
				_, claims := decode(t, p.proof())
				return claims["htu"].(string)
			}
			w := proving(t, DPoPRequired, func(_ int, p post) *http.Response {
				if htu(p) != tt.takes {
					return answer(400, refusing(tt.code, tt.words))
				}
				return boundTo()
			}, at(tt.endpoint))
			_, err := w.exchange(t)
			if (err != nil) != tt.fails {
				t.Errorf("got %v", err)
			}
			if tt.fails && !strings.Contains(err.Error(), "clients.billing.token_endpoint") {
				t.Errorf("no advice in %v", err)
			}
			for i, post := range w.wire.sent() {
				if post.url != tt.endpoint || i < len(tt.htus) && htu(post) != tt.htus[i] {
					t.Errorf("request %d to %s has htu %s", i+1, post.url, htu(post))
				}
			}
			w.wantPosts(t, len(tt.htus))
		})
	}
}

// Okta's own endpoints have nothing to decode, so that such a refusal is not repeated.
func TestHTUOfOkta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOf(t, fakeokta.Config{URL: issuer, Origin: "https://login.acme.test"}, fakeokta.App{DPoP: true}, setTo(t, DPoPRequired))
		e := w.fails(t)
		if e.Class != oauth.Refused || !strings.Contains(e.Description, "clients.billing.issuer has the host that the server itself knows") {
			t.Errorf("class %d: %v", e.Class, e)
		}
		w.wantProofs(t, "p")
	})
}
