package broker_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/okta"
	"okta-token-broker/internal/proxy"
)

const users = issuer + "/api/v1/users"

// newBound makes a broker with one client, default, whose app requires DPoP, at an org
// whose API wants nonces.
func newBound(t *testing.T, file *keys.File) (*broker.Broker, *fakeokta.Okta) {
	t.Helper()
	ring, err := keys.Open(t.Context(), keys.Config{Name: "default", Store: file, Algorithm: "ES256"})
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := ring.Active(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	fake, err := fakeokta.New(fakeokta.Config{URL: issuer})
	if err != nil {
		t.Fatal(err)
	}
	fake.SetResourceNonce(true)
	fake.SetRateLimit(fakeokta.Users, fakeokta.RateLimit{})
	if err := fake.AddApp(fakeokta.App{ClientID: "0oa1", Scopes: []string{"okta.users.read"}, DPoP: true}); err != nil {
		t.Fatal(err)
	}
	if err := fake.RegisterKey("0oa1", key.JWK()); err != nil {
		t.Fatal(err)
	}
	proofKey, err := keys.New("ES256")
	if err != nil {
		t.Fatal(err)
	}
	server := okta.NewServer(okta.ServerConfig{Issuer: issuer, Transport: fake.Transport()})
	client := okta.NewClient(okta.ClientConfig{Name: "default", ID: "0oa1", Server: server, Ring: ring, DPoP: okta.DPoPAuto, ProofKey: proofKey})
	b := broker.New(broker.Config{World: &broker.World{
		Clients: map[string]*broker.Client{"default": {
			Name: "default", ID: "0oa1", Issuer: issuer, Ring: ring, Scopes: "okta.users.read", Server: client,
			JKT: proofKey.Thumbprint(), Prover: client, OktaOrigin: issuer, Org: true,
		}},
		Rings: map[string]*keys.Ring{"default": ring},
	}})
	t.Cleanup(b.Close)
	return b, fake
}

// call makes calls as the proxy does, and counts what is sent.
type call struct {
	t    *testing.T
	b    *broker.Broker
	fake *fakeokta.Okta
	sent int
}

// gets returns the status of GET url.
func (c *call) gets(url string) int {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := proxy.Do(c.b, caller.Local("test"), broker.CallRequest{}, c, req)
	if err != nil {
		c.t.Error(err)
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func (c *call) RoundTrip(req *http.Request) (*http.Response, error) {
	c.sent++
	return c.fake.Transport().RoundTrip(req)
}

// Calls of an API that wants proofs and nonces, of which it refuses some, get through.
func TestCalls(t *testing.T) {
	file := newFile(t)
	synctest.Test(t, func(t *testing.T) {
		b, fake := newBound(t, file)
		fake.SetNonceRefusal(20)
		c := &call{t: t, b: b, fake: fake}
		const calls = 500
		for i := range calls {
			if i%60 == 59 {
				fake.ExpireNonces()
			}
			if got := c.gets(users + "?limit=2"); got != http.StatusOK {
				t.Errorf("call %d is answered %d", i, got)
			}
			time.Sleep(time.Second)
		}
		seen := fake.Counters()
		if seen.ReusedProofs+seen.ReusedJTI != 0 || seen.TokensIssued != 1 {
			t.Errorf("%d proofs and %d assertions again, %d tokens", seen.ReusedProofs, seen.ReusedJTI, seen.TokensIssued)
		}
		refused := seen.NonceRefusals[fakeokta.Users]
		if refused < calls/20 || c.sent != calls+refused {
			t.Errorf("%d requests for %d calls, %d of them refused for their nonce", c.sent, calls, refused)
		}
	})
}

// A thousand calls at once whose token was revoked lead to one new token, and all get
// through with it.
func TestRevokedTokenIsReplacedOnce(t *testing.T) {
	file := newFile(t)
	synctest.Test(t, func(t *testing.T) {
		b, fake := newBound(t, file)
		(&call{t: t, b: b, fake: fake}).gets(users)
		time.Sleep(time.Minute)
		before := fake.Counters()
		fake.RevokeTokens("0oa1")
		fake.SetFault(fakeokta.Fault{Delay: time.Second})
		var calls sync.WaitGroup
		for i := range 1000 {
			calls.Go(func() {
				time.Sleep(time.Duration(i) * 3 * time.Millisecond)
				if got := (&call{t: t, b: b, fake: fake}).gets(users); got != http.StatusOK {
					t.Errorf("call %d is answered %d", i, got)
				}
			})
		}
		calls.Wait()
		seen := fake.Counters()
		if got := seen.TokenRequests - before.TokenRequests; got != 1 {
			t.Errorf("%d token requests, want 1", got)
		}
		if seen.ReusedProofs != 0 {
			t.Errorf("%d proofs again", seen.ReusedProofs)
		}
	})
}

// While Okta gives no other token, a thousand calls with one that was revoked get its
// 401, Okta is hardly asked, and later one call mends it for all.
func TestRevokedTokenInAnOutage(t *testing.T) {
	file := newFile(t)
	synctest.Test(t, func(t *testing.T) {
		b, fake := newBound(t, file)
		c := &call{t: t, b: b, fake: fake}
		c.gets(users)
		time.Sleep(time.Minute)
		before := fake.Counters().TokenRequests
		fake.RevokeTokens("0oa1")
		fake.SetFault(fakeokta.Fault{Status: 503})
		for range 1000 {
			if got := c.gets(users); got != http.StatusUnauthorized {
				t.Fatalf("answered %d", got)
			}
		}
		if got := fake.Counters().TokenRequests - before; got > 3 { // of one exchange
			t.Errorf("%d token requests, want 3 at most", got)
		}
		fake.ClearFault()
		time.Sleep(2 * time.Minute)
		if got := c.gets(users); got != http.StatusOK {
			t.Errorf("answered %d", got)
		}
	})
}

// Okta compares the decoded path. That is learned once for all calls, so that they
// have their one repetition left for nonces.
func TestCallsOfEscapedPaths(t *testing.T) {
	const calls = 100
	file := newFile(t)
	synctest.Test(t, func(t *testing.T) {
		b, fake := newBound(t, file)
		c := &call{t: t, b: b, fake: fake}
		escaped := users + "/nobody%40acme.test"
		if got := c.gets(escaped); got != http.StatusNotFound || c.sent != 2 {
			t.Errorf("the first call was answered %d after %d requests, want 404 after 2", got, c.sent)
		}
		fake.SetNonceRefusal(2)
		before := fake.Counters().NonceRefusals[fakeokta.Users]
		c.sent = 0
		for i := range calls {
			url, want := escaped, http.StatusNotFound
			if i%3 == 0 { // to which it makes no difference
				url, want = users, http.StatusOK
			}
			if got := c.gets(url); got != want {
				t.Fatalf("call %d was answered %d, want %d", i+1, got, want)
			}
		}
		if refused := fake.Counters().NonceRefusals[fakeokta.Users] - before; refused < calls/4 || c.sent != calls+refused {
			t.Errorf("%d requests for %d calls, %d nonces were refused", c.sent, calls, refused)
		}
	})
}

// Clocks that move while a token is held cost one refused proof, and no call.
func TestCallsWhenClocksMove(t *testing.T) {
	file := newFile(t)
	synctest.Test(t, func(t *testing.T) {
		b, fake := newBound(t, file)
		c := &call{t: t, b: b, fake: fake}
		c.gets(users) // takes up the nonce
		for _, ahead := range []time.Duration{-2 * time.Minute, 7 * time.Minute, 0} {
			fake.SetClockOffset(ahead)
			c.sent = 0
			for range 5 {
				if got := c.gets(users); got != http.StatusOK {
					t.Errorf("a clock %v ahead: answered %d", ahead, got)
				}
			}
			if c.sent != 5+1 {
				t.Errorf("a clock %v ahead: %d requests for 5 calls", ahead, c.sent)
			}
		}
		if n := fake.Counters(); n.TokensIssued != 1 || n.ReusedProofs != 0 {
			t.Errorf("%d tokens, %d proofs twice", n.TokensIssued, n.ReusedProofs)
		}
	})
}

// onceOnly is a resource that takes each nonce once, and gives another with each answer.
// What it knows of proofs is their nonce.
type onceOnly struct {
	t    *testing.T
	mu   sync.Mutex
	open map[string]bool
}

func (o *onceOnly) RoundTrip(req *http.Request) (*http.Response, error) {
	time.Sleep(mathrand.N(20 * time.Millisecond))
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(req.Header.Get("DPoP"), ".")[1])
	if err != nil {
		o.t.Error(err)
	}
	var claims struct{ Nonce string }
	if err := json.Unmarshal(payload, &claims); err != nil {
		o.t.Error(err)
	}
	o.mu.Lock()
	answer := httptest.NewRecorder()
	next := rand.Text()
	answer.Header().Set("DPoP-Nonce", next)
	if !o.open[claims.Nonce] {
		answer.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		answer.WriteHeader(http.StatusUnauthorized)
	}
	delete(o.open, claims.Nonce)
	o.open[next] = true
	o.mu.Unlock()
	time.Sleep(mathrand.N(20 * time.Millisecond))
	return answer.Result(), nil
}

// A nonce that comes with a refusal is for the repetition of that call, also where many
// calls are made at once and each nonce is taken once.
func TestNoncesForOneUse(t *testing.T) {
	file := newFile(t)
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBound(t, file)
		resource := &onceOnly{t: t, open: map[string]bool{}}
		var calls sync.WaitGroup
		for range 8 {
			calls.Go(func() {
				for range 50 {
					time.Sleep(mathrand.N(20 * time.Millisecond)) // others give newer nonces
					req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, users, nil)
					if err != nil {
						t.Error(err)
						return
					}
					resp, err := proxy.Do(b, caller.Local("test"), broker.CallRequest{}, resource, req)
					if err != nil || resp.StatusCode != http.StatusOK {
						t.Errorf("answered %v, %v", resp, err)
						return
					}
				}
			})
		}
		calls.Wait()
	})
}
