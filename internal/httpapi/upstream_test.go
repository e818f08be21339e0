package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/api"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
)

const (
	host      = "acme.okta.test"
	endpoint  = issuer + "/oauth2/v1/token"
	requestID = "reqYxx-_.9"
	// foreignIssuer is not Okta.
	foreignIssuer = "https://login.globex.test"
)

// Whatever goes wrong at Okta, the caller learns what it is, on which side, and
// what to do.
func TestUpstreamErrorsReachTheCaller(t *testing.T) {
	for _, tt := range slices.Concat(oktasErrors(), othersErrors(), badAnswers(), errorsInTime()) {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrg(t, tt)
				began := time.Now()
				o.wantTold(t, tt, o.broker(t).send(t, "GET", "/token", ""))
				wantTook(t, tt, time.Since(began))
			})
		})
	}
}

// wantTook checks that nobody waits longer than is of use.
func wantTook(t *testing.T, tt upstreamError, took time.Duration) {
	t.Helper()
	var least, most time.Duration
	switch {
	case tt.want.status == http.StatusGatewayTimeout:
		least, most = 5*time.Second, 5*time.Second
	case tt.posts == 3: // with pauses of up to 200 and 400 ms
		most = 600 * time.Millisecond
	}
	if took < least || took > most {
		t.Errorf("took %v, want %v to %v", took, least, most)
	}
}

// It takes a socket to be presented with a certificate.
func TestAnUnknownCAReachesTheCaller(t *testing.T) {
	tt := upstreamError{
		by: func(t *testing.T, o *org) {
			server := httptest.NewUnstartedServer(o.okta)
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.StartTLS()
			t.Cleanup(server.Close)
			o.server.Issuer, o.server.Transport = server.URL, nil
		},
		want: unavailable("TLS with {issuer} failed (its certificate is from an unknown authority): check the certificate, and clients.default.ca_file for a private CA", "1"),
	}
	o := newOrg(t, tt)
	o.wantTold(t, tt, o.broker(t).send(t, "GET", "/token", ""))
}

// Who waits for as long as Retry-After says is served.
func TestRateLimitReachesTheCaller(t *testing.T) {
	for code, limit := range map[string]fakeokta.RateLimit{
		"E0000047":      {Requests: 1, Window: 30 * time.Second},
		"invalid_grant": {Requests: 1, Window: 30 * time.Second, OAuth: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newWell(t)
			r.okta.SetRateLimit(fakeokta.Token, limit)
			if got := r.send(t, "GET", "/token?scope=okta.users.read", ""); got.status != http.StatusOK {
				t.Errorf("within the limit: status %d: %s", got.status, got.body)
			}
			limited := r.send(t, "GET", "/token", "")
			upstream, _ := limited.json(t)["upstream"].(map[string]any)
			if limited.status != http.StatusServiceUnavailable || limited.header.Get("Retry-After") != "30" || upstream["error"] != code {
				t.Errorf("status %d, Retry-After %s, want %s: %s", limited.status, limited.header.Get("Retry-After"), code, limited.body)
			}
			time.Sleep(30 * time.Second)
			if got := r.send(t, "GET", "/token", ""); got.status != http.StatusOK {
				t.Errorf("afterwards: status %d: %s", got.status, got.body)
			}
		})
	}
}

// A server that refused or failed is not asked again for a while, and once it is
// well tokens come back.
func TestTokensComeBack(t *testing.T) {
	tests := map[string]struct {
		status int
		wait   time.Duration
		others int // the status for other scopes meanwhile
	}{
		"key not registered": {502, 30 * time.Second, 502},
		"invalid_scope":      {400, 30 * time.Second, 200},
		"HTML":               {502, time.Second, 502},
		"down":               {503, time.Second, 503},
		"reset":              {503, time.Second, 503},
		"slow":               {504, time.Second, 504},
		"limited":            {503, time.Minute, 503},
	}
	for name, ail := range troubles() {
		tt := tests[name]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newWell(t)
				ail(r)
				if got := r.send(t, "GET", "/token", ""); got.status != tt.status {
					t.Errorf("status %d, want %d: %s", got.status, tt.status, got.body)
				}
				r.heal(t)
				before := r.okta.Counters().TokenRequests
				for _, pause := range []time.Duration{0, tt.wait - time.Millisecond} {
					time.Sleep(pause)
					got := r.send(t, "GET", "/token", "")
					wantRetry := ""
					if tt.status >= 503 {
						wantRetry = strconv.FormatFloat(math.Ceil((tt.wait - pause).Seconds()), 'f', 0, 64)
						if said := "; nothing was sent: the server is asked again in " + wantRetry + "s"; !strings.Contains(got.body, said) {
							t.Errorf("after %v: %q is not in %s", pause, said, got.body)
						}
					}
					if got.status != tt.status || got.header.Get("Retry-After") != wantRetry {
						t.Errorf("after %v: status %d, Retry-After %q: %s", pause, got.status, got.header.Get("Retry-After"), got.body)
					}
				}
				if n := r.okta.Counters().TokenRequests; n != before {
					t.Errorf("%d requests to Okta meanwhile", n-before)
				}
				if got := r.send(t, "GET", "/token?scope=okta.users.read", ""); got.status != tt.others {
					t.Errorf("other scopes: status %d, want %d: %s", got.status, tt.others, got.body)
				}
				time.Sleep(time.Millisecond)
				r.send(t, "GET", "/token", "").accessToken(t)
			})
		})
	}
}

// The time of a request can end before the server has answered.
func TestARequestThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := slow(t)
		req := r.request(t, "GET", "/token", "")
		ctx, cancel := context.WithTimeout(req.Context(), time.Second)
		defer cancel()
		req = req.WithContext(ctx)
		got := r.do(t, req)
		wantByContract(t, req, got)
		if got.status != http.StatusGatewayTimeout {
			t.Errorf("status %d: %s", got.status, got.body)
		}
		// The exchange goes on for others.
		if got := r.send(t, "GET", "/token", ""); got.status != http.StatusGatewayTimeout || r.okta.Counters().TokenRequests != 1 {
			t.Errorf("%d requests to Okta, status %d: %s", r.okta.Counters().TokenRequests, got.status, got.body)
		}
	})
}

// org is an app and what is configured for it, before the broker starts.
type org struct {
	app
	ring   *keys.Ring
	active *keys.Key
	jwks   []json.RawMessage // the app's public keys
	fault  fakeokta.Fault
}

// newOrg is an Okta that has the app and its key, with one thing wrong.
func newOrg(t *testing.T, tt upstreamError) *org {
	t.Helper()
	ring := newRing(t, keys.Config{})
	active := activeKey(t, ring)
	o := &org{app: newApp(t, "default", issuer, clientID, scopes), ring: ring, active: active, jwks: []json.RawMessage{active.JWK()}}
	if tt.by != nil {
		tt.by(t, o)
	} else {
		o.says(t, tt.said)
	}
	for _, jwk := range o.jwks {
		register(t, o.okta, clientID, jwk)
	}
	header := http.Header{"X-Okta-Request-Id": {requestID}}
	maps.Copy(header, o.fault.Header)
	o.fault.Header = header
	o.okta.SetFault(o.fault)
	return o
}

// broker is a broker of the org's configuration, without a socket.
func (o *org) broker(t *testing.T) *running {
	t.Helper()
	logs := &logBuffer{}
	p := parts{ring: o.ring, apps: []app{o.app}, log: newLog(logs, slog.LevelDebug)}
	return &running{okta: o.okta, ring: o.ring, api: p.assemble(t), logs: logs}
}

// newWell is a broker without a socket, and an Okta that nothing is wrong with.
func newWell(t *testing.T) *running {
	t.Helper()
	return newOrg(t, upstreamError{by: func(*testing.T, *org) {}}).broker(t)
}

// newKey is a key of another ring.
func newKey(t *testing.T, algorithm string) *keys.Key {
	t.Helper()
	return activeKey(t, newRing(t, keys.Config{Algorithm: algorithm}))
}

// says makes the token endpoint answer an error, in the form that its code belongs
// to.
func (o *org) says(t *testing.T, said api.Upstream) {
	t.Helper()
	members := map[string]any{"error": said.Error, "error_description": said.Description}
	if strings.HasPrefix(said.Error, "E0") {
		members = map[string]any{
			"errorCode": said.Error, "errorSummary": said.Description,
			"errorLink": said.Error, "errorId": "oaeX", "errorCauses": []any{},
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	o.fault.Status, o.fault.Body = said.Status, string(text)
}

// wantTold compares the whole of an answer, and counts what Okta was asked.
func (o *org) wantTold(t *testing.T, tt upstreamError, got answer) {
	t.Helper()
	words := strings.NewReplacer("{issuer}", o.server.Issuer, "{kid}", "'"+o.active.ID()+"'").Replace(tt.want.words)
	want := api.Error{Error: tt.want.code, Description: words}
	if tt.said.Status != 0 {
		want.Upstream = &tt.said
		want.Upstream.RequestID = requestID
	}
	var told api.Error
	decoder := json.NewDecoder(strings.NewReader(got.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&told); err != nil {
		t.Errorf("status %d, %v: %s", got.status, err, got.body)
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("body (-want +got)\n%s", diff)
	}
	if got.status != tt.want.status {
		t.Errorf("status %d, want %d", got.status, tt.want.status)
	}
	wantHeader := map[string]string{
		"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache", "Retry-After": tt.want.retryAfter,
	}
	for name, value := range wantHeader {
		if got.header.Get(name) != value {
			t.Errorf("%s: %q, want %q", name, got.header.Get(name), value)
		}
	}
	if posts := o.okta.Counters().TokenRequests; posts != tt.posts {
		t.Errorf("%d POSTs to Okta, want %d", posts, tt.posts)
	}
}

// repeating is a proxy that sends every request twice.
type repeating struct{ next http.RoundTripper }

func (p repeating) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	send := func() (*http.Response, error) {
		again := r.Clone(r.Context())
		again.Body = io.NopCloser(bytes.NewReader(body))
		return p.next.RoundTrip(again)
	}
	first, err := send()
	if err != nil {
		return nil, err
	}
	first.Body.Close()
	return send()
}

// A kid of a request can be long, and what is said of it is bounded.
func TestALongKidDoesNotMakeALongError(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	kid := strings.Repeat("k", 2000)
	if got := r.send(t, "POST", "/?rotate=true", `{"client_id":"`+clientID+`","audience":"`+issuer+`/oauth2/v1/token","kid":"`+kid+`"}`); got.status != 200 {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	for _, key := range r.ring.Keys() {
		r.okta.RemoveKey(clientID, key.ID())
	}
	// send holds the answer against the contract, which bounds the description.
	if got := r.send(t, "GET", "/token", ""); got.status != 502 || strings.Contains(got.body, kid) {
		t.Errorf("status %d: %s", got.status, got.body)
	}
}
