package keys

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestKillWhileRotating kills processes that rotate one ring, again and again:
// whenever that happens, the file holds a whole ring, old or new.
func TestKillWhileRotating(t *testing.T) {
	const kills = 120
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	path := ringPath(t)
	want := []string{"private_key.pem", "private_key.pem.lock"}
	generation, stale := 0, 0
	for i := range kills {
		cmd, out := process(t, job{Do: "loop", Path: path})
		ok(t, cmd.Start())
		// Half of them are killed at any time from their start, half of them
		// while they certainly rotate.
		if i%2 == 1 {
			inTime(t, func() { <-out.first })
		}
		<-time.After(time.Duration(random.IntN(60_000)) * time.Microsecond)
		ok(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
		if status, known := cmd.ProcessState.Sys().(syscall.WaitStatus); !known || status.Signal() != syscall.SIGKILL {
			t.Fatalf("kill %d: the process ended by itself: %v: %s", i, cmd.ProcessState, out.stderr.String())
		}

		last := generation
		if printed := out.lines(); len(printed) > 0 {
			last = atoi(t, printed[len(printed)-1])
		}
		if _, err := os.Lstat(path + ".tmp"); err == nil {
			stale++
		}
		ring := open(t, path, Config{})
		if len(ring.Keys()) == 0 && last == 0 {
			if got := files(t, path); slices.Contains(got, "private_key.pem.tmp") {
				t.Fatalf("kill %d: files %q", i, got)
			}
			continue // killed before the first ring was there
		}
		generation = atoi(t, active(t, ring).ID())
		if generation != last && generation != last+1 {
			t.Fatalf("kill %d: the ring is at generation %d, the last one reported is %d", i, generation, last)
		}
		for back, k := range ring.Keys() {
			want := generation - back
			if back == maxKeys-1 {
				want = 1 // which is what a server may know
			}
			if got := atoi(t, k.ID()); got != want {
				t.Fatalf("kill %d: a key is lost: %q", i, kids(ring.Keys()))
			}
		}
		if got := len(ring.Keys()); got != min(generation, maxKeys) {
			t.Fatalf("kill %d: the ring holds %d keys at generation %d", i, got, generation)
		}
		wantPrivate(t, path)
		wantPrivate(t, path+".lock")
		if diff := cmp.Diff(want, files(t, path)); diff != "" {
			t.Fatalf("kill %d: files (-want +got):\n%s", i, diff)
		}
	}
	t.Logf("%d generations; %d kills left an unfinished copy", generation, stale)
}

func atoi(tb testing.TB, s string) int {
	tb.Helper()
	n, err := strconv.Atoi(s)
	ok(tb, err)
	return n
}
