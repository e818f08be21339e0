package fakeokta

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	wordsMethod = "Client Credentials requests to the Org Authorization Server must use the private_key_jwt " +
		"token_endpoint_auth_method."
	wordsConsent = "You are not allowed any of the requested scopes."
	wordsCustom  = "Custom scopes are not allowed for this request."
	wordsOpenID  = "Cannot request 'openid' scopes using client credentials."
)

func TestRefusedRequests(t *testing.T) {
	edit := func(change func(url.Values)) func(*testing.T) *http.Request {
		return func(t *testing.T) *http.Request {
			f := form(good(t), "okta.users.read")
			change(f)
			return tokenRequest(t, f.Encode())
		}
	}
	adjust := func(change func(*http.Request)) func(*testing.T) *http.Request {
		return func(t *testing.T) *http.Request {
			r := tokenRequest(t, form(good(t), "okta.users.read").Encode())
			change(r)
			return r
		}
	}
	for _, test := range []struct {
		name    string
		request func(*testing.T) *http.Request
		status  int
		code    string
		words   string
	}{
		{"JSON", adjust(func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }),
			400, "invalid_request", "The request must be of content type application/x-www-form-urlencoded."},
		{"no content type", adjust(func(r *http.Request) { r.Header.Del("Content-Type") }),
			400, "invalid_request", "The request must be of content type application/x-www-form-urlencoded."},
		{"query", adjust(func(r *http.Request) { r.URL.RawQuery = "scope=okta.users.read" }),
			400, "invalid_request", "The parameters must be sent in the request body."},
		{"not a form", func(t *testing.T) *http.Request { return tokenRequest(t, "scope=%zz") },
			400, "invalid_request", "The request body is not a form."},
		{"too large", edit(func(f url.Values) { f.Set("x", strings.Repeat("x", maxBody)) }),
			413, "invalid_request", "The request body is too large."},
		{"parameter twice", edit(func(f url.Values) { f.Add("scope", "okta.users.read") }),
			400, "invalid_request", `The parameter "scope" must not be sent more than once.`},
		{"no body", adjust(func(r *http.Request) { r.Body = nil }),
			400, "unsupported_grant_type", "The authorization grant type is not supported by the authorization server."},
		{"grant type", edit(func(f url.Values) { f.Set("grant_type", "password") }),
			400, "unsupported_grant_type", "The authorization grant type is not supported by the authorization server."},
		{"no assertion type", edit(func(f url.Values) { f.Del("client_assertion_type") }),
			401, "invalid_client", "The client_assertion_type is invalid."},
		{"assertion type", edit(func(f url.Values) { f.Set("client_assertion_type", "jwt-bearer") }),
			401, "invalid_client", "The client_assertion_type is invalid."},
		{"no assertion", edit(func(f url.Values) { f.Del("client_assertion") }), 401, "invalid_client", wordsMethod},
		{"client secret", edit(func(f url.Values) { f.Set("client_secret", "s") }), 401, "invalid_client", wordsMethod},
		{"Basic", adjust(func(r *http.Request) { r.SetBasicAuth(clientID, "s") }), 401, "invalid_client", wordsMethod},
		{"another client_id", edit(func(f url.Values) { f.Set("client_id", "0oaNobody") }),
			401, "invalid_client", wordsClientID},
		{"no scope", edit(func(f url.Values) { f.Del("scope") }), 400, "invalid_scope", "No scopes were requested."},
		{"blank scope", edit(func(f url.Values) { f.Set("scope", " ") }), 400, "invalid_scope", "No scopes were requested."},
		{"custom scope", edit(func(f url.Values) { f.Set("scope", "okta.users.read mine") }), 400, "invalid_scope", wordsCustom},
		{"openid", edit(func(f url.Values) { f.Set("scope", "openid okta.users.read") }), 400, "invalid_scope", wordsOpenID},
		{"ungranted", edit(func(f url.Values) { f.Set("scope", "okta.apps.manage") }), 400, "consent_required", wordsConsent},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOkta(t, Config{})
			do(t, o, test.request(t)).wantError(t, test.status, test.code, test.words)
			if diff := cmp.Diff(map[string]int{test.code: 1}, o.Counters().Refused); diff != "" {
				t.Errorf("refused (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGrantedScopes(t *testing.T) {
	o := newOkta(t, Config{})
	for requested, granted := range map[string]string{
		"okta.users.read":                                   "okta.users.read",
		"okta.groups.read okta.users.read":                  "okta.groups.read okta.users.read",
		"okta.users.read okta.users.read":                   "okta.users.read",
		"okta.users.read okta.apps.manage okta.groups.read": "okta.users.read okta.groups.read",
	} {
		exchange(t, o, good(t), requested).wantToken(t, granted)
	}
}

func TestMatchingClientID(t *testing.T) {
	o := newOkta(t, Config{})
	f := form(good(t), "okta.users.read")
	f.Set("client_id", clientID)
	do(t, o, tokenRequest(t, f.Encode())).wantToken(t, "okta.users.read")
}

func TestCounters(t *testing.T) {
	o := newOkta(t, Config{})
	first, second := good(t), good(t)
	exchange(t, o, first, "okta.users.read").wantToken(t, "okta.users.read")
	exchange(t, o, second, "")
	exchange(t, o, second, "okta.users.read")
	get(t, o, usersPath, "")

	want := Counters{
		TokenRequests: 3, TokensIssued: 1, DistinctJTI: 2, ReusedJTI: 1, PeakConcurrency: 1,
		Refused:          map[string]int{"invalid_scope": 1, "invalid_client": 1},
		Kids:             map[string]int{"k1": 3},
		LastAssertion:    second,
		ResourceRequests: 1,
		ResourceStatus:   map[int]int{401: 1},
		ResourceRefused:  map[string]int{},
		NonceRefusals:    map[Endpoint]int{},
		Requests:         map[Endpoint]int{Token: 3, Users: 1},
		RateLimited:      map[Endpoint]int{},
		Faults:           map[Endpoint]int{},
	}
	got := o.Counters()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	got.Refused["invalid_client"], got.Kids["k1"] = 7, 7
	if diff := cmp.Diff(want, o.Counters()); diff != "" {
		t.Errorf("counters shared with a caller (-want +got):\n%s", diff)
	}
	o.ResetCounters()
	want = Counters{
		Refused: map[string]int{}, Kids: map[string]int{},
		Requests: map[Endpoint]int{}, RateLimited: map[Endpoint]int{}, Faults: map[Endpoint]int{},
		ResourceStatus: map[int]int{}, ResourceRefused: map[string]int{}, NonceRefusals: map[Endpoint]int{},
	}
	if diff := cmp.Diff(want, o.Counters()); diff != "" {
		t.Errorf("after the reset (-want +got):\n%s", diff)
	}
}

// Every method may be called while requests run; the race detector looks on.
func TestConcurrentUse(t *testing.T) {
	o := newOkta(t, Config{})
	const clients = 8
	assertions := make([]string, clients)
	for i := range assertions {
		assertions[i] = good(t)
	}
	requests := make([]*http.Request, clients)
	for i, assertion := range assertions {
		requests[i] = tokenRequest(t, form(assertion, "okta.users.read").Encode())
	}

	var group sync.WaitGroup
	for i, request := range requests {
		group.Go(func() {
			o.SetFault(Fault{Delay: time.Microsecond, Count: 1})
			if res, err := o.Transport().RoundTrip(request); err != nil || res.StatusCode != http.StatusOK {
				t.Errorf("request %d: %v, %v", i, res, err)
			}
			o.SetClockOffset(time.Duration(i) * time.Millisecond)
			if err := o.RegisterKey(clientID, jwk(t, fmt.Sprint("new", i), &ecKey().PublicKey)); err != nil {
				t.Error(err)
			}
			o.RemoveKey(clientID, fmt.Sprint("new", i))
			o.ClearFault()
			o.Counters()
		})
	}
	group.Wait()
	if c := o.Counters(); c.TokensIssued != clients || c.DistinctJTI != clients {
		t.Errorf("issued %d, distinct jti %d, want %d", c.TokensIssued, c.DistinctJTI, clients)
	}
}

func TestUsers(t *testing.T) {
	now := time.Now()
	o := newOkta(t, Config{Now: func() time.Time { return now }})
	users := exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")
	groups := exchange(t, o, good(t), "okta.groups.read").wantToken(t, "okta.groups.read")

	for _, scheme := range []string{"Bearer ", "bearer "} {
		got := get(t, o, usersPath, scheme+users)
		list, _ := got.JSON["users"].([]any)
		if got.Status != http.StatusOK || len(list) < 3 {
			t.Fatalf("%q: status %d, %d users", scheme, got.Status, len(list))
		}
		for _, user := range list {
			profile, _ := user.(map[string]any)["profile"].(map[string]any)
			if login, _ := profile["login"].(string); !strings.HasSuffix(login, "@example.com") {
				t.Errorf("login %q", login)
			}
		}
	}

	wantRefused := func(t *testing.T, authorization string, status int, code, summary, challenge string) {
		t.Helper()
		got := get(t, o, usersPath, authorization)
		if got.Status != status || got.Header.Get("WWW-Authenticate") != challenge {
			t.Errorf("status %d, WWW-Authenticate %q", got.Status, got.Header.Get("WWW-Authenticate"))
		}
		wantAPIError(t, got, code, summary)
	}
	wantRefused(t, "Bearer "+groups, http.StatusForbidden, "E0000006",
		"You do not have permission to perform the requested action",
		`Bearer error="insufficient_scope", scope="okta.users.read"`)
	for _, authorization := range []string{"", "Bearer", "Bearer nobodys", "SSWS " + users, users} {
		wantRefused(t, authorization, http.StatusUnauthorized, "E0000011", "Invalid token provided", "Bearer")
	}

	now = now.Add(time.Hour - time.Second)
	if got := get(t, o, usersPath, "Bearer "+users); got.Status != http.StatusOK {
		t.Errorf("a second before its end: status %d", got.Status)
	}
	now = now.Add(time.Second)
	wantRefused(t, "Bearer "+users, http.StatusUnauthorized, "E0000011", "Invalid token provided", "Bearer")
}

func TestTokenStoreIsBounded(t *testing.T) {
	var s tokenStore
	end := time.Now().Add(time.Hour)
	for i := range maxTokens + 10 {
		s.add(fmt.Sprint(i), grant{expires: end})
	}
	if len(s.grants) != maxTokens || len(s.order) != maxTokens {
		t.Errorf("%d grants, %d in order", len(s.grants), len(s.order))
	}
	if _, alive := s.find("9", time.Now()); alive {
		t.Error("the oldest is still there")
	}
	if _, alive := s.find("10", time.Now()); !alive {
		t.Error("one too many is gone")
	}
	if _, alive := s.find("10", end); alive {
		t.Error("alive at its end")
	}
}

func TestTokenLife(t *testing.T) {
	o := newOkta(t, Config{TokenLife: 5 * time.Minute})
	got := exchange(t, o, good(t), "okta.users.read")
	if got.JSON["expires_in"] != 300.0 {
		t.Errorf("expires_in %v", got.JSON["expires_in"])
	}
	if keys := slices.Sorted(maps.Keys(got.JSON)); len(keys) != 4 {
		t.Errorf("members %v", keys)
	}
}
