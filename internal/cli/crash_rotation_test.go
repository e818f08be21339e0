package cli_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// How Okta learns of a key.
const (
	manualMode  = "manual"
	jwksURIMode = "jwks_uri"
	apiMode     = "api"
)

// How a rotation, or its end, begins.
const (
	bySchedule = "schedule"
	byCommand  = "keys rotate"
	byRequest  = "POST rotate=true"
	byRetiring = "retiring" // the old key's time is over
)

// walk is a rotation in one mode.
type walk struct {
	mode, begins string
	requests     int // that Okta gets, and makes, until the new key signs
	more         int // until the old key is gone
}

func walks() []walk {
	return []walk{
		{manualMode, bySchedule, 3, 1},
		{manualMode, byCommand, 3, 1},
		{manualMode, byRequest, 3, 1},
		{manualMode, byRetiring, 1, 0},
		{jwksURIMode, bySchedule, 2, 2},
		{jwksURIMode, byRequest, 2, 2},
		{jwksURIMode, byRetiring, 2, 0},
		{apiMode, bySchedule, 5, 5},
		{apiMode, byRequest, 5, 5},
		{apiMode, byRetiring, 7, 0},
	}
}

func (w walk) String() string { return w.mode + "/" + w.begins }

// killRotations kills the broker at each request that a rotation takes, before Okta
// gets it and before the answer, and in each write of the ring.
func killRotations(t *testing.T, program executable, tally *tally) {
	var points []point
	add := func(w walk, name string, k kill) {
		points = append(points, point{w.String() + "/" + name, func(t *testing.T) {
			o := newCrashOrg(t, program, w, k)
			if o.run(t) {
				tally.add("killed in a rotation: " + w.String())
			}
		}})
	}
	// Whichever call of a write is the last, it leaves the disk as one of these does.
	calls := []string{"renameat", "fsync"}
	if reason := straceMissing(t); reason != "" {
		t.Log("no broker is killed in a system call: " + reason)
		calls = nil
	}
	for _, w := range walks() {
		add(w, "alive", kill{})
		for i := range w.requests {
			add(w, fmt.Sprintf("request %d", i+1), kill{request: i + 1})
			add(w, fmt.Sprintf("answer %d", i+1), kill{request: i + 1, answered: true})
		}
		for _, call := range calls {
			add(w, call, kill{call: call})
		}
	}
	inLanes(t, points)
}

// run kills a broker that rotates, starts another, and waits until the rotation is
// over. It reports whether the broker was killed: without any reason to be, it was
// not.
func (o *crashOrg) run(t *testing.T) (killed bool) {
	// What is killed at a request finds the rotation begun, what is killed in a call
	// starts before, since its start has such calls, too.
	found := o.kill.request > 0 && o.walk.begins != byRequest
	if found {
		o.begin(t)
	}
	s := o.serve(t, o.trace()...)
	if !found {
		o.begin(t)
	}
	alive := o.kill == kill{}
	eventually(t, s.logs, func() bool {
		o.paste(t)
		select {
		case <-s.done:
			killed = true
		default:
		}
		return killed || alive && o.rotated(t)
	})
	if !killed {
		o.mu.Lock()
		took := o.requests
		o.mu.Unlock()
		// Where somebody has to paste the key it is tried again and again until then.
		if want := o.walk.requests + o.walk.more; took < want || took > want && o.walk.mode != manualMode {
			t.Errorf("it took %d requests, want %d: %s", took, want, s.logs)
		}
		o.check(t, s)
		return false
	}
	wantEnded(t, s)
	wantPrivate(t, o.dir)
	o.mu.Lock()
	o.killed, o.proofs = true, nil
	o.mu.Unlock()

	s = o.serve(t)
	if ring := o.ring(t); o.walk.begins == byRequest && len(ring) == 1 && ring[0].kid == "first" {
		o.begin(t) // it had not
	}
	tokens, stop := o.callers(t, s)
	defer stop()
	eventually(t, s.logs, func() bool {
		if tokens.Load() >= 3 {
			o.paste(t)
		}
		return o.rotated(t) && tokens.Load() > 0
	})
	stop()
	o.check(t, s)
	return true
}

// trace is how strace kills the broker, which is its parent then; nil where it does
// not.
func (o *crashOrg) trace() []string {
	var path string
	switch o.kill.call {
	case "":
		return nil
	case "fsync": // of the folder
		path = o.dir
	default:
		path = filepath.Join(o.dir, ringFile+".tmp")
	}
	return []string{"-D", "-o", os.DevNull, "-P", path, "-e", "inject=" + o.kill.call + ":signal=SIGKILL:when=1"}
}

// begin begins what the broker is to be killed in.
func (o *crashOrg) begin(t *testing.T) {
	t.Helper()
	switch o.walk.begins {
	case bySchedule, byRetiring:
		o.prove(t, ringFile, time.Now().Add(-2*time.Hour))
	case byCommand:
		o.program.must(t, o.dir, "keys rotate")
	case byRequest:
		s, _ := o.broker()
		body := fmt.Sprintf(`{"client_id":"%s","audience":"%s/oauth2/v1/token"}`, theApp, o.url)
		resp, err := http.Post(s.url+"/?rotate=true", "application/json", strings.NewReader(body))
		if err != nil {
			return // it was killed
		}
		defer resp.Body.Close()
		if answer, err := io.ReadAll(resp.Body); err == nil && resp.StatusCode != 200 {
			t.Fatalf("status %d: %s", resp.StatusCode, answer)
		}
	}
}

// callers ask a broker for tokens, each for another, until they are stopped.
func (o *crashOrg) callers(t *testing.T, s *serving) (tokens *atomic.Int64, stop func()) {
	tokens = &atomic.Int64{}
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			scopes := callerScopes()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/token?scope="+scopes[i%len(scopes)], nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Cache-Control", "no-cache")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Errorf("a caller fails: %v", err)
				return
			}
			answer, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("a caller's token: status %d: %s", resp.StatusCode, answer)
			}
			tokens.Add(1)
			select {
			case <-stopped:
				return
			case <-tick.C:
			}
		}
	}()
	return tokens, sync.OnceFunc(func() { close(stopped); <-done })
}

// check asserts that a rotation is over, in the ring and at Okta, and cost nobody
// anything.
func (o *crashOrg) check(t *testing.T, s *serving) {
	t.Helper()
	if code := s.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d: %s", code, s.logs)
	}
	wantPrivate(t, o.dir)
	wantFiles(t, o.dir)
	list := listed(t, o.program, o.dir)
	standing := "proven"
	if o.walk.mode == apiMode {
		standing = "ACTIVE"
	}
	if len(list) != 1 || list[0].State != "active" || list[0].Proven == "" || list[0].Okta["default"] != standing {
		t.Errorf("the ring is %+v", list)
	}
	if saved := o.okta.AppKeys(theApp); o.walk.mode == apiMode && (len(saved) != 1 || saved[0].Kid != list[0].Kid || saved[0].Status != "ACTIVE") {
		t.Errorf("the app has %+v, want the active key alone", saved)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.tokens) > 0 {
		t.Errorf("Okta refused callers: %q", o.tokens)
	}
	// Where the mode is manual a proof finds out whether somebody has pasted the key.
	if o.walk.mode != manualMode && len(o.proofs) > 0 {
		t.Errorf("Okta refused %q: %s", o.proofs, s.logs)
	}
}
