package cli_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/config"
)

const examples = tree + "/configs/"

// settings loads a configuration and returns its values by path, those alone
// that keep says.
func settings(t *testing.T, file string, keep func(config.Setting) bool) map[string]any {
	t.Helper()
	loaded, err := config.Load(config.Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	for _, s := range loaded.Settings() {
		if keep(s) {
			values[s.Path] = s.Value
		}
	}
	return values
}

func isDefault(s config.Setting) bool { return s.Source == "default" }
func isSet(s config.Setting) bool     { return !isDefault(s) }

// The reference has every setting, with its default.
func TestReferenceConfiguration(t *testing.T) {
	reference := examples + config.DefaultFile
	if missing := settings(t, reference, isDefault); len(missing) > 0 {
		t.Errorf("it does not show %v", missing)
	}
	minimal := filepath.Join(t.TempDir(), "minimal.yaml")
	text := "clients: {default: {issuer: 'https://acme.okta.com', client_id: 0oa1b2c3d4, scopes: [okta.users.read]}}\n"
	if err := os.WriteFile(minimal, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	defaults := settings(t, minimal, isDefault)
	got := settings(t, reference, func(s config.Setting) bool { _, ok := defaults[s.Path]; return ok })
	if diff := cmp.Diff(defaults, got); diff != "" {
		t.Error(diff)
	}
}

// The example has the settings that the sandbox writes, and the values that do
// not depend on where it runs.
func TestSandboxExample(t *testing.T) {
	s := startServing(t, broker(t, t.TempDir(), []string{"TMPDIR=" + t.TempDir()}, "sandbox", "0"))
	file := regexp.MustCompile(`Configuration: (\S+)`).FindStringSubmatch(s.stdout)[1]
	got, want := settings(t, examples+"sandbox.yaml", isSet), settings(t, file, isSet)
	for _, path := range []string{"listen", "keys.default.file", "clients.default.issuer"} {
		if want[path] == nil {
			t.Errorf("the sandbox does not write %s", path)
		}
		want[path] = got[path]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	s.stop(t, os.Interrupt)
}
