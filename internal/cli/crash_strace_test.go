package cli_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// straceMissing says why no process can be killed in a system call. Empty: strace is
// there and may trace.
func straceMissing(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		return err.Error()
	}
	if out, err := exec.CommandContext(t.Context(), "strace", "-f", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		return fmt.Sprintf("strace may not trace: %v: %s", err, out)
	}
	return ""
}

// straced makes a command run under strace.
func straced(t *testing.T, cmd *exec.Cmd, options ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args = slices.Concat([]string{"strace", "-f", "-q", "-y"}, options, []string{"--", cmd.Path}, cmd.Args[1:])
	cmd.Path = path
	return cmd
}

// call is a system call on the folder of a ring, or on a file in it.
type call struct{ name, args string }

// on tells whether the call is on a file, named or open.
func (c call) on(path string) bool {
	return strings.Contains(c.args, `"`+path+`"`) || strings.Contains(c.args, "<"+path+">")
}

// writing is a command that writes a ring once.
type writing struct {
	name    string
	prepare []string // commands that come before
	stale   bool     // a writer was killed before, too
	command string
	before  string // the ring, the active key first
	after   string
}

func writings(importable string) []writing {
	var large []string
	for i := range 6 {
		large = append(large, fmt.Sprintf("keys rotate --kid %d", i+1))
	}
	return []writing{
		{name: "first", command: "keys rotate --kid first", after: "active first"},
		{name: "rotate", prepare: []string{"keys rotate --kid first"}, command: "keys rotate --kid second",
			before: "active first", after: "active second, retired first"},
		{name: "rotate after a kill", prepare: []string{"keys rotate --kid first"}, stale: true, command: "keys rotate --kid second",
			before: "active first", after: "active second, retired first"},
		{name: "stage", prepare: []string{"keys rotate --kid first"}, command: "keys stage --kid second",
			before: "active first", after: "active first, next second"},
		{name: "activate", prepare: []string{"keys rotate --kid first", "keys stage --kid second"}, command: "keys activate",
			before: "active first, next second", after: "active second, retired first"},
		{name: "take back", prepare: []string{"keys rotate --kid first", "keys rotate --kid second"}, command: "keys activate first",
			before: "active second, retired first", after: "active first, retired second"},
		{name: "rotate a large ring", prepare: large, command: "keys rotate --kid 7",
			before: "active 6, retired 5, retired 4, retired 3, retired 2, retired 1",
			after:  "active 7, retired 6, retired 5, retired 4, retired 3, retired 2, retired 1"},
		{name: "retire", prepare: []string{"keys rotate --kid first", "keys rotate --kid second"}, command: "keys retire first",
			before: "active second, retired first", after: "active second"},
		{name: "import", prepare: []string{"keys rotate --kid first"}, command: "keys import " + importable + " --kid second",
			before: "active first", after: "active first, next second"},
	}
}

// writer runs a writing again and again, each time in a folder that is as before.
type writer struct {
	writing
	program executable
	files   map[string][]byte
	calls   []call // of a whole run
	locked  int    // which of them takes the lock to write
	renamed int    // which of them puts the new ring in place
}

func newWriter(t *testing.T, program executable, w writing) *writer {
	t.Helper()
	wr := &writer{writing: w, program: program, files: map[string][]byte{}}
	dir := wr.folder(t)
	for _, command := range w.prepare {
		program.must(t, dir, command)
	}
	for _, file := range []string{ringFile, ringFile + ".lock"} {
		if data, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			wr.files[file] = data
		}
	}
	if w.stale {
		wr.files[ringFile+".tmp"] = wr.files[ringFile]
	}

	dir = wr.folder(t)
	done := wr.run(t, dir)
	if done.code != 0 {
		t.Fatalf("%s: %s", w.command, done.stderr)
	}
	wr.calls = done.calls
	for i, c := range wr.calls {
		switch {
		case c.name == "flock" && strings.Contains(c.args, "LOCK_EX"):
			wr.locked = i // the last: what a kill left is removed under a lock, too
		case strings.HasPrefix(c.name, "rename"):
			wr.renamed = i
		}
	}
	wantRing(t, program, dir, w.after)
	wantDurable(t, wr.calls[wr.locked:], dir)
	return wr
}

// folder makes a folder that is as before the writing.
func (w *writer) folder(t *testing.T) string {
	t.Helper()
	dir := newFolder(t)
	crashConfig(t, dir, "keys: {default: {algorithm: ES256, file: 'DIR/"+ringFile+"'}}\n")
	for file, data := range w.files {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// ended is what became of a traced run.
type ended struct {
	calls  []call
	killed bool
	code   int
	stderr string
}

// run runs the command under strace, which counts and spoils only what touches the
// ring's folder; other calls leave the disk as it is.
func (w *writer) run(t *testing.T, dir string, inject ...string) (done ended) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	ring := filepath.Join(dir, ringFile)
	options := []string{"-o", trace, "-P", dir, "-P", ring, "-P", ring + ".tmp", "-P", ring + ".lock"}
	if inject != nil {
		options = append(options, "-e", "inject="+strings.Join(inject, ":"))
	}
	cmd := straced(t, w.program.command(t, dir, strings.Fields(w.command)...), options...)
	_, done.stderr, done.code = run(t, cmd)
	status, known := cmd.ProcessState.Sys().(syscall.WaitStatus)
	done.killed = known && status.Signaled() && status.Signal() == syscall.SIGKILL
	begins := regexp.MustCompile(`(?m)^\d+ +([a-z0-9_]+)\((.*)`)
	for _, found := range begins.FindAllStringSubmatch(read(t, trace), -1) {
		done.calls = append(done.calls, call{found[1], found[2]})
	}
	return done
}

// spoil runs the command and spoils one call of it. strace counts by system call and
// by thread, and Go may go on in another thread at any call, so that another call can
// be met: then it runs once more.
func (w *writer) spoil(t *testing.T, at int, how string, met func(ended) bool) (dir string, done ended) {
	t.Helper()
	name, nth := w.calls[at].name, 0
	for _, c := range w.calls[:at+1] {
		if c.name == name {
			nth++
		}
	}
	for range 30 {
		dir = w.folder(t)
		done = w.run(t, dir, name, how, fmt.Sprintf("when=%d", nth))
		if met(done) {
			return dir, done
		}
	}
	t.Fatalf("call %d, %s, was not met: %+v", at, name, done)
	return "", done
}

// kill kills the command when it enters a call, before the call does anything.
func (w *writer) kill(t *testing.T, at int) {
	dir, _ := w.spoil(t, at, "signal=SIGKILL", func(done ended) bool { return done.killed && len(done.calls) == at+1 })
	wantPrivate(t, dir)
	want := w.before
	if at > w.renamed {
		want = w.after
	}
	wantRing(t, w.program, dir, want)
	wantFiles(t, dir)
	// Whoever comes next is not in the way of what was left.
	w.program.must(t, dir, "keys rotate --kid third")
	ring := []string{"third"}
	for _, key := range strings.Split(want, ", ") {
		if _, kid, found := strings.Cut(key, " "); found {
			ring = append(ring, kid)
		}
	}
	var kids []string
	for _, key := range listed(t, w.program, dir) {
		kids = append(kids, key.Kid)
	}
	slices.Sort(kids[1:])
	slices.Sort(ring[1:])
	if diff := cmp.Diff(ring, kids); diff != "" {
		t.Errorf("the next keys rotate makes other keys (-want +got):\n%s", diff)
	}
	wantFiles(t, dir)
}

// fault is an error of the system that ends a writing.
type fault struct{ errno, words string }

// faults are the errors that a call can meet and that the command has to report.
func (w *writer) faults(at int) []fault {
	eio := fault{"EIO", "input/output error"}
	full := []fault{{"ENOSPC", "no space left on device"}, {"EDQUOT", "disk quota exceeded"}, eio}
	c := w.calls[at]
	_, temporary, written := strings.Cut(c.args, ringFile+".tmp")
	switch {
	case w.stale && at < w.locked: // removing a stale copy may fail, until the next writer does
		return nil
	case c.name == "write", c.name == "close" && written, strings.HasPrefix(c.name, "rename"):
		return full
	case c.name == "openat" && written && strings.Contains(temporary, "O_CREAT"):
		return full
	case c.name == "openat", c.name == "read", c.name == "fsync":
		return []fault{eio}
	case c.name == "fchmod":
		return []fault{{"EPERM", "operation not permitted"}}
	case c.name == "flock" && strings.Contains(c.args, "LOCK_EX"):
		return []fault{{"ENOLCK", "no locks available"}}
	}
	return nil
}

// fail lets a call fail: the command says so, and leaves the ring as it was.
func (w *writer) fail(t *testing.T, at int, f fault) {
	injected := func(done ended) bool {
		return len(done.calls) > at && strings.HasSuffix(done.calls[at].args, "(INJECTED)")
	}
	dir, done := w.spoil(t, at, "error="+f.errno, injected)
	want := w.before
	switch {
	case done.code == 0 && at < w.locked && w.calls[at].name != "flock": // it was read once more
		want = w.after
	case done.code != 1:
		t.Errorf("exit code %d", done.code)
	case at > w.renamed: // the folder was not synced, but the ring is there
		want = w.after
	}
	if !strings.Contains(done.stderr, f.words) || strings.Contains(done.stderr, "PRIVATE") {
		t.Errorf("it says: %s", done.stderr)
	}
	wantPrivate(t, dir)
	wantFiles(t, dir)
	wantRing(t, w.program, dir, want)
}

// wantDurable asserts the order of what makes a write last: under the lock the new
// ring is written whole and synced before it takes the old one's name, and the folder
// is synced after that.
func wantDurable(t *testing.T, calls []call, dir string) {
	t.Helper()
	ring := filepath.Join(dir, ringFile)
	var order []string
	for _, c := range calls {
		switch {
		case c.name == "flock":
			order = append(order, regexp.MustCompile(`LOCK_\w+`).FindString(c.args))
		case c.on(ring+".tmp") && c.on(ring):
			order = append(order, c.name+" over the ring")
		case c.on(ring+".tmp") && (strings.Contains(c.args, "O_CREAT") || slices.Contains([]string{"fchmod", "write", "fsync", "close"}, c.name)):
			order = append(order, c.name+" copy")
		case c.on(dir) && c.name == "fsync":
			order = append(order, "fsync folder")
		}
	}
	want := []string{"LOCK_EX", "openat copy", "fchmod copy", "write copy", "fsync copy", "close copy", "renameat over the ring", "fsync folder", "LOCK_UN"}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Errorf("order of the calls (-want +got):\n%s", diff)
	}
}

// killWrites kills each command that writes a ring at each call that it makes on the
// ring's folder, and lets each call fail that can.
func killWrites(t *testing.T, program executable, tally *tally) {
	if reason := straceMissing(t); reason != "" {
		t.Skip("no process is killed in a system call: " + reason)
	}
	block, err := newKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	importable := filepath.Join(t.TempDir(), "old.pem")
	if err := os.WriteFile(importable, []byte(block), 0o600); err != nil {
		t.Fatal(err)
	}
	var points []point
	for _, writing := range writings(importable) {
		w := newWriter(t, program, writing)
		for at, c := range w.calls {
			points = append(points, point{fmt.Sprintf("%s/%d %s", w.name, at, c.name), func(t *testing.T) {
				w.kill(t, at)
				tally.add("killed in a write: " + w.name)
			}})
			for _, f := range w.faults(at) {
				points = append(points, point{fmt.Sprintf("%s/%d %s %s", w.name, at, c.name, f.errno), func(t *testing.T) {
					w.fail(t, at, f)
					tally.add("failed in a write")
				}})
			}
		}
	}
	inLanes(t, points)
}
