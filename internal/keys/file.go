package keys

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// Store keeps the PEM of one ring. Implementations are safe for concurrent use,
// also by several processes.
type Store interface {
	// String says where the ring is, for errors and logs.
	fmt.Stringer
	// Load returns the data and a revision that changes whenever the data does.
	// It returns an error that matches fs.ErrNotExist while there is no ring.
	Load(ctx context.Context) (data []byte, rev string, err error)
	// Save replaces the data if the stored revision still is rev, where "" means
	// that there is no ring yet; else it returns ErrConflict and writes nothing.
	// After a crash at any moment the store holds the old data or the new, whole.
	Save(ctx context.Context, data []byte, rev string) error
}

// Holder is a Store that has the private keys elsewhere, in a KMS or behind
// PKCS#11, and public ones alone in the data: blocks of the type PUBLIC KEY. The
// contexts bound the calls, not the signers that they return. A signer may be
// slow; a signature is waited for until its context ends, two seconds at most.
type Holder interface {
	// Generate makes a key for one of Algorithms.
	Generate(ctx context.Context, algorithm string) (crypto.Signer, error)
	// Open finds the signer of a public key in the data.
	Open(ctx context.Context, public crypto.PublicKey) (crypto.Signer, error)
}

// What Save can answer besides an error of the storage itself. A full disk
// matches syscall.ENOSPC or syscall.EDQUOT.
var (
	ErrConflict = errors.New("the key ring was changed by somebody else")
	ErrReadOnly = errors.New("the key ring is read-only")
)

// cleanTimeout bounds the wait for the lock when a store is opened.
const cleanTimeout = 2 * time.Second

// File is a Store in one PEM file. What somebody could do who controls its
// folder: replace the key, and so choose what the broker signs with; the private
// key in the file itself is readable by its owner alone.
type File struct {
	path     string
	readOnly bool
	waiting  chan struct{} // held by the one goroutine that waits for the lock
}

// NewFile returns the store in the file at path and removes what a writer that
// was killed left behind. A read-only store never writes; it follows links and
// takes files that root owns or the group can read, as Kubernetes mounts them.
func NewFile(ctx context.Context, path string, readOnly bool) (*File, error) {
	f := &File{path: path, readOnly: readOnly, waiting: make(chan struct{}, 1)}
	if readOnly {
		// Nobody here will make it.
		_, err := os.Stat(path)
		if err != nil {
			return nil, f.failed("opening", err)
		}
		return f, nil
	}
	if _, err := os.Lstat(f.temporary()); err != nil {
		return f, nil
	}
	// A folder that cannot be written, or a lock that another holds, does not
	// make the ring unreadable: the next writer removes it.
	ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	if unlock, err := f.lock(ctx); err == nil {
		_ = f.removeTemporary()
		unlock()
	}
	return f, nil
}

// String returns the path.
func (f *File) String() string { return f.path }

// Load reads the file. It refuses one that is not a regular file, that others
// can read, that another user owns, or that has a second name.
func (f *File) Load(context.Context) ([]byte, string, error) {
	// O_NONBLOCK: opening a FIFO must not wait for its writer.
	flags := os.O_RDONLY | syscall.O_NONBLOCK | syscall.O_CLOEXEC
	if !f.readOnly {
		flags |= syscall.O_NOFOLLOW
	}
	file, err := os.OpenFile(f.path, flags, 0)
	if err != nil {
		if errors.Is(err, syscall.ELOOP) {
			err = errors.New("it is a symbolic link: name the file that it leads to (a ring that is read_only may be a link)")
		}
		return nil, "", f.failed("opening", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, "", f.failed("opening", err)
	}
	if err := f.check(info); err != nil {
		return nil, "", f.failed("opening", err)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxRing+1))
	if err != nil {
		return nil, "", f.failed("reading", err)
	}
	return data, fingerprint(data), nil
}

func (f *File) check(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return errors.New("it is not a regular file")
	}
	mode := info.Mode().Perm()
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner is not known")
	}
	owner := int(stat.Uid)
	if f.readOnly {
		if mode&0o007 != 0 {
			return fmt.Errorf("everybody can read it (%04o): chmod o= %s, or defaultMode 0440 for a Secret mount", mode, f.path)
		}
		if owner != os.Geteuid() && owner != 0 {
			return fmt.Errorf("user %d owns it, not the broker's user %d and not root", owner, os.Geteuid())
		}
		return nil
	}
	if mode&0o077 != 0 {
		return fmt.Errorf("other users can read it (%04o): chmod 600 %s", mode, f.path)
	}
	if owner != os.Geteuid() {
		return fmt.Errorf("user %d owns it, not the broker's user %d: chown it", owner, os.Geteuid())
	}
	if stat.Nlink > 1 {
		return errors.New("it has a second name (hard link), where keys that were replaced would stay")
	}
	return nil
}

// Save writes a temporary file, syncs it, renames it over the ring and syncs the
// folder, all under a lock: whatever is killed when, the path leads to a whole
// ring.
func (f *File) Save(ctx context.Context, data []byte, rev string) error {
	if f.readOnly {
		return f.failed("writing", ErrReadOnly)
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return f.saveLocked(ctx, data, rev)
}

// turn waits until no other writes. Until done is called save is Save, and meets
// a conflict only with somebody who heeds no lock.
func (f *File) turn(ctx context.Context) (save saver, done func(), err error) {
	unlock, err := f.lock(ctx)
	return f.saveLocked, unlock, err
}

// saveLocked is Save under the lock.
func (f *File) saveLocked(ctx context.Context, data []byte, rev string) error {
	_, stored, err := f.Load(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if stored != rev {
		return f.failed("writing", ErrConflict)
	}
	if len(data) > maxRing {
		return f.failed("writing", fmt.Errorf("it would be over %d KiB", maxRing>>10))
	}
	if err := f.removeTemporary(); err != nil {
		return err
	}
	if err := f.replace(data); err != nil {
		return f.failed("writing", err)
	}
	return nil
}

func (f *File) replace(data []byte) (err error) {
	// Opened first: a folder that cannot be synced must not be written.
	folder, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	if err := writeNew(f.temporary(), data); err != nil {
		_ = os.Remove(f.temporary()) // it may hold a key
		return err
	}
	if err := os.Rename(f.temporary(), f.path); err != nil {
		_ = os.Remove(f.temporary())
		return err
	}
	return folder.Sync()
}

// writeNew writes a file that must not exist, and syncs it.
func writeNew(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	// The umask can only take bits away; the mode must not depend on it.
	err = file.Chmod(0o600)
	if err == nil {
		_, err = file.Write(data)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// lock keeps other writers out, of this process and of others. The lock file is
// never removed: a writer could hold a lock on a file that is gone while
// another locks the new one.
func (f *File) lock(ctx context.Context) (unlock func(), err error) {
	lock := flock.New(f.path+".lock", flock.SetFlag(os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_CLOEXEC), flock.SetPermissions(0o600))
	if err := f.wait(ctx, lock); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: the broker's user must own it, and may write to its folder", err)
		}
		return nil, f.failed("locking", err)
	}
	// The umask must not keep the next writer out. Who does not own the file
	// cannot change that, and holds the lock all the same.
	if info, err := os.Lstat(lock.Path()); err == nil && info.Mode() != 0o600 {
		_ = os.Chmod(lock.Path(), 0o600)
	}
	return func() { _ = lock.Unlock() }, nil
}

// wait takes a lock, or gives up when ctx ends. The system lets those in that wait
// about in turn; of many that try again and again one can starve. But such a wait
// cannot be called off: it is left behind, and gives the lock back once it has it.
// There is one at a time, so a writer that hangs does not make them pile up.
func (f *File) wait(ctx context.Context, lock *flock.Flock) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case f.waiting <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	locked := make(chan error)
	go func() {
		err := lock.Lock()
		for errors.Is(err, syscall.EINTR) { // on some network file systems
			err = lock.Lock()
		}
		<-f.waiting
		select {
		case locked <- err:
		case <-ctx.Done():
			_ = lock.Unlock()
		}
	}()
	select {
	case err := <-locked:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// temporary is a fixed name, so that a stale one is found.
func (f *File) temporary() string { return f.path + ".tmp" }

func (f *File) removeTemporary() error {
	if err := os.Remove(f.temporary()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f.failed("removing the unfinished copy of", err)
	}
	return nil
}

// failed says which file and, for a path error, drops the path that it repeats.
func (f *File) failed(doing string, err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok && pathErr.Path == f.path {
		err = pathErr.Err
	}
	return fmt.Errorf("%s key file %s: %w", doing, f.path, err)
}
