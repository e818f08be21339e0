package keys

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
)

func TestSingleKey(t *testing.T) {
	path := ringPath(t)
	file := newFile(t, path, false)
	if _, rev, err := file.Key(t.Context()); !errors.Is(err, fs.ErrNotExist) || rev != "" {
		t.Errorf("none: rev %q, %v", rev, err)
	}
	ok(t, file.MakeKey(t.Context(), "ES256"))
	k, rev, err := file.Key(t.Context())
	ok(t, err)
	wantPrivate(t, path)
	wantSigns(t, k, "ES256")
	if _, stored, err := file.Load(t.Context()); err != nil || stored != rev {
		t.Errorf("rev %q, of the file %q, %v", rev, stored, err)
	}
	if k.ID() != k.Thumbprint() || k.State() != Active || k.Created().IsZero() || !strings.Contains(read(t, path), "thumbprint="+k.Thumbprint()) {
		t.Errorf("the key is %+v: %s", see([]*Key{k}), read(t, path))
	}

	// What is there stays.
	if err := file.MakeKey(t.Context(), "ES256"); !errors.Is(err, ErrConflict) {
		t.Errorf("made once more: %v", err)
	}
	write(t, path, ringText(t, "AR"))
	if k, _, err := file.Key(t.Context()); err != nil || k.ID() != "A0" {
		t.Errorf("of several: %v, %v", k, err)
	}

	// A file that holds no key is told from itself before, and from others.
	write(t, path, sec1(ecKey(0))+"-----END")
	_, bad, err := file.Key(t.Context())
	if wantError(t, err, "reading key file "+path, "a PEM block is damaged"); bad == "" || bad == rev {
		t.Errorf("rev %q", bad)
	}
	chmod(t, path, 0o644)
	_, _, err = file.Key(t.Context())
	wantError(t, err, "opening key file "+path, "chmod 600")
}

func TestSingleKeyThatCannotBeMade(t *testing.T) {
	path := ringPath(t)
	file := newFile(t, path, false)
	wantError(t, file.MakeKey(t.Context(), "HS256"), "unknown algorithm")
	wantError(t, file.MakeKey(canceled(t), "ES256"), "locking key file "+path, "canceled")
	wantError(t, newFile(t, path+"/k.pem", false).MakeKey(t.Context(), "ES256"), "locking key file", "no such file or directory")
	if left := files(t, path); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
