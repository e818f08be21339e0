package keys

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// provenKeys maps the kids of the proven keys to when they were.
func provenKeys(ring *Ring) map[string]time.Time {
	found := map[string]time.Time{}
	for _, k := range ring.Keys() {
		if !k.Proven().IsZero() {
			found[k.ID()] = k.Proven()
		}
	}
	return found
}

func wantProofs(tb testing.TB, ring *Ring, want map[string]time.Time) {
	tb.Helper()
	if diff := cmp.Diff(want, provenKeys(ring)); diff != "" {
		tb.Errorf("proven keys (-want +got):\n%s", diff)
	}
}

// TestProven plays what authorization servers answer; the ring is A0, R1, R2.
func TestProven(t *testing.T) {
	tests := []struct {
		name    string
		answers string // CLIENT works with the key at INDEX, or is refused: "one=0 two=-"
		want    string // kids
	}{
		{"nothing heard", "", ""},
		{"one client works", "one=0", "A0"},
		{"one client is refused", "one=-", ""},
		{"one client works with a retired key", "one=2", "R2"},
		{"one client works with one, then the other", "one=2 one=0", "A0 R2"},
		{"refused, then works", "one=- one=0", "A0"},
		{"works, then refused", "one=0 one=-", "A0"},
		{"a client that nobody asks for does not hold it up", "one=0", "A0"},
		{"both work", "one=0 two=0", "A0"},
		{"both work with a retired key", "two=1 one=1", "R1"},
		{"each works with another key", "one=1 two=0 one=1", "R1"},
		{"the second follows", "one=0 two=1 two=0", "A0"},
		{"both move on", "one=1 two=1 one=0 two=0", "A0 R1"},
		{"one moves on and goes back", "one=1 two=1 one=0 one=1", "R1"},
		{"a refused client does not hold it up", "two=- one=0", "A0"},
		{"a client refused later does not hold it up any more", "one=0 two=-", "A0"},
		{"a client that worked with another key and is refused now", "two=1 one=0 two=-", "A0 R1"},
		{"all refused", "one=- two=-", ""},
		{"a refused client works again, with another key", "two=- two=1 one=0", "R1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := ringFile(t, ringText(t, "ARR"))
			now := time.Date(2026, 4, 5, 6, 7, 8, 999, time.FixedZone("", 3600))
			ring := open(t, path, Config{Now: func() time.Time { return now }})
			for _, answer := range strings.Fields(tt.answers) {
				client, key, _ := strings.Cut(answer, "=")
				if key == "-" {
					ring.Refused(client)
					continue
				}
				ring.Worked(client, ring.Keys()[key[0]-'0'])
			}
			if read(t, path) != ringText(t, "ARR") {
				t.Error("an answer alone wrote the file")
			}
			ring.Refresh(t.Context())
			want := map[string]time.Time{}
			for _, kid := range strings.Fields(tt.want) {
				want[kid] = time.Date(2026, 4, 5, 5, 7, 8, 0, time.UTC)
			}
			wantProofs(t, ring, want)
			wantProofs(t, open(t, path, Config{}), want) // survives a restart
			wantKids(t, open(t, path, Config{}), "A0", "R1", "R2")
		})
	}
}

// TestProofKeepsItsTime: retire_after counts from the first proof.
func TestProofKeepsItsTime(t *testing.T) {
	path := ringFile(t, ringText(t, "AR"))
	now := &clock{time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)}
	var log journal
	cfg := Config{Now: now.Now, Log: log.log()}
	ring := open(t, path, cfg)
	for range 3 {
		ring.Worked("one", active(t, ring))
		now.now = now.now.Add(time.Hour)
		ring.Worked("one", active(t, ring))
		ring.Refresh(t.Context())
	}
	log.wantCount(t, 1, "key proven")
	first := map[string]time.Time{"A0": time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)}
	wantProofs(t, ring, first)

	stored := read(t, path)
	again := open(t, path, cfg)
	again.Worked("one", active(t, again))
	again.Refresh(t.Context())
	wantProofs(t, again, first)
	if read(t, path) != stored {
		t.Error("a proof that is known was written again")
	}
	log.wantCount(t, 1, "key proven")
}

// TestTwoProcessesProve: the time that was stored first stays.
func TestTwoProcessesProve(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	now := &clock{time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)}
	cfg := Config{Now: now.Now}
	var rings []*Ring
	for range 2 {
		ring := open(t, path, cfg)
		ring.Worked("one", active(t, ring))
		rings = append(rings, ring)
		now.now = now.now.Add(time.Hour)
	}
	for _, ring := range append(rings, rings...) {
		ring.Refresh(t.Context())
		wantProofs(t, ring, map[string]time.Time{"A0": time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)})
	}
}

func TestProofIsStoredByRotate(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	now := time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)
	ring := open(t, path, Config{Now: func() time.Time { return now }})
	ring.Worked("one", active(t, ring))
	rotate(t, ring, "new")
	wantProofs(t, ring, map[string]time.Time{"A0": now})
	wantProofs(t, open(t, path, Config{}), map[string]time.Time{"A0": now})
}

// TestProofSurvivesAnothersRotation: the key is proven here while another
// process retires it.
func TestProofSurvivesAnothersRotation(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	now := time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)
	here := open(t, path, Config{Now: func() time.Time { return now }})
	there := open(t, path, Config{})
	here.Worked("one", active(t, here))
	rotate(t, there, "new")
	here.Refresh(t.Context())
	there.Refresh(t.Context())
	want := map[string]time.Time{"A0": now}
	for name, ring := range map[string]*Ring{"here": here, "there": there, "opened anew": open(t, path, Config{})} {
		t.Run(name, func(t *testing.T) {
			wantKids(t, ring, "new", "A0")
			wantProofs(t, ring, want)
		})
	}
}

// TestProofOfAReadOnlyRing is kept in memory alone, and that is no fault to log.
func TestProofOfAReadOnlyRing(t *testing.T) {
	text := ringText(t, "AR")
	path := ringFile(t, text)
	now := time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)
	var log journal
	ring := open(t, path, Config{Store: newFile(t, path, true), Now: func() time.Time { return now }, Log: log.log()})
	want := map[string]time.Time{"R1": now}
	ring.Worked("one", ring.Keys()[1])
	for range 3 {
		ring.Refresh(t.Context())
		wantProofs(t, ring, want)
	}
	log.wantCount(t, 0, "known in memory only")
	if read(t, path) != text {
		t.Error("the file was changed")
	}

	// The operator deploys a new key in front.
	write(t, path, meta(t, ecKey(5), "active", "new", "ES256", "")+pkcs8(ecKey(5))+strings.Replace(text, "state=active", "state=retired", 1))
	ring.Refresh(t.Context())
	wantKids(t, ring, "new", "A0", "R1")
	wantProofs(t, ring, want)
	wantProofs(t, open(t, path, Config{}), map[string]time.Time{})
}

// TestProofOutlastsABadFile: a proof that could not be stored is stored when
// that is possible again.
func TestProofOutlastsABadFile(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	now := time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)
	ring := open(t, path, Config{Now: func() time.Time { return now }})
	ring.Worked("one", active(t, ring))
	chmod(t, path, 0o644)
	ring.Refresh(t.Context())
	chmod(t, path, 0o600)
	ring.Refresh(t.Context())
	wantProofs(t, ring, map[string]time.Time{"A0": now})
	wantProofs(t, open(t, path, Config{}), map[string]time.Time{"A0": now})
}
