package okta

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

// What exchanges do at a gate.
const (
	enters      = "enters"
	works       = "works"
	isRefused   = "is refused" // which is no fault of the server
	isNonsense  = "gets nonsense"
	isDown      = "finds it down"
	isLimited   = "is limited" // for 30 seconds
	isLimited10 = "is limited for 10 seconds"
	isAbandoned = "is abandoned"
	isUnsigned  = "cannot sign"
	isHeld      = "may not send"
	panics      = "panics"
)

// outcomes are what came of exchanges.
func outcomes() map[string]*failure {
	limited := func(d time.Duration) *failure {
		return &failure{kind: refused, status: 429, retryAfter: d, row: row{reach: oauth.ReachServer}}
	}
	return map[string]*failure{
		works:       nil,
		isRefused:   {kind: refused, status: 401, row: row{reach: oauth.ReachClient}},
		isNonsense:  {kind: badAnswer, status: 200},
		isDown:      {kind: unreachable},
		isLimited:   limited(30 * time.Second),
		isLimited10: limited(10 * time.Second),
		isAbandoned: {kind: abandoned},
		isUnsigned:  {kind: signing},
		isHeld:      {kind: held, earlier: limited(time.Second)},
	}
}

func TestGate(t *testing.T) {
	const goes, probes, stays = "goes", "probes", "stays"
	type step struct {
		at   time.Duration
		who  string
		does string
		what string // becomes of who enters
	}
	const s, m = time.Second, time.Minute
	tests := []struct {
		name  string
		steps []step
	}{
		{"open", []step{{0, "a", enters, goes}, {0, "b", enters, goes}, {0, "a", works, ""}, {0, "c", enters, goes}}},
		{"a refused client closes it to nobody", []step{{0, "a", enters, goes}, {0, "a", isRefused, ""}, {0, "b", enters, goes}}},
		{"nor does nonsense", []step{{0, "a", enters, goes}, {0, "a", isNonsense, ""}, {0, "b", enters, goes}}},
		{"nor does who leaves", []step{{0, "a", enters, goes}, {0, "a", isAbandoned, ""}, {0, "b", enters, goes}}},
		{"nor does who cannot sign", []step{{0, "a", enters, goes}, {0, "a", isUnsigned, ""}, {0, "b", enters, goes}}},
		{"down: one finds out", []step{
			{0, "a", enters, goes}, {0, "a", isDown, ""}, {0, "b", enters, stays}, {s - 1, "b", enters, stays},
			{s, "b", enters, probes}, {s, "c", enters, stays}, {2 * s, "c", enters, stays},
			{2 * s, "b", works, ""}, {2 * s, "c", enters, goes}, {2 * s, "d", enters, goes}}},
		{"a refusal shows that it is up", []step{
			{0, "a", enters, goes}, {0, "a", isDown, ""}, {s, "b", enters, probes}, {s, "b", isRefused, ""}, {s, "c", enters, goes}}},
		{"still down", []step{
			{0, "a", enters, goes}, {0, "a", isDown, ""}, {s, "b", enters, probes}, {s, "b", isDown, ""},
			{2*s - 1, "c", enters, stays}, {3 * s, "c", enters, probes}, {3 * s, "d", enters, stays}}},
		{"what began before shows it too", []step{
			{0, "a", enters, goes}, {0, "b", enters, goes}, {0, "a", isDown, ""}, {0, "b", works, ""}, {0, "c", enters, goes}}},
		{"while one finds out", []step{
			{0, "a", enters, goes}, {0, "b", enters, goes}, {0, "a", isDown, ""}, {s, "c", enters, probes},
			{s, "b", works, ""}, {s, "d", enters, goes}, {2 * s, "c", isDown, ""}, {2 * s, "e", enters, stays}, {2 * s, "d", isDown, ""},
			{3 * s, "e", enters, probes}}},
		{"a late failure of an outage that is over", []step{
			{0, "a", enters, goes}, {0, "b", enters, goes}, {0, "a", isDown, ""}, {s, "c", enters, probes}, {s, "c", works, ""},
			{5 * s, "b", isDown, ""}, {5 * s, "d", enters, goes}}},
		{"who finds out leaves", []step{
			{0, "a", enters, goes}, {0, "a", isDown, ""}, {s, "b", enters, probes}, {s, "b", isAbandoned, ""},
			{s, "c", enters, probes}, {s, "c", isUnsigned, ""}, {s, "d", enters, probes}, {s, "d", isHeld, ""}, {s, "e", enters, probes}}},
		{"who finds out panics", []step{
			{0, "a", enters, goes}, {0, "a", isDown, ""}, {s, "b", enters, probes}, {s, "b", panics, ""}, {s, "c", enters, probes}}},
		{"limited: one finds out", []step{
			{0, "a", enters, goes}, {0, "a", isLimited, ""}, {30*s - 1, "b", enters, stays}, {30 * s, "b", enters, probes},
			{30 * s, "c", enters, stays}, {31 * s, "b", works, ""}, {31 * s, "c", enters, goes}}},
		{"limited again", []step{
			{0, "a", enters, goes}, {0, "a", isLimited, ""}, {30 * s, "b", enters, probes}, {30 * s, "b", isLimited10, ""},
			{40*s - 1, "c", enters, stays}, {40 * s, "c", enters, probes}}},
		{"limited, then down", []step{
			{0, "a", enters, goes}, {0, "a", isLimited, ""}, {30 * s, "b", enters, probes}, {30 * s, "b", isDown, ""},
			{31*s - 1, "c", enters, stays}, {31 * s, "c", enters, probes}}},
		{"down, then limited", []step{
			{0, "a", enters, goes}, {0, "b", enters, goes}, {0, "a", isDown, ""}, {0, "b", isLimited, ""},
			{30*s - 1, "c", enters, stays}, {30 * s, "c", enters, probes}}},
		{"limited, then what began before is down", []step{
			{0, "a", enters, goes}, {0, "b", enters, goes}, {0, "a", isLimited, ""}, {5 * s, "b", isDown, ""},
			{30*s - 1, "c", enters, stays}, {30 * s, "c", enters, probes}}},
		{"limited, then what began before works", []step{
			{0, "a", enters, goes}, {0, "b", enters, goes}, {0, "c", enters, goes}, {0, "a", isLimited, ""},
			{0, "b", works, ""}, {0, "d", enters, stays}, {30*s - 1, "d", enters, stays},
			{30 * s, "d", enters, probes}, {30 * s, "c", works, ""}, {30 * s, "e", enters, stays}}},
		{"the longer limit counts", []step{
			{0, "a", enters, goes}, {0, "b", enters, goes}, {0, "c", enters, goes}, {0, "a", isLimited10, ""}, {0, "b", isLimited, ""},
			{0, "c", isLimited10, ""}, {30*s - 1, "d", enters, stays}, {30 * s, "d", enters, probes}}},
		{"limited while one finds out", []step{
			{0, "a", enters, goes}, {0, "b", enters, goes}, {0, "a", isDown, ""}, {s, "c", enters, probes}, {s, "b", isLimited, ""},
			{s, "c", works, ""}, {31*s - 1, "d", enters, stays}, {31 * s, "d", enters, probes}}},
		{"not asked for long", []step{{0, "a", enters, goes}, {0, "a", isDown, ""}, {90 * m, "b", enters, probes}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var g gate
			passes := map[string]pass{}
			start := time.Now()
			for i, step := range tt.steps {
				now := start.Add(step.at)
				if step.does != enters {
					if step.does != panics {
						g.learn(passes[step.who], outcomes()[step.does], now)
					}
					g.release(passes[step.who])
					continue
				}
				p, closed := g.enter(now)
				passes[step.who] = p
				got := goes
				switch {
				case closed != nil:
					got = stays
				case p.probe:
					got = probes
				}
				if got != step.what {
					t.Fatalf("step %d, %v: %s enters and %s, want that it %s", i+1, step.at, step.who, got, step.what)
				}
				if closed != nil && (closed.kind != held || closed.earlier == nil) {
					t.Errorf("step %d: held for %+v", i+1, closed)
				}
			}
		})
	}
}

// Who is on the way when a 429 comes sends nothing more.
func TestGateLimit(t *testing.T) {
	var g gate
	now := time.Now()
	p, _ := g.enter(now)
	if g.limit(now) != nil {
		t.Error("an open gate limits")
	}
	g.learn(p, outcomes()[isDown], now)
	if g.limit(now) != nil {
		t.Error("an outage limits who is on the way")
	}
	g.learn(p, outcomes()[isLimited], now)
	if f := g.limit(now.Add(30*time.Second - 1)); f == nil || f.kind != held || f.earlier.status != 429 {
		t.Errorf("before the reset: %+v", f)
	}
	now = now.Add(30 * time.Second)
	if f := g.limit(now); f != nil {
		t.Errorf("after the reset: %+v", f)
	}
	probe, _ := g.enter(now)
	g.learn(probe, outcomes()[isDown], now)
	if f := g.limit(now); f != nil {
		t.Errorf("in an outage after a limit: %+v", f)
	}
}

func TestOutage(t *testing.T) {
	for before, most := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		most *= time.Second
		if got := outage(before, 0); got != time.Second {
			t.Errorf("after %d failures at least %v, want 1s", before, got)
		}
		if got := outage(before, 1); got != most {
			t.Errorf("after %d failures at most %v, want %v", before, got, most)
		}
	}
	if got := outage(1<<40, 0.5); got != 30500*time.Millisecond {
		t.Errorf("after ages %v, want 30.5s", got)
	}
}

// A panic ends the exchange that has it, and nobody else's.
func TestPanicWhileProbing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.okta.SetFault(fakeokta.Fault{Reset: true, Count: 2})
		_ = w.fails(t)
		time.Sleep(time.Second)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_ = w.client.do(t.Context(), func(context.Context, variant) *failure { panic("a bug") })
		}()
		w.works(t)
	})
}

// Callers that leave, or have no time, say nothing about the server: anybody could
// close the gate to all, else.
func TestLeavingClosesNoGate(t *testing.T) {
	for _, faults := range []fakeokta.Fault{{Hang: true}, {Delay: 3 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.okta.SetFault(faults)
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					_, err := w.client.Exchange(ctx, asked)
					if err == nil {
						t.Error("got a token")
						return
					}
					e := explained(t, err)
					if e.Class != oauth.TimedOut || e.Reach != oauth.ReachRequest || e.RetryAfter != time.Second || !strings.Contains(e.Description, "ended before") {
						t.Errorf("class %d, reach %d, retry after %v: %s", e.Class, e.Reach, e.RetryAfter, e.Description)
					}
				})
			}
			all.Wait()
			w.okta.ClearFault()
			w.works(t)
		})
	}
}

// Who finds out whether an outage is over, and leaves before anything is sent, has
// found nothing out.
func TestProbeThatSentNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := always(t, http.StatusServiceUnavailable, "")
		_ = w.fails(t)
		time.Sleep(time.Second)
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := w.client.Exchange(gone, asked); err == nil {
			t.Fatal("got a token")
		}
		w.wantPosts(t, 3)
		_ = w.fails(t) // and this one asks
		w.wantPosts(t, 6)
		if e := w.fails(t); !e.Repeated {
			t.Errorf("the gate is open: %v", e)
		}
	})
}

// A broker that takes too long to sign has asked nobody.
func TestSigningTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		err := w.client.do(t.Context(), func(ctx context.Context, with variant) *failure {
			<-ctx.Done()
			_, fail := w.client.buy(ctx, with, asked)
			return fail
		})
		if e := explained(t, err); e.Class != oauth.TimedOut || e.Reach != oauth.ReachRequest || !strings.Contains(e.Description, "signed") {
			t.Errorf("class %d, reach %d: %v", e.Class, e.Reach, e)
		}
		w.wantPosts(t, 0)
		w.works(t)
	})
}
