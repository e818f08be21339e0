package fakeokta

import (
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// limits are the headers of an answer, the reset counted from its Date.
func limits(tb testing.TB, got reply) (limit, remaining string, reset time.Duration) {
	tb.Helper()
	h := got.Header
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		tb.Fatal(err)
	}
	at, err := strconv.ParseInt(h.Get("X-Rate-Limit-Reset"), 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return h.Get("X-Rate-Limit-Limit"), h.Get("X-Rate-Limit-Remaining"), time.Unix(at, 0).Sub(date)
}

// wantLimits compares with a limit of two.
func wantLimits(tb testing.TB, got reply, status int, remaining string, reset time.Duration) {
	tb.Helper()
	l, r, in := limits(tb, got)
	if got.Status != status || l != "2" || r != remaining || in != reset {
		tb.Errorf("status %d, limit %s, remaining %s, reset in %v; want %d, 2, %s, %v",
			got.Status, l, r, in, status, remaining, reset)
	}
}

func TestRateLimit(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		o := newOkta(t, Config{})
		o.SetClockOffset(-time.Hour) // the reset is by the server's clock
		addServer(t, o, openServer("one"))
		o.SetRateLimit(Token, RateLimit{Requests: 2, Window: 30 * time.Second, OAuth: true})
		refused := func() reply { return exchange(t, o, "x", "okta.users.read") }

		wantLimits(t, refused(), 401, "1", 30*time.Second)
		time.Sleep(10 * time.Second)
		wantLimits(t, refused(), 401, "0", 20*time.Second)
		for range 2 {
			got := refused()
			wantLimits(t, got, 429, "0", 20*time.Second)
			got.wantError(t, 429, "invalid_grant", "API call exceeded rate limit due to too many requests.")
		}
		other := ask(t, o, baseURL+"/oauth2/one/v1/token", url.Values{"scope": {"orders.read"}})
		if limit, remaining, _ := limits(t, other); limit != "2" || remaining != "1" {
			t.Errorf("another server's bucket: %s of %s", remaining, limit)
		}
		if h := get(t, o, "/oauth2/v1/keys", "").Header; h.Get("X-Rate-Limit-Limit") != "" {
			t.Errorf("another endpoint is limited: %v", h)
		}
		time.Sleep(20 * time.Second)
		wantLimits(t, refused(), 401, "1", 30*time.Second)
		if n := o.Counters().RateLimited[Token]; n != 2 {
			t.Errorf("%d rate limited", n)
		}

		o.SetRateLimit(Token, RateLimit{})
		if got := refused(); got.Status != 401 || got.Header.Get("X-Rate-Limit-Limit") != "" {
			t.Errorf("still limited: %d, %v", got.Status, got.Header)
		}
	})
}

func TestRateLimitOfResources(t *testing.T) {
	o := newOkta(t, Config{})
	token := newRotator(t, o, App{Scopes: []string{appsRead, "okta.users.read"}})
	for e, call := range map[Endpoint]func() reply{
		Users:   func() reply { return get(t, o, usersPath, "Bearer "+token) },
		AppKeys: func() reply { return api(t, o, token, clientID, "GET ", "") },
	} {
		o.SetRateLimit(e, RateLimit{Requests: 1})
		if got := call(); got.Status != 200 || got.Header.Get("X-Rate-Limit-Remaining") != "0" {
			t.Errorf("%s: status %d, %v", e, got.Status, got.Header)
		}
		got := call()
		if got.Status != http.StatusTooManyRequests {
			t.Errorf("%s: status %d", e, got.Status)
		}
		wantAPIError(t, got, "E0000047", "API call exceeded rate limit due to too many requests.")
	}
}

// A request that the limit refuses has consumed its jti.
func TestRateLimitConsumesTheJTI(t *testing.T) {
	o := newOkta(t, Config{})
	o.SetRateLimit(Token, RateLimit{Requests: 1})
	exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")
	assertion := good(t)
	if got := exchange(t, o, assertion, "okta.users.read"); got.Status != http.StatusTooManyRequests {
		t.Fatalf("status %d", got.Status)
	}
	o.SetRateLimit(Token, RateLimit{})
	exchange(t, o, assertion, "okta.users.read").wantError(t, 401, "invalid_client", wordsUsed)
}

// The limit comes before the faults. A fault answers only what the limit lets through, and waits while it refuses.
func TestRateLimitBeforeFaults(t *testing.T) {
	rsaKey()
	try := func(t *testing.T, o *Okta) int { return exchange(t, o, good(t), "okta.users.read").Status }
	for name, tt := range map[string]struct {
		fault  Fault
		issued int // by the two requests that meet the fault
	}{
		"instead of the work": {Fault{Status: 503, Body: "{}", Count: 2}, 0},
		"after the work":      {Fault{Status: 503, Body: "{}", Count: 2, After: true}, 2},
		"late":                {Fault{Status: 503, Body: "{}", Count: 2, Delay: time.Second}, 0},
		"by share":            {Fault{Status: 503, Body: "{}", Count: 2, Share: 1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOkta(t, Config{})
				o.SetRateLimit(Token, RateLimit{Requests: 1})
				o.SetFault(tt.fault)
				if status := try(t, o); status != 503 {
					t.Errorf("let through: status %d, want the fault's 503", status)
				}
				if c := o.Counters(); c.RateLimited[Token] != 0 || c.Faults[Token] != 1 {
					t.Errorf("let through: %d rate limited, %d faults", c.RateLimited[Token], c.Faults[Token])
				}
				start := time.Now()
				if status := try(t, o); status != 429 || time.Since(start) != 0 {
					t.Errorf("over the limit: status %d after %v, want 429 at once", status, time.Since(start))
				}
				if c := o.Counters(); c.RateLimited[Token] != 1 || c.Faults[Token] != 1 {
					t.Errorf("over the limit: %d rate limited, %d faults", c.RateLimited[Token], c.Faults[Token])
				}
				o.SetRateLimit(Token, RateLimit{})
				if status := try(t, o); status != 503 {
					t.Errorf("limit lifted: status %d, want the second 503", status)
				}
				if issued := o.Counters().TokensIssued; issued != tt.issued {
					t.Errorf("issued %d, want %d", issued, tt.issued)
				}
				if status := try(t, o); status != 200 {
					t.Errorf("faults used up: status %d", status)
				}
			})
		})
	}
}

func TestConcurrencyLimit(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		o := newOkta(t, Config{})
		o.SetRateLimit(Token, RateLimit{Concurrent: 1})
		o.SetFault(Fault{Delay: time.Minute, Count: 1})
		slow := tokenRequest(t, form(good(t), "okta.users.read").Encode())
		done := make(chan error)
		go func() {
			_, err := o.Transport().RoundTrip(slow)
			done <- err
		}()
		synctest.Wait()
		got := exchange(t, o, good(t), "okta.users.read")
		if limit, remaining, _ := limits(t, got); got.Status != 429 || limit != "0" || remaining != "0" {
			t.Errorf("status %d, limit %s, remaining %s", got.Status, limit, remaining)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")
	})
}
