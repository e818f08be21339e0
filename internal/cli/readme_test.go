package cli_test

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"okta-token-broker/internal/fakeokta"
)

// block is a fenced block of the README.
type block struct{ language, text string }

func readmeBlocks(t *testing.T) []block {
	t.Helper()
	var blocks []block
	for _, found := range regexp.MustCompile("(?ms)^( *)```([a-z]+)\n(.*?)\n *```$").FindAllStringSubmatch(read(t, tree+"/README.md"), -1) {
		blocks = append(blocks, block{found[2], strings.ReplaceAll("\n"+found[3], "\n"+found[1], "\n")[1:]})
	}
	return blocks
}

// The README's blocks do what it says, in its order: in one folder, with a fake
// Okta in the place of https://acme.okta.com.
func TestREADME(t *testing.T) {
	const jwk, serve = "makes the key", "serves"
	tests := []struct {
		begins string // the block's first line
		want   string // in the output
		not    string // why the block is not run here
	}{
		{begins: "make run", not: "TestSandbox runs it at another port, and pastes what it prints"},
		{begins: "curl localhost:5000/token", want: `"token_type":"Bearer"`},
		{begins: "make test", not: "this is it"},
		{begins: ".build/okta-token-broker sandbox --token-life 5s --faults '503@30%,reset@20%'", not: "it takes port 5000; TestSandboxFaults runs it at another"},
		{begins: "for i in $(seq 30); do curl -sw ' %{http_code}\\n' localhost:5000/token;", not: "half a minute; TestSandboxFaults asks in its place"},
		{begins: "okta-token-broker keys jwk", want: jwk},
		{begins: "export OKTA_CLIENT_ORGURL=https://acme.okta.com", want: serve},
		{begins: "curl 'localhost:5000/proxy/default/api/v1/users?limit=2'", want: "ada.example@example.com"},
		{begins: `curl -H "Authorization: Bearer $(`, want: "ada.example@example.com"},
		{begins: "curl --location --request POST 'http://localhost:5000' ", want: `"private_key_changed":false`},
		{begins: "curl --location --request POST 'http://localhost:5000?rotate=true' ", want: `"kid":"25c27275-6d6c-42b3-9960-414f1ffaff02"`},
		{begins: "curl 'localhost:5000/token?client=default&scope=okta.users.read'", want: `"scope":"okta.users.read"`},
		{begins: "curl localhost:5000/token -d grant_type", want: `"token_type":"Bearer"`},
		{begins: "import json", want: "4 users"},
		{begins: "const { access_token }", want: "4 users"},
		{begins: "package main", want: "4 users"},
		{begins: "import java.net.URI;", want: "ada.example@example.com"},
		{begins: "okta-token-broker config check", want: "without a file: ok"},
		{begins: "okta-token-broker config show", want: "listen: "},
		{begins: "curl localhost:5000/proxy/default/api/v1/groups -i", want: "X-Content-Type-Options: nosniff"},
		{begins: "curl localhost:5000/dpop -d", want: `{"authorization":"Bearer `},
		{begins: "okta-token-broker curl '/api/v1/users?limit=2'", want: "ada.example@example.com"},
		{begins: "okta-token-broker keys rotate", want: `"kty": "RSA"`},
		{begins: "okta-token-broker keys list", want: "retired"},
		{begins: "curl localhost:5000/.well-known/jwks.json", want: `{"keys":[{`},
	}

	reader := newReader(t)
	blocks := readmeBlocks(t)
	var runnable []block
	for _, b := range blocks {
		if !slices.Contains([]string{"json", "mermaid", "text", "yaml"}, b.language) {
			runnable = append(runnable, b)
		}
	}
	if len(runnable) != len(tests) {
		t.Errorf("the README has %d blocks to run, and %d are known here", len(runnable), len(tests))
	}
	// Okta has to know the key, and the broker to serve, before all others.
	for _, first := range []string{jwk, serve} {
		for i, tt := range tests {
			if tt.want == first {
				reader.prepare(t, first == serve, runnable[i])
			}
		}
	}
	for i, tt := range tests {
		if i >= len(runnable) {
			break
		}
		t.Run(tt.begins, func(t *testing.T) {
			b := runnable[i]
			switch {
			case !strings.HasPrefix(b.text, tt.begins):
				t.Fatalf("the README has this here:\n%s", b.text)
			case tt.not != "":
				t.Skip(tt.not)
			case tt.want == jwk || tt.want == serve:
				return
			}
			if out := reader.runs(t, b); !strings.Contains(out, tt.want) {
				t.Errorf("no %q in the output of\n%s\n%s", tt.want, b.text, out)
			}
		})
	}
}

// reader does what a reader of the README does.
type reader struct {
	dir    string
	okta   *fakeokta.Okta
	issuer string // for https://acme.okta.com
	url    string // for localhost:5000
}

func newReader(t *testing.T) *reader {
	server := httptest.NewUnstartedServer(nil)
	r := &reader{dir: t.TempDir(), issuer: "http://" + server.Listener.Addr().String()}
	okta, err := fakeokta.New(fakeokta.Config{URL: r.issuer})
	if err == nil {
		err = okta.AddApp(fakeokta.App{ClientID: "0oa1b2c3d4", Scopes: []string{"okta.users.read"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = okta
	server.Start()
	t.Cleanup(server.Close)
	r.okta = okta
	// The program on the PATH.
	self := "#!/bin/sh\n" + strings.Join(quickEnd[:], "=") + " " + asBroker + "=1 exec '" + os.Args[0] + "' \"$@\"\n"
	if err := os.WriteFile(filepath.Join(r.dir, "okta-token-broker"), []byte(self), 0o700); err != nil {
		t.Fatal(err)
	}
	return r
}

// command runs a block with its interpreter.
func (r *reader) command(t *testing.T, b block) *exec.Cmd {
	t.Helper()
	text := strings.NewReplacer(
		"https://acme.okta.com", r.issuer, "localhost:5000", r.url,
		"{{your_client_id}}", "0oa1b2c3d4", "{{base_okta_url}}", r.issuer,
	).Replace(b.text)
	interpreters := map[string]struct {
		file string
		args []string
	}{
		"sh":     {"block.sh", []string{"sh", "-eu"}},
		"python": {"block.py", []string{"python3"}},
		"js":     {"block.mjs", []string{"node"}},
		"go":     {"block.go", []string{"go", "run"}},
		"java":   {"Block.java", []string{"java"}},
	}
	with, ok := interpreters[b.language]
	if !ok {
		t.Fatalf("nothing runs %s", b.language)
	}
	needs := []string{with.args[0]}
	if b.language == "sh" && strings.HasPrefix(b.text, "curl") {
		needs = append(needs, "curl")
	}
	for _, program := range needs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	file := filepath.Join(t.TempDir(), with.file)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), with.args[0], append(with.args[1:], file)...)
	cmd.Dir = r.dir
	if b.language == "go" {
		cmd.Dir = tree // for go.mod
	}
	cmd.Env = []string{"PATH=" + r.dir + ":" + os.Getenv("PATH"), "OKTA_TOKEN_BROKER_LISTEN=127.0.0.1:0"}
	if r.url != "" { // the reader has exported them
		cmd.Env = append(cmd.Env, "OKTA_CLIENT_ORGURL="+r.issuer, "OKTA_CLIENT_CLIENTID=0oa1b2c3d4", "OKTA_CLIENT_SCOPES=okta.users.read")
	}
	for _, name := range []string{"HOME", "GOCACHE", "GOMODCACHE", "GOPATH", "GOFLAGS", "GOPROXY", "GOTOOLCHAIN"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	return cmd
}

func (r *reader) runs(t *testing.T, b block) string {
	t.Helper()
	cmd := r.command(t, b)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%v: %s\n%s", err, b.text, errs.Bytes())
	}
	return string(out)
}

// prepare makes and registers the key, or starts the broker.
func (r *reader) prepare(t *testing.T, serves bool, b block) {
	if !serves {
		if err := r.okta.RegisterKey("0oa1b2c3d4", json.RawMessage(r.runs(t, b))); err != nil {
			t.Fatal(err)
		}
		return
	}
	cmd := r.command(t, b)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the shell and the broker
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	serving := startServing(t, cmd)
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) })
	r.url = strings.TrimPrefix(serving.url, "http://")
}
