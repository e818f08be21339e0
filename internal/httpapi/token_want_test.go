package httpapi_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
)

// accessToken is the token in an answer.
func (a answer) accessToken(t *testing.T) string {
	t.Helper()
	token, _ := a.json(t)["access_token"].(string)
	if a.status != http.StatusOK || token == "" {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	return token
}

// inEachWay runs a test for each way to ask for a token, in a bubble, with a
// broker that has one of an hour already.
func inEachWay(t *testing.T, query string, headers []string, test func(t *testing.T, r *running, first string, ask func() answer)) {
	t.Helper()
	for _, q := range asks("?"+query, "&"+query, headers...) {
		t.Run(q.operation(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newWell(t)
				first := r.send(t, "GET", "/token", "").accessToken(t)
				test(t, r, first, func() answer { return r.send(t, q.method, q.path, q.body, q.headers...) })
			})
		})
	}
}

func TestMinTTL(t *testing.T) {
	const malformed, over = "min_ttl must be a whole number of seconds from 1 to 86400", "min_ttl can be 2700 at most: three quarters of this token's life"
	tests := []struct {
		name    string
		age     time.Duration
		minTTL  string
		words   string // of the refusal; empty: there is a token
		fetched bool   // it is another one
	}{
		{name: "a second", minTTL: "1"},
		{name: "without a value", minTTL: ""},
		{name: "three quarters of its life", minTTL: "2700"},
		{name: "more", minTTL: "2701", words: over},
		{name: "a day", minTTL: "86400", words: over},
		{name: "three quarters are left", age: 15 * time.Minute, minTTL: "2700"},
		{name: "a second less is left", age: 15*time.Minute + time.Second, minTTL: "2700", fetched: true},
		{name: "what is left", age: 15*time.Minute + time.Second, minTTL: "2699"},
		{name: "a moment less is left", age: 15*time.Minute + time.Nanosecond, minTTL: "2700", fetched: true},
		{name: "more, later", age: 30 * time.Minute, minTTL: "2701", words: over},
		{name: "over a day", minTTL: "86401", words: malformed},
		{name: "nothing", minTTL: "0", words: malformed},
		{name: "negative", minTTL: "-1", words: malformed},
		{name: "signed", minTTL: "%2B60", words: malformed},
		{name: "a fraction", minTTL: "1.5", words: malformed},
		{name: "an exponent", minTTL: "1e2", words: malformed},
		{name: "hexadecimal", minTTL: "0x10", words: malformed},
		{name: "a unit", minTTL: "60s", words: malformed},
		{name: "a space", minTTL: "+60", words: malformed},
		{name: "a word", minTTL: "soon", words: malformed},
		{name: "over 32 bits", minTTL: "4294967356", words: malformed},
		{name: "over 64 bits", minTTL: "18446744073709551676", words: malformed},
		{name: "twice", minTTL: "60&min_ttl=60", words: "a parameter stands twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inEachWay(t, "min_ttl="+tt.minTTL, nil, func(t *testing.T, r *running, first string, ask func() answer) {
				time.Sleep(tt.age)
				got := ask()
				if tt.words != "" {
					if body := got.json(t); got.status != 400 || body["error"] != "invalid_request" || body["error_description"] != tt.words {
						t.Errorf("status %d: %s", got.status, got.body)
					}
				} else if token := got.accessToken(t); (token != first) != tt.fetched {
					t.Errorf("another token: %v, want %v", token != first, tt.fetched)
				}
				want := 1
				if tt.fetched {
					want = 2
				}
				if n := r.okta.Counters().TokenRequests; n != want {
					t.Errorf("%d requests to Okta, want %d", n, want)
				}
			})
		})
	}
}

// How long a token lives is known when it is there. It is kept all the same.
func TestMinTTLOfTheFirstToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newWell(t)
		for minTTL, status := range map[string]int{"2700": 200, "2701": 400} {
			if got := r.send(t, "GET", "/token?min_ttl="+minTTL, ""); got.status != status {
				t.Errorf("min_ttl %s: status %d: %s", minTTL, got.status, got.body)
			}
		}
		r.send(t, "GET", "/token", "").accessToken(t)
		if n := r.okta.Counters().TokenRequests; n != 1 {
			t.Errorf("%d requests to Okta, want 1", n)
		}
	})
}

// Of one token nobody forces another within ten seconds.
func TestMinTTLOfAShortLivedToken(t *testing.T) {
	inEachWay(t, "scope=okta.users.read&min_ttl=15", nil, func(t *testing.T, r *running, _ string, ask func() answer) {
		r.okta.SetFault(fakeokta.Fault{Rewrite: func(members map[string]any) { members["expires_in"] = 20 }})
		first := ask().accessToken(t)
		time.Sleep(6 * time.Second)
		const words = "the token is not good for min_ttl, and cannot be renewed now: too many new tokens were asked for a moment ago"
		if got := ask(); got.status != 503 || got.header.Get("Retry-After") != "4" || got.json(t)["error_description"] != words {
			t.Errorf("status %d, Retry-After %q: %s", got.status, got.header.Get("Retry-After"), got.body)
		}
		if r.send(t, "GET", "/token?scope=okta.users.read", "").accessToken(t) != first {
			t.Error("without min_ttl: another token")
		}
		time.Sleep(4 * time.Second)
		if ask().accessToken(t) == first {
			t.Error("after Retry-After: the same token")
		}
	})
}

// troubles are what can keep a server from giving another token.
func troubles() map[string]func(*running) {
	fault := func(f fakeokta.Fault) func(*running) { return func(r *running) { r.okta.SetFault(f) } }
	return map[string]func(*running){
		"down":               fault(fakeokta.Fault{Status: 503, Body: "<html>", ContentType: "text/html"}),
		"reset":              fault(fakeokta.Fault{Reset: true}),
		"slow":               fault(fakeokta.Fault{Hang: true}),
		"limited":            fault(fakeokta.Fault{Status: 429, RetryIn: time.Minute}),
		"HTML":               fault(fakeokta.Fault{Status: 200, Body: "<html>", ContentType: "text/html"}),
		"invalid_scope":      fault(fakeokta.Fault{Status: 400, Body: oauthError("invalid_scope", "No.")}),
		"key not registered": func(r *running) { r.okta.RemoveKey(clientID, r.ring.Keys()[0].ID()) },
	}
}

// heal ends all troubles.
func (r *running) heal(t *testing.T) {
	t.Helper()
	r.okta.ClearFault()
	r.okta.RemoveKey(clientID, r.ring.Keys()[0].ID())
	r.register(t)
}

// Only who asks for more than the token that is held can give is failed by an
// outage.
func TestMinTTLInAnOutage(t *testing.T) {
	for name, ail := range troubles() {
		t.Run(name, func(t *testing.T) {
			inEachWay(t, "min_ttl=2700", nil, func(t *testing.T, r *running, first string, ask func() answer) {
				time.Sleep(20 * time.Minute)
				ail(r)
				for range 2 {
					got := ask()
					words, _ := got.json(t)["error_description"].(string)
					if got.status != 503 || !strings.HasPrefix(words, "the token is not good for min_ttl, and cannot be renewed now: ") {
						t.Errorf("status %d: %s", got.status, got.body)
					}
					if r.send(t, "GET", "/token", "").accessToken(t) != first || r.send(t, "GET", "/token?min_ttl=2000", "").accessToken(t) != first {
						t.Error("who asks for less is given another token")
					}
				}
				r.heal(t)
				time.Sleep(2 * time.Minute)
				if ask().accessToken(t) == first {
					t.Error("afterwards: the same token")
				}
			})
		})
	}
}

func TestNoCache(t *testing.T) {
	inEachWay(t, "", []string{"Cache-Control: no-cache"}, func(t *testing.T, r *running, first string, ask func() answer) {
		for _, age := range []time.Duration{0, 10*time.Second - time.Nanosecond} {
			time.Sleep(age)
			if ask().accessToken(t) != first {
				t.Errorf("after %v: another token", age)
			}
		}
		time.Sleep(time.Nanosecond)
		second := ask().accessToken(t)
		if second == first {
			t.Error("after 10 s: the same token")
		}
		if ask().accessToken(t) != second || r.send(t, "GET", "/token", "").accessToken(t) != second {
			t.Error("afterwards: another token")
		}
		if n := r.okta.Counters().TokenRequests; n != 2 {
			t.Errorf("%d requests to Okta, want 2", n)
		}
	})
}

func TestNoCacheInAnOutage(t *testing.T) {
	for name, ail := range troubles() {
		t.Run(name, func(t *testing.T) {
			inEachWay(t, "", []string{"Cache-Control: no-cache"}, func(t *testing.T, r *running, first string, ask func() answer) {
				time.Sleep(time.Minute)
				ail(r)
				for range 3 {
					if ask().accessToken(t) != first {
						t.Error("another token")
					}
				}
				if n := r.okta.Counters().TokenRequests; n < 2 || n > 4 { // one exchange has three at most
					t.Errorf("%d requests to Okta", n)
				}
				r.heal(t)
				time.Sleep(2 * time.Minute)
				if ask().accessToken(t) == first {
					t.Error("afterwards: the same token")
				}
			})
		})
	}
}

func TestCacheControl(t *testing.T) {
	tests := map[string]bool{ // whether a token is fetched
		"Cache-Control: no-cache":                           true,
		"Cache-Control: NO-CACHE":                           true,
		"Cache-Control: max-age=0, No-Cache":                true,
		"Cache-Control: no-cache,no-store":                  true,
		"Cache-Control:  \t no-cache \t":                    true,
		"Cache-Control: max-age=0\nCache-Control: no-cache": true,
		"Cache-Control: no-store":                           false,
		"Cache-Control: max-age=0":                          false,
		"Cache-Control: no-cached":                          false,
		"Cache-Control: x-no-cache":                         false,
		"Cache-Control: no cache":                           false,
		"Cache-Control: ,":                                  false,
		"Cache-Control: ":                                   false,
		"Pragma: no-cache":                                  false, // RFC 9111 section 5.4 deprecates it
	}
	for headers, fetched := range tests {
		t.Run(headers, func(t *testing.T) {
			inEachWay(t, "", strings.Split(headers, "\n"), func(t *testing.T, _ *running, first string, ask func() answer) {
				time.Sleep(10 * time.Second)
				if token := ask().accessToken(t); (token != first) != fetched {
					t.Errorf("another token: %v, want %v", token != first, fetched)
				}
			})
		})
	}
}

// All who want a token that is fetched now share it.
func TestManyWhoWantANewTokenCostOneRequest(t *testing.T) {
	inEachWay(t, "", []string{"Cache-Control: no-cache"}, func(t *testing.T, r *running, first string, ask func() answer) {
		time.Sleep(10 * time.Second)
		r.okta.SetFault(fakeokta.Fault{Delay: time.Second})
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() {
				if ask().accessToken(t) == first {
					t.Error("the same token")
				}
			})
		}
		callers.Wait()
		if n := r.okta.Counters().TokenRequests; n != 2 {
			t.Errorf("%d requests to Okta, want 2", n)
		}
	})
}
