package keys

import (
	"slices"
	"testing"
	"time"
)

// TestCandidates: letters as in ringText. last is the place of the key that the
// server took last; -1: none, or one that is gone.
func TestCandidates(t *testing.T) {
	tests := []struct {
		states string
		last   int
		want   []string
	}{
		{"A", -1, []string{"A0"}},
		{"a", -1, []string{"a0"}},
		{"A", 0, []string{"A0"}},
		// A next key signs for nobody.
		{"AN", -1, []string{"A0"}},
		{"AnNn", -1, []string{"A0"}},
		{"An", 1, []string{"A0"}},

		// The active key is not proven: one that is goes first.
		{"AR", -1, []string{"A0", "R1"}},
		{"ARRR", -1, []string{"A0", "R3"}}, // the oldest is the likeliest to be registered
		{"Ar", -1, []string{"r1", "A0"}},
		{"ARrR", -1, []string{"r2", "A0"}},
		{"ARrrR", -1, []string{"r2", "A0"}},
		{"ANRRN", -1, []string{"A0", "R3"}},
		{"ANr", -1, []string{"r2", "A0"}},
		// So does one that the server took the last time.
		{"AR", 1, []string{"R1", "A0"}},
		{"ARRR", 2, []string{"R2", "A0"}},
		{"ArRr", 2, []string{"R2", "A0"}},
		{"ArRr", 3, []string{"r3", "A0"}},
		{"ANR", 2, []string{"R2", "A0"}},
		// Unless that is the active one: it works for this client, proven or not.
		{"AR", 0, []string{"A0", "R1"}},
		{"ARr", 0, []string{"A0", "r2"}},

		// The active key is proven: it goes first whatever was taken last.
		{"aR", -1, []string{"a0", "R1"}},
		{"ar", -1, []string{"a0", "r1"}},
		{"anNrR", -1, []string{"a0", "r3"}},
		{"aRRRRRRr", -1, []string{"a0", "r7"}},
		{"aR", 0, []string{"a0", "R1"}},
		{"arR", 2, []string{"a0", "R2"}},
		{"arr", 2, []string{"a0", "r2"}},
	}
	for _, tt := range tests {
		last := "of a key that is gone"
		name := tt.states
		if tt.last >= 0 {
			last = thumbprint(t, ecKey(tt.last))
			name += " last " + string(tt.states[tt.last]) + string(rune('0'+tt.last))
		}
		t.Run(name, func(t *testing.T) {
			ring := open(t, ringFile(t, ringText(t, tt.states)), Config{})
			if got := kids(ring.Candidates(last)); !slices.Equal(got, tt.want) {
				t.Errorf("candidates %q, want %q", got, tt.want)
			}
			if tt.last >= 0 {
				return
			}
			if got := kids(ring.Candidates("")); !slices.Equal(got, tt.want) {
				t.Errorf("candidates of a client that has no token yet %q, want %q", got, tt.want)
			}
		})
	}
}

// TestRotationsNobodyRegistered: the key that Okta knows signs through any number
// of rotations, until another is proven.
func TestRotationsNobodyRegistered(t *testing.T) {
	path := ringPath(t)
	ring := open(t, path, Config{Now: (&clock{time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)}).Now})
	known, _, err := ring.Active(t.Context(), "known")
	ok(t, err)
	ring.Prove(known)
	var fresh *Key
	for range 10 {
		fresh = rotate(t, ring, "")
		for _, ring := range []*Ring{ring, open(t, path, Config{})} {
			if got, want := kids(ring.Candidates("")), []string{"known", fresh.ID()}; !slices.Equal(got, want) {
				t.Fatalf("candidates %q, want %q", got, want)
			}
		}
		ring.Refresh(t.Context())
	}
	ring.Prove(fresh)
	if got, want := kids(ring.Candidates(known.Thumbprint())), []string{fresh.ID(), "known"}; !slices.Equal(got, want) {
		t.Errorf("candidates %q once the new key is proven, want %q", got, want)
	}
}

func TestFind(t *testing.T) {
	// Flask's rotate sample keeps the kid, so one may stand twice.
	ring := open(t, "", Config{Store: NewStatic(
		meta(t, ecKey(0), "active", "now", "ES256", "") + pkcs8(ecKey(0)) +
			meta(t, ecKey(1), "retired", "same", "ES256", "") + pkcs8(ecKey(1)) +
			meta(t, ecKey(2), "retired", "same", "ES256", "") + pkcs8(ecKey(2)))})
	for kid, place := range map[string]int{"now": 0, "same": 1, thumbprint(t, ecKey(1)): 1, thumbprint(t, ecKey(2)): 2} {
		if got := ring.Find(kid); got == nil || got.Thumbprint() != thumbprint(t, ecKey(place)) {
			t.Errorf("%q finds %+v, want key %d", kid, got, place)
		}
	}
	for _, kid := range []string{"", "NOW", "sam"} {
		if got := ring.Find(kid); got != nil {
			t.Errorf("%q finds %q", kid, got.ID())
		}
	}
}

// TestOldestByAge: a key of unknown age is older than any that was made here, wherever
// it stands after somebody has gone back and forth.
func TestOldestByAge(t *testing.T) {
	ring := open(t, ringFile(t, pkcs8(ecKey(0))), Config{Kid: "plain"})
	rotate(t, ring, "one")
	ok(t, ring.Activate(t.Context(), ring.Find("plain")))
	rotate(t, ring, "two")
	wantKids(t, ring, "two", "plain", "one")
	for range 3 {
		if got := kids(ring.Candidates("")); got[1] != "plain" {
			t.Errorf("candidates %q, want the plain one to fall back to", got)
		}
		for i := range maxKeys {
			rotate(t, ring, "more"+string(rune('a'+i)))
		}
	}
}
