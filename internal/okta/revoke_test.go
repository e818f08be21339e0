package okta

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

const revocation = issuer + "/oauth2/v1/revoke"

// revokes is a revocation that must succeed.
func (w *world) revokes(t *testing.T, token string) {
	t.Helper()
	if err := w.client.Revoke(t.Context(), token); err != nil {
		t.Fatalf("not revoked: %v", err)
	}
}

// refusesToRevoke is a revocation that must fail.
func (w *world) refusesToRevoke(t *testing.T, token string) *oauth.Error {
	t.Helper()
	err := w.client.Revoke(t.Context(), token)
	if err == nil {
		t.Fatal("revoked, it says")
	}
	return explained(t, err)
}

// opens reports whether a token is good for the resource.
func (w *world) opens(t *testing.T, token oauth.Token) bool {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, issuer+"/api/v1/users", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", token.Type+" "+token.Access.Reveal())
	resp, err := w.okta.Transport().RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode == http.StatusOK
}

func TestRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		token, kept := w.works(t), w.works(t)
		now := time.Now()
		w.revokes(t, token.Access.Reveal())
		if w.opens(t, token) {
			t.Error("the token still opens the door")
		}
		if !w.opens(t, kept) {
			t.Error("another token does not open the door any more")
		}
		if seen := w.okta.Counters(); seen.TokensRevoked != 1 || seen.Requests[fakeokta.Revoke] != 1 || seen.ReusedJTI != 0 {
			t.Errorf("%d revoked by %d requests, %d jti used again; want 1, 1 and 0", seen.TokensRevoked, seen.Requests[fakeokta.Revoke], seen.ReusedJTI)
		}

		sent := w.wire.sent()[2]
		if sent.method != http.MethodPost || sent.url != revocation {
			t.Errorf("%s %s, want POST %s", sent.method, sent.url, revocation)
		}
		// RFC 7009 section 2.1, and RFC 7523 section 2.2.
		wantForm := url.Values{
			"token":                 {token.Access.Reveal()},
			"token_type_hint":       {"access_token"},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
			"client_assertion":      {sent.assertion()},
		}
		if diff := cmp.Diff(wantForm, sent.form); diff != "" {
			t.Errorf("form (-want +got)\n%s", diff)
		}
		if got := sent.header.Get("Content-Type"); got != "application/x-www-form-urlencoded" || sent.getBody {
			t.Errorf("content type %q, can be sent twice: %v", got, sent.getBody)
		}
		_, claims := decode(t, sent.assertion())
		wantClaims(t, claims, map[string]any{
			"iss": clientID, "sub": clientID, "aud": revocation, "jti": claims["jti"],
			"iat": seconds(now.Add(-30 * time.Second)), "exp": seconds(now.Add(5 * time.Minute)),
		})

		// RFC 7009 section 2.2: what the server does not know is revoked.
		w.revokes(t, token.Access.Reveal())
		w.revokes(t, "no such token")
		if n := w.okta.Counters().TokensRevoked; n != 1 {
			t.Errorf("%d tokens were revoked, want 1", n)
		}
	})
}

// The assertion is for the revocation endpoint of the client's own server, or for
// the issuer where RFC 10070 is configured.
func TestRevokeAudience(t *testing.T) {
	const custom = issuer + "/oauth2/default"
	tests := []struct {
		name          string
		change        func(*ServerConfig, *ClientConfig)
		url, aud, typ string
	}{
		{"custom server", on(custom), custom + "/v1/revoke", custom + "/v1/revoke", "JWT"},
		{"issuer", func(_ *ServerConfig, c *ClientConfig) { c.AudienceIssuer = true }, revocation, issuer, "client-authentication+jwt"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newClient(t, roundTripper(func(*http.Request) (*http.Response, error) {
				return answer(http.StatusOK, "", "Content-Type", ""), nil
			}), tt.change)
			w.revokes(t, "a token")
			sent := w.wire.sent()[0]
			header, claims := decode(t, sent.assertion())
			if sent.url != tt.url || claims["aud"] != tt.aud || header["typ"] != tt.typ {
				t.Errorf("%s, audience %v, typ %v; want %s, %s, %s", sent.url, claims["aud"], header["typ"], tt.url, tt.aud, tt.typ)
			}
		})
	}
	t.Run("not Okta", func(t *testing.T) {
		w := newClient(t, roundTripper(func(*http.Request) (*http.Response, error) { return answer(http.StatusOK, ""), nil }), elsewhere)
		e := w.refusesToRevoke(t, "a token")
		if e.Class != oauth.InvalidRequest || !strings.Contains(e.Description, "https://id.acme.test/realms/a") {
			t.Errorf("class %d: %s", e.Class, e.Description)
		}
		w.wantPosts(t, 0)
	})
}

// What a token exchange is corrected for, a revocation is, too.
func TestRevokeIsCorrected(t *testing.T) {
	tests := []struct {
		name    string
		trouble func(*testing.T, *world)
		posts   int
	}{
		{"clock behind", func(_ *testing.T, w *world) { w.okta.SetClockOffset(-9 * time.Minute) }, 2},
		{"clock ahead", func(_ *testing.T, w *world) { w.okta.SetClockOffset(9 * time.Minute) }, 2},
		{"jti", func(_ *testing.T, w *world) {
			w.okta.SetFaultAt(fakeokta.Revoke, fakeokta.Fault{Count: 1, Status: 401, Body: refusing("invalid_client", "The client_assertion token has already been used.")})
		}, 2},
		{"other key", func(t *testing.T, w *world) {
			w.rotate(t)
			w.ring.Prove(w.active())
		}, 2},
		{"reset", func(_ *testing.T, w *world) {
			w.okta.SetFaultAt(fakeokta.Revoke, fakeokta.Fault{Count: 1, Reset: true})
		}, 2},
		{"reset after the work", func(_ *testing.T, w *world) {
			w.okta.SetFaultAt(fakeokta.Revoke, fakeokta.Fault{Count: 1, Reset: true, After: true})
		}, 2},
		{"503", func(_ *testing.T, w *world) {
			w.okta.SetFaultAt(fakeokta.Revoke, fakeokta.Fault{Count: 2, Status: 503})
		}, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				token := w.works(t)
				tt.trouble(t, w)
				w.revokes(t, token.Access.Reveal())
				w.wantPosts(t, 1+tt.posts)
				w.okta.SetClockOffset(0)
				if w.opens(t, token) {
					t.Error("the token still opens the door")
				}
				if n := w.okta.Counters().ReusedJTI; n != 0 {
					t.Errorf("%d jti were used again", n)
				}
			})
		})
	}
}

// What is not a 200 of the server's is not taken for a revocation.
func TestRevokeFails(t *testing.T) {
	page := fakeokta.Fault{Status: 200, Body: "<html>Welcome to our network.</html>", ContentType: "text/html; charset=utf-8"}
	tests := []struct {
		name   string
		fault  fakeokta.Fault
		class  oauth.Class
		words  string
		posts  int
		closes time.Duration // the gate, at least
	}{
		{"limited", limited(42 * time.Second), oauth.Unavailable, "rate of requests", 1, 42 * time.Second},
		{"500", fakeokta.Fault{Status: 500}, oauth.Unavailable, "server failed", 3, time.Second},
		{"503 and a page", fakeokta.Fault{Status: 503, Body: page.Body, ContentType: page.ContentType}, oauth.Unavailable, "server failed", 3, time.Second},
		{"reset", fakeokta.Fault{Reset: true}, oauth.Unavailable, "broke", 2, time.Second},
		{"hanging", fakeokta.Fault{Hang: true}, oauth.TimedOut, "in time", 1, time.Second},
		{"a page", page, oauth.BadAnswer, "HTML page", 1, 0},
		{"redirect", fakeokta.Fault{Status: 307, Header: http.Header{"Location": {endpoint}}}, oauth.BadAnswer, "revocation endpoint answered status 307", 1, 0},
		{"no content", fakeokta.Fault{Status: 204}, oauth.BadAnswer, "revocation endpoint answered status 204", 1, 0},
		{"unknown client", fakeokta.Fault{Status: 401, Body: refusing("invalid_client", "Invalid value for 'client_id' parameter.")}, oauth.Refused, "clients.billing.client_id", 1, 0},
		{"wrong audience", fakeokta.Fault{Status: 401, Body: refusing("invalid_client", "The audience claim for client_assertion must be the endpoint invoked for the request.")},
			oauth.Refused, "audience, " + revocation + ":", 1, 0},
		{"not there", fakeokta.Fault{Status: 404}, oauth.Refused, revocation + " is not there", 1, 0},
		{"another type of token", fakeokta.Fault{Status: 400, Body: refusing("unsupported_token_type", "")}, oauth.Refused, "refused the request", 1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				token := w.works(t)
				w.okta.SetFaultAt(fakeokta.Revoke, tt.fault)
				e := w.refusesToRevoke(t, token.Access.Reveal())
				if e.Class != tt.class || e.Repeated || e.RetryAfter != tt.closes {
					t.Errorf("class %d, repeated %v, retry after %v; want %d, false, %v", e.Class, e.Repeated, e.RetryAfter, tt.class, tt.closes)
				}
				if !strings.Contains(e.Description, tt.words) {
					t.Errorf("no %q in: %s", tt.words, e.Description)
				}
				w.wantPosts(t, 1+tt.posts)
				if !w.opens(t, token) {
					t.Error("the token is revoked")
				}
				// The gate is one for all that is sent.
				if tt.closes > 0 {
					wantRepeated(t, []*oauth.Error{w.fails(t), w.refusesToRevoke(t, token.Access.Reveal())}, 2, 2)
					w.wantPosts(t, 1+tt.posts)
				} else {
					w.works(t)
				}
			})
		})
	}
}

// A caller that leaves while its token is revoked closes the gate to nobody.
func TestRevokeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.okta.SetFaultAt(fakeokta.Revoke, fakeokta.Fault{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := w.client.Revoke(ctx, "a token")
		if err == nil {
			t.Fatal("revoked, it says")
		}
		if e := explained(t, err); e.Class != oauth.TimedOut || e.Reach != oauth.ReachRequest {
			t.Errorf("class %d, reach %d: %v", e.Class, e.Reach, e)
		}
		w.works(t)
	})
}

// That a server answers 200 to whatever is revoked proves no key: some do not
// look at the assertion of an unknown token.
func TestRevokeProvesNoKey(t *testing.T) {
	w := newWorld(t)
	w.revokes(t, "no such token")
	if w.client.Works(w.active()) {
		t.Error("a revocation proved the key")
	}
	w.works(t)
	if !w.client.Works(w.active()) {
		t.Error("a token did not prove the key")
	}
}

// A revocation has no proof, so a refusal that asks for one is not answered with
// another, and says nothing of what the token endpoint wants.
func TestRevokeHasNoProof(t *testing.T) {
	for _, code := range []string{"use_dpop_nonce", "invalid_dpop_proof"} {
		t.Run(code, func(t *testing.T) {
			w := proving(t, DPoPAuto, func(_ int, p post) *http.Response {
				if p.url == revocation {
					return answer(http.StatusBadRequest, refusing(code, noProof), "DPoP-Nonce", "n1")
				}
				return answer(http.StatusOK, good())
			})
			if e := w.refusesToRevoke(t, "a token"); e.Class != oauth.Refused || !strings.Contains(e.Description, revocation+", where the broker sends none") {
				t.Errorf("class %d: %v", e.Class, e)
			}
			w.wantProofs(t, "-")
			w.works(t)
			w.wantProofs(t, "-")
		})
	}
}

// What a server sends back of a token stays away from callers and logs.
func TestRevokedTokenIsNotShown(t *testing.T) {
	const (
		opaque = "00aZ4vDkQ1pLr8xWm2Tn6Yc9Bf3Gh5Js7Ku0Ew"
		odd    = "tok+en/with~odd=chars&that%are:escaped+in/forms=="
	)
	places := map[string]func(token, jwt string) string{
		"whole":    func(token, _ string) string { return refusing("invalid_request", token) },
		"in words": func(token, _ string) string { return refusing("invalid_request", "The token '"+token+"' is bad") },
		"as the form has it": func(token, _ string) string {
			return refusing("invalid_request", "token="+url.QueryEscape(token)+"&token_type_hint=access_token")
		},
		"cut short":     func(token, _ string) string { return refusing("invalid_request", token[3:len(token)-3]) },
		"the code":      func(token, _ string) string { return refusing(token, "x") },
		"the errorCode": func(token, _ string) string { return `{"errorCode":"` + token + `","errorSummary":"` + token + `"}` },
		"no JSON":       func(token, jwt string) string { return token + jwt },
		"a page":        func(token, jwt string) string { return "<pre>" + token + jwt + "</pre>" },
		"both":          func(token, jwt string) string { return refusing("invalid_request", token+" "+jwt+" "+jwt+token) },
	}
	for name, place := range places {
		for _, status := range []int{200, 302, 400, 401, 429, 503} {
			for _, token := range []string{opaque, odd} {
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newClient(t, roundTripper(func(r *http.Request) (*http.Response, error) {
							if err := r.ParseForm(); err != nil {
								return nil, err
							}
							token, jwt := r.PostForm.Get("token"), r.PostForm.Get("client_assertion")
							return answer(status, place(token, jwt), "X-Okta-Request-Id", token, "Location", "https://"+token, "Content-Type", "text/html"), nil
						}))
						e := w.refusesToRevoke(t, token)
						wantOneLine(t, e)
						for _, post := range w.wire.sent() {
							wantNothingOf(t, post.assertion(), w.texts(e))
							wantNoRunOf(t, token, w.texts(e))
							wantNoRunOf(t, url.QueryEscape(token), w.texts(e))
						}
					})
				})
			}
		}
	}
}
