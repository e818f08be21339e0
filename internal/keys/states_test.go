package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// today is when the tests change a ring.
var today = time.Date(2026, 6, 7, 8, 9, 10, 0, time.UTC)

// standing shows a ring, one line for each key: its state and its kid, and when it
// was created, activated and proven; "old" is ringText's day.
func standing(ring *Ring) []string {
	days := map[time.Time]string{{}: "-", today: "today", provenAt: "then", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC): "old"}
	var lines []string
	for _, k := range see(ring.Keys()) {
		lines = append(lines, fmt.Sprintf("%s %s: %s %s %s", k.State, k.Kid, days[k.Created], days[k.Activated], days[k.Proven]))
	}
	return lines
}

// wantStanding compares a ring, as it stands here and as a process that opens it
// now finds it. The lines are those of standing, without leading white space.
func wantStanding(tb testing.TB, path string, ring *Ring, want string) {
	tb.Helper()
	lines := strings.Split(strings.TrimSpace(want), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	for name, ring := range map[string]*Ring{"the ring": ring, "the ring opened anew": open(tb, path, Config{})} {
		if diff := cmp.Diff(lines, standing(ring)); diff != "" {
			tb.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A change is what somebody does to a ring.
type change func(ctx context.Context, ring *Ring) error

func stage(kid string) change {
	return func(ctx context.Context, ring *Ring) error {
		_, _, err := ring.Stage(ctx, kid)
		return err
	}
}

func imports(text, kid string) change {
	return func(ctx context.Context, ring *Ring) error {
		_, err := ring.Import(ctx, []byte(text), kid)
		return err
	}
}

// activate and retire take the key from the ring before anybody else changes it.
func activate(k *Key) change {
	return func(ctx context.Context, ring *Ring) error { return ring.Activate(ctx, k) }
}

func retire(k *Key) change {
	return func(ctx context.Context, ring *Ring) error { return ring.Retire(ctx, k) }
}

func TestChanges(t *testing.T) {
	ringKey := func(states, kid string) *Key {
		return open(t, "", Config{Store: NewStatic(ringText(t, states))}).Find(kid)
	}
	tests := []struct {
		name, states string
		change       change
		want         string // "": the ring is as it was
		err          string
		logged       string
	}{
		{"stage", "AR", stage("new"), `active A0: old - -
			next new: today - -
			retired R1: old - -`, "", "key staged"},
		{"stage where one is staged", "aNR", stage("new"), "", "", ""},
		{"stage an empty ring", "", stage("new"), `active new: today today -`, "", "key staged"},
		{"stage under the kid of the active one", "AR", stage("A0"), "", `staging a key of ring default: a key of the ring is called "A0" already`, ""},
		{"stage under the kid of a retired one", "AR", stage("R1"), "", `a key of the ring is called "R1" already`, ""},
		{"stage under a kid that cannot be", "AR", stage("a\nb"), "", `staging a key of ring default: kid has control characters`, ""},

		{"activate the next one", "aNr", activate(ringKey("aNr", "N1")), `active N1: old today -
			retired a0: old - then
			retired r2: old - then`, "", "key activated"},
		{"go back", "AnrR", activate(ringKey("AnrR", "r2")), `active r2: old today then
			retired A0: old - -
			next n1: old - then
			retired R3: old - -`, "", "key activated"},
		{"activate the active one", "AN", activate(ringKey("AN", "A0")), "", "", ""},
		{"activate one that is gone", "AN", activate(ringKey("ANR", "R2")), "", `activating key "R2" of ring default: it is not in the ring any more`, ""},
		{"activate in an empty ring", "", activate(ringKey("A", "A0")), "", `activating key "A0" of ring default: it is not in the ring any more`, ""},

		{"retire the next one", "ANR", retire(ringKey("ANR", "N1")), `active A0: old - -
			retired R2: old - -`, "", "key retired"},
		{"retire a retired one", "ANrR", retire(ringKey("ANrR", "r2")), `active A0: old - -
			next N1: old - -
			retired R3: old - -`, "", "key retired"},
		{"retire the active one", "ANR", retire(ringKey("ANR", "A0")), "", `retiring key "A0" of ring default: it is the one that signs: activate another first`, ""},
		{"retire one that is gone", "AN", retire(ringKey("ANR", "R2")), "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := ringPath(t)
			if tt.states != "" {
				write(t, path, ringText(t, tt.states))
			}
			var log journal
			ring := open(t, path, Config{Now: (&clock{today.Add(999 * time.Millisecond)}).Now, Log: log.log()})
			err := tt.change(t.Context(), ring)
			if tt.err != "" {
				wantError(t, err, tt.err)
			} else {
				ok(t, err)
			}
			switch {
			case tt.want != "":
				wantStanding(t, path, ring, tt.want)
				wantPrivate(t, path)
			case tt.states == "":
				if got := slices.DeleteFunc(files(t, path), func(name string) bool { return strings.HasSuffix(name, ".lock") }); len(got) > 0 {
					t.Errorf("files %q", got)
				}
			case read(t, path) != ringText(t, tt.states):
				t.Error("the file was changed")
			}
			if tt.logged == "" {
				log.wantCount(t, 0, "level=INFO")
			} else {
				log.wantCount(t, 1, tt.logged)
			}
		})
	}
}

// TestStageTwice: the walker asks for a next key again and again.
func TestStageTwice(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	ring := open(t, path, Config{})
	if k := ring.Next(); k != nil {
		t.Errorf("%q is next before any was staged", k.ID())
	}
	first, made, err := ring.Stage(t.Context(), "")
	if err != nil || !made || first.ID() != first.Thumbprint() || first.State() != Next {
		t.Fatalf("staged %+v, made %t, error %v", see([]*Key{first}), made, err)
	}
	stored := read(t, path)
	for _, ring := range []*Ring{ring, open(t, path, Config{})} {
		again, made, err := ring.Stage(t.Context(), "another")
		if err != nil || made || !again.same(first) {
			t.Errorf("staged %+v, made %t, error %v; want the one of before", see([]*Key{again}), made, err)
		}
		if k := ring.Next(); k == nil || !k.same(first) {
			t.Error("Next is not the staged key")
		}
	}
	if read(t, path) != stored {
		t.Error("the file was written again")
	}
	if k := active(t, ring); k.ID() != "A0" {
		t.Errorf("%q signs", k.ID())
	}
}

// TestLifeOfAKey walks one key from next to gone.
func TestLifeOfAKey(t *testing.T) {
	path := ringFile(t, ringText(t, "a"))
	now := &clock{today}
	ring := open(t, path, Config{Now: now.Now})
	changed := func(change change) {
		t.Helper()
		ok(t, change(t.Context(), ring))
	}
	changed(stage("one"))
	ring.Prove(ring.Next())
	changed(activate(ring.Next()))
	wantStanding(t, path, ring, `active one: today today today
		retired a0: old - then`)
	changed(stage("two"))
	changed(activate(ring.Next()))
	wantStanding(t, path, ring, `active two: today today -
		retired one: today today today
		retired a0: old - then`)
	if got := kids(ring.Candidates("")); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("candidates %q", got)
	}
	changed(retire(ring.Find("one")))
	wantStanding(t, path, ring, `active two: today today -
		retired a0: old - then`)
	if ring.Find("one") != nil {
		t.Error("the retired key is found")
	}
}

// TestFullRing: at 8 keys a new one costs an old one. Letters as in ringText.
func TestFullRing(t *testing.T) {
	for states, dropped := range map[string]string{
		"ARRRRRR":  "",
		"ARRRRRRR": "R6",
		"ARRRRRRr": "R6",
		"arrrRrrr": "R4",
		"Arrrrrrr": "r7",
	} {
		for name, change := range map[string]change{"stage": stage("new"), "import": imports(pkcs8(p384Key()), "new")} {
			t.Run(name+" "+states, func(t *testing.T) {
				path := ringFile(t, ringText(t, states))
				ring := open(t, path, Config{})
				want := slices.Insert(kids(ring.Keys()), 1, "new")
				ok(t, change(t.Context(), ring))
				want = slices.DeleteFunc(want, func(kid string) bool { return kid == dropped })
				wantKids(t, ring, want...)
				wantKids(t, open(t, path, Config{}), want...)
			})
		}
	}
	t.Run("activate", func(t *testing.T) {
		path := ringFile(t, ringText(t, "ANRRRRRR"))
		ring := open(t, path, Config{})
		ok(t, ring.Activate(t.Context(), ring.Next()))
		wantKids(t, open(t, path, Config{}), "N1", "A0", "R2", "R3", "R4", "R5", "R6", "R7")
	})
}

// meddler is a store in which somebody else writes right before the first Save. With
// the File in it a writer can wait for its turn, with another Store it cannot.
type meddler struct {
	Store
	meddle func()
}

func (m *meddler) Save(ctx context.Context, data []byte, rev string) error {
	if m.meddle != nil {
		m.meddle()
		m.meddle = nil
	}
	return m.Store.Save(ctx, data, rev)
}

type queuingMeddler struct{ meddler }

func (m *queuingMeddler) turn(ctx context.Context) (saver, func(), error) {
	return m.Store.(*File).turn(ctx)
}

// TestChangesBetweenOthers: another process writes between reading and writing.
func TestChangesBetweenOthers(t *testing.T) {
	ring := open(t, "", Config{Store: NewStatic(ringText(t, "AR"))})
	retired := ring.Find("R1")
	rotates := func(ctx context.Context, ring *Ring) error {
		_, err := ring.Rotate(ctx, "rotated")
		return err
	}
	tests := []struct {
		name          string
		other, change change
		want          []string
		err           string
	}{
		{"both rotate", stage("other"), rotates, []string{"rotated", "A0", "other", "R1"}, ""},
		{"both stage", stage("other"), stage("new"), []string{"A0", "other", "R1"}, ""},
		{"both under one kid", imports(pkcs8(p384Key()), "new"), imports(pkcs8(p521Key()), "new"), []string{"A0", "new", "R1"}, `a key of the ring is called "new" already`},
		{"both import", imports(pkcs8(p384Key()), "other"), imports(pkcs8(p521Key()), "new"), []string{"A0", "other", "R1"}, `key "other" is staged already: activate or retire it first`},
		{"both import one key", imports(pkcs8(p384Key()), "other"), imports(pkcs8(p384Key()), "new"), []string{"A0", "other", "R1"}, "the ring holds this key already"},
		{"both activate", activate(retired), activate(retired), []string{"R1", "A0"}, ""},
		{"activate what is retired", retire(retired), activate(retired), []string{"A0"}, "it is not in the ring any more"},
		{"retire what is activated", activate(retired), retire(retired), []string{"R1", "A0"}, "it is the one that signs"},
		{"both retire", retire(retired), retire(retired), []string{"A0"}, ""},
		{"stage behind a rotation", rotates, stage("new"), []string{"rotated", "new", "A0", "R1"}, ""},
	}
	for _, tt := range tests {
		for _, queues := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, queues %t", tt.name, queues), func(t *testing.T) {
				path := ringFile(t, ringText(t, "AR"))
				other := open(t, path, Config{})
				meddle := meddler{newFile(t, path, false), func() { ok(t, tt.other(t.Context(), other)) }}
				var store Store = &meddle
				if queues {
					store = &queuingMeddler{meddle}
				}
				ring := open(t, path, Config{Store: store})
				err := tt.change(t.Context(), ring)
				if tt.err != "" {
					wantError(t, err, tt.err)
					ring.Refresh(t.Context())
				} else {
					ok(t, err)
				}
				wantKids(t, ring, tt.want...)
				wantKids(t, open(t, path, Config{}), tt.want...)
			})
		}
	}
}

// TestAnotherStagesFirst: the key that was made here in vain is nobody's.
func TestAnotherStagesFirst(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	other := open(t, path, Config{})
	var log journal
	ring := open(t, path, Config{Log: log.log(), Store: &meddler{newFile(t, path, false), func() { ok(t, stage("other")(t.Context(), other)) }}})
	k, made, err := ring.Stage(t.Context(), "new")
	if err != nil || made || k.ID() != "other" {
		t.Errorf("staged %+v, made %t, error %v; want the other's", see([]*Key{k}), made, err)
	}
	log.wantCount(t, 0, "key staged")
}

// TestReadOnlyRingDoesNotChange: what was deployed is changed where it came from.
func TestReadOnlyRingDoesNotChange(t *testing.T) {
	text := ringText(t, "AR")
	for store, readOnly := range map[string]func(path string) Store{
		"a mount":         func(path string) Store { return newFile(t, path, true) },
		"the environment": func(string) Store { return NewStatic(text) },
	} {
		for name, change := range map[string]change{
			"stage":    stage("new"),
			"import":   imports(pkcs8(p384Key()), ""),
			"activate": func(ctx context.Context, ring *Ring) error { return ring.Activate(ctx, ring.Find("R1")) },
			"retire":   func(ctx context.Context, ring *Ring) error { return ring.Retire(ctx, ring.Find("R1")) },
		} {
			t.Run(name+" in "+store, func(t *testing.T) {
				path := ringFile(t, text)
				ring := open(t, path, Config{Store: readOnly(path)})
				err := change(t.Context(), ring)
				wantError(t, err, "ring default", "the key ring is read-only")
				if !errors.Is(err, ErrReadOnly) {
					t.Errorf("%v, want ErrReadOnly", err)
				}
				wantKids(t, ring, "A0", "R1")
				if read(t, path) != text || len(files(t, path)) != 1 {
					t.Errorf("the folder was changed: %q", files(t, path))
				}
			})
		}
	}
}
