package keys

import (
	"context"
	"strings"
	"sync"
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

// TestProve: letters as in ringText. "x" is a key that the ring does not hold.
func TestProve(t *testing.T) {
	now := time.Date(2026, 4, 5, 6, 7, 8, 999, time.FixedZone("", 3600))
	proven := time.Date(2026, 4, 5, 5, 7, 8, 0, time.UTC)
	tests := []struct {
		name, states string
		prove        string // the places of the keys in the ring
		want         map[string]time.Time
		logged       int
	}{
		{"none", "ANR", "", map[string]time.Time{}, 0},
		{"the active one", "ANR", "0", map[string]time.Time{"A0": proven}, 1},
		{"the next one", "ANR", "1", map[string]time.Time{"N1": proven}, 1},
		{"a retired one", "ANRR", "3", map[string]time.Time{"R3": proven}, 1},
		{"all", "ANR", "201", map[string]time.Time{"A0": proven, "N1": proven, "R2": proven}, 3},
		{"one again and again", "ANR", "000", map[string]time.Time{"A0": proven}, 1},
		{"one that is proven", "aNR", "0", map[string]time.Time{"a0": provenAt}, 0},
		{"one that is not in the ring", "ANR", "x", map[string]time.Time{}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := ringText(t, tt.states)
			path := ringFile(t, text)
			var log journal
			changed := 0
			cfg := Config{Now: (&clock{now}).Now, Log: log.log(), Changed: func(*Ring) { changed++ }}
			ring := open(t, path, cfg)
			for _, place := range tt.prove {
				if place == 'x' {
					ring.Prove(active(t, open(t, "", Config{Store: NewStatic(pkcs8(ecKey(maxKeys)))})))
					continue
				}
				ring.Prove(ring.Keys()[place-'0'])
			}
			wantProofs(t, ring, tt.want) // at once
			if read(t, path) != text {
				t.Error("proving wrote the file")
			}
			ring.Refresh(t.Context())
			wantProofs(t, ring, tt.want)
			again := open(t, path, Config{})
			wantProofs(t, again, tt.want) // survives a restart
			wantKids(t, again, kids(ring.Keys())...)
			if rewritten := read(t, path) != text; rewritten != (tt.logged > 0) {
				t.Errorf("the file was written anew: %t", rewritten)
			}
			log.wantCount(t, tt.logged, "key proven")
			if changed > 0 {
				t.Error("the ring says that it has other keys")
			}
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
	k := active(t, ring)
	for range 3 {
		ring.Prove(k)
		now.now = now.now.Add(time.Hour)
		ring.Prove(k)
		ring.Refresh(t.Context())
	}
	first := map[string]time.Time{"A0": time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)}
	wantProofs(t, ring, first)

	stored := read(t, path)
	again := open(t, path, cfg)
	again.Prove(active(t, again))
	again.Refresh(t.Context())
	wantProofs(t, again, first)
	if read(t, path) != stored {
		t.Error("a proof that is known was written again")
	}
	log.wantCount(t, 1, "key proven")
}

// TestProveWaitsForNoStore: a token that is there must not wait for a disk.
func TestProveWaitsForNoStore(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	store := &slowStore{Store: newFile(t, path, false), entered: make(chan struct{}), release: make(chan struct{})}
	ring := open(t, path, Config{Store: store})
	k := active(t, ring)
	rotated := make(chan error, 1)
	go func() {
		_, err := ring.Rotate(t.Context(), "new")
		rotated <- err
	}()
	inTime(t, func() { <-store.entered })
	inTime(t, func() { ring.Prove(k) })
	if got := provenKeys(ring); len(got) != 1 {
		t.Errorf("proven keys: %v, want A0", got)
	}
	close(store.release)
	ok(t, <-rotated)
	// The rotation wrote what it had read before the proof.
	if got := provenKeys(ring); len(got) != 1 {
		t.Errorf("proven keys behind the rotation: %v, want A0", got)
	}
	ring.Refresh(t.Context())
	wantKids(t, open(t, path, Config{}), "new", "A0")
	if got := provenKeys(open(t, path, Config{})); len(got) != 1 {
		t.Errorf("proven keys in the file: %v, want A0", got)
	}
}

// slowStore waits with each Save until it is released.
type slowStore struct {
	Store
	entered, release chan struct{}
	once             sync.Once
}

func (s *slowStore) Save(ctx context.Context, data []byte, rev string) error {
	s.once.Do(func() { close(s.entered) })
	<-s.release
	return s.Store.Save(ctx, data, rev)
}

// TestTwoProcessesProve: the time that was stored first stays.
func TestTwoProcessesProve(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	now := &clock{time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)}
	cfg := Config{Now: now.Now}
	var rings []*Ring
	for range 2 {
		ring := open(t, path, cfg)
		ring.Prove(active(t, ring))
		rings = append(rings, ring)
		now.now = now.now.Add(time.Hour)
	}
	for _, ring := range append(rings, rings...) {
		ring.Refresh(t.Context())
		wantProofs(t, ring, map[string]time.Time{"A0": time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)})
	}
}

// TestProofIsStoredByTheNextChange: a broker that ends then has not lost it.
func TestProofIsStoredByTheNextChange(t *testing.T) {
	now := time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)
	for name, change := range map[string]func(t *testing.T, ring *Ring) error{
		"Rotate": func(t *testing.T, ring *Ring) error { _, err := ring.Rotate(t.Context(), ""); return err },
		"Stage":  func(t *testing.T, ring *Ring) error { _, _, err := ring.Stage(t.Context(), ""); return err },
		"Import": func(t *testing.T, ring *Ring) error {
			_, err := ring.Import(t.Context(), []byte(pkcs8(p384Key())), "")
			return err
		},
		"Activate": func(t *testing.T, ring *Ring) error { return ring.Activate(t.Context(), ring.Find("R1")) },
		"Retire":   func(t *testing.T, ring *Ring) error { return ring.Retire(t.Context(), ring.Find("R1")) },
	} {
		t.Run(name, func(t *testing.T) {
			path := ringFile(t, ringText(t, "AR"))
			ring := open(t, path, Config{Now: func() time.Time { return now }})
			ring.Prove(active(t, ring))
			ok(t, change(t, ring))
			wantProofs(t, ring, map[string]time.Time{"A0": now})
			wantProofs(t, open(t, path, Config{}), map[string]time.Time{"A0": now})
			stored := read(t, path)
			ring.Refresh(t.Context())
			if read(t, path) != stored {
				t.Error("it was stored twice")
			}
		})
	}
}

// TestProofSurvivesAnothersRotation: the key is proven here while another
// process retires it.
func TestProofSurvivesAnothersRotation(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	now := time.Date(2026, 4, 5, 6, 7, 8, 0, time.UTC)
	here := open(t, path, Config{Now: func() time.Time { return now }})
	there := open(t, path, Config{})
	here.Prove(active(t, here))
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
	ring.Prove(ring.Keys()[1])
	for range 3 {
		ring.Refresh(t.Context())
		wantProofs(t, ring, want)
	}
	log.wantCount(t, 0, "level=ERROR")
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
	ring.Prove(active(t, ring))
	chmod(t, path, 0o644)
	ring.Refresh(t.Context())
	chmod(t, path, 0o600)
	ring.Refresh(t.Context())
	wantProofs(t, ring, map[string]time.Time{"A0": now})
	wantProofs(t, open(t, path, Config{}), map[string]time.Time{"A0": now})
}
