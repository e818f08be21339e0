package okta

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

// reads calls the fake Okta's API with a token and a proof of client, and returns the
// status.
func reads(t *testing.T, org *fakeokta.Okta, client *Client, token oauth.Token) int {
	t.Helper()
	const users = issuer + "/api/v1/users"
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, users+"?limit=2", nil)
	if err != nil {
		t.Fatal(err)
	}
	proof, made, err := client.Proof(t.Context(), dpop.Proof{Method: r.Method, URL: r.URL.String(), TokenHash: dpop.TokenHash(token.Access.Reveal())})
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", token.Type+" "+token.Access.Reveal())
	r.Header.Set("DPoP", proof)
	resp, err := org.Transport().RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	client.Learn(r.URL.String(), made, dpop.Terms{Nonce: resp.Header.Get("DPoP-Nonce")})
	return resp.StatusCode
}

// A bound token outlives the rotation of the key that bought it: it is bound to
// another.
func TestRotationOrphansNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBound(t, DPoPAuto)
		bought := w.active()
		first := w.works(t)
		if got := reads(t, w.okta, w.client, first); got != http.StatusOK {
			t.Fatalf("a call is answered %d", got)
		}
		w.rotate(t)
		w.register(t)
		w.okta.RemoveKey(clientID, bought.ID())
		second := w.works(t)
		if second.Kid == first.Kid || second.Kid != w.active().ID() {
			t.Errorf("token of key %q, want the new key's", second.Kid)
		}
		for _, token := range []oauth.Token{first, second} {
			if got := reads(t, w.okta, w.client, token); got != http.StatusOK {
				t.Errorf("a call with the token of key %q is answered %d", token.Kid, got)
			}
			if want := w.client.cfg.ProofKey.Thumbprint(); token.JKT != want {
				t.Errorf("JKT %q, want %q", token.JKT, want)
			}
		}
		for _, key := range w.ring.Keys() {
			if key.Thumbprint() == first.JKT {
				t.Error("the ring's key signs proofs")
			}
		}
	})
}

// Each client proves with a key of its own, and its tokens are of no use with
// another's.
func TestClientsProveApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBound(t, DPoPAuto)
		if err := w.okta.AddApp(fakeokta.App{ClientID: "0oa-audit", Scopes: asked.List(), DPoP: true}); err != nil {
			t.Fatal(err)
		}
		if err := w.okta.RegisterKey("0oa-audit", w.active().JWK()); err != nil {
			t.Fatal(err)
		}
		config := ClientConfig{Name: "audit", ID: "0oa-audit", Server: w.client.cfg.Server, Ring: w.ring}
		setTo(t, DPoPAuto)(nil, &config)
		clients := []*Client{w.client, NewClient(config)}
		for i, owner := range clients {
			token, err := owner.Exchange(t.Context(), asked)
			if err != nil || token.JKT != owner.cfg.ProofKey.Thumbprint() {
				t.Fatalf("token of key %q, %v", token.JKT, err)
			}
			for j, prover := range clients {
				if got := reads(t, w.okta, prover, token); (got == http.StatusOK) != (i == j) {
					t.Errorf("client %d's token with client %d's proof is answered %d", i, j, got)
				}
			}
		}
		// What the one has learned is not known of the other's app.
		w.wantProofs(t, "-pn-n")
	})
}

// All of a proof for a call.
func TestProofOfACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBound(t, DPoPAuto)
		w.client.Learn(issuer, dpop.Made{}, dpop.Terms{Nonce: "r1"})
		made, _, err := w.client.Proof(t.Context(), dpop.Proof{
			Method: "PATCH", URL: issuer + "/api/v1/users/a%40b?x=%2F#y", TokenHash: dpop.TokenHash("token"),
		})
		if err != nil {
			t.Fatal(err)
		}
		header, claims := decode(t, made)
		wantTime(t, claims["iat"], w.client.cfg.Server.now().Add(-proofBackDate), 0)
		delete(claims, "iat")
		jti, _ := claims["jti"].(string)
		delete(claims, "jti")
		want := map[string]any{"htm": "PATCH", "htu": issuer + "/api/v1/users/a%40b", "nonce": "r1", "ath": dpop.TokenHash("token")}
		if diff := cmp.Diff(want, claims); diff != "" || len(jti) < 20 {
			t.Errorf("jti %q, claims (-want +got)\n%s", jti, diff)
		}
		if header["typ"] != "dpop+jwt" || header["alg"] != "ES256" || header["kid"] != nil {
			t.Errorf("header %v", header)
		}
		jwk, _ := header["jwk"].(map[string]any)
		if jwk["kty"] != "EC" || jwk["crv"] != "P-256" || jwk["d"] != nil {
			t.Errorf("jwk %v", jwk)
		}
	})
	w := newBound(t, DPoPAuto)
	for _, bad := range []dpop.Proof{
		{Method: "", URL: issuer}, {Method: "GET ", URL: issuer}, {Method: "GET", URL: ""}, {Method: "GET", URL: "ftp://acme.okta.test"},
		{Method: "GET", URL: "https://a@acme.okta.test/"}, {Method: "GET", URL: issuer + "/\u00fc"}, {Method: "GET", URL: issuer, Nonce: `"`},
	} {
		if made, _, err := w.client.Proof(t.Context(), bad); err == nil {
			t.Errorf("%+v has the proof %s", bad, made)
		}
	}
}

// A proof key that a key is proven with is the same, and DPoP is learned on the way.
func TestProveWithDPoP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOf(t, fakeokta.Config{URL: issuer}, fakeokta.App{DPoP: true}, setTo(t, DPoPAuto),
			func(_ *ServerConfig, c *ClientConfig) { c.Scopes = asked })
		if err := w.client.Prove(t.Context(), w.active()); err != nil {
			t.Fatal(err)
		}
		w.works(t)
		w.wantProofs(t, "-pnn")
	})
}
