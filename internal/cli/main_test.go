package cli_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"okta-token-broker/internal/cli"
)

// asBroker makes the test binary behave as the program, so that tests run it as
// a process of its own.
const asBroker = "TEST_RUNS_OKTA_TOKEN_BROKER"

func TestMain(m *testing.M) {
	if os.Getenv(asBroker) != "" {
		os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr))
	}
	testscript.Main(m, map[string]func(){
		"okta-token-broker": func() { os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// quickEnd is a variable by which the race detector does not wait a second at
// the end of each process.
var quickEnd = [2]string{"GORACE", "atexit_sleep_ms=0"}

// broker is the program as a process in a folder, with no variables but these.
func broker(t *testing.T, dir string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Dir = dir
	cmd.Env = append([]string{asBroker + "=1", "HOME=" + dir, strings.Join(quickEnd[:], "=")}, env...)
	return cmd
}

// run runs the program to its end.
func run(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	} else if ok {
		code = exit.ExitCode()
	}
	return out.String(), errs.String(), code
}

func TestWrongUse(t *testing.T) {
	const badFile = "bad.yaml"
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/"+badFile, []byte("lisen: 127.0.0.1:5000\nlog: {level: loud}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args string
		code int
		want string
	}{
		{"eighty", 2, "unknown command or port; port must be an integer"},
		{"80.5", 2, "unknown command or port; port must be an integer"},
		{"serve eighty", 2, "unknown command or port; port must be an integer"},
		{"sandbox eighty", 2, "unknown command or port; port must be an integer"},
		{"99999", 2, "port must be 0 to 65535"},
		{"5000 5001", 2, "one port at most"},
		{"--colour", 2, "unknown flag: --colour"},
		{"token --output xml", 2, `"--output" flag: must be one of json, token, header`},
		{"token surplus", 2, "takes no argument"},
		{"keys frob", 2, "takes no argument"},
		{"keys list --output xml", 2, `"--output" flag: must be one of table, json`},
		{"keys jwk KID surplus", 2, "takes one KID"},
		{"keys stage surplus", 2, "takes no argument"},
		{"keys activate KID surplus", 2, "takes one KID"},
		{"keys retire KID surplus", 2, "takes one KID"},
		{"keys import", 2, "name the FILE"},
		{"keys import a.pem surplus", 2, "takes one FILE"},
		{"keys export", 2, "give --public"},
		{"keys rotate --kid a\tb", 2, "control characters"},
		{"config frob", 2, "takes no argument"},
		{"config check surplus", 2, "takes no argument"},
		{"config show --output toml", 2, `"--output" flag: must be one of yaml, json`},
		{"completion", 2, "name a shell: one of bash, zsh, fish, powershell"},
		{"completion csh", 2, "name a shell: one of bash, zsh, fish, powershell"},
		{"version surplus", 2, "takes no argument"},
		{"sandbox 0 --config x.yaml", 2, "leave out --config"},
		{"sandbox 0 --faults 555", 2, "--faults: fault \"555\": no such fault; there are: "},
		{"sandbox 0 --faults delay=soon", 2, "its value is a duration"},
		{"sandbox 0 --token-life 10ms", 2, "--token-life must be whole seconds, 2s to 24h"},
		{"sandbox 0 --token-life 25h", 2, "--token-life must be whole seconds, 2s to 24h"},
		{"help keys nope", 2, `no such command: "keys nope"`},
		{"help nope", 2, `no such command: "nope"`},
		{"sandbox 0 --seed x", 2, "invalid argument"},
		{"keys list --key nowhere", 2, `no key ring "nowhere" is configured`},
		{"sign", 2, "give --client, or --client-id and --audience"},
		{"sign --client nobody", 2, `no client "nobody" is configured`},
		{"sign --valid-for 2h --client-id a --audience b", 2, "--valid-for must be 1s to 1h"},
		{"sign --client-id a --audience b --output pem", 2, `"--output" flag: must be one of json, jwt`},
		{"config check --config " + badFile, 1, "bad.yaml:1: lisen: unknown name: did you mean listen?"},
		{"config show --config " + badFile, 1, "bad.yaml:2: log.level: must be one of"},
		{"serve --config " + badFile, 1, "bad.yaml:2: log.level: must be one of"},
		{"serve --config nowhere.yaml", 1, "reading the configuration"},
		{"token", 1, "OKTA_CLIENT_ORGURL"},
		{"sign --client-id a\tb --audience c", 1, "client_id must not have control characters!"},
		{"sign --client-id a --audience c --kid " + strings.Repeat("k", 3000), 2, "kid is over 2048 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			stdout, stderr, code := run(t, broker(t, dir, nil, strings.Split(tt.args, " ")...))
			if code != tt.code || !strings.Contains(stderr, tt.want) || stdout != "" {
				t.Errorf("exit code %d, want %d; stdout %q; stderr %q", code, tt.code, stdout, stderr)
			}
		})
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("wrong use left files behind: %v", entries)
	}
}
