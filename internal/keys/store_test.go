package keys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/go-cmp/cmp"
)

// load returns what a store holds, and its revision.
func load(tb testing.TB, store Store) (text, rev string) {
	tb.Helper()
	data, rev, err := store.Load(tb.Context())
	ok(tb, err)
	return string(data), rev
}

func TestNoFile(t *testing.T) {
	path := ringPath(t)
	if _, rev, err := newFile(t, path, false).Load(t.Context()); !errors.Is(err, fs.ErrNotExist) || rev != "" {
		t.Errorf("revision %q, error %v; want none and fs.ErrNotExist", rev, err)
	}
	_, err := NewFile(t.Context(), path, true)
	wantError(t, err, "opening key file "+path, "no such file") // nobody here will make it
	if got := files(t, path); len(got) > 0 {
		t.Errorf("looking made %q", got)
	}
}

func TestSaveComparesAndSwaps(t *testing.T) {
	path := ringPath(t)
	file := newFile(t, path, false)
	ok(t, file.Save(t.Context(), []byte("one"), ""))
	text, one := load(t, file)
	if text != "one" || one == "" {
		t.Fatalf("loaded %q, revision %q", text, one)
	}
	ok(t, file.Save(t.Context(), []byte("two"), one))
	_, two := load(t, file)
	if two == one {
		t.Error("the revision did not change with the data")
	}

	for name, rev := range map[string]string{"the revision before": one, "no revision": "", "another revision": "x"} {
		err := file.Save(t.Context(), []byte("three"), rev)
		if !errors.Is(err, ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", name, err)
		}
		wantError(t, err, path, "changed by somebody else")
		if text, rev := load(t, file); text != "two" || rev != two {
			t.Errorf("%s: the file now holds %q, revision %q", name, text, rev)
		}
	}
	ok(t, os.Remove(path))
	if err := file.Save(t.Context(), []byte("three"), two); !errors.Is(err, ErrConflict) {
		t.Errorf("the file is gone: %v, want ErrConflict", err)
	}
	wantPrivate(t, path+".lock")
	if diff := cmp.Diff([]string{"private_key.pem.lock"}, files(t, path)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestSaveRefusesWhatCannotBeLoaded(t *testing.T) {
	path := ringFile(t, "old")
	file := newFile(t, path, false)
	_, rev := load(t, file)
	wantError(t, file.Save(t.Context(), make([]byte, maxRing+1), rev), path, "over 64 KiB")
	if text, _ := load(t, file); text != "old" {
		t.Errorf("the file now holds %q", text)
	}
}

// TestSaveWaitsForTheLock: another writer holds it.
func TestSaveWaitsForTheLock(t *testing.T) {
	path := ringFile(t, "old")
	file := newFile(t, path, false)
	_, rev := load(t, file)
	lock := flock.New(path + ".lock")
	ok(t, lock.Lock())

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := file.Save(ctx, []byte("new"), rev)
	wantError(t, err, "locking key file "+path)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the context's error", err)
	}
	if text, _ := load(t, file); text != "old" {
		t.Errorf("the file now holds %q", text)
	}

	saved := make(chan error, 1)
	go func() { saved <- file.Save(t.Context(), []byte("new"), rev) }()
	ok(t, lock.Unlock())
	ok(t, <-saved)
	if text, _ := load(t, file); text != "new" {
		t.Errorf("the file holds %q", text)
	}
}

// TestWaitThatIsGivenUp: what waits for the lock cannot be called off. It must
// not pile up while a writer hangs, nor keep the lock that it gets in the end.
func TestWaitThatIsGivenUp(t *testing.T) {
	path := ringFile(t, "old")
	file := newFile(t, path, false)
	_, rev := load(t, file)
	lock := flock.New(path + ".lock")
	ok(t, lock.Lock())
	before := runtime.NumGoroutine()
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if err := file.Save(ctx, []byte("late"), rev); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the context's error", err)
		}
		cancel()
	}
	if left := runtime.NumGoroutine() - before; left > 1 {
		t.Errorf("%d goroutines wait for the lock, want one", left)
	}
	ok(t, lock.Unlock())
	inTime(t, func() {
		for i, file := range []*File{file, newFile(t, path, false), file} {
			_, rev := load(t, file)
			if err := file.Save(t.Context(), fmt.Append(nil, "new ", i), rev); err != nil {
				t.Error(err)
			}
		}
	})
	if text, _ := load(t, file); text != "new 2" {
		t.Errorf("the file holds %q", text)
	}
}

func TestStaleTemporaryFile(t *testing.T) {
	path := ringFile(t, "old")
	write(t, path+".tmp", "half a ri")
	file := newFile(t, path, false)
	want := []string{"private_key.pem", "private_key.pem.lock"}
	if diff := cmp.Diff(want, files(t, path)); diff != "" {
		t.Errorf("files behind NewFile (-want +got):\n%s", diff)
	}

	write(t, path+".tmp", strings.Repeat("a longer one than what is saved", 100))
	chmod(t, path+".tmp", 0o644)
	_, rev := load(t, file)
	ok(t, file.Save(t.Context(), []byte("new"), rev))
	if diff := cmp.Diff(want, files(t, path)); diff != "" {
		t.Errorf("files behind Save (-want +got):\n%s", diff)
	}
	if got := read(t, path); got != "new" {
		t.Errorf("the file holds %q", got)
	}
	wantPrivate(t, path)
}

func TestStatic(t *testing.T) {
	store := NewStatic(pkcs8(ecKey(0)))
	ring := open(t, "", Config{Store: store, Kid: "mine"})
	wantKids(t, ring, "mine")
	if _, err := ring.Rotate(t.Context(), ""); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Rotate: %v, want ErrReadOnly", err)
	}
	wantKids(t, ring, "mine")
	_, err := Open(t.Context(), Config{Store: NewStatic("nonsense")})
	wantError(t, err, "in the environment", "holds no PEM block")
}

// letIn lets every user enter the folder of a path.
func letIn(tb testing.TB, path string) {
	tb.Helper()
	chmod(tb, filepath.Dir(path), 0o755)
	chmod(tb, filepath.Dir(filepath.Dir(path)), 0o755)
}

func TestFolderThatCannotBeWritten(t *testing.T) {
	text := ringText(t, "AR")
	tests := []struct {
		name string
		make func(t *testing.T, path string)
		want string
	}{
		{"no lock file yet", func(*testing.T, string) {}, "locking key file PATH"},
		{"own lock file", func(t *testing.T, path string) {
			write(t, path+".lock", "")
			chown(t, path+".lock", nobody)
		}, "writing key file PATH"},
		{"root's lock file", func(t *testing.T, path string) { write(t, path+".lock", "") }, "locking key file PATH"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := ringFile(t, text)
			chown(t, path, nobody)
			tt.make(t, path)
			letIn(t, path)
			out := try(t, job{Path: path, User: nobody})
			wantError(t, errors.New(out.Err), strings.ReplaceAll(tt.want, "PATH", path), "permission denied")
			if !out.Signs || !cmp.Equal(out.After, []string{"A0", "R1"}) || read(t, path) != text {
				t.Errorf("the old ring does not stand: %+v", out)
			}
		})
	}
}

// TestFolderThatCannotBeListed: a rotation either happens, or it is refused and
// the old key stays.
func TestFolderThatCannotBeListed(t *testing.T) {
	path := ringFile(t, ringText(t, "AR"))
	chown(t, path, nobody)
	folder := filepath.Dir(path)
	letIn(t, path)
	chown(t, folder, nobody)
	chmod(t, folder, 0o300)
	cmd, printed := process(t, job{Do: "burst", Path: path, User: nobody, Times: 1})
	err := cmd.Run()
	got := kids(open(t, "", Config{Store: NewStatic(read(t, path))}).Keys())
	if rotated := len(got) == 3; rotated != (err == nil) {
		t.Errorf("the rotation says %v %q, and the ring holds %q", err, printed.stderr.String(), got)
	}
}

// TestSecretMount: the broker's user reads what root owns and its group may read.
func TestSecretMount(t *testing.T) {
	text := ringText(t, "AR")
	path := ringFile(t, text)
	chown(t, path, 0)
	chmod(t, path, 0o440)
	letIn(t, path)
	out := try(t, job{Path: path, User: nobody, ReadOnly: true})
	want := outcome{
		Err: "rotating ring default: writing key file " + path + ": the key ring is read-only", Is: []string{ErrReadOnly.Error()},
		Signs: true, Before: []string{"A0", "R1"}, After: []string{"A0", "R1"}, Files: []string{"private_key.pem"},
	}
	want.AfterRelease = want.Err
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
}

func TestDiskThatTakesNothing(t *testing.T) {
	for mount, errno := range map[string]syscall.Errno{"full": syscall.ENOSPC, "read-only": syscall.EROFS} {
		t.Run(mount, func(t *testing.T) {
			path := ringPath(t)
			out := try(t, job{Path: path, Mount: mount})
			wantError(t, errors.New(out.Err), "key file "+path, errno.Error())
			if !strings.Contains(strings.Join(out.Is, " "), errno.Error()) {
				t.Errorf("%q matches %q, want %v", out.Err, out.Is, errno)
			}
			if !out.Signs || !cmp.Equal(out.Before, []string{"first"}) || !cmp.Equal(out.After, []string{"first"}) {
				t.Errorf("the old ring does not stand: %+v", out)
			}
			want := []string{"private_key.pem", "private_key.pem.lock"}
			if mount == "full" {
				want = append([]string{"filler"}, want...)
			}
			if diff := cmp.Diff(want, out.Files); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if out.AfterRelease != "" {
				t.Errorf("with room again: %s", out.AfterRelease)
			}
		})
	}
}
