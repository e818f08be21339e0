package cli_test

import (
	"debug/elf"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const (
	tree       = "../.." // the build context
	dockerfile = tree + "/deploy/Dockerfile"
)

// instruction is one of a Dockerfile: its name, what follows it, and whether it
// belongs to the stage that becomes the image.
type instruction struct {
	name, args string
	final      bool
}

func instructions(t *testing.T) (list []instruction) {
	t.Helper()
	text := regexp.MustCompile(`\\\n`).ReplaceAllString(read(t, dockerfile), " ")
	last := strings.LastIndex(text, "\nFROM ")
	for offset := 0; offset < len(text); {
		line, _, _ := strings.Cut(text[offset:], "\n")
		if name, args, ok := strings.Cut(line, " "); ok && !strings.HasPrefix(line, "#") {
			list = append(list, instruction{name, args, offset > last})
		}
		offset += len(line) + 1
	}
	return list
}

// only returns the arguments of the one instruction of this name.
func only(t *testing.T, list []instruction, name string) string {
	t.Helper()
	var found []string
	for _, i := range list {
		if i.final && i.name == name {
			found = append(found, i.args)
		}
	}
	if len(found) != 1 {
		t.Fatalf("the image has %d %s: %q", len(found), name, found)
	}
	return found[0]
}

func TestDockerfile(t *testing.T) {
	list := instructions(t)
	// ADD fetches and unpacks; ARG and ENV could carry a secret into the image.
	known := []string{"FROM", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "STOPSIGNAL", "ENTRYPOINT"}
	for _, i := range list {
		if !slices.Contains(known, i.name) {
			t.Errorf("%s is not allowed", i.name)
		}
		if i.final && i.name == "RUN" {
			t.Errorf("RUN %s: the image has no shell", i.args)
		}
	}

	goVersion := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, tree+"/go.mod"))[1]
	matches := []struct{ what, got, want string }{
		{"base of the build", list[0].args, `golang:` + regexp.QuoteMeta(goVersion) + `(\.\d+)?(@sha256:[0-9a-f]{64})? AS build`},
		{"base", only(t, list, "FROM"), `gcr\.io/distroless/static-debian\d+:nonroot(@sha256:[0-9a-f]{64})?`},
		{"user", only(t, list, "USER"), `65532:65532`},
		{"signal", only(t, list, "STOPSIGNAL"), "SIGTERM"},
		{"volume", only(t, list, "VOLUME"), regexp.QuoteMeta(only(t, list, "WORKDIR"))},
	}
	for _, m := range matches {
		if !regexp.MustCompile(`^` + m.want + `$`).MatchString(m.got) {
			t.Errorf("%s: %s, want %s", m.what, m.got, m.want)
		}
	}

	var entry []string
	if err := json.Unmarshal([]byte(only(t, list, "ENTRYPOINT")), &entry); err != nil || len(entry) != 1 {
		t.Fatalf("ENTRYPOINT must be the binary alone, in the form that needs no shell: %v", err)
	}
	if !slices.ContainsFunc(list, func(i instruction) bool {
		return i.final && i.name == "COPY" && strings.HasSuffix(i.args, " "+entry[0])
	}) {
		t.Errorf("nothing copies %s", entry[0])
	}

	flags := regexp.MustCompile(`CGO_ENABLED=0 \S+ build (.*) -o \S+ (\S+)`)
	inImage := flags.FindStringSubmatch(read(t, dockerfile))
	inMakefile := flags.FindStringSubmatch(read(t, tree+"/Makefile"))
	if inImage == nil || inMakefile == nil || !slices.Equal(inImage[1:], inMakefile[1:]) {
		t.Errorf("the image is built with %q, the Makefile builds with %q", inImage, inMakefile)
	}
}

func TestDockerignoreKeepsSecretsOut(t *testing.T) {
	for _, name := range []string{
		"private_key.pem", "private_key.pem.lock", "sandbox_key.pem", "okta-token-broker.yaml", ".env", ".git/config",
		"internal/private_key.pem", "internal/keys/private_key.pem.tmp", "cmd/okta-token-broker/key.pem",
	} {
		if !dockerignored(t, name) {
			t.Errorf("%s gets into the build", name)
		}
	}
}

// The build stage as it stands, over what .dockerignore leaves, makes a static
// binary that runs.
func TestImageBuild(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the image is for Linux")
	}
	src := t.TempDir()
	for _, i := range instructions(t) {
		switch {
		case i.final:
		case i.name == "COPY":
			names := strings.Fields(i.args)
			for _, name := range names[:len(names)-1] {
				copyIntoBuild(t, src, name)
			}
		case i.name == "RUN" && i.args != "go mod download": // this test has been built: the modules are there
			cmd := exec.CommandContext(t.Context(), "sh", "-c", i.args)
			cmd.Dir = src
			cmd.Env = append(os.Environ(), "GOPROXY=off", "GOTOOLCHAIN=local")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", i.args, err, out)
			}
		}
	}

	binary := filepath.Join(src, "okta-token-broker")
	file, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it is linked dynamically: %v", p.Type)
		}
	}
	if stdout, stderr, code := run(t, exec.CommandContext(t.Context(), binary, "version")); code != 0 || !strings.HasPrefix(stdout, "okta-token-broker ") {
		t.Errorf("version: exit code %d: %s%s", code, stdout, stderr)
	}

	// What the image has of folders of its own: of the key, and of a socket.
	for name, mode := range map[string]fs.FileMode{"state": 0o700, "run": 0o750} {
		info, err := os.Stat(filepath.Join(src, name, "okta-token-broker"))
		if err != nil || info.Mode() != fs.ModeDir|mode {
			t.Errorf("%s: %v, %v, want mode %v", name, info, err, mode)
		}
	}
}

// copyIntoBuild copies a file or folder of the tree, less what .dockerignore
// leaves out.
func copyIntoBuild(t *testing.T, dir, name string) {
	t.Helper()
	copied := 0
	err := filepath.WalkDir(filepath.Join(tree, name), func(from string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, from)
		if err != nil || entry.IsDir() || dockerignored(t, filepath.ToSlash(name)) {
			return err
		}
		copied++
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if copied == 0 {
		t.Errorf("COPY %s copies nothing", name)
	}
}

// dockerignored applies .dockerignore: the last pattern that matches the path
// or one of its parents decides.
func dockerignored(t *testing.T, name string) (ignored bool) {
	t.Helper()
	for line := range strings.Lines(read(t, tree+"/.dockerignore")) {
		pattern := strings.TrimSpace(line)
		if pattern == "" || pattern[0] == '#' {
			continue
		}
		pattern, excepted := strings.CutPrefix(pattern, "!")
		pattern, anywhere := strings.CutPrefix(pattern, "**/")
		for at := name; at != "."; at = path.Dir(at) {
			candidate := at
			if anywhere {
				candidate = path.Base(at)
			}
			if match, err := path.Match(pattern, candidate); err != nil {
				t.Fatal(err)
			} else if match {
				ignored = !excepted
			}
		}
	}
	return ignored
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
