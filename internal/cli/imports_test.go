package cli_test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "okta-token-broker"

// allowed is which packages of the module each package may import.
func allowed() map[string][]string {
	return map[string][]string{
		"cmd/okta-token-broker": {"internal/cli"},
		"api":                   {},
		"internal/cli":          nil, // everything
		"internal/config":       {"internal/secret", "internal/oauth"},
		"internal/secret":       {},
		"internal/oauth":        {"internal/secret"},
		"internal/keys":         {},
		"internal/assertion":    {},
		"internal/dpop":         {},
		"internal/okta":         {"internal/oauth", "internal/keys", "internal/assertion", "internal/dpop", "internal/secret", "internal/transport"},
		"internal/tokens":       {"internal/oauth"},
		"internal/rotation":     {"internal/oauth", "internal/keys"},
		"internal/caller":       {"internal/secret", "internal/oauth"},
		"internal/broker":       {"internal/caller", "internal/keys", "internal/tokens", "internal/oauth", "internal/assertion", "internal/dpop"},
		"internal/httpapi":      {"api", "internal/broker", "internal/caller", "internal/oauth"},
		"internal/proxy":        {"internal/broker", "internal/caller", "internal/oauth", "internal/transport"},
		"internal/telemetry":    {},
		"internal/transport":    {},
		"internal/fakeokta":     {},

		"internal/transport/transporttest": {}, // tests alone import it
	}
}

// owned is which package alone may import a library.
func owned() map[string]string {
	return map[string]string{
		"github.com/go-chi/chi/v5":                                "internal/httpapi",
		"golang.org/x/oauth2":                                     "internal/okta",
		"github.com/golang-jwt/jwt/v5":                            "internal/keys",
		"github.com/patrickmn/go-cache":                           "internal/tokens",
		"github.com/spf13/cobra":                                  "internal/cli",
		"go.yaml.in/yaml/v4":                                      "internal/config",
		"github.com/gofrs/flock":                                  "internal/keys",
		"golang.org/x/time/rate":                                  "internal/tokens",
		"golang.org/x/net/netutil":                                "internal/httpapi",
		"github.com/prometheus/client_golang/prometheus/promhttp": "internal/telemetry",
	}
}

// quiet packages know nothing of HTTP.
func quiet() []string {
	return []string{"internal/secret", "internal/oauth", "internal/keys", "internal/assertion", "internal/dpop", "internal/tokens", "internal/broker", "internal/rotation"}
}

func TestImportRules(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for decoder := json.NewDecoder(strings.NewReader(string(out))); decoder.More(); seen++ {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&pkg); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(pkg.ImportPath, module+"/")
		rule, known := allowed()[name]
		if !known {
			t.Errorf("package %s has no rule", name)
		}
		for _, imported := range pkg.Imports {
			ours, isOurs := strings.CutPrefix(imported, module+"/")
			if isOurs && rule != nil && !slices.Contains(rule, ours) {
				t.Errorf("%s may not import %s", name, ours)
			}
			if imported == "net/http" && slices.Contains(quiet(), name) {
				t.Errorf("%s may not import net/http", name)
			}
			for library, owner := range owned() {
				if (imported == library || strings.HasPrefix(imported, library+"/")) && name != owner {
					t.Errorf("%s may not import %s: it belongs to %s", name, imported, owner)
				}
			}
		}
	}
	if seen != len(allowed()) {
		t.Errorf("%d packages, and rules for %d", seen, len(allowed()))
	}
}
