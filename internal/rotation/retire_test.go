package rotation_test

import (
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
)

// rotated is an org whose second key signs and is proven; the first has an hour left.
func rotated(t *testing.T, modes ...mode) *org {
	t.Helper()
	o := newOrg(t, modes...)
	o.walk(t)
	o.token(t, "first")
	after(2 * time.Second)
	second, err := o.ring.Rotate(t.Context(), "second")
	if err != nil {
		t.Fatal(err)
	}
	o.paste(t, second)
	after(time.Minute)
	o.want(t, "active second+, retired first+")
	return o
}

// TestOldKeysStay while one of them may be all that Okta takes, however well the
// active key was proven once.
func TestOldKeysStay(t *testing.T) {
	for _, mode := range []mode{manual, api} {
		t.Run("removed at Okta, "+string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := rotated(t, mode)
				o.okta.RemoveKey(mode.name(0), "second")
				after(3 * time.Hour)
				if mode == api { // it was registered again
					o.want(t, "active second+")
					o.token(t, "second")
					return
				}
				o.want(t, "active second+, retired first+")
				for _, client := range o.clients {
					if _, err := client.Exchange(t.Context(), scope); err != nil {
						t.Error(err)
					}
				}
				if o.log.count("old keys stay for now") == 0 {
					t.Error("the log does not say why old keys stay")
				}
			})
		})
	}
	t.Run("a client that came later knows the old one alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := rotated(t, manual)
			o.modes = append(o.modes, manual)
			if err := o.okta.AddApp(fakeokta.App{ClientID: manual.name(1), Scopes: []string{scope}}); err != nil {
				t.Fatal(err)
			}
			o.register(t, manual.name(1), o.ring.Find("first"))
			o.restart(t)
			after(3 * time.Hour)
			o.want(t, "active second+, retired first+")
			o.register(t, manual.name(1), o.ring.Find("second"))
			after(10 * time.Minute)
			o.want(t, "active second+")
		})
	})
	t.Run("Okta is down", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := rotated(t, api)
			o.okta.SetFault(fakeokta.Fault{Count: 1 << 20, Status: 503})
			after(3 * time.Hour)
			o.want(t, "active second+, retired first+")
			o.okta.SetFault()
			after(10 * time.Minute)
			o.want(t, "active second+")
		})
	})
}

// TestGoingBack: Okta may have forgotten a key that is taken back. The one that it
// takes stays.
func TestGoingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := rotated(t, manual)
		o.okta.RemoveKey(manual.name(0), "first")
		if err := o.ring.Activate(t.Context(), o.ring.Find("first")); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			after(time.Hour)
			o.token(t, "second")
			o.want(t, "active first+, retired second+")
		}
		if k, awaited := o.walker.Awaited(); !awaited || k.ID() != "first" {
			t.Errorf("awaited: %v, %v", k, awaited)
		}
		o.register(t, manual.name(0), o.ring.Find("first"))
		after(10 * time.Minute)
		o.want(t, "active first+")
		o.token(t, "first")
	})
}

// TestRemovedAtOkta: a key that is registered by the broker is registered again when
// somebody has removed it.
func TestRemovedAtOkta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, api)
		o.walk(t)
		o.token(t, "first")
		after(2 * time.Second)
		o.okta.RemoveKey(api.name(0), "first")
		if _, err := o.clients[api.name(0)].Exchange(t.Context(), scope); err == nil {
			t.Fatal("a token under a key that is not there")
		}
		if _, awaited := o.walker.Awaited(); !awaited {
			t.Error("the key is not awaited")
		}
		after(2 * time.Second)
		o.token(t, "first")
		if _, awaited := o.walker.Awaited(); awaited {
			t.Error("the key is awaited")
		}
	})
}

// TestReadOnlyRing: nothing is asked for the sake of a removal that cannot be.
func TestReadOnlyRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := rotated(t, manual)
		o.store.readOnly = true
		after(3 * time.Hour)
		before := o.okta.Counters().TokenRequests
		after(3 * time.Hour)
		o.want(t, "active second+, retired first+")
		if got := o.okta.Counters().TokenRequests - before; got != 0 {
			t.Errorf("%d token requests", got)
		}
	})
}

// TestManyRotations: each old key goes when its own time is over, also where new ones
// come sooner.
func TestManyRotations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, api)
		o.cfg.Every, o.cfg.RetireAfter = 10*time.Minute, time.Hour
		o.walk(t)
		o.token(t, "first")
		for range 60 {
			after(10 * time.Minute)
			if got := len(o.okta.AppKeys(api.name(0))); got > 9 {
				t.Fatalf("the app has %d keys: %s", got, stands(o.ring))
			}
		}
		if o.ring.Find("first") != nil {
			t.Error("the ring has its first key still")
		}
	})
}

// TestStagedAndRotated: a key that is made active at once takes the place of one that
// waits.
func TestStagedAndRotated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, jwksNow)
		o.cfg.PublishAhead = time.Minute
		o.walk(t)
		o.token(t, "first")
		after(2 * time.Second)
		o.stage(t, "waiting")
		if _, err := o.ring.Rotate(t.Context(), "at once"); err != nil {
			t.Fatal(err)
		}
		after(5 * time.Minute)
		o.want(t, "active at once+, retired first+, retired waiting")
		after(2 * time.Hour)
		o.want(t, "active at once+")
	})
}

// TestClockWasAhead: times of the future are those of a clock that was wrong.
func TestClockWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, jwksNow)
		o.cfg.PublishAhead, o.cfg.Every = time.Minute, time.Hour
		o.ahead = 1000 * time.Hour
		o.open(t)
		if _, _, err := o.ring.Stage(t.Context(), "second"); err != nil {
			t.Fatal(err)
		}
		o.ahead = 0
		o.open(t)
		o.walk(t)
		o.token(t, "first")
		after(3 * time.Hour)
		if o.ring.Find("second") != nil {
			t.Errorf("the ring is %q", stands(o.ring))
		}
	})
}

// TestFailingProofIsNoOutage: a server that fails over a key that it does not know
// serves callers all the same.
func TestFailingProofIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, manual)
		o.walk(t)
		o.token(t, "first")
		after(2 * time.Second)
		if _, err := o.ring.Rotate(t.Context(), "second"); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			// The proof of the next second, with all its attempts, meets failures.
			o.okta.SetFault(fakeokta.Fault{Count: 3, Status: 500})
			after(70 * time.Second)
			o.okta.SetFault()
			o.token(t, "first")
		}
	})
}
