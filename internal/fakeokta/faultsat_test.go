package fakeokta

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFaultAtEachEndpoint(t *testing.T) {
	o := newOkta(t, Config{})
	token := newRotator(t, o, App{SuperAdmin: true})
	o.ResetCounters()
	for e, call := range map[Endpoint]func() reply{
		Token: func() reply { return exchange(t, o, good(t), "okta.users.read") },
		Introspect: func() reply {
			return ask(t, o, baseURL+"/oauth2/v1/introspect", url.Values{"token": {"x"}})
		},
		Revoke:   func() reply { return ask(t, o, baseURL+"/oauth2/v1/revoke", url.Values{"token": {"x"}}) },
		JWKS:     func() reply { return get(t, o, "/oauth2/v1/keys", "") },
		Metadata: func() reply { return get(t, o, "/.well-known/openid-configuration", "") },
		AppKeys:  func() reply { return api(t, o, token, clientID, "GET ", "") },
		Users:    func() reply { return get(t, o, usersPath, "") },
	} {
		well := call().Status
		o.SetFaultAt(e, Fault{Status: 503, Body: `{"errorCode":"E0000010"}`, Count: 1})
		if got := call(); got.Status != 503 || got.JSON["errorCode"] != "E0000010" {
			t.Errorf("%s: status %d, %v", e, got.Status, got.JSON)
		}
		if got := call(); got.Status != well {
			t.Errorf("%s: status %d after the fault, %d before", e, got.Status, well)
		}
		o.SetFaultAt(e, Fault{Status: 503})
		o.ClearFault()
		if got := call(); got.Status != well {
			t.Errorf("%s: not cleared: status %d", e, got.Status)
		}
	}
	each := func(n int) map[Endpoint]int {
		return map[Endpoint]int{Token: n, Introspect: n, Revoke: n, JWKS: n, Metadata: n, AppKeys: n, Users: n}
	}
	if diff := cmp.Diff(each(4), o.Counters().Requests); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(each(1), o.Counters().Faults); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

// A faulty introspection consumes its jti, too, and a fault after the work of a revocation has revoked.
func TestFaultsAroundTheWork(t *testing.T) {
	o := newOkta(t, Config{})
	const introspect, revoke = baseURL + "/oauth2/v1/introspect", baseURL + "/oauth2/v1/revoke"
	token := url.Values{"token": {exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")}}

	o.SetFaultAt(Introspect, Fault{Status: 500, Count: 1})
	assertion := sign(t, "RS256", rsaKey(), nil, with(map[string]any{"aud": introspect}))
	askWith(t, o, assertion, introspect, token)
	askWith(t, o, assertion, introspect, token).wantError(t, 401, "invalid_client", wordsUsed)

	o.SetFaultAt(Revoke, Fault{Status: 500, Count: 1}, Fault{Status: 500, After: true, Count: 1})
	for _, alive := range []bool{true, false} {
		if got := ask(t, o, revoke, token); got.Status != 500 {
			t.Errorf("status %d", got.Status)
		}
		if got := ask(t, o, introspect, token); got.JSON["active"] != alive {
			t.Errorf("%v, want alive: %t", got.JSON, alive)
		}
	}
}

// A client that leaves while the server takes its time has used up its jti.
func TestHang(t *testing.T) {
	rsaKey()
	for _, fault := range []Fault{{Hang: true}, {Hang: true, After: true}, {Delay: time.Hour}} {
		synctest.Test(t, func(t *testing.T) {
			o := newOkta(t, Config{})
			fault.Count = 1
			o.SetFault(fault)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			assertion := good(t)
			start := time.Now()
			r := tokenRequest(t, form(assertion, "okta.users.read").Encode()).WithContext(ctx)
			if _, err := o.Transport().RoundTrip(r); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v", err)
			}
			if took := time.Since(start); took != 30*time.Second {
				t.Errorf("took %v", took)
			}
			exchange(t, o, assertion, "okta.users.read").wantError(t, 401, "invalid_client", wordsUsed)
			if issued := o.Counters().TokensIssued; issued != map[bool]int{true: 1}[fault.After] {
				t.Errorf("issued %d", issued)
			}
		})
	}
}

func TestDripTakesFakeTime(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		o := newOkta(t, Config{})
		o.SetFault(Fault{Status: 200, Body: `{"slow":true}`, Drip: time.Second, Count: 1}, Fault{Drip: time.Second})
		start := time.Now()
		if got := exchange(t, o, good(t), "okta.users.read"); got.JSON["slow"] != true {
			t.Errorf("%v", got.JSON)
		}
		if took := time.Since(start); took != 14*time.Second { // 13 bytes and the end
			t.Errorf("took %v", took)
		}

		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		res, err := o.Transport().RoundTrip(tokenRequest(t, form(good(t), "okta.users.read").Encode()).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); len(body) != 3 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("body %q, error %v", body, err)
		}
	})
}

func TestSkew(t *testing.T) {
	now := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	o := newOkta(t, Config{Now: func() time.Time { return now }})
	valid := map[string]any{"iat": now.Unix() - 30, "exp": now.Unix() + 300}
	try := func() reply { return exchange(t, o, sign(t, "RS256", rsaKey(), nil, with(valid)), "okta.users.read") }
	for skew, words := range map[time.Duration]string{10 * time.Minute: wordsExpired, -10 * time.Minute: wordsIssued} {
		o.SetFault(Fault{Skew: skew, Count: 1})
		got := try()
		got.wantError(t, 401, "invalid_client", words)
		if date := got.Header.Get("Date"); date != now.Add(skew).Format(http.TimeFormat) {
			t.Errorf("Date %q", date)
		}
		try().wantToken(t, "okta.users.read")
	}

	// It is for the one request, and moves no token's end.
	o.SetFault(Fault{Skew: 4 * time.Minute, Count: 1})
	token := url.Values{"token": {try().wantToken(t, "okta.users.read")}}
	const introspect = baseURL + "/oauth2/v1/introspect"
	valid["aud"] = introspect
	got := askWith(t, o, sign(t, "RS256", rsaKey(), nil, with(valid)), introspect, token)
	if want := float64(now.Add(time.Hour).Unix()); got.JSON["exp"] != want {
		t.Errorf("%v, want exp %v", got.JSON, want)
	}
}

func TestTruncateKeepsTheWork(t *testing.T) {
	o := newOkta(t, Config{})
	o.SetFault(Fault{Truncate: true})
	res, err := o.Transport().RoundTrip(tokenRequest(t, form(good(t), "okta.users.read").Encode()))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	wantBroken(t, err)
	if res.StatusCode != 200 || len(body) == 0 || strings.HasSuffix(string(body), "}") || o.Counters().TokensIssued != 1 {
		t.Errorf("status %d, body %q, issued %d", res.StatusCode, body, o.Counters().TokensIssued)
	}
}

func TestRewriteLeavesListsAlone(t *testing.T) {
	o := newOkta(t, Config{})
	token := exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")
	o.SetFaultAt(Users, Fault{Rewrite: func(map[string]any) { t.Error("called") }})
	if got := get(t, o, usersPath, "Bearer "+token); got.Status != 200 || len(got.JSON["users"].([]any)) < 3 {
		t.Errorf("status %d, %v", got.Status, got.JSON)
	}
}

// luck lists the statuses that the users resource answers with.
func luck(t *testing.T, o *Okta, requests int) []int {
	t.Helper()
	statuses := make([]int, requests)
	for i := range statuses {
		statuses[i] = get(t, o, usersPath, "").Status
	}
	return statuses
}

func count(statuses []int, of int) (n int) {
	for _, status := range statuses {
		if status == of {
			n++
		}
	}
	return n
}

func TestShares(t *testing.T) {
	const requests = 2000
	body := `{}`
	shares := []Fault{{Status: 503, Body: body, Share: 0.2}, {Status: 502, Body: body, Share: 0.1}}
	run := func(seed uint64, faults ...Fault) []int {
		o := newOkta(t, Config{Seed: seed})
		o.SetFaultAt(Users, faults...)
		return luck(t, o, requests)
	}
	first := run(7, shares...)
	if n := count(first, 503); n < 330 || n > 470 {
		t.Errorf("%d of %d are 503", n, requests)
	}
	if n := count(first, 502); n < 140 || n > 260 {
		t.Errorf("%d of %d are 502", n, requests)
	}
	if diff := cmp.Diff(first, run(7, shares...)); diff != "" {
		t.Error("the same seed decides otherwise")
	}
	if cmp.Equal(first, run(8, shares...)) {
		t.Error("another seed decides the same")
	}
	// A script before the shares leaves the later decisions alone.
	scripted := run(7, append([]Fault{{Status: 500, Body: body, Count: 3}}, shares...)...)
	if diff := cmp.Diff(first[3:], scripted[3:]); diff != "" || count(scripted[:3], 500) != 3 {
		t.Errorf("after a script of three (%v):\n%s", scripted[:3], diff)
	}
	if n := count(run(7, Fault{Status: 503, Body: body, Share: 0.5, Count: 4}), 503); n != 4 {
		t.Errorf("a share counted to 4 met %d", n)
	}
	if n := count(run(7, Fault{Status: 503, Body: body, Share: 1}), 503); n != requests {
		t.Errorf("a share of all met %d", n)
	}

	// Each endpoint has its own luck, and setting faults anew begins anew.
	o := newOkta(t, Config{Seed: 7})
	o.SetFaultAt(Users, shares...)
	o.SetFaultAt(JWKS, shares...)
	var mixed []int
	for range requests {
		get(t, o, "/oauth2/v1/keys", "")
		mixed = append(mixed, get(t, o, usersPath, "").Status)
	}
	o.SetFaultAt(Users, shares...)
	if !cmp.Equal(first, mixed) || !cmp.Equal(first, luck(t, o, requests)) {
		t.Error("the decisions depend on other endpoints, or on what was before")
	}
}

func TestFaultsOnARealServer(t *testing.T) {
	o, client, endpoint := serve(t, nil)
	o.SetFault(
		Fault{Drip: time.Microsecond, Count: 1},
		Fault{Truncate: true, Count: 1},
		Fault{Hang: true, Count: 1},
	)
	res, err := post(t.Context(), t, client, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	decode(t, res).wantToken(t, "okta.users.read")

	res, err = post(t.Context(), t, client, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) || len(body) == 0 {
		t.Errorf("body %q, error %v", body, err)
	}
	res.Body.Close()

	// The client leaves once the third fault has met its request, and not before: the next request must find none.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() {
		for ctx.Err() == nil && o.Counters().Faults[Token] < 3 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := post(ctx, t, client, endpoint); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	res, err = post(t.Context(), t, client, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	decode(t, res).wantToken(t, "okta.users.read")
}
