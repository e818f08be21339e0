package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// replace puts a file in the place of another at once.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

const takenUp = "the configuration was taken up"

// hangUp has a broker reload, and waits until it has.
func (s *serving) hangUp(t *testing.T) {
	t.Helper()
	n := strings.Count(s.logs.String(), takenUp)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	times(t, s, takenUp, n+1)
}

// Another key in the file is taken up, and the token of the one before is served no
// more.
func TestProofKeyThatIsReplaced(t *testing.T) {
	p := startProxying(t, dpopApp(), ", dpop_key_file: "+proofKeyFile)
	path := filepath.Join(p.dir, proofKeyFile)
	known := map[string]bool{p.servedJKT(t): true}
	p.wantUsers(t, 1)
	for _, signal := range []bool{false, true} {
		text, err := newKeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		replace(t, path, text)
		want := jkt(t, command(t, p.dir, "token"))
		if known[want] {
			t.Fatal("the file has no other key")
		}
		known[want] = true
		if signal {
			p.hangUp(t)
		}
		times(t, p.serving, `msg="DPoP key changed" client=default jkt=`+want, 1)
		eventually(t, p.logs, func() bool { return p.servedJKT(t) == want })
		p.wantUsers(t, 1)
		p.hangUp(t)
		if got := p.servedJKT(t); got != want {
			t.Errorf("reloaded: %s, want %s", got, want)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != text {
			t.Errorf("the file was written: %v", err)
		}
	}
	if log := stopped(t, p.serving); strings.Count(log, "DPoP key changed") != 2 || strings.Contains(log, "stays") {
		t.Errorf("the log: %s", log)
	}
}

// A file that is bad or gone leaves the key in use. That is said at every reload, and
// once between them; nothing is made in the file's place.
func TestProofKeyThatIsGone(t *testing.T) {
	p := startProxying(t, dpopApp(), ", dpop_key_file: "+proofKeyFile)
	path := filepath.Join(p.dir, proofKeyFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first := p.servedJKT(t)
	tests := []struct {
		want  string
		spoil func() error
	}{
		{proofKeyFile + " is gone", func() error { return nil }},
		{"it is not a regular file", func() error { return os.Mkdir(path, 0o700) }},
		{"it holds no PEM block", func() error { return os.WriteFile(path, []byte("none"), 0o600) }},
		{"must be EC P-256", func() error { return os.WriteFile(path, keyOnP384(t), 0o600) }},
		{"chmod 600", func() error { return os.Chmod(path, 0o644) }}, // that of before
	}
	for i, tt := range tests {
		reloads := strings.Count(p.logs.String(), takenUp)
		if i < len(tests)-1 {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
		if err := tt.spoil(); err != nil {
			t.Fatal(err)
		}
		before, _ := os.Lstat(path)
		line := `msg="reading a DPoP key again; the one in use stays" client=default err="clients.default.dpop_key_file: `
		said := func() (n int) {
			for logged := range strings.Lines(p.logs.String()) {
				if strings.Contains(logged, line) && strings.Contains(logged, tt.want) {
					n++
				}
			}
			return n
		}
		eventually(t, p.logs, func() bool { return said() == 1 && strings.Count(p.logs.String(), takenUp) > reloads })
		p.hangUp(t)
		if n := said(); n != 2 {
			t.Errorf("%s: said %d times, want 2: %s", tt.want, n, p.logs)
		}
		if got := p.servedJKT(t); got != first {
			t.Errorf("%s: another key is in use", tt.want)
		}
		after, _ := os.Lstat(path)
		if (before == nil) != (after == nil) || before != nil && !os.SameFile(before, after) {
			t.Errorf("%s: the file was made anew", tt.want)
		}
	}
	// Another setting is taken up all the same, for a client with the same key.
	p.configure(t, ", assertion_lifetime: 4m, dpop_key_file: "+proofKeyFile)
	p.hangUp(t)
	if got := p.servedJKT(t); got != first {
		t.Error("with other settings another key is in use")
	}
	p.wantUsers(t, 1)

	replace(t, path, string(good))
	p.hangUp(t)
	if log := stopped(t, p.serving); strings.Contains(log, "DPoP key changed") {
		t.Errorf("the log: %s", log)
	}
}

// Another dpop_key_file is another key, and none is one in memory.
func TestReloadOfProofKeyFile(t *testing.T) {
	p := startProxying(t, dpopApp(), ", dpop_key_file: "+proofKeyFile)
	first := p.servedJKT(t)
	p.configure(t, ", dpop_key_file: other.pem")
	p.hangUp(t)
	second := p.servedJKT(t)
	if second == first || second != jkt(t, command(t, p.dir, "token")) {
		t.Errorf("%s, then %s, which is not that of the file", first, second)
	}
	p.configure(t, "")
	p.hangUp(t)
	if third := p.servedJKT(t); third == first || third == second {
		t.Error("without a file the key is the one of a file")
	}
	p.configure(t, ", dpop_key_file: "+proofKeyFile)
	p.hangUp(t)
	if got := p.servedJKT(t); got != first {
		t.Errorf("back at the file: %s, want %s", got, first)
	}
	p.wantUsers(t, 1)
	if n := strings.Count(stopped(t, p.serving), "DPoP key changed"); n != 3 {
		t.Errorf("said %d times, want 3: %s", n, p.logs)
	}
}

// A reload that waits for somebody else's lock does not keep the broker from ending.
func TestStoppingWhileAReloadWaits(t *testing.T) {
	p := startProxying(t, dpopApp(), "")
	path := filepath.Join(p.dir, proofKeyFile+".lock")
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	p.configure(t, ", dpop_key_file: "+proofKeyFile)
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	open := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
	if _, err := os.Stat(open); err != nil {
		t.Skip("nothing tells what files a process has open")
	}
	eventually(t, p.logs, func() bool {
		entries, _ := os.ReadDir(open)
		for _, entry := range entries {
			if file, _ := os.Readlink(filepath.Join(open, entry.Name())); file == path {
				return true
			}
		}
		return false
	})
	began := time.Now()
	log := stopped(t, p.serving)
	if took := time.Since(began); took > 5*time.Second { // half of what a lock is waited for
		t.Errorf("it took %v", took)
	}
	if strings.Contains(log, "was not taken up") {
		t.Errorf("the end is called a fault: %s", log)
	}
}

// What the server has asked of an app once is known when other settings of the client
// change.
func TestProofsAreRememberedOverReloads(t *testing.T) {
	p := startProxying(t, dpopApp(), "")
	p.wantUsers(t, 1)
	refused := p.okta.Counters().Refused["invalid_dpop_proof"]
	if refused == 0 {
		t.Fatal("the server has not asked for proofs")
	}
	issued := p.okta.Counters().TokensIssued
	p.configure(t, ", assertion_lifetime: 4m")
	p.hangUp(t)
	p.wantUsers(t, 1)
	if n := p.okta.Counters(); n.Refused["invalid_dpop_proof"] != refused || n.TokensIssued == issued {
		t.Errorf("%d requests without a proof, %d tokens", n.Refused["invalid_dpop_proof"]-refused, n.TokensIssued-issued)
	}
}
