package cli_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"okta-token-broker/internal/fakeokta"
)

// reloading is a broker whose configuration changes while it serves.
type reloading struct {
	*serving
	dir, issuer string
	okta        *fakeokta.Okta
}

func startReloading(t *testing.T, clients string) *reloading {
	t.Helper()
	okta, issuer := startOkta(t)
	r := &reloading{dir: t.TempDir(), issuer: issuer, okta: okta}
	jwk, _, _ := run(t, broker(t, r.dir, nil, "keys", "jwk"))
	if err := okta.RegisterKey("0oa1", json.RawMessage(jwk)); err != nil {
		t.Fatal(err)
	}
	r.configure(t, clients)
	r.serving = startServing(t, broker(t, r.dir, nil, "0"))
	return r
}

// client is the configuration of one client.
func (r *reloading) client(name, more string) string {
	return fmt.Sprintf("  %s: {issuer: '%s', client_id: 0oa1, scopes: [okta.users.read]%s}\n", name, r.issuer, more)
}

func (r *reloading) configure(t *testing.T, names string) {
	t.Helper()
	text := "clients:\n"
	for name := range strings.FieldsSeq(names) {
		name, more, _ := strings.Cut(name, ",")
		text += r.client(name, strings.ReplaceAll(more, ":", ": "))
	}
	r.write(t, text)
}

func (r *reloading) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, "okta-token-broker.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// await waits until GET /token answers a status for a client.
func (r *reloading) await(t *testing.T, client string, want int) {
	t.Helper()
	eventually(t, r.logs, func() bool {
		status, _ := get(t, r.url+"/token?client="+client)
		return status == want
	})
}

func TestReload(t *testing.T) {
	r := startReloading(t, "default")
	r.await(t, "default", 200)
	r.await(t, "second", 400)
	issued := r.okta.Counters().TokensIssued

	r.configure(t, "default second")
	r.await(t, "second", 200)
	r.await(t, "default", 200)
	if got := r.okta.Counters().TokensIssued; got != issued+1 {
		t.Errorf("%d tokens, want %d: a client that stayed keeps its token", got, issued+1)
	}

	// What is not valid leaves the one before in force, and is said once.
	r.write(t, "clients:\n  default: {isuer: x}\n")
	times(t, r.serving, "was not taken up", 1)
	r.await(t, "second", 200)

	// A client that changes gets another token, one that is gone none.
	r.configure(t, "default,,assertion_lifetime:4m")
	r.await(t, "second", 400)
	r.await(t, "default", 200)
	if got := r.okta.Counters().TokensIssued; got != issued+2 {
		t.Errorf("%d tokens, want %d", got, issued+2)
	}

	// A listener is another matter.
	r.write(t, "listen: 127.0.0.1:1\nclients:\n"+r.client("default", "")+r.client("third", ""))
	r.await(t, "third", 200)
	if code := r.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if n := strings.Count(r.logs.String(), "was not taken up"); n != 1 || !strings.Contains(r.logs.String(), "did you mean issuer?") {
		t.Errorf("%d times in the log: %s", n, r.logs)
	}
}

// times waits until words stand in a log as often.
func times(t *testing.T, s *serving, words string, n int) {
	t.Helper()
	eventually(t, s.logs, func() bool { return strings.Count(s.logs.String(), words) >= n })
}

// SIGHUP reloads at once, also where there is no file.
func TestHangUpReloads(t *testing.T) {
	s := startServing(t, broker(t, t.TempDir(), nil, "0"))
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	times(t, s, "the configuration was taken up", 1)
	if code := s.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Configurations come and go under load, and nobody notices.
func TestReloadUnderLoad(t *testing.T) {
	r := startReloading(t, "default")
	if err := r.okta.AddApp(fakeokta.App{ClientID: "0oa2", Scopes: []string{"okta.users.read"}}); err != nil {
		t.Fatal(err)
	}
	jwk, _, _ := run(t, broker(t, r.dir, nil, "keys", "jwk"))
	if err := r.okta.RegisterKey("0oa2", json.RawMessage(jwk)); err != nil {
		t.Fatal(err)
	}
	var served atomic.Int64
	var stop atomic.Bool
	var callers sync.WaitGroup
	for i := range 20 {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: i%4 == 0}}
		callers.Go(func() {
			defer client.CloseIdleConnections()
			for !stop.Load() && !t.Failed() {
				resp, err := client.Get(r.url + "/token")
				if err != nil {
					t.Errorf("a request failed: %v", err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode != 200 {
					t.Errorf("status %d", resp.StatusCode)
				}
				served.Add(1)
			}
		})
	}
	files := openFiles(t, r.cmd.Process.Pid)
	for i := range 6 {
		other := strings.Replace(r.client("default", ""), "0oa1", fmt.Sprintf("0oa%d", 2-i%2), 1)
		r.write(t, "clients:\n"+other+r.client(fmt.Sprintf("c%d", i), ""))
		if i%2 == 0 {
			if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		r.await(t, fmt.Sprintf("c%d", i), 200)
	}
	stop.Store(true)
	callers.Wait()
	// The callers' connections end, and each configuration had one to Okta.
	if now := openFiles(t, r.cmd.Process.Pid); now > files+20+6 {
		t.Errorf("%d files were open, and are %d after 6 configurations", files, now)
	}
	t.Logf("%d requests served through 6 configurations", served.Load())
}

// openFiles is how many files a process has open, 0 where nobody says.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Logf("open files are not counted: %v", err)
	}
	return len(entries)
}

// A file that is emptied or gone, as in the middle of being saved, changes
// nothing.
func TestAFileThatIsBeingWritten(t *testing.T) {
	r := startReloading(t, "default")
	r.await(t, "default", 200)
	file := filepath.Join(r.dir, "okta-token-broker.yaml")
	for i, spoil := range []func() error{
		func() error { return os.WriteFile(file, nil, 0o600) },
		func() error { return os.Remove(file) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		times(t, r.serving, "was not taken up", i+1)
		if status, body := get(t, r.url+"/token"); status != 200 {
			t.Errorf("status %d: %s", status, body)
		}
	}
	if n := r.okta.Counters().TokensIssued; n != 1 {
		t.Errorf("%d tokens, want 1", n)
	}
}

// What has not changed keeps its tokens, also with a key from the environment.
func TestReloadingTheSame(t *testing.T) {
	okta, issuer := startOkta(t)
	block, err := newKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	env := append(oktaVariables(issuer), "OKTA_CLIENT_PRIVATEKEY="+block)
	jwk, _, _ := run(t, broker(t, t.TempDir(), env, "keys", "jwk"))
	if err := okta.RegisterKey("0oa1", json.RawMessage(jwk)); err != nil {
		t.Fatal(err)
	}
	s := startServing(t, broker(t, t.TempDir(), env, "0"))
	if status, body := get(t, s.url+"/token"); status != 200 {
		t.Fatalf("status %d: %s", status, body)
	}
	for i := range 3 {
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		times(t, s, "the configuration was taken up", i+1)
	}
	if status, body := get(t, s.url+"/token"); status != 200 || okta.Counters().TokenRequests != 1 {
		t.Errorf("%d token requests, status %d: %s", okta.Counters().TokenRequests, status, body)
	}
}
