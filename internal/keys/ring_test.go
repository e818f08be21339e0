package keys

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// clock is a Now that a test moves.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func TestOpenWithoutRing(t *testing.T) {
	path := ringPath(t)
	ring := open(t, path, Config{Name: "default"})
	if got := ring.Keys(); len(got) > 0 {
		t.Errorf("the ring holds %q", kids(got))
	}
	if got := ring.Candidates(""); len(got) > 0 {
		t.Errorf("candidates %q", kids(got))
	}
	if got := files(t, path); len(got) > 0 {
		t.Errorf("opening made %q", got)
	}
	if ring.Name() != "default" {
		t.Errorf("the ring is called %q", ring.Name())
	}
}

func TestActiveMakesTheFirstKey(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("", 3600))
	stored := time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC)
	for _, tt := range []struct{ kid, configured string }{
		{kid: "asked for"},
		{kid: ""},
		{kid: "", configured: "mine"}, // that one is for keys that come without metadata
	} {
		t.Run(tt.kid+tt.configured, func(t *testing.T) {
			path := ringPath(t)
			ring := open(t, path, Config{Kid: tt.configured, Now: (&clock{now}).Now})
			k, made, err := ring.Active(t.Context(), tt.kid)
			if err != nil || !made {
				t.Fatalf("made %t, error %v", made, err)
			}
			want := seen{Kid: tt.kid, Thumbprint: thumbprint(t, k.signer), Alg: "ES256", State: Active, Created: stored, Activated: stored}
			if want.Kid == "" {
				want.Kid = want.Thumbprint
			}
			for name, got := range map[string][]*Key{"the key": {k}, "the ring": ring.Keys(), "the ring opened anew": open(t, path, Config{Kid: tt.configured}).Keys()} {
				if diff := cmp.Diff([]seen{want}, see(got)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			if again, made, err := ring.Active(t.Context(), "another"); err != nil || made || again.ID() != want.Kid {
				t.Errorf("asked again: %q, made %t, error %v", again.ID(), made, err)
			}
			wantPrivate(t, path)
		})
	}
}

// TestActiveAtOnce: two rings over one file stand for two processes.
func TestActiveAtOnce(t *testing.T) {
	path := ringPath(t)
	var log journal
	rings := []*Ring{open(t, path, Config{Log: log.log()}), open(t, path, Config{Log: log.log()})}
	var mu sync.Mutex
	made, answers := 0, map[string]int{}
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			k, fresh, err := rings[i%2].Active(t.Context(), fmt.Sprint("kid ", i))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			answers[k.ID()+" "+k.Thumbprint()]++
			if fresh {
				made++
			}
		})
	}
	all.Wait()
	if made != 1 {
		t.Errorf("%d callers were told that they made the key, want 1", made)
	}
	if len(answers) != 1 {
		t.Errorf("the callers were given different keys: %v", answers)
	}
	if got := open(t, path, Config{}).Keys(); len(got) != 1 {
		t.Errorf("the ring holds %q, want one key", kids(got))
	}
	log.wantCount(t, 1, "key made")
}

func TestKidThatCannotBe(t *testing.T) {
	path := ringPath(t)
	ring := open(t, path, Config{Name: "default"})
	for _, kid := range []string{"a\nb", "a\x00", "\x7f", "a\xffb", strings.Repeat("k", maxKid+1)} {
		_, made, err := ring.Active(t.Context(), kid)
		wantError(t, err, "making the first key of ring default", "kid")
		_, rotateErr := ring.Rotate(t.Context(), kid)
		wantError(t, rotateErr, "rotating ring default", "kid")
		if made || len(ring.Keys()) > 0 || len(kid) < 100 && strings.Contains(err.Error(), kid) {
			t.Errorf("%.20q: made %t, ring %q, error %v", kid, made, kids(ring.Keys()), err)
		}
	}
	if _, _, err := ring.Active(canceled(t), ""); err == nil || len(ring.Keys()) > 0 {
		t.Errorf("a request that has ended: %v", err)
	}
}

func TestPlainFile(t *testing.T) {
	path := ringFile(t, pkcs1(rsaKey()))
	ring := open(t, path, Config{Kid: "in Okta"})
	k := active(t, ring)
	if k.ID() != "in Okta" || k.Algorithm() != "RS256" {
		t.Errorf("the key is %q, %s", k.ID(), k.Algorithm())
	}
	if read(t, path) != pkcs1(rsaKey()) {
		t.Error("opening rewrote the file")
	}

	rotate(t, ring, "")
	// Its name was stored, whatever the configuration says now.
	var log journal
	again := open(t, path, Config{Kid: "changed", Log: log.log()})
	got := see(again.Keys())
	if len(got) != 2 || got[1].Kid != "in Okta" || got[1].State != Retired || got[1].Thumbprint != thumbprint(t, rsaKey()) {
		t.Errorf("the ring holds %+v", got)
	}
	log.wantCount(t, 1, "kid=changed")
	log = journal{}
	open(t, path, Config{Kid: "in Okta", Log: log.log()})
	log.wantCount(t, 0, "names no key")
}

func TestRotate(t *testing.T) {
	path := ringPath(t)
	now := &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	var log journal
	ring := open(t, path, Config{Now: now.Now, Log: log.log()})
	var want []seen
	for i, kid := range []string{"same", "same", "", "other"} {
		now.now = now.now.Add(time.Hour)
		k := rotate(t, ring, kid)
		if kid == "" {
			kid = thumbprint(t, k.signer)
		}
		if i > 0 {
			want[0].State = Retired
		}
		want = slices.Insert(want, 0, seen{Kid: kid, Thumbprint: thumbprint(t, k.signer), Alg: "ES256", State: Active, Created: now.now, Activated: now.now})
		if diff := cmp.Diff(want[:1], see([]*Key{k})); diff != "" {
			t.Errorf("the new key (-want +got):\n%s", diff)
		}
		if got := active(t, ring); got.Thumbprint() != k.Thumbprint() {
			t.Errorf("%q signs, want the new key", got.ID())
		}
		for name, ring := range map[string]*Ring{"the ring": ring, "the ring opened anew": open(t, path, Config{})} {
			if diff := cmp.Diff(want, see(ring.Keys())); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
	log.wantCount(t, 4, "key rotated")
}

// TestRotateKeepsOthersRotations: both rings read the file before either writes.
func TestRotateKeepsOthersRotations(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	one, two := open(t, path, Config{}), open(t, path, Config{})
	rotate(t, one, "of one")
	rotate(t, two, "of two")
	wantKids(t, two, "of two", "of one", "A0")
	wantKids(t, open(t, path, Config{}), "of two", "of one", "A0")
	wantKids(t, one, "of one", "A0")
	one.Refresh(t.Context())
	wantKids(t, one, "of two", "of one", "A0")
}

// outrun is a store in which somebody else always writes first, unless one waits
// for its turn.
type outrun struct {
	*File
	first func()
}

func (o *outrun) Save(ctx context.Context, data []byte, rev string) error {
	o.first()
	return o.File.Save(ctx, data, rev)
}

// TestRotateHasItsTurn: among many writers none comes second every time.
func TestRotateHasItsTurn(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	other := open(t, path, Config{})
	times := 0
	ring := open(t, path, Config{Store: &outrun{newFile(t, path, false), func() {
		times++
		rotate(t, other, fmt.Sprint("other ", times))
	}}})
	inTime(t, func() { rotate(t, ring, "new") })
	wantKids(t, open(t, path, Config{}), "new", "other 1", "A0")
}

func TestRotateRefused(t *testing.T) {
	path := ringFile(t, ringText(t, "AR"))
	ring := open(t, path, Config{})
	if _, err := ring.Rotate(canceled(t), ""); err == nil {
		t.Error("a request that has ended rotated")
	}
	wantKids(t, ring, "A0", "R1")
	if read(t, path) != ringText(t, "AR") {
		t.Error("the file was changed")
	}
}

// TestWhichKeyIsDropped rotates full rings. Letters as in ringText.
func TestWhichKeyIsDropped(t *testing.T) {
	tests := []struct {
		name, states string
		dropped      string
	}{
		{"room for one more", "ARRRRRR", ""},
		{"none proven: the oldest but one", "ARRRRRRR", "R6"},
		{"the oldest is the only proven one", "ARRRRRRr", "R6"},
		{"the newest is proven", "ArRRRRRR", "R7"},
		{"the active one is proven", "aRRRRRRR", "R7"},
		{"one between is not proven", "arrRrrrr", "R3"},
		{"only the one that signed is not proven", "Arrrrrrr", "A0"},
		{"all proven: the oldest", "arrrrrrr", "r7"},
		{"next keys are retired", "aNNNNNNr", "N6"},
		{"next keys are retired, behind others", "ANNRRRRR", "R6"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := ringFile(t, ringText(t, tt.states))
			ring := open(t, path, Config{})
			want := kids(ring.Keys())
			rotate(t, ring, "new")
			want = slices.Insert(slices.DeleteFunc(want, func(kid string) bool { return kid == tt.dropped }), 0, "new")
			wantKids(t, ring, want...)
			wantKids(t, open(t, path, Config{}), want...)
		})
	}
}

func TestRingWithoutEnd(t *testing.T) {
	path := ringPath(t)
	ring := open(t, path, Config{})
	var want []string
	for i := range 20 {
		kid := fmt.Sprint("generation ", i)
		rotate(t, ring, kid)
		want = slices.Insert(want, 0, kid)
		if len(want) > 8 { // the oldest is what Okta may know
			want = slices.Delete(want, 7, 8)
		}
		wantKids(t, ring, want...)
	}
	wantKids(t, open(t, path, Config{}), want...)
}

// TestLongestKidsFit: what may be called the longest name may be stored 8 times.
func TestLongestKidsFit(t *testing.T) {
	ring := open(t, ringFile(t, pkcs8(rsaKey())), Config{Kid: strings.Repeat("ü", maxKid/2)})
	for range maxKeys {
		rotate(t, ring, strings.Repeat("鍵", maxKid/3))
	}
	if got := len(ring.Keys()); got != maxKeys {
		t.Errorf("the ring holds %d keys", got)
	}
}

// TestKeysIsACopy: what a caller does to the answer changes no ring.
func TestKeysIsACopy(t *testing.T) {
	ring := open(t, ringFile(t, ringText(t, "AR")), Config{})
	got := ring.Keys()
	got[0], got[1] = got[1], nil
	wantKids(t, ring, "A0", "R1")
}
