package keys

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRefreshTakesUpAChange(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	var log journal
	ring := open(t, path, Config{Log: log.log()})
	ring.Refresh(t.Context())
	log.wantCount(t, 0, "level")
	rotate(t, open(t, path, Config{}), "new")
	ring.Refresh(t.Context())
	ring.Refresh(t.Context())
	wantKids(t, ring, "new", "A0")
	log.wantCount(t, 1, `msg="key ring changed" ring=default active=new`)

	// By hand, with the time and the size of before.
	info, err := os.Stat(path)
	ok(t, err)
	write(t, path, strings.Replace(read(t, path), "kid=new", "kid=NEW", 1))
	ok(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
	ring.Refresh(t.Context())
	wantKids(t, ring, "NEW", "A0")
}

func TestRefreshTakesUpTheFirstRing(t *testing.T) {
	path := ringPath(t)
	ring := open(t, path, Config{})
	ring.Refresh(t.Context())
	wantKids(t, ring)
	write(t, path, ringText(t, "AR"))
	ring.Refresh(t.Context())
	wantKids(t, ring, "A0", "R1")
}

// TestChangedIsForOtherKeys: what was refused under the keys before may be asked for
// again. Under the first key that the ring makes itself nothing was, and a request that
// made it is not to begin again. The first one of another process is news.
func TestChangedIsForOtherKeys(t *testing.T) {
	path := ringPath(t)
	changes, changesOfOther := 0, 0
	ring := open(t, path, Config{Changed: func(*Ring) { changes++ }})
	other := open(t, path, Config{Changed: func(*Ring) { changesOfOther++ }})
	want := func(when string, own, others int) {
		t.Helper()
		if changes != own || changesOfOther != others {
			t.Errorf("%s: told %d times, want %d; the other %d times, want %d", when, changes, own, changesOfOther, others)
		}
	}
	if _, made, err := ring.Active(t.Context(), ""); err != nil || !made {
		t.Fatalf("made %t, error %v", made, err)
	}
	ring.Refresh(t.Context())
	want("the first key was made", 0, 0)
	if _, made, err := other.Active(t.Context(), ""); err != nil || made {
		t.Fatalf("made %t, error %v", made, err)
	}
	want("the other found it", 0, 1)
	rotate(t, ring, "second")
	ring.Refresh(t.Context())
	want("it was replaced", 1, 1)
	other.Refresh(t.Context())
	want("the other looked", 1, 2)

	third := open(t, path, Config{Changed: func(*Ring) { changes++ }})
	ok(t, os.Remove(path))
	rotate(t, third, "third")
	want("a ring that was gone was replaced", 2, 2)
}

// TestBadOnReload makes the file bad or takes it away under a ring.
func TestBadOnReload(t *testing.T) {
	tests := []struct {
		name string
		harm func(t *testing.T, path string)
		want string // in the log and in the refusal to rotate
	}{
		{"damaged", func(t *testing.T, path string) {
			write(t, path, strings.Replace(read(t, path), "\nM", "\n!", 1))
		}, "the block is damaged"},
		{"emptied", func(t *testing.T, path string) { write(t, path, "") }, "holds no PEM block"},
		{"cut", func(t *testing.T, path string) {
			ok(t, os.Truncate(path, int64(len(read(t, path))-40)))
		}, "BEGIN and END lines do not match"},
		{"open to all", func(t *testing.T, path string) { chmod(t, path, 0o644) }, "chmod 600"},
		{"a link", func(t *testing.T, path string) {
			write(t, path+".real", read(t, path))
			ok(t, os.Remove(path))
			ok(t, os.Symlink(path+".real", path))
		}, "symbolic link"},
		{"a directory", func(t *testing.T, path string) {
			ok(t, os.Remove(path))
			ok(t, os.Mkdir(path, 0o700))
		}, "not a regular file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := ringText(t, "AR")
			path := ringFile(t, text)
			var log journal
			ring := open(t, path, Config{Log: log.log()})
			for range 2 { // each time it becomes bad
				log = journal{}
				tt.harm(t, path)
				for range 3 {
					ring.Refresh(t.Context())
					wantKids(t, ring, "A0", "R1")
				}
				log.wantCount(t, 1, "the last good one stays in force")
				log.wantCount(t, 1, tt.want)

				_, err := ring.Rotate(t.Context(), "new")
				wantError(t, err, "rotating ring default", path, tt.want)
				wantKids(t, ring, "A0", "R1")
				_, err = active(t, ring).Sign(t.Context(), nil, map[string]any{"iss": "me"})
				ok(t, err)

				ok(t, os.RemoveAll(path))
				write(t, path, text)
				for range 3 {
					ring.Refresh(t.Context())
				}
				log.wantCount(t, 1, "can be read again")
				log.wantCount(t, 1, "the last good one stays in force")
			}
			rotate(t, ring, "new")
			wantKids(t, open(t, path, Config{}), "new", "A0", "R1")
		})
	}
}

// TestAnotherReasonIsLogged: the operator mended one thing and has the next one
// to mend.
func TestAnotherReasonIsLogged(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	var log journal
	ring := open(t, path, Config{Log: log.log()})
	write(t, path, "")
	chmod(t, path, 0o644)
	ring.Refresh(t.Context())
	chmod(t, path, 0o600)
	ring.Refresh(t.Context())
	log.wantCount(t, 1, "chmod 600")
	log.wantCount(t, 1, "holds no PEM block")
	wantKids(t, ring, "A0")
}

func TestRingThatIsGone(t *testing.T) {
	path := ringFile(t, ringText(t, "ANr"))
	var log journal
	ring := open(t, path, Config{Log: log.log()})
	ok(t, os.Remove(path))
	for range 3 {
		ring.Refresh(t.Context())
		wantKids(t, ring, "A0", "N1", "r2")
	}
	log.wantCount(t, 1, "is gone")
	if k := active(t, ring); k.ID() != "A0" {
		t.Errorf("%q signs", k.ID())
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("asking for the active key wrote the ring")
	}

	// Written anew from memory.
	rotate(t, ring, "new")
	wantKids(t, ring, "new", "A0", "N1", "r2")
	wantKids(t, open(t, path, Config{}), "new", "A0", "N1", "r2")
	wantProofs(t, open(t, path, Config{}), map[string]time.Time{"r2": provenAt})
	ring.Refresh(t.Context())
	log.wantCount(t, 1, "can be read again")
}

// TestProofMeetsARingThatIsGone: with the file the operator took the key away;
// a proof does not bring it back.
func TestProofMeetsARingThatIsGone(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	ring := open(t, path, Config{})
	ring.Prove(active(t, ring))
	ok(t, os.Remove(path))
	ring.Refresh(t.Context())
	if _, err := os.Lstat(path); err == nil {
		t.Error("a proof wrote the ring anew")
	}
}

// TestWatch asks for the two seconds that the broker promises.
func TestWatch(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	ring := open(t, path, Config{})
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { ring.Watch(ctx) })

	rotate(t, open(t, path, Config{}), "new")
	deadline := time.After(2 * time.Second)
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for active(t, ring).ID() != "new" {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatal("the change was not taken up within 2 s")
		}
	}
	wantKids(t, ring, "new", "A0")

	stop()
	inTime(t, watching.Wait)
}

// TestReadersSeeWholeRings: what reads a ring sees a whole one while it changes.
func TestReadersSeeWholeRings(t *testing.T) {
	path := ringFile(t, ringText(t, "A"))
	ring, other := open(t, path, Config{}), open(t, path, Config{})
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				got := ring.Keys()
				if len(got) == 0 || got[0].State() != Active {
					t.Errorf("a reader saw %+v", see(got))
					return
				}
				for _, k := range got[1:] {
					if k.State() == Active {
						t.Errorf("a reader saw %+v", see(got))
						return
					}
				}
				ring.Prove(ring.Candidates("")[0])
			}
		})
	}
	for range 30 {
		rotate(t, other, "")
		ring.Refresh(t.Context())
		rotate(t, ring, "")
	}
	close(done)
	readers.Wait()
}
