package okta

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

// Through a thousand exchanges with a hostile server every request has an assertion
// and a proof that nobody has seen before, and no exchange sends more than five.
func TestDPoPSoak(t *testing.T) {
	const exchanges = 1000
	for _, mode := range []DPoP{DPoPAuto, DPoPRequired} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorldOf(t, fakeokta.Config{URL: issuer, Seed: 7, NoncePeriod: 40 * time.Minute}, fakeokta.App{DPoP: true}, setTo(t, mode))
				w.okta.SetNonceRefusal(20)
				w.okta.SetFault(
					fakeokta.Fault{Share: .05, Status: 503},
					fakeokta.Fault{Share: .05, Reset: true},
					fakeokta.Fault{Share: .02, Reset: true, After: true},
					fakeokta.Fault{Share: .02, Status: 500, After: true},
				)
				luck := rand.New(rand.NewPCG(1, 2))
				most, tokens := 0, 0
				for i := range exchanges {
					if i%25 == 0 {
						w.okta.SetClockOffset(time.Duration(luck.IntN(18*60)-9*60) * time.Second)
					}
					if i%97 == 0 {
						w.okta.ExpireNonces()
					}
					before := len(w.wire.sent())
					token, err := w.exchange(t)
					most = max(most, len(w.wire.sent())-before)
					if err == nil {
						tokens++
						if token.Type != oauth.DPoP || token.JKT == "" {
							t.Errorf("exchange %d: %s token of key %q", i, token.Type, token.JKT)
						}
					}
					time.Sleep(2 * time.Minute) // beyond any outage that is remembered
				}
				seen := w.okta.Counters()
				if seen.ReusedJTI+seen.ReusedProofs != 0 {
					t.Errorf("the server saw %d assertions and %d proofs again", seen.ReusedJTI, seen.ReusedProofs)
				}
				if most > 5 {
					t.Errorf("%d requests in one exchange", most)
				}
				if tokens < exchanges*98/100 {
					t.Errorf("%d tokens in %d exchanges", tokens, exchanges)
				}
				if seen.NonceRefusals[fakeokta.Token] < 50 || seen.Faults[fakeokta.Token] < 100 {
					t.Errorf("%d nonces refused and %d faults: the server was hardly hostile", seen.NonceRefusals[fakeokta.Token], seen.Faults[fakeokta.Token])
				}
				t.Logf("%d tokens, %d requests, at most %d in an exchange, %d nonces refused, %d faults",
					tokens, seen.TokenRequests, most, seen.NonceRefusals[fakeokta.Token], seen.Faults[fakeokta.Token])
				wantDistinct(t, w.wire.sent())
			})
		})
	}
}

// wantDistinct checks that no jti was sent twice, be it in an assertion or a proof.
func wantDistinct(t *testing.T, sent []post) {
	t.Helper()
	seen := map[any]bool{}
	for i, post := range sent {
		for _, jwt := range []string{post.assertion(), post.proof()} {
			if jwt == "" {
				continue
			}
			_, claims := decode(t, jwt)
			if jti := claims["jti"]; jti == nil || jti == "" || seen[jti] {
				t.Errorf("request %d has the jti %v again", i+1, jti)
			} else {
				seen[jti] = true
			}
		}
	}
}
