package rotation_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
)

// TestSchedule walks ten rotations of each mode, and never does a client see more
// than that its key changes.
func TestSchedule(t *testing.T) {
	for _, modes := range [][]mode{{jwksURI}, {api}, {manual}, {api, jwksURI}, {api, api, manual}} {
		t.Run(fmt.Sprint(modes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrg(t, modes...)
				o.cfg.Every, o.cfg.PublishAhead, o.cfg.RetireAfter = 72*time.Minute, 24*time.Minute, 24*time.Minute
				o.walk(t)
				o.token(t, "first")
				after(2 * time.Second)
				o.want(t, "active first+")
				start, switches, last := time.Now(), 0, "first"
				for switches < 10 && time.Since(start) < 18*time.Hour {
					after(30 * time.Second)
					if next := o.ring.Next(); next != nil {
						o.paste(t, next) // where that is somebody's work
					}
					active := o.ring.Keys()[0].ID()
					if active != last {
						switches, last = switches+1, active
					}
					o.token(t, active)
					if got := len(o.ring.Keys()); got > 3 {
						t.Fatalf("%d keys: %s", got, stands(o.ring))
					}
				}
				if took := time.Since(start); switches != 10 || took < 11*time.Hour+50*time.Minute || took > 12*time.Hour+20*time.Minute {
					t.Errorf("%d switches in %v, want 10 in 12 hours", switches, took)
				}
				after(25 * time.Minute)
				o.want(t, "active "+last+"+")
				for name, app := range o.keysAtOkta() {
					if strings.HasPrefix(name, string(api)) && app != last+" ACTIVE" {
						t.Errorf("app of %s: %s, want the active key alone", name, app)
					}
				}
				if !o.has(manual) {
					o.wantUnrefused(t)
				}
			})
		})
	}
}

func TestPublication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, jwksURI)
		o.cfg.PublishAhead = 24 * time.Minute
		o.walk(t)
		o.token(t, "first")
		after(2 * time.Second)
		o.stage(t, "second")
		after(24*time.Minute - 3*time.Second)
		o.want(t, "active first+, next second")
		if _, awaited := o.walker.Awaited(); awaited {
			t.Error("a key that is being published is awaited")
		}
		o.token(t, "first")
		after(5 * time.Second)
		o.want(t, "active second+, retired first+")
		o.token(t, "second")
		after(59 * time.Minute)
		o.want(t, "active second+, retired first+")
		after(2 * time.Minute)
		o.want(t, "active second+")
		o.wantUnrefused(t)
	})
}

// TestRegistration walks a key that somebody staged: at once.
func TestRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, api)
		o.walk(t)
		after(2 * time.Second)
		o.want(t, "active first+")
		o.stage(t, "second")
		after(2 * time.Second)
		o.want(t, "active second+, retired first+")
		if got, want := o.keysAtOkta()["api0"], "first ACTIVE, second ACTIVE"; got != want {
			t.Errorf("the app has %q, want %q", got, want)
		}
		after(time.Hour + 2*time.Second)
		o.want(t, "active second+")
		if got, want := o.keysAtOkta()["api0"], "second ACTIVE"; got != want {
			t.Errorf("the app has %q, want %q", got, want)
		}
		o.wantUnrefused(t)
	})
}

// TestFirstKey: with a registry a broker needs nobody's help from the first day on.
func TestFirstKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, api)
		o.okta.RemoveKey("api0", "first")
		o.store = &memory{}
		o.open(t)
		o.walk(t)
		after(2 * time.Second)
		kid := o.ring.Keys()[0].ID()
		o.want(t, "active "+kid+"+")
		o.token(t, kid)
		o.wantUnrefused(t)
	})
}

// TestPasted: a key that was made active, as POST /?rotate=true does, serves /token
// when somebody has pasted it.
func TestPasted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, manual)
		o.walk(t)
		o.token(t, "first")
		after(2 * time.Second)
		second, err := o.ring.Rotate(t.Context(), "second")
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			after(time.Minute)
			o.token(t, "first")
		}
		if k, awaited := o.walker.Awaited(); !awaited || k.ID() != "second" {
			t.Errorf("awaited: %v, %v", k, awaited)
		}
		if got := o.log.count("not proven yet"); got != 1 {
			t.Errorf("the log says %d times that the key is not proven", got)
		}
		o.register(t, "manual0", second)
		after(time.Minute + 2*time.Second)
		o.want(t, "active second+, retired first+")
		o.token(t, "second")
		if _, awaited := o.walker.Awaited(); awaited {
			t.Error("a key that is proven is awaited")
		}
		after(time.Hour)
		o.want(t, "active second+")
	})
}

// TestRotatedAtOnce does the same where Okta learns of the key by itself.
func TestRotatedAtOnce(t *testing.T) {
	for _, mode := range []mode{jwksURI, api} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrg(t, mode)
				o.walk(t)
				o.token(t, "first")
				after(2 * time.Second)
				if _, err := o.ring.Rotate(t.Context(), "second"); err != nil {
					t.Fatal(err)
				}
				o.token(t, "first")
				after(14 * time.Minute) // Okta has fetched since
				o.token(t, "second")
				o.want(t, "active second+, retired first+")
				if got := o.okta.Counters().Refused["invalid_client"]; mode == api && got > 0 {
					t.Errorf("%d requests were refused", got)
				}
			})
		})
	}
}

// TestStagedByHand: without a schedule, and where somebody pastes keys, whoever
// staged a key activates it. That it works is found out.
func TestStagedByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, manual)
		o.walk(t)
		o.token(t, "first")
		after(2 * time.Second)
		o.stage(t, "second")
		after(time.Minute)
		o.want(t, "active first+, next second")
		o.paste(t, o.ring.Next())
		after(2 * time.Minute)
		o.want(t, "active first+, next second+")
		if err := o.ring.Activate(t.Context(), o.ring.Next()); err != nil {
			t.Fatal(err)
		}
		o.token(t, "second")
	})
}

// TestNothingIsAskedForNothing: while there is no key that could sign instead, only
// callers' requests go out.
func TestNothingIsAskedForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, manual, manual)
		o.walk(t)
		after(24 * time.Hour)
		if got := o.okta.Counters().TokenRequests; got != 0 {
			t.Errorf("%d token requests", got)
		}
		o.want(t, "active first")
		o.token(t, "first")
		after(2 * time.Second)
		o.want(t, "active first+")
	})
}

func TestProofIsForEveryClientThatWorks(t *testing.T) {
	tests := []struct {
		name   string
		before func(*testing.T, *org)
		proven bool
	}{
		{"both know it", func(t *testing.T, o *org) {
			o.register(t, "manual0", o.ring.Next())
			o.register(t, "manual1", o.ring.Next())
		}, true},
		{"one does not", func(t *testing.T, o *org) { o.register(t, "manual0", o.ring.Next()) }, false},
		{"the other does not", func(t *testing.T, o *org) { o.register(t, "manual1", o.ring.Next()) }, false},
		{"none does", func(*testing.T, *org) {}, false},
		{"the other works with no key", func(t *testing.T, o *org) {
			o.register(t, "manual0", o.ring.Next())
			o.okta.RemoveKey("manual1", "first")
		}, true},
		{"none works with any key", func(_ *testing.T, o *org) {
			o.okta.RemoveKey("manual0", "first")
			o.okta.RemoveKey("manual1", "first")
		}, false},
		{"Okta is down", func(t *testing.T, o *org) {
			o.register(t, "manual0", o.ring.Next())
			o.register(t, "manual1", o.ring.Next())
			o.okta.SetFault(fakeokta.Fault{Count: 1 << 20, Status: 503})
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrg(t, manual, manual)
				o.stage(t, "second")
				tt.before(t, o)
				o.walk(t)
				after(15 * time.Minute)
				if got := !o.ring.Next().Proven().IsZero(); got != tt.proven {
					t.Errorf("proven %v, want %v", got, tt.proven)
				}
			})
		})
	}
}

// TestWindow: nobody pastes the key. It is tried on, less and less, and the log says
// so once an hour is over.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, manual)
		o.cfg.Every = 72 * time.Minute
		o.walk(t)
		o.token(t, "first")
		after(73 * time.Minute)
		after(24 * time.Hour)
		o.token(t, "first")
		if got := o.log.count("its window of time is over"); got != 1 {
			t.Errorf("the log says %d times that the window is over", got)
		}
		if got := o.okta.Counters().Refused["invalid_client"]; got < 200 || got > 800 {
			t.Errorf("%d attempts in a day", got)
		}
		o.paste(t, o.ring.Next())
		after(6 * time.Minute)
		o.want(t, fmt.Sprintf("active %s+, retired first+", o.ring.Keys()[0].ID()))
	})
}

// TestRestarts ends the broker every few moments: all that a walk needs is found
// again.
func TestRestarts(t *testing.T) {
	for _, mode := range []mode{jwksNow, api, manual} {
		for _, pause := range []time.Duration{300 * time.Millisecond, 1100 * time.Millisecond} {
			t.Run(fmt.Sprint(mode, pause), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := newOrg(t, mode)
					o.cfg.Every, o.cfg.PublishAhead, o.cfg.RetireAfter = time.Minute, 20*time.Second, 10*time.Second
					o.walk(t)
					seen := map[string]bool{}
					for start := time.Now(); len(seen) < 4 && time.Since(start) < 15*time.Minute; {
						for name, client := range o.clients {
							if _, err := client.Exchange(t.Context(), scope); err != nil {
								t.Fatalf("client %s: %v", name, err)
							}
						}
						after(pause)
						o.restart(t)
						if next := o.ring.Next(); next != nil {
							o.paste(t, next)
						}
						seen[o.ring.Keys()[0].ID()] = true
					}
					if len(seen) < 4 {
						t.Errorf("the keys that signed: %v", seen)
					}
					if mode != manual {
						o.wantUnrefused(t)
					}
				})
			})
		}
	}
}
