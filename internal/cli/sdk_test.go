package cli_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Okta's Go SDK, as it is and without a credential, lists users page by page through
// a listener for the calls of one client.
func TestOktaSDK(t *testing.T) {
	program := buildSDKProgram(t)
	bearerAndDPoP(t, func(t *testing.T, p *proxying) {
		p.okta.SetUsers(7)
		cmd := exec.CommandContext(t.Context(), program, p.listener(t), "2")
		// The SDK looks for credentials in the environment and below HOME. It has none,
		// and no proxy on the way.
		cmd.Env = []string{"HOME=" + t.TempDir()}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, &stderr)
		}
		var pages [][]string
		for line := range strings.Lines(string(out)) {
			pages = append(pages, strings.Fields(line))
		}
		if diff := cmp.Diff(sevenUsers(), pages); diff != "" {
			t.Errorf("pages (-want +got):\n%s", diff)
		}
		// What the SDK sends as a credential, which is empty, stays here.
		carried := p.okta.carried()
		scheme, token, _ := strings.Cut(carried[0], " ")
		if len(carried) != 1 || scheme != "Bearer" && scheme != "DPoP" || token == "" {
			t.Errorf("the calls carried credentials that are not the broker's: %d sorts, of the scheme %s", len(carried), scheme)
		}
		if n := p.okta.Counters(); n.TokenRequests == 0 || n.TokensIssued != 1 || n.BoundTokens != 0 && scheme != "DPoP" {
			t.Errorf("%d tokens, %d of them bound, the calls carried %s", n.TokensIssued, n.BoundTokens, scheme)
		}
	})
}

// buildSDKProgram builds testdata/oktasdk, which is a module of its own, so that the
// SDK is none of the broker's dependencies. Its go.sum is complete: the checksum
// database, which does not have the SDK, is not asked.
func buildSDKProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "oktasdk")
	inModule := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = "testdata/oktasdk"
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := inModule("mod", "download"); err != nil && !strings.Contains(out, "SECURITY ERROR") {
		t.Skipf("Okta's SDK cannot be downloaded: %v: %s", err, out)
	}
	if out, err := inModule("build", "-o", program, "."); err != nil {
		t.Fatalf("building with Okta's SDK: %v: %s", err, out)
	}
	return program
}
