package cli_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

func TestSandbox(t *testing.T) {
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(fmt.Sprint(signal), func(t *testing.T) {
			tmp := t.TempDir()
			s := startServing(t, broker(t, t.TempDir(), []string{"TMPDIR=" + tmp, "OKTA_CLIENT_CLIENTID=of-a-real-org"}, "sandbox", "0"))
			if status, body := get(t, s.url+"/token"); status != 200 {
				t.Fatalf("status %d: %s", status, body)
			}
			t.Run("pasting the banner's lines", func(t *testing.T) { pasteLines(t, s.stdout) })

			// The configuration that the banner shows serves other commands.
			file := regexp.MustCompile(`Configuration: (\S+)`).FindStringSubmatch(s.stdout)[1]
			if out, stderr, code := run(t, broker(t, t.TempDir(), nil, "token", "--config", file, "--output", "token")); code != 0 || strings.TrimSpace(out) == "" {
				t.Errorf("token --config %s: exit code %d: %s", file, code, stderr)
			}
			if !strings.HasPrefix(file, tmp) {
				t.Errorf("%s is not in the temporary folder", file)
			}
			if code := s.stop(t, signal); code != 0 {
				t.Errorf("exit code %d: %s", code, s.logs)
			}
			if left, _ := os.ReadDir(tmp); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestSandboxKeepsItsFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "box")
	var keys [2]string
	for i := range keys {
		s := startServing(t, broker(t, t.TempDir(), nil, "sandbox", "0", "--dir", dir))
		if status, body := get(t, s.url+"/token"); status != 200 {
			t.Errorf("status %d: %s", status, body)
		}
		s.stop(t, os.Interrupt)
		keys[i], _, _ = run(t, broker(t, t.TempDir(), nil, "keys", "jwk", "--config", filepath.Join(dir, "okta-token-broker.yaml")))
	}
	if keys[0] != keys[1] || keys[0] == "" {
		t.Error("the second run made another key")
	}
}

func TestSandboxLeavesForeignFilesAlone(t *testing.T) {
	for _, name := range []string{"okta-token-broker.yaml", "private_key.pem"} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := run(t, broker(t, t.TempDir(), nil, "sandbox", "0", "--dir", dir))
		if code != 1 || !strings.Contains(stderr, "choose another --dir") {
			t.Errorf("%s: exit code %d: %s", name, code, stderr)
		}
		if text, _ := os.ReadFile(path); string(text) != "precious" {
			t.Errorf("%s was written over", name)
		}
	}
}

// pasteLines runs each line of the banner as it stands.
func pasteLines(t *testing.T, banner string) {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("the lines are for curl: ", err)
	}
	wants := []string{`"token_type":"Bearer"`, `"login":`, `"login":`, `"private_key_changed":false`}
	if strings.Contains(banner, "DPoP") {
		wants = []string{`"token_type":"DPoP"`, `"login":`, `"private_key_changed":false`}
	}
	lines := regexp.MustCompile(`(?m)^  (curl .*)$`).FindAllStringSubmatch(banner, -1)
	if len(lines) != len(wants) {
		t.Fatalf("banner: %s", banner)
	}
	for i, line := range lines {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", line[1]).Output()
		if err != nil || !strings.Contains(string(out), wants[i]) {
			t.Errorf("%s: %v: %s", line[1], err, out)
		}
	}
}

// An app that takes bound tokens alone, and an API that takes proofs with nonces, as
// Okta's do.
func TestSandboxDPoP(t *testing.T) {
	s := startServing(t, broker(t, t.TempDir(), nil, "sandbox", "0", "--dpop"))
	pasteLines(t, s.stdout)
	file := regexp.MustCompile(`Configuration: (\S+)`).FindStringSubmatch(s.stdout)[1]
	out, stderr, code := run(t, broker(t, t.TempDir(), nil, "curl", "--config", file, "-i", "/api/v1/users?limit=1"))
	if code != 0 || !strings.HasPrefix(out, "HTTP/1.1 200 OK\r\n") || !strings.Contains(out, `"login":`) {
		t.Errorf("curl: exit code %d: %s%s", code, out, stderr)
	}
}

// Of an Okta that refuses good nonces callers notice nothing.
func TestSandboxRefusesNonces(t *testing.T) {
	s := startServing(t, broker(t, t.TempDir(), nil, "sandbox", "0", "--dpop", "--refuse-nonce", "5"))
	for range 20 {
		if status, body := get(t, s.url+"/proxy/default/api/v1/users?limit=1"); status != 200 {
			t.Errorf("status %d: %s", status, body)
		}
	}
	s.stop(t, os.Interrupt)
	// The first proof of each kind has none; then each fifth is refused, of 24 that are good.
	const want = ` reused_assertions=0 refused_nonces=6 reused_proofs=0`
	if _, saw, _ := strings.Cut(s.logs.String(), "what the fake Okta saw"); !strings.Contains(saw, want) {
		t.Errorf("the fake Okta saw %s, want %s", saw, want)
	}
	for _, args := range [][]string{{"--refuse-nonce", "5"}, {"--dpop", "--refuse-nonce", "1"}} {
		if _, stderr, code := run(t, broker(t, t.TempDir(), nil, append([]string{"sandbox", "0"}, args...)...)); code != 2 || !strings.Contains(stderr, "--refuse-nonce must be") {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
	}
}

// A fake Okta that misbehaves is survived, and no assertion is sent twice.
func TestSandboxFaults(t *testing.T) {
	sandbox := func(args ...string) (*serving, func() string) {
		s := startServing(t, broker(t, t.TempDir(), nil, append([]string{"sandbox", "0"}, args...)...))
		return s, func() string {
			s.stop(t, os.Interrupt)
			_, saw, _ := strings.Cut(s.logs.String(), "what the fake Okta saw")
			return strings.TrimSpace(saw)
		}
	}
	s, end := sandbox("--faults", "503,reset,skew=-3m")
	if status, body := get(t, s.url+"/token"); status != 200 {
		t.Errorf("status %d: %s", status, body)
	}
	const want = `" token_requests=4 faults=3 tokens=1 reused_assertions=0`
	if saw := end(); saw != want {
		t.Errorf("the fake Okta saw %s; want %s in %s", saw, want, s.logs)
	}
	if again := strings.Count(s.logs.String(), "level=INFO msg=\"asking again"); again != 3 {
		t.Errorf("%d corrections in the log: %s", again, s.logs)
	}

	// What a share of the requests meets is decided by the seed: the same requests
	// meet the same. Each token command is an exchange of its own.
	outcome := func(seed string) string {
		s, end := sandbox("--faults", "503@40%,html@20%", "--seed", seed)
		get(t, s.url+"/token") // the first exchange is over
		file := regexp.MustCompile(`Configuration: (\S+)`).FindStringSubmatch(s.stdout)[1]
		codes := ""
		for range 6 {
			_, _, code := run(t, broker(t, t.TempDir(), nil, "token", "--config", file))
			codes += fmt.Sprint(code)
		}
		saw := end()
		if !strings.Contains(saw, "reused_assertions=0") || strings.Contains(saw, "faults=0 ") {
			t.Errorf("the fake Okta saw %s", saw)
		}
		return codes + saw
	}
	if first, again, other := outcome("1"), outcome("1"), outcome("2"); first != again || first == other {
		t.Errorf("with the seeds 1, 1 and 2: %s, %s and %s", first, again, other)
	}
}
