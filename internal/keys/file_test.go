package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// nobody is a user that owns nothing.
const nobody = 65534

// chown gives a file to a user and to nobody's group, which root alone can do.
func chown(tb testing.TB, path string, user int) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("giving a file to another user takes root")
	}
	if err := os.Lchown(path, user, nobody); err != nil {
		tb.Fatal(err)
	}
}

func chmod(tb testing.TB, path string, mode fs.FileMode) {
	tb.Helper()
	if err := os.Chmod(path, mode); err != nil {
		tb.Fatal(err)
	}
}

func ok(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// inTime fails a test in which do takes longer than anything here should.
func inTime(tb testing.TB, do func()) {
	tb.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		tb.Fatal("it hangs")
	}
}

func TestModeWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077, 0o777} {
		t.Run(fmt.Sprintf("%04o", umask), func(t *testing.T) {
			path := ringPath(t)
			out := try(t, job{Path: path, Umask: umask})
			if out.Err != "" || out.AfterRelease != "" {
				t.Fatalf("rotating: %s, then %s", out.Err, out.AfterRelease)
			}
			wantPrivate(t, path)
			wantPrivate(t, path+".lock")
			wantKids(t, open(t, path, Config{}), "third", "second", "first")
		})
	}
}

func TestFileRefuses(t *testing.T) {
	text := ringText(t, "AR")
	tests := []struct {
		name string
		make func(t *testing.T, path string)
		want string // PATH stands for the path
	}{
		{"symlink", func(t *testing.T, path string) {
			write(t, path+".real", text)
			ok(t, os.Symlink(path+".real", path))
		}, "opening key file PATH: it is a symbolic link: name the file that it leads to (a ring"},
		{"symlink to nowhere", func(t *testing.T, path string) {
			ok(t, os.Symlink(path+".nowhere", path))
		}, "it is a symbolic link"},
		{"hard link", func(t *testing.T, path string) {
			write(t, path, text)
			ok(t, os.Link(path, path+".other"))
		}, "it has a second name (hard link)"},
		{"FIFO", func(t *testing.T, path string) {
			ok(t, syscall.Mkfifo(path, 0o600))
		}, "it is not a regular file"},
		{"directory", func(t *testing.T, path string) {
			ok(t, os.Mkdir(path, 0o700))
		}, "it is not a regular file"},
		{"0644", func(t *testing.T, path string) {
			write(t, path, text)
			chmod(t, path, 0o644)
		}, "other users can read it (0644): chmod 600 PATH"},
		{"0640", func(t *testing.T, path string) {
			write(t, path, text)
			chmod(t, path, 0o640)
		}, "other users can read it (0640): chmod 600 PATH"},
		{"0602", func(t *testing.T, path string) {
			write(t, path, text)
			chmod(t, path, 0o602)
		}, "chmod 600 PATH"},
		{"foreign owner", func(t *testing.T, path string) {
			write(t, path, text)
			chown(t, path, nobody)
		}, "user 65534 owns it, not the broker's user 0: chown it"},
		{"over 64 KiB", func(t *testing.T, path string) {
			write(t, path, strings.Repeat("#", maxRing)+"\n"+text)
		}, "reading key ring PATH: it is over 64 KiB"},
		{"many megabytes", func(t *testing.T, path string) {
			write(t, path, text)
			ok(t, os.Truncate(path, 1<<40)) // sparse
		}, "reading key ring PATH: it is over 64 KiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := ringPath(t)
			tt.make(t, path)
			before, err := os.Lstat(path)
			ok(t, err)
			names := files(t, path)
			file := newFile(t, path, false)
			inTime(t, func() {
				_, err := Open(t.Context(), Config{Name: "default", Store: file})
				wantError(t, err, strings.ReplaceAll(tt.want, "PATH", path))
				if err := file.Save(t.Context(), []byte(text), ""); err == nil {
					t.Error("Save wrote over it")
				}
			})
			after, err := os.Lstat(path)
			ok(t, err)
			if !os.SameFile(before, after) || before.Size() != after.Size() || !before.ModTime().Equal(after.ModTime()) {
				t.Error("it is not the same as before")
			}
			left := slices.DeleteFunc(files(t, path), func(name string) bool { return strings.HasSuffix(name, ".lock") })
			if diff := cmp.Diff(names, left); diff != "" {
				t.Errorf("files (-before +after):\n%s", diff)
			}
		})
	}
}

// TestTemporaryIsNoWayIn: somebody who may create files in the folder must not
// make the broker write a key through a link.
func TestTemporaryIsNoWayIn(t *testing.T) {
	path := ringPath(t)
	file := newFile(t, path, false)
	victim := filepath.Join(t.TempDir(), "victim")
	write(t, victim, "mine")
	ok(t, os.Symlink(victim, path+".tmp"))
	ok(t, file.Save(t.Context(), []byte(ringText(t, "A")), ""))
	if got := read(t, victim); got != "mine" {
		t.Errorf("the link's target now holds %q", got)
	}
	wantPrivate(t, path)

	ok(t, os.Remove(path+".lock"))
	ok(t, os.Symlink(victim, path+".lock"))
	wantError(t, file.Save(t.Context(), []byte(ringText(t, "A")), ""), "locking key file "+path)
}

func TestReadOnly(t *testing.T) {
	text := ringText(t, "AR")
	tests := []struct {
		name string
		make func(t *testing.T, path string)
		want string // in the error; "" when it is taken
	}{
		{"0400", func(t *testing.T, path string) { chmod(t, path, 0o400) }, ""},
		{"0440", func(t *testing.T, path string) { chmod(t, path, 0o440) }, ""},
		{"0640", func(t *testing.T, path string) { chmod(t, path, 0o640) }, ""},
		{"hard link", func(t *testing.T, path string) { ok(t, os.Link(path, path+".other")) }, ""},
		{"symlinks as in a Secret mount", func(t *testing.T, path string) {
			folder := filepath.Dir(path)
			ok(t, os.Mkdir(filepath.Join(folder, "..2026_01"), 0o700))
			ok(t, os.Rename(path, filepath.Join(folder, "..2026_01", "private_key.pem")))
			ok(t, os.Symlink("..2026_01", filepath.Join(folder, "..data")))
			ok(t, os.Symlink("..data/private_key.pem", path))
		}, ""},
		{"0644", func(t *testing.T, path string) { chmod(t, path, 0o644) }, "everybody can read it (0644): chmod o= PATH"},
		{"0604", func(t *testing.T, path string) { chmod(t, path, 0o604) }, "everybody can read it (0604)"},
		{"symlink to 0644", func(t *testing.T, path string) {
			ok(t, os.Rename(path, path+".real"))
			chmod(t, path+".real", 0o644)
			ok(t, os.Symlink(path+".real", path))
		}, "everybody can read it (0644)"},
		{"foreign owner", func(t *testing.T, path string) { chown(t, path, nobody) }, "user 65534 owns it, not the broker's user 0 and not root"},
		{"FIFO", func(t *testing.T, path string) {
			ok(t, os.Remove(path))
			ok(t, syscall.Mkfifo(path, 0o600))
		}, "it is not a regular file"},
		{"directory", func(t *testing.T, path string) {
			ok(t, os.Remove(path))
			ok(t, os.Mkdir(path, 0o700))
		}, "it is not a regular file"},
		{"over 64 KiB", func(t *testing.T, path string) { ok(t, os.Truncate(path, maxRing+1)) }, "over 64 KiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := ringFile(t, text)
			tt.make(t, path)
			write(t, path+".tmp", "not mine")
			names := files(t, path)
			file := newFile(t, path, true)
			inTime(t, func() {
				ring, err := Open(t.Context(), Config{Name: "default", Store: file, Algorithm: "ES256"})
				if tt.want != "" {
					wantError(t, err, strings.ReplaceAll(tt.want, "PATH", path))
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				wantKids(t, ring, "A0", "R1")
				_, err = ring.Rotate(t.Context(), "")
				if !errors.Is(err, ErrReadOnly) {
					t.Errorf("Rotate: %v, want ErrReadOnly", err)
				}
				wantKids(t, ring, "A0", "R1")
			})
			err := file.Save(t.Context(), []byte(text), fingerprint([]byte(text)))
			if !errors.Is(err, ErrReadOnly) {
				t.Errorf("Save: %v, want ErrReadOnly", err)
			}
			wantError(t, err, path, "read-only")
			if diff := cmp.Diff(names, files(t, path)); diff != "" {
				t.Errorf("files (-before +after):\n%s", diff)
			}
		})
	}
}
