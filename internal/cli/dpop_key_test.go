package cli_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const proofKeyFile = "dpop.pem"

// jkt is the thumbprint of the key that a token is bound to, of an answer in JSON.
func jkt(t *testing.T, answer string) string {
	t.Helper()
	var token struct {
		Type string `json:"token_type"`
		Cnf  struct{ JKT string }
	}
	if err := json.Unmarshal([]byte(answer), &token); err != nil || token.Type != "DPoP" || len(token.Cnf.JKT) != 43 {
		t.Fatalf("no bound token: %v: %s", err, answer)
	}
	return token.Cnf.JKT
}

// servedJKT is that of the token that a broker serves.
func (s *serving) servedJKT(t *testing.T) string {
	t.Helper()
	_, body := get(t, s.url+"/token")
	return jkt(t, body)
}

// restart ends the broker, and starts another in its folder.
func (p *proxying) restart(t *testing.T) {
	t.Helper()
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.logs)
	}
	p.serving = startServing(t, broker(t, p.dir, nil, "0"))
}

// folder lists what is in a folder, but for the configuration.
func folder(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".yaml") {
			names = append(names, entry.Name())
		}
	}
	return names
}

// The key that tokens are bound to stays across restarts where it has a file, which
// its owner alone can read.
func TestProofKeyInAFile(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	p := startProxying(t, dpopApp(), ", dpop_key_file: "+proofKeyFile)
	first := p.servedJKT(t)
	path := filepath.Join(p.dir, proofKeyFile)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("the file's mode is %v, want 0600", info.Mode())
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Count(string(text), "-----BEGIN") != 1 || !strings.Contains(string(text), "thumbprint="+first) {
		t.Errorf("the file holds another key, or more than one: %v", err)
	}

	p.restart(t)
	if got := p.servedJKT(t); got != first {
		t.Errorf("after a restart: %s, want %s", got, first)
	}
	if got := jkt(t, command(t, p.dir, "token")); got != first {
		t.Errorf("on the command line: %s, want %s", got, first)
	}
	p.wantUsers(t, 1)
	if now, _ := os.ReadFile(path); string(now) != string(text) {
		t.Error("the file was written anew")
	}
	want := []string{proofKeyFile, proofKeyFile + ".lock", "ring.pem", "ring.pem.lock"}
	if diff := cmp.Diff(want, folder(t, p.dir)); diff != "" {
		t.Errorf("the folder (-want +got):\n%s", diff)
	}
}

// Processes that make the file at the same time end up with one key.
func TestProofKeyMadeByMany(t *testing.T) {
	p := startCurl(t, dpopApp(), ", dpop_key_file: "+proofKeyFile)
	var made [8]string
	var commands sync.WaitGroup
	for i := range made {
		commands.Go(func() {
			stdout, stderr, code := run(t, broker(t, p.dir, nil, "token"))
			if code != 0 {
				t.Errorf("exit code %d: %s", code, stderr)
				return
			}
			made[i] = stdout
		})
	}
	commands.Wait()
	for _, answer := range made {
		if got, want := jkt(t, answer), jkt(t, made[0]); got != want {
			t.Errorf("one has %s, another %s", got, want)
		}
	}
}

// Whenever the process that makes the file is killed, the file is there whole or not
// at all, and is not written anew.
func TestProofKeySurvivesAKill(t *testing.T) {
	p := startCurl(t, dpopApp(), ", dpop_key_file: "+proofKeyFile)
	path := filepath.Join(p.dir, proofKeyFile)
	survived := 0
	for i := range 12 {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		cmd := broker(t, p.dir, nil, "token")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(i) * 5 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		left, err := os.ReadFile(path)
		got := jkt(t, command(t, p.dir, "token"))
		switch {
		case err == nil && !strings.Contains(string(left), "thumbprint="+got):
			t.Errorf("killed after %d ms: the key was lost", i*5)
		case err == nil:
			survived++
		}
	}
	want := []string{proofKeyFile, proofKeyFile + ".lock", "ring.pem", "ring.pem.lock"}
	if diff := cmp.Diff(want, folder(t, p.dir)); diff != "" {
		t.Errorf("the folder (-want +got):\n%s", diff)
	}
	t.Logf("the file was there %d times of 12", survived)
}

// A file that others can read, or that holds no whole key, is refused with what is
// wrong with it.
func TestProofKeyFileIsRefused(t *testing.T) {
	p := startCurl(t, dpopApp(), ", dpop_key_file: "+proofKeyFile)
	first := jkt(t, command(t, p.dir, "token"))
	path := filepath.Join(p.dir, proofKeyFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		text []byte
		mode os.FileMode
		want string
	}{
		{"others can read it", good, 0o604, "chmod 600"},
		{"the group can read it", good, 0o640, "chmod 600"},
		{"it is cut off", good[:len(good)/2], 0o600, "reading key file " + proofKeyFile + ": a PEM block is damaged"},
		{"its key is on another curve", keyOnP384(t), 0o600, "the key in " + proofKeyFile + " must be EC P-256"},
		{"it is empty", nil, 0o600, "reading key file " + proofKeyFile + ": it holds no PEM block"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(path, tt.text, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"0"}, {"token"}, {"curl", "/api/v1/users"}} {
				stdout, stderr, code := run(t, broker(t, p.dir, nil, args...))
				if code != 1 || stdout != "" || !strings.Contains(stderr, "clients.default.dpop_key_file: ") || !strings.Contains(stderr, tt.want) || strings.Contains(stderr, "key ring") {
					t.Errorf("%v: exit code %d: %s", args, code, stderr)
				}
			}
			if now, _ := os.ReadFile(path); string(now) != string(tt.text) {
				t.Error("the file was written anew")
			}
		})
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := jkt(t, command(t, p.dir, "token")); got != first {
		t.Errorf("mended: %s, want %s", got, first)
	}
}

// Without a file the key, which is an EC P-256 one, ends with the process, and not
// before: neither another signing key replaces it, nor a new configuration, whether
// the client is the same there or has other settings.
func TestProofKeyInMemory(t *testing.T) {
	p := startProxying(t, dpopApp(), "")
	first := p.servedJKT(t)
	p.wantUsers(t, 1)
	head, _, _ := strings.Cut(p.okta.Counters().LastProof, ".")
	text, err := base64.RawURLEncoding.DecodeString(head)
	var header struct {
		Alg string
		JWK struct{ Kty, Crv string }
	}
	if err != nil || json.Unmarshal(text, &header) != nil || header.Alg != "ES256" || header.JWK.Kty != "EC" || header.JWK.Crv != "P-256" {
		t.Errorf("a proof's header: %s, %v", text, err)
	}
	p.register(t, command(t, p.dir, "keys", "rotate", "--kid", "second"))
	text, err = os.ReadFile(filepath.Join(p.dir, "okta-token-broker.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	configure(t, p.dir, string(text)+"  other: {issuer: '"+p.okta.issuer+"', client_id: 0oa1, scopes: [okta.users.read]}\n")
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, p.logs, func() bool {
		status, _ := get(t, p.url+"/token?client=other")
		return status == 200
	})
	_, body := get(t, p.url+"/token?client=other")
	if other := jkt(t, body); other == first {
		t.Error("two clients have one key")
	}
	if got := p.servedJKT(t); got != first {
		t.Errorf("after a reload: %s, want %s", got, first)
	}
	if p.wantUsers(t, 1); len(p.okta.carried()) != 1 {
		t.Error("after a reload calls carry another token")
	}

	p.configure(t, ", assertion_lifetime: 4m, resources: {files: 'http://127.0.0.1:1'}")
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, p.logs, func() bool {
		status, _ := get(t, p.proxy()+"/~files/x")
		return status == 503
	})
	if got := p.servedJKT(t); got != first {
		t.Errorf("with other settings: %s, want %s", got, first)
	}

	p.restart(t)
	if got := p.servedJKT(t); got == first {
		t.Error("the key is still there after a restart")
	}
	want := []string{"ring.pem", "ring.pem.lock"}
	if diff := cmp.Diff(want, folder(t, p.dir)); diff != "" {
		t.Errorf("the folder (-want +got):\n%s", diff)
	}
}

// keyOnP384 is a key file that no DPoP key can be.
func keyOnP384(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
