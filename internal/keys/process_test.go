package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// jobVariable makes the test binary a process that works on a ring, instead of
// running tests: the umask, the user and the mounts belong to a process, and
// only a process can be killed.
const jobVariable = "KEYS_TEST_JOB"

func TestMain(m *testing.M) {
	if text := os.Getenv(jobVariable); text != "" {
		if err := work(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// job is what a process does.
type job struct {
	Do    string // attempt, loop or burst
	Path  string // of the ring
	Umask int
	User  int    // 0: as it is
	Mount string // "full": a full tmpfs over the folder; "read-only": one that was remounted
	Times int    // rotations of a burst

	ReadOnly bool // in the configuration
}

// outcome is what an attempt to rotate came to.
type outcome struct {
	Skip         string // why the job could not be set up
	Err          string
	Is           []string // which of the errors that callers ask for it matches
	Signs        bool     // the active key still signs
	Before       []string
	After        []string // kids in the ring opened anew
	Files        []string
	AfterRelease string // the error of one more rotation, once the disk has room again
}

func work(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	syscall.Umask(j.Umask)
	if j.User > 0 {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(j.User), syscall.Setuid(j.User)); err != nil {
			return err
		}
	}
	ctx := context.Background()
	switch j.Do {
	case "attempt":
		out, err := attempt(ctx, j)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(out)
	case "loop":
		return loop(ctx, j)
	case "burst":
		return burst(ctx, j)
	}
	return fmt.Errorf("unknown job %q", j.Do)
}

func (j job) open(ctx context.Context) (*Ring, error) {
	file, err := NewFile(ctx, j.Path, j.ReadOnly)
	if err != nil {
		return nil, err
	}
	return Open(ctx, Config{Name: "default", Store: file, Algorithm: "ES256"})
}

// attempt rotates once and looks at what that did.
func attempt(ctx context.Context, j job) (*outcome, error) {
	var out outcome
	if j.Mount != "" {
		if out.Skip = mountSmall(filepath.Dir(j.Path)); out.Skip != "" {
			return &out, nil
		}
	}
	ring, err := j.open(ctx)
	if err != nil {
		return nil, err
	}
	if _, _, err := ring.Active(ctx, "first"); err != nil {
		return nil, err
	}
	out.Before = kids(ring.Keys())
	release, err := exhaust(j)
	if err != nil {
		return nil, err
	}

	if _, err := ring.Rotate(ctx, "second"); err != nil {
		out.Err = err.Error()
		for _, known := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EACCES, ErrReadOnly, ErrConflict} {
			if errors.Is(err, known) {
				out.Is = append(out.Is, known.Error())
			}
		}
	}
	k, _, err := ring.Active(ctx, "")
	if err != nil {
		return nil, err
	}
	_, err = k.Sign(ctx, nil, map[string]any{"iss": "me"})
	out.Signs = err == nil
	entries, err := os.ReadDir(filepath.Dir(j.Path))
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		out.Files = append(out.Files, entry.Name())
	}
	again, err := j.open(ctx)
	if err != nil {
		return nil, err
	}
	out.After = kids(again.Keys())

	if err := release(); err != nil {
		return nil, err
	}
	if _, err := ring.Rotate(ctx, "third"); err != nil {
		out.AfterRelease = err.Error()
	}
	return &out, nil
}

// exhaust makes the mount refuse writes. The function it returns ends that.
func exhaust(j job) (release func() error, err error) {
	folder := filepath.Dir(j.Path)
	switch j.Mount {
	case "full":
		filler := filepath.Join(folder, "filler")
		err := os.WriteFile(filler, make([]byte, 1<<20), 0o600)
		if !errors.Is(err, syscall.ENOSPC) {
			return nil, fmt.Errorf("filling the disk: %w", err)
		}
		return func() error { return os.Remove(filler) }, nil
	case "read-only":
		return func() error { return remount(folder, false) }, remount(folder, true)
	}
	return func() error { return nil }, nil
}

// loop rotates until it is killed. The kid is the generation; each is printed
// once it is stored.
func loop(ctx context.Context, j job) error {
	ring, err := j.open(ctx)
	if err != nil {
		return err
	}
	k, made, err := ring.Active(ctx, "1")
	if err != nil {
		return err
	}
	if made {
		fmt.Println(1)
	}
	generation, err := strconv.Atoi(k.ID())
	if err != nil {
		return err
	}
	for {
		generation++
		if _, err := ring.Rotate(ctx, strconv.Itoa(generation)); err != nil {
			return err
		}
		fmt.Println(generation)
	}
}

// rotation is what a process reports of one: what it signs right behind it, and
// what it publishes then.
type rotation struct {
	JWT    string
	JWKS   json.RawMessage
	Waited time.Duration
}

// burst rotates as often as it is told, from when its input ends, and reports
// each rotation.
func burst(ctx context.Context, j job) error {
	ring, err := j.open(ctx)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	report := json.NewEncoder(os.Stdout)
	for range j.Times {
		start := time.Now()
		k, err := ring.Rotate(ctx, "")
		if err != nil {
			return err
		}
		waited := time.Since(start)
		signed, err := k.Sign(ctx, map[string]any{"kid": k.ID()}, map[string]any{"iss": "me"})
		if err != nil {
			return err
		}
		if err := report.Encode(rotation{signed, ring.JWKS(), waited}); err != nil {
			return err
		}
	}
	return nil
}

// process prepares a job. It is not started.
func process(tb testing.TB, j job) (*exec.Cmd, *output) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	text, err := json.Marshal(j)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), self)
	// The race detector would sleep a second before a process exits.
	cmd.Env = append(os.Environ(), jobVariable+"="+string(text), "GORACE=atexit_sleep_ms=0")
	out := &output{first: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, &out.stderr
	return cmd, out
}

// try lets a process attempt a rotation.
func try(tb testing.TB, j job) outcome {
	tb.Helper()
	j.Do = "attempt"
	cmd, out := process(tb, j)
	if j.Mount != "" {
		cmd.SysProcAttr = ownMounts()
	}
	if err := cmd.Start(); err != nil {
		if j.Mount != "" && errors.Is(err, syscall.EPERM) {
			tb.Skip("no mount namespace of its own for a process: ", err)
		}
		tb.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		tb.Fatalf("%v: %s", err, out.stderr.String())
	}
	var result outcome
	if err := json.Unmarshal([]byte(out.String()), &result); err != nil {
		tb.Fatalf("%v in %q", err, out.String())
	}
	if result.Skip != "" {
		tb.Skip("a process cannot mount what the test needs: ", result.Skip)
	}
	return result
}

// output keeps what a process prints.
type output struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	once   sync.Once
	first  chan struct{} // closed when something was printed
	stderr bytes.Buffer  // to be read when the process has ended
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.once.Do(func() { close(o.first) })
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) lines() []string { return strings.Fields(o.String()) }
