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
		if h := get(t, o, usersPath, "").Header; h.Get("X-Rate-Limit-Limit") != "" {
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
