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
	wants := []string{`"token_type":"Bearer"`, `"login":`, `"private_key_changed":false`}
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

// A fake Okta that misbehaves is survived, and no assertion is sent twice.
func TestSandboxFaults(t *testing.T) {
	for _, tt := range []struct{ faults, saw string }{
		{"503,reset,skew=-3m", "token_requests=4 faults=3 tokens=1 reused_assertions=0"},
		{"503@30%,reset@20%", "reused_assertions=0"},
	} {
		s := startServing(t, broker(t, t.TempDir(), nil, "sandbox", "0", "--token-life", "5s", "--faults", tt.faults))
		if status, body := get(t, s.url+"/token"); status != 200 {
			t.Errorf("%s: status %d: %s", tt.faults, status, body)
		}
		s.stop(t, os.Interrupt)
		if !strings.Contains(s.logs.String(), tt.saw) {
			t.Errorf("%s: no %q in %s", tt.faults, tt.saw, s.logs)
		}
	}
}
