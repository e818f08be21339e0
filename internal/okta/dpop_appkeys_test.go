package okta

import (
	"context"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// newBoundKeyWorld is an app whose rotator has to prove, at the API too.
func newBoundKeyWorld(t *testing.T) *keyWorld {
	t.Helper()
	k := newKeyWorld(t, func(_ *fakeokta.Config, _, rotator *fakeokta.App) { rotator.DPoP = true })
	k.okta.SetResourceNonce(true)
	setTo(t, DPoPAuto)(nil, &k.rotator.client.cfg)
	return k
}

// scriptedBoundKeys is scriptedKeys with a bound token.
func scriptedBoundKeys(t *testing.T, script func(n int, r *http.Request) (*http.Response, error)) *keyWorld {
	t.Helper()
	n := 0
	k := newKeyClient(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.String() == endpoint {
			return answer(200, good(map[string]any{"access_token": theirToken, "token_type": "DPoP", "scope": string(rotatorScopes)}), "DPoP-Nonce", "as-1"), nil
		}
		n++
		return script(n, r)
	}))
	setTo(t, DPoPRequired)(nil, &k.rotator.client.cfg)
	return k
}

// Keys come and go with bound tokens, and each call has a proof of its own.
func TestAppKeysWithDPoP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newBoundKeyWorld(t)
		other, key := newKey(t, ""), newKey(t, "")
		k.save(t, other.JWK())
		k.registers(t, key)
		// The first proof has no nonce, and the nonce of the token endpoint is not sent.
		k.wantKeys(t, "GET GET POST", map[string]string{other.ID(): "ACTIVE", key.ID(): "ACTIVE"})
		k.removes(t, key)
		k.wantKeys(t, "GET deactivate DELETE", map[string]string{other.ID(): "ACTIVE"})
		k.wantExchanges(t, 3) // no proof, no nonce, one token

		seen := map[any]bool{}
		for i, r := range k.api.sent {
			scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			_, claims := decode(t, r.Header.Get("DPoP"))
			url, _, _ := strings.Cut(r.URL.String(), "?")
			if scheme != oauth.DPoP || claims["ath"] != dpop.TokenHash(token) || claims["htm"] != r.Method || claims["htu"] != url {
				t.Errorf("call %d: %s, with a proof of %v", i+1, scheme, claims)
			}
			if (claims["nonce"] == nil) != (i == 0) || seen[claims["jti"]] {
				t.Errorf("call %d has nonce %v and jti %v", i+1, claims["nonce"], claims["jti"])
			}
			seen[claims["jti"]] = true
		}
		if got := k.okta.Counters(); got.ReusedProofs+got.ReusedJTI != 0 || got.NonceRefusals[fakeokta.AppKeys] != 1 {
			t.Errorf("%d proofs and %d assertions again, %d nonces refused", got.ReusedProofs, got.ReusedJTI, got.NonceRefusals[fakeokta.AppKeys])
		}
	})
}

// Each call may be asked for another nonce, and a token that was revoked is replaced.
func TestAppKeysNoncesAndTokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newBoundKeyWorld(t)
		k.okta.SetNonceRefusal(2) // every other good nonce
		k.save(t, newKey(t, "").JWK())
		key := newKey(t, "")
		for range 5 {
			k.registers(t, key)
			k.okta.RevokeTokens(rotatorID)
			k.removes(t, key)
			k.okta.ExpireNonces()
			time.Sleep(time.Minute)
		}
		if got := k.okta.Counters(); got.NonceRefusals[fakeokta.AppKeys] < 10 || got.ReusedProofs != 0 {
			t.Errorf("%d nonces refused, %d proofs again", got.NonceRefusals[fakeokta.AppKeys], got.ReusedProofs)
		}
	})
}

// What the API says of a proof stands in the challenge alone.
func TestAppKeysProofRefused(t *testing.T) {
	tests := []struct {
		name      string
		status    int
		challenge string
		nonce     string
		calls     string
		says      string
	}{
		{"nonces for ever", 401, `DPoP realm="x", error="use_dpop_nonce"`, "n", "GET GET", "keeps DPoP-Nonce headers away"},
		{"nonces for ever, 400", 400, `DPoP error="use_dpop_nonce"`, "n", "GET GET", "keeps DPoP-Nonce headers away"},
		{"a nonce that does not come", 401, `DPoP error="use_dpop_nonce"`, "", "GET", "keeps DPoP-Nonce headers away"},
		{"a nonce that is none", 401, `DPoP error="use_dpop_nonce"`, `"n"`, "GET", "keeps DPoP-Nonce headers away"},
		{"proof", 401, `DPoP error="invalid_dpop_proof", error_description="..."`, "n", "GET GET", "does not accept the DPoP proofs of clients.rotator"},
		{"proof, 400", 400, `DPoP error="invalid_dpop_proof"`, "", "GET GET", "does not accept the DPoP proofs of clients.rotator"},
		{"token", 401, `DPoP error="invalid_token"`, "n", "GET GET", "accepts no token of clients.rotator"},
		{"no words", 401, "", "n", "GET GET", "accepts no token of clients.rotator"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := scriptedBoundKeys(t, func(int, *http.Request) (*http.Response, error) {
					return answer(tt.status, "", "WWW-Authenticate", tt.challenge, "DPoP-Nonce", tt.nonce), nil
				})
				_, err := k.Status(t.Context())
				if e := explained(t, err); e.Class != oauth.Refused || !strings.Contains(e.Description, tt.says) {
					t.Errorf("class %d, no %q in: %v", e.Class, tt.says, e)
				}
				if got := k.api.took(); got != tt.calls {
					t.Errorf("called %q, want %q", got, tt.calls)
				}
			})
		})
	}
}

// A rotator that gets a Bearer token sends no proof.
func TestAppKeysWithBearer(t *testing.T) {
	k := newKeyWorld(t)
	setTo(t, DPoPAuto)(nil, &k.rotator.client.cfg)
	k.save(t, newKey(t, "").JWK())
	k.registers(t, newKey(t, ""))
	for _, r := range k.api.sent {
		if r.Header["Dpop"] != nil || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
			t.Errorf("sent %v", r.Header)
		}
	}
}

// The API's words do not carry a proof or a token to a caller or a log.
func TestAppKeysProofsAreFiltered(t *testing.T) {
	operations := map[string]func(*keyWorld, *keys.Key) error{
		"status":   func(k *keyWorld, _ *keys.Key) error { _, err := k.Status(t.Context()); return err },
		"register": func(k *keyWorld, key *keys.Key) error { return k.Register(t.Context(), key) },
	}
	for name, run := range operations {
		for _, status := range []int{200, 400, 401, 403, 429, 500} {
			k := scriptedBoundKeys(t, func(_ int, r *http.Request) (*http.Response, error) {
				proof := r.Header.Get("DPoP")
				signature := proof[strings.LastIndex(proof, ".")+1:]
				body := `{"errorCode":"` + signature + `","errorSummary":"` + proof + ` and ` + r.Header.Get("Authorization") + `","errorCauses":[{"errorSummary":"` + signature + `"}]}`
				return answer(status, body, "X-Okta-Request-Id", signature, "WWW-Authenticate", `DPoP error="`+proof+`"`), nil
			})
			e := explained(t, run(k, newKey(t, "")))
			shown := k.rotator.texts(e)
			for _, r := range k.api.sent {
				wantNothingOf(t, r.Header.Get("DPoP"), shown)
			}
			wantNoRunOf(t, theirToken, shown)
			if t.Failed() {
				t.Fatalf("%s, answered %d", name, status)
			}
		}
	}
}

// A proof that is refused for its time is made anew, by the API's clock.
func TestAppKeysProofIsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := scriptedBoundKeys(t, func(n int, _ *http.Request) (*http.Response, error) {
			if n == 1 {
				return answer(400, "", "WWW-Authenticate", `DPoP error="invalid_dpop_proof", error_description="`+proofOfFuture+`"`, "Date", dateAt(-time.Minute)), nil
			}
			return answer(200, `{"keys":[]}`, "Content-Type", "application/json"), nil
		})
		if _, err := k.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := k.api.took(); got != "GET GET" {
			t.Errorf("called %q", got)
		}
		_, first := decode(t, k.api.sent[0].Header.Get("DPoP"))
		_, second := decode(t, k.api.sent[1].Header.Get("DPoP"))
		if first["jti"] == second["jti"] {
			t.Error("one proof was sent twice")
		}
		wantTime(t, second["iat"], time.Now().Add(-time.Minute-proofBackDate), time.Second)
	})
}

// The API's own clock is learned from a refusal that may be for a proof's time, and from
// no other: without one proofs are dated by the authorization server's, wherever that goes.
func TestAppKeysLearnTheTime(t *testing.T) {
	tests := []struct {
		name      string
		status    int
		challenge string
		want      time.Duration // of the proofs to come
	}{
		{"proof", 400, `DPoP error="invalid_dpop_proof"`, -time.Minute},
		{"nonce", 401, `DPoP error="use_dpop_nonce"`, 0},
		{"token", 401, `DPoP error="invalid_token"`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := scriptedBoundKeys(t, func(n int, _ *http.Request) (*http.Response, error) {
					if n == 1 {
						return answer(tt.status, "", "WWW-Authenticate", tt.challenge, "DPoP-Nonce", "n1", "Date", dateAt(-time.Minute)), nil
					}
					return answer(200, `{"keys":[]}`, "Date", dateAt(0)), nil
				})
				if _, err := k.Status(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := k.api.took(); got != "GET GET" {
					t.Errorf("called %q", got)
				}
				if got, _ := k.rotator.provedAt(t, issuer+"/api"); (got + proofBackDate - tt.want).Abs() > time.Second {
					t.Errorf("a proof is dated %v from now, want %v", got, tt.want)
				}
			})
		})
	}
}

// What net/http repeats by itself, as a kept connection broke, has a proof of its own.
func TestProofOfARepeatedRequest(t *testing.T) {
	var proofs []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if proofs = append(proofs, r.Header.Get("DPoP")); len(proofs) == 2 {
			panic(http.ErrAbortHandler)
		}
	}))
	server.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	made := 0
	check := &checker{server: NewServer(ServerConfig{Issuer: server.URL, Transport: server.Client().Transport}), reprove: func(context.Context) (string, error) {
		made++
		return "another " + strconv.Itoa(made), nil
	}}
	for _, proof := range []string{"one", "two"} {
		check.proof = proof
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, fail := check.roundTrip(req, 1<<10); fail != nil {
			t.Fatal(fail)
		}
	}
	if diff := cmp.Diff([]string{"one", "two", "another 1"}, proofs); diff != "" {
		t.Errorf("proofs (-want +got)\n%s", diff)
	}
}
