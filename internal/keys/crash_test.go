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
			if got := atoi(t, k.ID()); got != generation-back {
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

// TestProcessesRotateAtOnce: each rotation of each process happens, one after
// the other.
func TestProcessesRotateAtOnce(t *testing.T) {
	const processes, times = 20, 5
	path := ringFile(t, ringText(t, "A"))
	wait, start, err := os.Pipe()
	ok(t, err)
	defer func() { _ = wait.Close() }()

	type running struct {
		out  *output
		done chan error
	}
	var all []running
	for range processes {
		cmd, out := process(t, job{Do: "burst", Path: path, Times: times})
		cmd.Stdin = wait
		ok(t, cmd.Start())
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		all = append(all, running{out, done})
	}
	for _, p := range all {
		inTime(t, func() { <-p.out.first })
	}
	ok(t, start.Close()) // all at once

	// Meanwhile others open the ring.
	stop, reader := make(chan struct{}), make(chan int)
	go func() {
		reads := 0
		defer func() { reader <- reads }()
		look := time.NewTicker(time.Millisecond)
		defer look.Stop()
		for {
			select {
			case <-stop:
				return
			case <-look.C:
			}
			file, err := NewFile(t.Context(), path, false)
			if err != nil {
				t.Error(err)
				return
			}
			if ring, err := Open(t.Context(), Config{Store: file}); err != nil || len(ring.Keys()) == 0 {
				t.Errorf("a reader got %v, %v", ring, err)
				return
			}
			reads++
		}
	}()

	var thumbprints, lasts []string
	for i, p := range all {
		if err := <-p.done; err != nil {
			t.Errorf("process %d: %v: %s", i, err, p.out.stderr.String())
		}
		printed := p.out.lines()[1:] // behind "ready"
		if len(printed) != times {
			t.Errorf("process %d reported %d rotations, want %d", i, len(printed), times)
			continue
		}
		thumbprints = append(thumbprints, printed...)
		lasts = append(lasts, printed[times-1])
	}
	close(stop)
	reads := <-reader
	t.Logf("the ring was opened %d times meanwhile", reads)
	if reads == 0 {
		t.Error("nobody opened the ring meanwhile")
	}

	slices.Sort(thumbprints)
	if got := len(slices.Compact(slices.Clone(thumbprints))); got != processes*times {
		t.Errorf("%d different keys were reported, want %d", got, processes*times)
	}
	ring := open(t, path, Config{})
	if k := active(t, ring); !slices.Contains(lasts, k.Thumbprint()) {
		t.Errorf("the active key %q is nobody's last", k.ID())
	}
	if got := len(ring.Keys()); got != maxKeys {
		t.Errorf("the ring holds %d keys, want %d", got, maxKeys)
	}
	for _, k := range ring.Keys() {
		if !slices.Contains(thumbprints, k.Thumbprint()) {
			t.Errorf("the ring holds %q, which nobody reported", k.ID())
		}
	}
}
