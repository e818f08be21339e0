package keys

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// TestProcessesRotateTogether: 50 processes rotate one ring 20 times each. Every
// rotation happens, one after the other, and what a process signs right behind
// one verifies against what it publishes then.
func TestProcessesRotateTogether(t *testing.T) {
	const processes, times = 50, 20
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
	began := time.Now()
	ok(t, start.Close()) // all at once

	// Meanwhile others open the ring.
	stop, reader := make(chan struct{}), make(chan int)
	go func() { reader <- openAgainAndAgain(t, path, stop) }()

	successor := map[string]string{} // by kid
	var waits []time.Duration
	for i, p := range all {
		if err := <-p.done; err != nil {
			t.Errorf("process %d: %v: %s", i, err, p.out.stderr.String())
		}
		printed := p.out.lines()[1:] // behind "ready"
		if len(printed) != times {
			t.Errorf("process %d reported %d rotations, want %d", i, len(printed), times)
		}
		for _, line := range printed {
			var made rotation
			ok(t, json.Unmarshal([]byte(line), &made))
			kid, before := made.verify(t)
			if other, twice := successor[before]; twice {
				t.Errorf("%q and %q both follow %q: one of them is lost", kid, other, before)
			}
			successor[before] = kid
			waits = append(waits, made.Waited)
		}
	}
	took := time.Since(began)
	close(stop)
	if <-reader == 0 {
		t.Error("nobody opened the ring meanwhile")
	}

	// One line leads through all generations, from the first key to the last.
	kid, generations := "A0", 0
	for successor[kid] != "" {
		kid, generations = successor[kid], generations+1
	}
	if generations != processes*times {
		t.Errorf("%d generations follow each other, want %d", generations, processes*times)
	}
	ring := open(t, path, Config{})
	if k := active(t, ring); k.ID() != kid {
		t.Errorf("%q is active, want the last one, %q", k.ID(), kid)
	}
	back := map[string]string{}
	for before, after := range maps.All(successor) {
		back[after] = before
	}
	for i, k := range ring.Keys() {
		if i == maxKeys-1 {
			kid = "A0" // which is what a server may know
		}
		if k.ID() != kid {
			t.Errorf("key %d of the ring is %q, want %q", i, k.ID(), kid)
		}
		kid = back[kid]
	}
	if got := len(ring.Keys()); got != maxKeys {
		t.Errorf("the ring holds %d keys, want %d", got, maxKeys)
	}
	slices.Sort(waits)
	t.Logf("%v in all; one rotation: median %v, 99 %% %v, longest %v", took, waits[len(waits)/2], waits[len(waits)*99/100], waits[len(waits)-1])
}

// verify checks the JWT against the JWKS. It returns the kid of the key that
// signed, and of the one that did before.
func (r rotation) verify(tb testing.TB) (kid, before string) {
	tb.Helper()
	var set jose.JSONWebKeySet
	ok(tb, json.Unmarshal(r.JWKS, &set))
	if len(set.Keys) < 2 {
		tb.Fatalf("%d keys are published, want the new one and the one before", len(set.Keys))
	}
	signed, err := jose.ParseSignedCompact(r.JWT, []jose.SignatureAlgorithm{jose.ES256})
	ok(tb, err)
	kid, before = set.Keys[0].KeyID, set.Keys[1].KeyID
	if got := signed.Signatures[0].Header.KeyID; got != kid {
		tb.Errorf("signed by %q, while %q is the first that is published", got, kid)
	}
	if _, err := signed.Verify(set); err != nil {
		tb.Errorf("what %q signed does not verify against the JWKS of its time: %v", kid, err)
	}
	return kid, before
}

// openAgainAndAgain opens a ring until it is told to stop, and says how often.
func openAgainAndAgain(tb testing.TB, path string, stop <-chan struct{}) (reads int) {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-stop:
			return reads
		case <-look.C:
		}
		file, err := NewFile(tb.Context(), path, false)
		if err != nil {
			tb.Error(err)
			return reads
		}
		if ring, err := Open(tb.Context(), Config{Store: file}); err != nil || len(ring.Keys()) == 0 {
			tb.Errorf("a reader got %v, %v", ring, err)
			return reads
		}
		reads++
	}
}
