package cli_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	configFile = "okta-token-broker.yaml"
	ringFile   = "private_key.pem"
)

// TestSIGKILL kills the program wherever that could hurt: whenever it happens, the
// ring is whole, and the next start goes on from there.
func TestSIGKILL(t *testing.T) {
	const enough = 500
	program, tally := build(t), &tally{points: map[string]int{}}
	t.Run("writes", func(t *testing.T) { killWrites(t, program, tally) })
	t.Run("rotations", func(t *testing.T) { killRotations(t, program, tally) })
	t.Run("points", func(t *testing.T) {
		if reason := straceMissing(t); reason != "" {
			t.Skip("too few points without strace: " + reason)
		}
		if n := tally.log(t); n < enough {
			t.Errorf("killed at %d points, want %d at least", n, enough)
		}
	})
}

// tally counts points.
type tally struct {
	mu     sync.Mutex
	points map[string]int
}

func (ta *tally) add(part string) {
	ta.mu.Lock()
	defer ta.mu.Unlock()
	ta.points[part]++
}

// log shows the points, and returns at how many of them a process was killed.
func (ta *tally) log(t *testing.T) (killed int) {
	t.Helper()
	ta.mu.Lock()
	defer ta.mu.Unlock()
	for _, part := range slices.Sorted(maps.Keys(ta.points)) {
		t.Logf("%4d %s", ta.points[part], part)
		if strings.HasPrefix(part, "killed") {
			killed += ta.points[part]
		}
	}
	t.Logf("%4d killed", killed)
	return killed
}

// point is one test of many.
type point struct {
	name string
	run  func(*testing.T)
}

// inLanes runs points, four at a time: what takes their time is processes that
// start, and waiting.
func inLanes(t *testing.T, points []point) {
	t.Helper()
	const lanes = 4
	todo := make(chan point)
	var running sync.WaitGroup
	for range lanes {
		running.Go(func() {
			for p := range todo {
				t.Run(p.name, p.run)
			}
		})
	}
	for _, p := range points {
		todo <- p
	}
	close(todo)
	running.Wait()
}

// executable is the path of the program, built without the race detector, so that it
// starts fast.
type executable string

func build(t *testing.T) executable {
	t.Helper()
	path := filepath.Join(t.TempDir(), "okta-token-broker")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", path, tree+"/cmd/okta-token-broker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v: %s", err, out)
	}
	return executable(path)
}

func (p executable) command(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := broker(t, dir, nil, args...)
	cmd.Path, cmd.Args[0] = string(p), string(p)
	return cmd
}

// must runs a command that has to succeed, and returns what it prints.
func (p executable) must(t *testing.T, dir, command string) string {
	t.Helper()
	stdout, stderr, code := run(t, p.command(t, dir, strings.Fields(command)...))
	if code != 0 {
		t.Fatalf("%s: exit code %d: %s", command, code, stderr)
	}
	return stdout
}

// newFolder makes a folder, and returns its path as a trace shows it.
func newFolder(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// crashConfig writes a folder's configuration, in which DIR stands for its path.
func crashConfig(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, configFile), []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// listedRing is what keys list says of a ring, the active key first.
type listedRing []struct {
	Kid, State, Proven string
	Okta               map[string]string
}

func listed(t *testing.T, program executable, dir string) (list listedRing) {
	t.Helper()
	if err := json.Unmarshal([]byte(program.must(t, dir, "keys list --output json")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

func wantRing(t *testing.T, program executable, dir, want string) {
	t.Helper()
	var ring []string
	for _, key := range listed(t, program, dir) {
		ring = append(ring, key.State+" "+key.Kid)
	}
	if got := strings.Join(ring, ", "); got != want {
		t.Errorf("the ring is %q, want %q", got, want)
	}
}

// wantPrivate asserts that nobody else can read what is in a folder.
func wantPrivate(t *testing.T, dir string) {
	t.Helper()
	for _, entry := range entriesOf(t, dir) {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", entry.Name(), info.Mode())
		}
	}
}

// wantFiles asserts that a folder holds the ring and nothing else that could hold a
// key.
func wantFiles(t *testing.T, dir string) {
	t.Helper()
	for _, entry := range entriesOf(t, dir) {
		if entry.IsDir() || slices.Contains([]string{configFile, ringFile}, entry.Name()) {
			continue
		}
		data := []byte(read(t, filepath.Join(dir, entry.Name())))
		if entry.Name() != ringFile+".lock" || bytes.Contains(data, []byte("KEY")) {
			t.Errorf("left behind: %s, %d bytes", entry.Name(), len(data))
		}
	}
}

func entriesOf(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}
