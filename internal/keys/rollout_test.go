package keys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// mount is a volume as the kubelet mounts a Secret: ..data leads to a folder that
// is named for when it was written, and each name to a file in ..data.
type mount struct {
	folder string
	writes int
}

// newMount mounts a Secret that holds text under private_key.pem.
func newMount(tb testing.TB, text string) (*mount, string) {
	tb.Helper()
	m := &mount{folder: tb.TempDir()}
	m.update(tb, text)
	path := filepath.Join(m.folder, "private_key.pem")
	ok(tb, os.Symlink("..data/private_key.pem", path))
	return m, path
}

// update does what the kubelet's AtomicWriter does: a new folder, ..data_tmp that
// leads to it, renamed over ..data; then the old folder is removed.
func (m *mount) update(tb testing.TB, text string) {
	tb.Helper()
	m.writes++
	fresh := fmt.Sprintf("..2026_11_24_01_02_%02d.%d", m.writes, 1000+m.writes)
	ok(tb, os.Mkdir(filepath.Join(m.folder, fresh), 0o755))
	file := filepath.Join(m.folder, fresh, "private_key.pem")
	write(tb, file, text)
	chmod(tb, file, 0o440)
	data := filepath.Join(m.folder, "..data")
	old, err := os.Readlink(data)
	ok(tb, os.Symlink(fresh, data+"_tmp"))
	ok(tb, os.Rename(data+"_tmp", data))
	if err == nil {
		ok(tb, os.RemoveAll(filepath.Join(m.folder, old)))
	}
}

// TestSecretIsUpdated: the ring takes up a Secret's new text at the next look.
func TestSecretIsUpdated(t *testing.T) {
	m, path := newMount(t, ringText(t, "AR"))
	var log journal
	changes := 0
	ring := open(t, path, Config{Store: newFile(t, path, true), Log: log.log(), Changed: func(*Ring) { changes++ }})
	refreshed := func(want ...string) {
		t.Helper()
		for range 2 { // a look that finds nothing new changes nothing
			ring.Refresh(t.Context())
			wantKids(t, ring, want...)
		}
		wantSigns(t, active(t, ring), "ES256")
	}
	refreshed("A0", "R1")

	newKey := meta(t, ecKey(5), "active", "new", "ES256", "") + pkcs8(ecKey(5))
	both := newKey + strings.Replace(ringText(t, "A"), "state=active", "state=retired", 1)
	m.update(t, both)
	refreshed("new", "A0")
	log.wantCount(t, 1, `msg="key ring changed" ring=default active=new`)
	if changes != 1 {
		t.Errorf("the ring said %d times that it changed, want 1", changes)
	}

	m.update(t, both) // the same text in a new folder
	refreshed("new", "A0")

	bad := []struct{ name, text, want string }{
		{"damaged", strings.Replace(both, "\nM", "\n!", 1), "the block is damaged"},
		{"empty", "", "it holds no PEM block"},
		{"public", public(ecKey(6)), "it is a public key"},
		{"two active", newKey + ringText(t, "A"), "does not fit the position"},
	}
	for i, tt := range bad {
		m.update(t, tt.text)
		refreshed("new", "A0")
		log.wantCount(t, 1, tt.want)
		log.wantCount(t, i+1, "the last good one stays in force")
	}
	_, err := ring.Rotate(t.Context(), "")
	wantError(t, err, bad[len(bad)-1].want)

	m.update(t, ringText(t, "aN"))
	refreshed("a0", "N1")
	log.wantCount(t, 1, "can be read again")
	_, err = ring.Rotate(t.Context(), "")
	if wantError(t, err, "rotating ring default", "read-only"); !errors.Is(err, ErrReadOnly) {
		t.Errorf("%v, want ErrReadOnly", err)
	}
	if changes != 2 {
		t.Errorf("the ring said %d times that it changed, want 2", changes)
	}
}

// TestMountIsGoneForAMoment: so does a volume that is mounted anew.
func TestMountIsGoneForAMoment(t *testing.T) {
	for name, hide := range map[string]func(m *mount) string{
		"the volume": func(m *mount) string { return m.folder },
		"..data":     func(m *mount) string { return filepath.Join(m.folder, "..data") },
		"the name":   func(m *mount) string { return filepath.Join(m.folder, "private_key.pem") },
	} {
		t.Run(name, func(t *testing.T) {
			m, path := newMount(t, ringText(t, "AR"))
			var log journal
			ring := open(t, path, Config{Store: newFile(t, path, true), Log: log.log()})
			at := hide(m)
			ok(t, os.Rename(at, at+".gone"))
			for range 3 {
				ring.Refresh(t.Context())
				wantKids(t, ring, "A0", "R1")
			}
			wantSigns(t, active(t, ring), "ES256")
			log.wantCount(t, 1, "is gone")
			if _, err := os.Lstat(path); err == nil && name != "..data" {
				t.Error("the ring was written")
			}

			ok(t, os.Rename(at+".gone", at))
			m.update(t, ringText(t, "aN"))
			ring.Refresh(t.Context())
			wantKids(t, ring, "a0", "N1")
			log.wantCount(t, 1, "can be read again")
		})
	}
}

// TestWatchTakesUpASecret within the two seconds that the broker promises,
// from when it is there, and no half of it.
func TestWatchTakesUpASecret(t *testing.T) {
	m, path := newMount(t, ringText(t, "A"))
	changed := make(chan []string, 10)
	ring := open(t, path, Config{Store: newFile(t, path, true), Changed: func(r *Ring) { changed <- kids(r.Keys()) }})
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { ring.Watch(ctx) })
	for _, states := range []string{"aN", "AR"} {
		m.update(t, ringText(t, states))
		select {
		case got := <-changed:
			if want := fmt.Sprintf("[%c0 %c1]", states[0], states[1]); fmt.Sprint(got) != want {
				t.Errorf("took up %q, want %s", got, want)
			}
		case <-time.After(2 * time.Second):
			t.Fatal("a new Secret was not taken up within 2 s")
		}
	}
	stop()
	inTime(t, watching.Wait)
}
