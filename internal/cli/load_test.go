package cli_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"okta-token-broker/internal/fakeokta"
)

// loadedConfig has a ring for each way in which Okta learns of keys; two clients
// share one. A token of the client lasting lives for an hour, unless a caller asks
// for another one.
const loadedConfig = `
jwks_listen: 127.0.0.1:0
keys:
  default:    {file: fetched.pem, algorithm: ES256, rotation: {publish_ahead: 0s, retire_after: 0s}}
  pasted:     {file: pasted.pem, algorithm: ES256, rotation: {retire_after: 0s}}
  registered: {file: registered.pem, algorithm: ES256, rotation: {retire_after: 0s}}
  rotator:    {file: rotator.pem, algorithm: ES256}
clients:
  pasted:     {issuer: OKTA, client_id: pasted, key: pasted, prefetch: false, scopes: [SCOPES]}
  lasting:    {issuer: OKTA/oauth2/lasting, client_id: lasting, key: pasted, prefetch: false, scopes: [a, b, c, d]}
  fetched:    {issuer: OKTA, client_id: fetched, prefetch: false, scopes: [SCOPES], registration: jwks_uri}
  registered: {issuer: OKTA, client_id: registered, key: registered, prefetch: false, scopes: [SCOPES], registration: api, rotator: rotator}
  rotator:    {issuer: OKTA, client_id: rotator, key: rotator, scopes: [okta.apps.read, okta.apps.manage]}
`

// orgScopes and lastingScopes are of the clients. No caller asks for all of them,
// as who proves a key does.
func orgScopes() []string {
	return []string{"okta.groups.read", "okta.logs.read", "okta.roles.read", "okta.users.read"}
}
func lastingScopes() []string { return []string{"a", "b", "c", "d"} }

func isProof(r tokenRequest) bool { return len(strings.Fields(r.scope)) == len(orgScopes()) }

// ringOf is the ring of each client that callers ask for.
func ringOf() map[string]string {
	return map[string]string{"pasted": "pasted", "lasting": "pasted", "fetched": "default", "registered": "registered"}
}

// loaded is brokers that share their files, and callers who leave them no peace.
type loaded struct {
	*watchedOkta
	dir     string
	brokers []*serving
	kids    map[string][]string // of each ring, in the order in which they were made

	mu       sync.Mutex
	answers  map[string]int
	failures []string
}

// startLoaded starts brokers whose first keys Okta knows.
func startLoaded(t *testing.T, brokers int) *loaded {
	t.Helper()
	l := &loaded{watchedOkta: startWatchedOkta(t, 4*time.Second), dir: t.TempDir(), kids: map[string][]string{}, answers: map[string]int{}}
	for _, client := range []string{"pasted", "fetched", "registered"} {
		l.addApp(t, client, orgScopes()...)
	}
	l.addApp(t, "lasting")
	l.addApp(t, "rotator", "okta.apps.read", "okta.apps.manage")
	everybody := []fakeokta.Policy{{Rules: []fakeokta.Rule{{}}}}
	if err := l.AddServer(fakeokta.Server{ID: "lasting", Algorithm: "ES256", Scopes: lastingScopes(), Policies: everybody}); err != nil {
		t.Fatal(err)
	}
	configure(t, l.dir, strings.NewReplacer("SCOPES", strings.Join(orgScopes(), ", "), "OKTA", l.issuer).Replace(loadedConfig))
	for _, ring := range []string{"pasted", "default", "registered", "rotator"} {
		jwk := command(t, l.dir, "keys", "rotate", "--key", ring, "--kid", ring+"-0")
		l.kids[ring] = []string{ring + "-0"}
		for _, client := range []string{"pasted", "lasting", "registered", "rotator"} {
			if ring == client || ring == ringOf()[client] {
				l.paste(t, client, jwk)
			}
		}
	}
	for range brokers {
		l.brokers = append(l.brokers, startServing(t, broker(t, l.dir, nil, "0")))
	}
	if err := l.SetJWKSURI("fetched", jwksOf(t, l.brokers[0])+jwksPath); err != nil {
		t.Fatal(err)
	}
	return l
}

// Ten rotations in each mode, all at once, while 50 callers read tokens and force
// fetches: nobody is refused anything.
func TestRotationsUnderLoad(t *testing.T) {
	for _, brokers := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d brokers", brokers), func(t *testing.T) {
			t.Parallel()
			l := startLoaded(t, brokers)
			stop := make(chan struct{})
			var callers sync.WaitGroup
			for i := range 50 {
				callers.Go(func() { l.call(i, stop) })
			}
			began := time.Now()
			for n := range 10 {
				l.rotate(t, n+1)
			}
			took := time.Since(began)
			l.wantOneKey(t)
			close(stop)
			callers.Wait()
			l.check(t)
			t.Logf("30 rotations in %v; answers: %v; token requests: %d, of which refused, all for a proof: %d", took.Round(time.Second/10),
				l.answers, l.Counters().TokenRequests, l.Counters().Refused["invalid_client"])
		})
	}
}

// String is what the brokers logged, but for what callers did.
func (l *loaded) String() string {
	var log strings.Builder
	for i, s := range l.brokers {
		fmt.Fprintf(&log, "broker %d:\n%s", i, withoutCallers(s.logs.String()))
	}
	return log.String()
}

func withoutCallers(log string) string {
	lines := slices.DeleteFunc(slices.Collect(strings.Lines(log)), func(line string) bool {
		return strings.Contains(line, "audit: ") || strings.Contains(line, "token fetched")
	})
	return strings.Join(lines, "")
}

// rotate rotates each ring once, every other time by POST /, and returns when
// tokens are bought under the new keys. The administrator who pastes keys is late
// every other time, and deletes those that are not published any more.
func (l *loaded) rotate(t *testing.T, n int) {
	t.Helper()
	isLate := n%2 == 0
	jwks := map[string]string{}
	for _, ring := range []string{"pasted", "default", "registered"} {
		kid := fmt.Sprintf("%s-%d", ring, n)
		l.kids[ring] = append(l.kids[ring], kid)
		if n%4 < 2 {
			jwks[ring] = command(t, l.dir, "keys", "rotate", "--key", ring, "--kid", kid)
		} else {
			jwks[ring] = l.rotateByPost(t, ring, kid)
		}
	}
	if isLate {
		l.await(t, "lasting", n, isProof) // which Okta refuses
	}
	l.paste(t, "pasted", jwks["pasted"])
	l.paste(t, "lasting", jwks["pasted"])
	for _, client := range []string{"pasted", "fetched", "registered"} {
		l.await(t, client, n, func(r tokenRequest) bool { return !isProof(r) && r.status == http.StatusOK })
	}
	// So that an old key is found out that signs later than it may.
	_, published := get(t, l.brokers[0].url+"/keys/pasted/jwks.json")
	for _, kid := range l.kids["pasted"] {
		if !strings.Contains(published, `"kid":"`+kid+`"`) {
			l.RemoveKey("pasted", kid)
			l.RemoveKey("lasting", kid)
		}
	}
}

// await waits until the client has asked under key n of its ring.
func (l *loaded) await(t *testing.T, client string, n int, match func(tokenRequest) bool) {
	t.Helper()
	kid := l.kids[ringOf()[client]][n]
	eventually(t, l, func() bool {
		return len(l.asked(func(r tokenRequest) bool { return r.client == client && r.kid == kid && match(r) })) > 0
	})
}

func (l *loaded) rotateByPost(t *testing.T, ring, kid string) string {
	t.Helper()
	client := ring
	if ring == "default" {
		client = "fetched"
	}
	body := fmt.Sprintf(`{"client_id": %q, "audience": %q, "kid": %q}`, client, l.issuer+"/oauth2/v1/token", kid)
	resp, err := http.Post(l.brokers[0].url+"/?rotate=true", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var signed struct{ JWK json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&signed); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("POST /?rotate=true: status %d: %v", resp.StatusCode, err)
	}
	return string(signed.JWK)
}

// wantOneKey waits until every ring has its last key alone, and the app as well
// that keys are registered in.
func (l *loaded) wantOneKey(t *testing.T) {
	t.Helper()
	for _, ring := range []string{"pasted", "default", "registered"} {
		last := `"kid":"` + l.kids[ring][len(l.kids[ring])-1] + `"`
		eventually(t, l, func() bool {
			_, set := get(t, l.brokers[0].url+"/keys/"+ring+"/jwks.json")
			return strings.Contains(set, last) && strings.Count(set, `"kid":`) == 1
		})
	}
	last := l.kids["registered"][len(l.kids["registered"])-1]
	eventually(t, l, func() bool { return slices.Equal(l.saved("registered"), []string{last + " ACTIVE"}) })
}

// check looks through what happened.
func (l *loaded) check(t *testing.T) {
	t.Helper()
	for i, failure := range l.failures {
		if i < 10 {
			t.Error(failure)
		}
	}
	if n := l.Counters().ReusedJTI; n != 0 {
		t.Errorf("%d assertions were used twice", n)
	}
	for _, r := range l.asked(func(tokenRequest) bool { return true }) {
		isUnknown := strings.Contains(r.answer, "JWT kid is invalid") || strings.Contains(r.answer, "does not have a JWKSet")
		if r.status != http.StatusOK && (!isProof(r) || !isUnknown) {
			t.Errorf("%v", r)
		}
		if r.client != "rotator" && !slices.Contains(l.kids[ringOf()[r.client]], r.kid) {
			t.Errorf("a key of another ring: %v", r)
		}
	}
	for _, s := range l.brokers {
		if log := stopped(t, s); strings.Contains(log, "level=ERROR") {
			t.Errorf("errors in the log: %s", withoutCallers(log))
		}
	}
}

// call is one caller, who asks ten times a second.
func (l *loaded) call(i int, stop <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	clients := slices.Sorted(maps.Keys(ringOf()))
	base := l.brokers[i%len(l.brokers)].url
	for n := i; ; n++ {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		name := clients[rand.N(len(clients))]
		if n%10 == 0 {
			l.sign(client, base, name)
			continue
		}
		l.ask(client, base, name, n)
	}
}

// ask reads a token, or has it replaced.
func (l *loaded) ask(client *http.Client, base, name string, n int) {
	scopes := orgScopes()
	if name == "lasting" {
		scopes = lastingScopes()
	}
	scope := scopes[rand.N(len(scopes))] + " " + scopes[rand.N(len(scopes))] // which can be the same
	what := "GET"
	req, _ := http.NewRequest(http.MethodGet, base+"/token?"+url.Values{"client": {name}, "scope": {scope}}.Encode(), nil)
	switch n % 10 {
	case 1, 2:
		what = "no-cache"
		req.Header.Set("Cache-Control", "no-cache")
	case 3:
		what = "DELETE"
		req.Method = http.MethodDelete
	}
	status, body, err := send(client, req)
	isGood := status == http.StatusOK && what != "DELETE" ||
		// That another one was fetched a moment before is what the limiter says.
		(status == http.StatusNoContent || status == http.StatusTooManyRequests) && what == "DELETE"
	l.note(fmt.Sprintf("%s %d", what, status), isGood, fmt.Sprintf("%s for %s, %s: status %d, %v: %s", what, name, scope, status, err, body))
}

// sign has an assertion signed, which the public keys verify that are published
// then.
func (l *loaded) sign(client *http.Client, base, name string) {
	audience := l.issuer + "/oauth2/v1/token"
	if name == "lasting" {
		audience = l.issuer + "/oauth2/lasting/v1/token"
	}
	req, _ := http.NewRequest(http.MethodPost, base+"/", strings.NewReader(fmt.Sprintf(`{"client_id": %q, "audience": %q}`, name, audience)))
	req.Header.Set("Content-Type", "application/json")
	status, body, err := send(client, req)
	var signed struct{ JWT string }
	if err == nil {
		err = json.Unmarshal([]byte(body), &signed)
	}
	if err == nil {
		req, _ = http.NewRequest(http.MethodGet, base+"/keys/"+ringOf()[name]+"/jwks.json", nil)
		_, body, err = send(client, req)
	}
	if err == nil {
		err = verify(signed.JWT, body)
	}
	l.note(fmt.Sprintf("POST / %d", status), status == http.StatusOK && err == nil, fmt.Sprintf("POST / for %s: status %d, %v", name, status, err))
}

// verify checks a JWT with the public key that a JWK Set has under its kid.
func verify(jwt, set string) error {
	parsed, err := jose.ParseSignedCompact(jwt, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return err
	}
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(set), &keys); err != nil {
		return err
	}
	kid := parsed.Signatures[0].Header.KeyID
	found := keys.Key(kid)
	if len(found) != 1 {
		return fmt.Errorf("%d keys are published as %q", len(found), kid)
	}
	_, err = parsed.Verify(found[0])
	return err
}

func send(client *http.Client, req *http.Request) (status int, body string, err error) {
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// note counts an answer.
func (l *loaded) note(answer string, isGood bool, failure string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers[answer]++
	if !isGood {
		l.failures = append(l.failures, failure)
	}
}
