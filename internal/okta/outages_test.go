package okta

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

func reset() error {
	return &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
}

func TestRetries(t *testing.T) {
	unavailable := refusing("temporarily_unavailable", "The authorization server is overloaded.")
	tests := []struct {
		name   string
		fault  fakeokta.Fault
		within int // how many of these are put up with
		class  oauth.Class
	}{
		{"reset", fakeokta.Fault{Reset: true}, 1, oauth.Unavailable},
		{"reset after the work", fakeokta.Fault{Reset: true, After: true}, 1, oauth.Unavailable},
		{"reset in the body", fakeokta.Fault{Status: 200, Body: good()[:20], Reset: true}, 1, oauth.Unavailable},
		{"500", fakeokta.Fault{Status: 500, Body: `{"errorCode":"E0000009","errorSummary":"Internal Server Error"}`}, 2, oauth.Unavailable},
		{"502 without a word", fakeokta.Fault{Status: 502, ContentType: "text/html", Body: "<html>"}, 2, oauth.Unavailable},
		{"503", fakeokta.Fault{Status: 503, Body: `{"errorCode":"E0000010","errorSummary":"Service is in read only mode"}`}, 2, oauth.Unavailable},
		{"500 that says invalid_client", fakeokta.Fault{Status: 500, Body: refusing("invalid_client", "")}, 2, oauth.Unavailable},
		{"temporarily_unavailable", fakeokta.Fault{Status: 400, Body: unavailable}, 2, oauth.Unavailable},
		{"429", fakeokta.Fault{Status: 429}, 0, oauth.Unavailable},
		{"429 that says invalid_grant", fakeokta.Fault{Status: 429, Body: refusing("invalid_grant", "API call exceeded rate limit due to too many requests.")}, 0, oauth.Unavailable},
		{"not JSON", fakeokta.Fault{Status: 200, Body: "<html>", ContentType: "text/html"}, 0, oauth.BadAnswer},
		{"invalid_scope", fakeokta.Fault{Status: 400, Body: refusing("invalid_scope", "No scopes were requested.")}, 0, oauth.InvalidScope},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.rotate(t)
				w.register(t)
				if tt.within > 0 {
					tt.fault.Count = tt.within
					w.okta.SetFault(tt.fault)
					w.works(t)
					w.wantPosts(t, tt.within+1)
				}

				tt.fault.Count = 0
				w.okta.SetFault(tt.fault)
				before := len(w.wire.sent())
				if e := w.fails(t); e.Class != tt.class || e.Class == oauth.Unavailable && e.RetryAfter < time.Second {
					t.Errorf("class %d, retry after %v: %v", e.Class, e.RetryAfter, e)
				}
				w.wantPosts(t, before+tt.within+1)
				if seen := w.okta.Counters(); seen.ReusedJTI != 0 || seen.Kids[w.active().ID()] != len(w.wire.sent()) {
					t.Errorf("jti sent again: %d; by key: %v", seen.ReusedJTI, seen.Kids)
				}
			})
		})
	}
}

// The pauses before retries: at most 200 ms, then at most 400 ms, by chance.
func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var longest [2]time.Duration
		distinct := map[time.Duration]bool{}
		for range 50 {
			w := always(t, 503, "")
			_ = w.fails(t)
			sent := w.wire.sent()
			for i := range longest {
				pause := sent[i+1].at.Sub(sent[i].at)
				longest[i] = max(longest[i], pause)
				distinct[pause] = true
			}
		}
		if longest[0] > 200*time.Millisecond || longest[1] > 400*time.Millisecond {
			t.Errorf("the longest pauses of 50 are %v; want at most 200ms and 400ms", longest)
		}
		if len(distinct) < 50 {
			t.Errorf("only %d distinct pauses of 100: many brokers would retry in step", len(distinct))
		}
	})
}

func TestRateLimit(t *testing.T) {
	at := func(ahead time.Duration) string { return strconv.FormatInt(time.Now().Add(ahead).Unix(), 10) }
	tests := []struct {
		name    string
		headers func() []string
		want    time.Duration
	}{
		{"reset", func() []string { return []string{"X-Rate-Limit-Reset", at(42 * time.Second)} }, 42 * time.Second},
		{"by the server's clock", func() []string {
			return []string{"X-Rate-Limit-Reset", at(-time.Hour + 42*time.Second), "Date", dateAt(-time.Hour)}
		}, 42 * time.Second},
		{"now", func() []string { return []string{"X-Rate-Limit-Reset", at(0)} }, time.Second},
		{"past", func() []string { return []string{"X-Rate-Limit-Reset", at(-time.Hour)} }, time.Second},
		{"negative", func() []string { return []string{"X-Rate-Limit-Reset", "-5"} }, time.Second},
		{"far", func() []string { return []string{"X-Rate-Limit-Reset", at(time.Hour)} }, 2 * time.Minute},
		{"the greatest", func() []string { return []string{"X-Rate-Limit-Reset", "9223372036854775807"} }, 2 * time.Minute},
		{"too great", func() []string { return []string{"X-Rate-Limit-Reset", "99999999999999999999"} }, 10 * time.Second},
		{"not a number", func() []string { return []string{"X-Rate-Limit-Reset", "soon"} }, 10 * time.Second},
		{"missing", func() []string { return nil }, 10 * time.Second},
		{"no Date", func() []string { return []string{"X-Rate-Limit-Reset", at(42 * time.Second), "Date", ""} }, 10 * time.Second},
		{"bad Date", func() []string { return []string{"X-Rate-Limit-Reset", at(42 * time.Second), "Date", "today"} }, 10 * time.Second},
		{"Retry-After", func() []string { return []string{"Retry-After", "77"} }, 77 * time.Second},
		{"the later of both", func() []string {
			return []string{"Retry-After", "7", "X-Rate-Limit-Reset", at(42 * time.Second)}
		}, 42 * time.Second},
		{"an absurd Retry-After", func() []string { return []string{"Retry-After", "86400"} }, 2 * time.Minute},
		{"Retry-After and no limit", func() []string { return []string{"Retry-After", "-1"} }, 10 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := always(t, 429, `{"errorCode":"E0000047","errorSummary":"API call exceeded rate limit due to too many requests."}`, tt.headers()...)
				w.rotate(t)
				start := time.Now()
				e := w.fails(t)
				if e.Class != oauth.Unavailable || e.RetryAfter != tt.want {
					t.Errorf("class %d, retry after %v; want Unavailable and %v", e.Class, e.RetryAfter, tt.want)
				}
				if e.Upstream == nil || e.Upstream.Code != "E0000047" || e.Upstream.Status != 429 {
					t.Errorf("upstream %+v", e.Upstream)
				}
				w.wantPosts(t, 1)
				if took := time.Since(start); took != 0 {
					t.Errorf("took %v, want an answer at once", took)
				}
			})
		})
	}
}

func TestHangs(t *testing.T) {
	tests := []struct {
		name   string
		faults []fakeokta.Fault
		posts  int
	}{
		{"from the start", []fakeokta.Fault{{Delay: time.Hour}}, 1},
		{"after a retry", []fakeokta.Fault{{Count: 1, Status: 500, Delay: 3 * time.Second}, {Delay: time.Hour}}, 2},
		{"slow refusals", []fakeokta.Fault{{Status: 500, Delay: 1800 * time.Millisecond}}, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.okta.SetFault(tt.faults...)
				start := time.Now()
				e := w.fails(t)
				if e.Class != oauth.TimedOut {
					t.Errorf("class %d, want TimedOut: %v", e.Class, e)
				}
				if took := time.Since(start); took != 5*time.Second {
					t.Errorf("took %v, want 5s", took)
				}
				w.wantPosts(t, tt.posts)
			})
		})
	}
}

// Whatever a server says and in whichever order, an exchange is 5 POSTs and 5
// seconds at most, and each POST has an assertion of its own.
func TestNoMixOfFaultsGoesOn(t *testing.T) {
	type step func(*http.Request) (*http.Response, error)
	say := func(status int, body string, headers ...string) step {
		return func(*http.Request) (*http.Response, error) { return answer(status, body, headers...), nil }
	}
	after := func(d time.Duration, then step) step {
		return func(r *http.Request) (*http.Response, error) {
			timer := time.NewTimer(d)
			defer timer.Stop()
			select {
			case <-timer.C:
				return then(r)
			case <-r.Context().Done():
				return nil, context.Cause(r.Context())
			}
		}
	}
	clock := func(ahead time.Duration) step {
		return func(r *http.Request) (*http.Response, error) {
			return say(401, refusing("invalid_client", "The client_assertion token is expired."), "Date", dateAt(ahead))(r)
		}
	}
	steps := []step{
		0:  func(*http.Request) (*http.Response, error) { return nil, reset() },
		1:  func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF },
		2:  say(500, ""),
		3:  say(400, refusing("temporarily_unavailable", "")),
		4:  say(401, refusing("invalid_client", "The client_assertion token has already been used.")),
		5:  say(401, refusing("invalid_client", "The client_assertion JWT kid is invalid.")),
		6:  say(401, refusing("invalid_client", "")),
		7:  clock(time.Minute),
		8:  clock(-7 * time.Minute),
		9:  after(1900*time.Millisecond, say(503, "")),
		10: after(1900*time.Millisecond, clock(3*time.Minute)),
		11: after(time.Hour, say(200, good())),
	}
	mixes := [][]int{
		{0, 2, 4, 5, 7, 2, 2}, // one of each correction, and more to come
		{7, 0, 2, 2, 4, 5},
		{9, 9, 9, 9, 9},
		{7, 8, 7, 8, 7, 8},
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		mix := make([]int, 8)
		for i := range mix {
			mix[i] = random.IntN(len(steps))
		}
		mixes = append(mixes, mix)
	}
	synctest.Test(t, func(t *testing.T) {
		w := always(t, 500, "")
		w.rotate(t)
		most := 0
		for _, mix := range mixes {
			n := 0
			w.wire.posts = nil
			w.wire.next = roundTripper(func(r *http.Request) (*http.Response, error) {
				n++
				return steps[mix[(n-1)%len(mix)]](r)
			})
			start := time.Now()
			_ = w.fails(t)
			sent := w.wire.sent()
			if took := time.Since(start); took > 5*time.Second || len(sent) > 5 {
				t.Errorf("%v: %d POSTs in %v", mix, len(sent), took)
			}
			most = max(most, len(sent))
			assertions := []string{}
			for _, post := range sent {
				if slices.Contains(assertions, post.assertion()) {
					t.Errorf("%v: an assertion went twice", mix)
				}
				assertions = append(assertions, post.assertion())
			}
		}
		if most != 5 {
			t.Errorf("no mix got to 5 POSTs, only to %d: the bound was not tried", most)
		}
	})
}
