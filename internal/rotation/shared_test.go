package rotation_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/keys"
)

// A ring that is rotated more often than it can hold keys drops the oldest. Okta
// does not keep what it has of them.
func TestDroppedKeysGoAtOkta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, api)
		o.walk(t)
		const rotations = 12
		for n := range rotations {
			if _, err := o.ring.Rotate(t.Context(), fmt.Sprintf("key%d", n)); err != nil {
				t.Fatal(err)
			}
			after(3 * time.Second)
		}
		if got := len(o.ring.Keys()); got > rotations {
			t.Fatalf("the ring has all %d keys", got)
		}
		after(2 * time.Hour)
		o.want(t, "active key11+")
		if got, want := o.keysAtOkta()[api.name(0)], "key11 ACTIVE"; got != want {
			t.Errorf("the app has %q, want %q", got, want)
		}
		o.wantUnrefused(t)
	})
}

// A process that slept does not act on what the ring was before: another has walked
// on meanwhile.
func TestWalksFromWhatIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrg(t, api)
		staged, _, err := o.ring.Stage(t.Context(), "second")
		if err != nil {
			t.Fatal(err)
		}
		there, err := keys.Open(t.Context(), keys.Config{Name: "default", Store: o.store, Algorithm: "ES256"})
		if err != nil {
			t.Fatal(err)
		}
		if err := there.Activate(t.Context(), there.Find(staged.ID())); err != nil {
			t.Fatal(err)
		}
		if _, err := there.Rotate(t.Context(), "third"); err != nil {
			t.Fatal(err)
		}
		o.want(t, "active first, next second")
		o.walk(t)
		after(3 * time.Second)
		o.want(t, "active third+, retired second, retired first")
		if o.log.count("key activated") != 0 {
			t.Error("a key was activated that is retired")
		}
	})
}
