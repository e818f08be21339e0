package okta

import (
	"encoding/json"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/oauth"
)

// provedAt makes a proof for a call of a URL, and returns its iat, as the time from now on.
func (w *world) provedAt(t *testing.T, url string) (time.Duration, dpop.Made) {
	t.Helper()
	proof, made, err := w.client.Proof(t.Context(), dpop.Proof{Method: "GET", URL: url, TokenHash: dpop.TokenHash("t")})
	if err != nil {
		t.Fatal(err)
	}
	_, claims := decode(t, proof)
	seconds, err := claims["iat"].(json.Number).Int64()
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(seconds, 0).Sub(time.Now().Truncate(time.Second)), made
}

// A proof for a resource is dated by the authorization server's clock, until the resource
// has refused one and said what its own is.
func TestProofByTheResourcesClock(t *testing.T) {
	const here, there = issuer + "/api", "https://api.acme.test/v1"
	type step struct {
		url   string        // that refuses a proof
		ahead time.Duration // of its Date
		want  time.Duration // iat of the next one there, without the five seconds
		final bool          // it was the last of its call
	}
	tests := []struct {
		name  string
		as    time.Duration // how far the authorization server's clock is ahead
		steps []step
	}{
		{"the same clock", 2 * time.Minute, []step{{here, 2 * time.Minute, 2 * time.Minute, false}}},
		{"clocks have moved since the token", 0, []step{{here, -2 * time.Minute, -2 * time.Minute, false}, {here, -4 * time.Minute, -4 * time.Minute, false}}},
		{"the authorization server's is wrong", 2 * time.Minute, []step{{there, 0, 0, false}}},
		{"the resource's is wrong", 0, []step{{there, -90 * time.Second, -90 * time.Second, false}}},
		{"two seconds", 0, []step{{there, -2 * time.Second, -2 * time.Second, false}}},
		{"each its own", 0, []step{{there, time.Minute, time.Minute, false}, {here, -time.Minute, -time.Minute, false}, {there, 2 * time.Minute, 2 * time.Minute, false}}},
		{"a Date that is not the clock's", 0, []step{{there, time.Minute, time.Minute, false}, {there, time.Minute, 0, true}}},
		{"refused for something else", time.Minute, []step{{here, time.Minute, time.Minute, false}, {here, time.Minute, time.Minute, true}}},
		{"refused for its time, and later for something else", 0, []step{{there, time.Minute, time.Minute, false}, {there, time.Minute, time.Minute, false}}},
		{"absurd", 0, []step{{there, time.Hour, 0, false}}},
		{"no Date", time.Minute, []step{{url: there, want: time.Minute}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newBound(t, DPoPRequired)
				w.okta.SetClockOffset(tt.as)
				w.works(t)
				for i, step := range tt.steps {
					_, made := w.provedAt(t, step.url)
					said := dpop.Terms{Final: step.final}
					if step.ahead != 0 || tt.name == "the authorization server's is wrong" {
						said.Date = time.Now().Add(step.ahead).Truncate(time.Second)
					}
					w.client.Learn(step.url, made, said)
					if got, _ := w.provedAt(t, step.url); (got + proofBackDate - step.want).Abs() > time.Second {
						t.Errorf("step %d: a proof is dated %v from now, want %v", i+1, got, step.want)
					}
				}
				// That of the token endpoint is its own.
				w.works(t)
				w.wantProofs(t, "pn"+"n")
			})
		})
	}
}

// Of calls that are refused at the same time each finds the resource's clock, and undoes
// nothing: not one that was dated by it and refused for something else, nor the last of a
// call that was dated by another.
func TestResourcesClockIsFoundTwice(t *testing.T) {
	const url, ahead = "https://api.acme.test/v1", -time.Minute
	synctest.Test(t, func(t *testing.T) {
		w := newBound(t, DPoPRequired)
		w.works(t)
		_, before := w.provedAt(t, url)
		refused := func(made dpop.Made, final bool) {
			t.Helper()
			w.client.Learn(url, made, dpop.Terms{Date: time.Now().Add(ahead), Final: final})
			if got, _ := w.provedAt(t, url); (got + proofBackDate - ahead).Abs() > time.Second {
				t.Errorf("a proof is dated %v from now, want %v", got, ahead)
			}
		}
		for range 3 {
			refused(before, false)
		}
		_, after := w.provedAt(t, url)
		refused(after, false)
		refused(before, true)
	})
}

// A nonce that comes with a refusal is for the second attempt: there are servers that
// take each once, and another exchange may begin meanwhile, before or after the refusal
// is heard. The newest of the others is for the exchanges to come.
func TestNoncesForOneUse(t *testing.T) {
	for _, meanwhile := range []int{1, 2} { // the other one begins when this request is on its way
		t.Run(strconv.Itoa(meanwhile), func(t *testing.T) {
			open := map[string]bool{}
			made := 0
			fresh := func() string {
				made++
				nonce := "n" + strconv.Itoa(made)
				open[nonce] = true
				return nonce
			}
			w := proving(t, DPoPRequired, func(_ int, p post) *http.Response {
				nonce := p.nonce(t)
				if !open[nonce] {
					return answer(400, refusing("use_dpop_nonce", noNonce), "DPoP-Nonce", fresh())
				}
				delete(open, nonce)
				return boundTo("DPoP-Nonce", fresh())
			})
			server := w.client.cfg.Server
			direct := server.transport
			sent := 0
			server.transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				sent++
				if sent != meanwhile {
					return direct.RoundTrip(r)
				}
				if meanwhile == 1 { // it is refused, too
					resp, err := direct.RoundTrip(r)
					w.works(t)
					return resp, err
				}
				w.works(t)
				return direct.RoundTrip(r)
			})
			w.works(t)
			w.wantProofs(t, "ppnn")
			w.works(t)
			w.wantProofs(t, "n")
		})
	}
}

// Which form of the path the token endpoint compares is known from then on, also to the
// other clients of the server, and may change.
func TestDecodedPathIsRemembered(t *testing.T) {
	const encoded, decoded = "https://id.acme.test/a%40b/token", "https://id.acme.test/a@b/token"
	takes := decoded
	w := proving(t, DPoPRequired, func(_ int, p post) *http.Response {
		if _, claims := decode(t, p.proof()); claims["htu"] != takes {
			return answer(400, refusing("invalid_dpop_proof", "DPoP proof htu mismatch"))
		}
		return boundTo()
	}, func(s *ServerConfig, _ *ClientConfig) { s.Issuer, s.TokenEndpoint = "https://id.acme.test", encoded })
	for i, step := range []struct{ takes, sends string }{{decoded, "pp"}, {decoded, "p"}, {encoded, "pp"}, {encoded, "p"}} {
		takes = step.takes
		w.works(t)
		w.wantProofs(t, step.sends)
		if t.Failed() {
			t.Fatalf("step %d", i+1)
		}
	}
}

// Exchanges that find out at the same time do not undo each other's finding.
func TestDecodedPathIsFoundTwice(t *testing.T) {
	const encoded, decoded = "https://id.acme.test/a%40b/token", "https://id.acme.test/a@b/token"
	w := proving(t, DPoPRequired, func(_ int, p post) *http.Response {
		if _, claims := decode(t, p.proof()); claims["htu"] != decoded {
			return answer(400, refusing("invalid_dpop_proof", "DPoP proof htu mismatch"))
		}
		return boundTo()
	}, func(s *ServerConfig, _ *ClientConfig) { s.Issuer, s.TokenEndpoint = "https://id.acme.test", encoded })
	server := w.client.cfg.Server
	direct, begun := server.transport, false
	server.transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := direct.RoundTrip(r)
		if !begun {
			begun = true
			w.works(t) // before the other takes up its refusal
		}
		return resp, err
	})
	w.works(t)
	w.wantProofs(t, "pppp")
	w.works(t)
	w.wantProofs(t, "p")
}

// Two token endpoints of one issuer have nonces of their own, and share what is known of
// resources.
func TestTermsOfTwoTokenEndpoints(t *testing.T) {
	w := newBound(t, DPoPRequired)
	w.works(t)
	w.client.Learn("https://api.acme.test/", dpop.Made{}, dpop.Terms{Nonce: "r1", Decoded: new(true)})
	other := proving(t, DPoPRequired, func(int, post) *http.Response { return boundTo() }, func(s *ServerConfig, _ *ClientConfig) {
		s.Like, s.TokenEndpoint = w.client.cfg.Server, "https://id.acme.test/token"
	})
	other.works(t)
	other.wantProofs(t, "p")
	if got := other.nonceFor(t, "https://api.acme.test/x", ""); got != "r1" {
		t.Errorf("nonce %q, want r1", got)
	}
	if _, made, err := other.client.Proof(t.Context(), dpop.Proof{Method: "GET", URL: "https://api.acme.test/%40"}); err != nil || !made.Decoded {
		t.Errorf("%+v, %v", made, err)
	}
}

// Where body and challenge differ, the body counts, but for what the challenge says of a
// proof. A challenge without a description leaves that of the body.
func TestChallengeBesideABody(t *testing.T) {
	const both = `{"error":"invalid_client","error_description":"of the body"}`
	tests := []struct {
		name, challenge, body string
		code, description     string
	}{
		{"none", "", both, "invalid_client", "of the body"},
		{"Bearer", `Bearer error="invalid_token", error_description="of the challenge"`, both, "invalid_client", "of the body"},
		{"DPoP, and another code", `DPoP error="invalid_token", error_description="of the challenge"`, both, "invalid_client", "of the body"},
		{"another code alone", `DPoP error="invalid_token", error_description="of the challenge"`, "", "", ""},
		{"proof", `DPoP error="invalid_dpop_proof", error_description="of the challenge"`, both, "invalid_dpop_proof", "of the challenge"},
		{"proof, without words", `DPoP error="invalid_dpop_proof"`, both, "invalid_dpop_proof", "of the body"},
		{"nonce", `DPoP error="use_dpop_nonce", error_description="of the challenge"`, both, "use_dpop_nonce", "of the challenge"},
		{"nonce, without words", `DPoP error="use_dpop_nonce", error_description=""`, both, "use_dpop_nonce", "of the body"},
		{"proof, without a body", `DPoP error="invalid_dpop_proof"`, "", "invalid_dpop_proof", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := always(t, 401, tt.body, "WWW-Authenticate", tt.challenge).fails(t)
			want := &oauth.Upstream{Status: 401, Code: tt.code, Description: tt.description}
			if diff := cmp.Diff(want, e.Upstream); diff != "" {
				t.Errorf("upstream (-want +got)\n%s", diff)
			}
		})
	}
}

// There are servers that say what they want of a proof in the challenge alone.
func TestChallengeOfATokenEndpoint(t *testing.T) {
	w := proving(t, DPoPAuto, func(_ int, p post) *http.Response {
		switch {
		case p.proof() == "":
			return answer(401, "", "WWW-Authenticate", `DPoP error="invalid_dpop_proof"`)
		case p.nonce(t) == "":
			return answer(401, "", "WWW-Authenticate", `Basic realm="x", DPoP error="use_dpop_nonce", error_description="eyJhbGciOiJFUzI1NiJ9"`, "DPoP-Nonce", "n1")
		}
		return boundTo()
	})
	w.works(t)
	w.wantProofs(t, "-pn")
}
