package cli_test

import (
	"context"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const unitFile = tree + "/deploy/okta-token-broker.service"

// unit is a systemd unit's values by key. A key that stands twice has two.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	values := map[string][]string{}
	for line := range strings.Lines(read(t, unitFile)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			values[key] = append(values[key], value)
		}
	}
	return values
}

func TestUnitIsHardened(t *testing.T) {
	got := unit(t)
	want := map[string][]string{
		"User":                    {"okta-token-broker"},
		"StateDirectoryMode":      {"0700"},
		"RuntimeDirectoryMode":    {"0750"},
		"UMask":                   {"0077"},
		"LimitCORE":               {"0"},
		"MemorySwapMax":           {"0"},
		"NoNewPrivileges":         {"yes"},
		"CapabilityBoundingSet":   {""},
		"RestrictSUIDSGID":        {"yes"},
		"ProtectSystem":           {"strict"},
		"ProtectHome":             {"yes"},
		"PrivateTmp":              {"yes"},
		"PrivateDevices":          {"yes"},
		"ProtectProc":             {"invisible"},
		"ProtectClock":            {"yes"},
		"ProtectControlGroups":    {"yes"},
		"ProtectHostname":         {"yes"},
		"ProtectKernelLogs":       {"yes"},
		"ProtectKernelModules":    {"yes"},
		"ProtectKernelTunables":   {"yes"},
		"LockPersonality":         {"yes"},
		"MemoryDenyWriteExecute":  {"yes"},
		"RestrictNamespaces":      {"yes"},
		"RestrictRealtime":        {"yes"},
		"RestrictAddressFamilies": {"AF_INET AF_INET6 AF_UNIX"},
		"SystemCallArchitectures": {"native"},
		"SystemCallFilter":        {"@system-service", "~@privileged @resources @keyring @memlock"},
		// Only what is there is read, and nothing that fails for good is tried for ever.
		"EnvironmentFile":          {"-/etc/okta-token-broker/environment"},
		"Restart":                  {"on-failure"},
		"RestartPreventExitStatus": {"2"},
		"StartLimitBurst":          {"5"},
	}
	for key, values := range want {
		if diff := cmp.Diff(values, got[key]); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
	if got["ReadWritePaths"] != nil || got["DynamicUser"] != nil {
		t.Error("the state and runtime directories are all that the broker writes to, under a user that stays")
	}
}

func TestUnitInTheEyesOfSystemd(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("it takes systemd to say: ", err)
	}
	// verify wants the program to be there.
	installed := strings.ReplaceAll(read(t, unitFile), "ExecStart="+program(t), "ExecStart="+os.Args[0])
	file := filepath.Join(t.TempDir(), filepath.Base(unitFile))
	if err := os.WriteFile(file, []byte(installed), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"verify", "--man=no"},
		// Tenths: 0 is no exposure, 100 all. What is left is the network and the
		// sockets, which it needs.
		{"security", "--offline=true", "--threshold=15", "--no-pager"},
	} {
		out, err := exec.CommandContext(t.Context(), analyze, append(args, file)...).CombinedOutput()
		if err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}

// program is the path that the unit starts.
func program(t *testing.T) string {
	t.Helper()
	return strings.Fields(unit(t)["ExecStart"][0])[0]
}

// The unit's command, folders and umask, and the configuration that its comment
// shows, in a folder instead of /.
func TestUnitRuns(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("systemd is for Linux, where a temporary folder's path is short enough for a socket")
	}
	unit, root := unit(t), t.TempDir()
	state := makeFolder(t, root+"/var/lib/", unit["StateDirectory"], unit["StateDirectoryMode"])
	sockets := makeFolder(t, root+"/run/", unit["RuntimeDirectory"], unit["RuntimeDirectoryMode"])
	if work := root + unit["WorkingDirectory"][0]; work != state {
		t.Errorf("the working folder is %s, the state is in %s", work, state)
	}
	etc := makeFolder(t, root+"/etc/", []string{"okta-token-broker"}, []string{"0755"})
	settings := regexp.MustCompile(`(?m)^#   ((?:listen|keys): .*)$`).FindAllStringSubmatch(read(t, unitFile), -1)
	if len(settings) != 2 {
		t.Fatalf("the comment shows %d settings: %v", len(settings), settings)
	}
	here := strings.NewReplacer("/var/lib/", root+"/var/lib/", "/run/", root+"/run/", "/etc/", root+"/etc/")
	config := here.Replace(settings[0][1] + "\n" + settings[1][1] + "\n")
	if err := os.WriteFile(etc+"/okta-token-broker.yaml", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}

	cmd := broker(t, state, nil, strings.Fields(here.Replace(unit["ExecStart"][0]))[1:]...)
	cmd.Args = append([]string{"sh", "-c", `umask "$0" && exec "$@"`, unit["UMask"][0], cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	s := startServing(t, cmd)

	socket := sockets + "/api.sock"
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Post("http://localhost/", "application/json", strings.NewReader(`{"client_id":"a","audience":"b"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), `"private_key_changed":true`) {
		t.Errorf("status %d, %v: %s", resp.StatusCode, err, body)
	}
	for path, mode := range map[string]fs.FileMode{
		socket:                     fs.ModeSocket | 0o660,
		state + "/private_key.pem": 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v, want mode %v", path, info, err, mode)
		}
	}

	patience, err := strconv.Atoi(unit["TimeoutStopSec"][0])
	if err != nil || patience <= 17 {
		t.Errorf("TimeoutStopSec=%d: the broker may need 17 s", patience)
	}
	if signal := unit["KillSignal"][0]; signal != "SIGTERM" {
		t.Errorf("KillSignal=%s", signal)
	}
	// As systemd does.
	killer := time.AfterFunc(time.Duration(patience)*time.Second, func() { _ = cmd.Process.Kill() })
	defer killer.Stop()
	if code := s.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM: exit code %d: %s", code, s.logs)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket is still there")
	}
}

// makeFolder makes a folder that systemd would make.
func makeFolder(t *testing.T, parent string, name, mode []string) string {
	t.Helper()
	if len(name) != 1 || len(mode) != 1 {
		t.Fatalf("below %s: names %q, modes %q", parent, name, mode)
	}
	bits, err := strconv.ParseUint(mode[0], 8, 12)
	if err != nil {
		t.Fatal(err)
	}
	path := parent + name[0]
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, fs.FileMode(bits)); err != nil {
		t.Fatal(err)
	}
	return path
}
