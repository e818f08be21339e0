package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// folders makes a working folder with one more in it, which links lead to: DIR/in,
// DIR/link and, in another place, ELSEWHERE.
func folders(t *testing.T) *strings.Replacer {
	t.Helper()
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "link")
	t.Chdir(dir)
	for _, err := range []error{
		os.Mkdir("in", 0o700), os.Symlink("in", "link"), os.Symlink(dir, elsewhere),
		os.WriteFile("there.pem", nil, 0o600), os.Symlink("there.pem", "mounted.pem"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return strings.NewReplacer("DIR", dir, "ELSEWHERE", elsewhere)
}

// Two keys are never in one file, however it is spelled, nor one in what the broker
// keeps beside the other's.
func TestKeyFiles(t *testing.T) {
	paths := folders(t)
	const same, beside = "is the file of ", "is taken"
	tests := []struct {
		one, other string
		want       string // empty: both are taken
	}{
		{"k.pem", "K2.pem", ""},
		{"k.pem", "in/k.pem", ""},
		{"k.pem", "nowhere/k.pem", ""},
		{"in/k.pem", "link/../in/other.pem", ""},
		{"k.pem", "k.pem.bak", ""},
		{"k.pem", "k.pem", same},
		{"k.pem", "./k.pem", same},
		{"k.pem", "in/../k.pem", same},
		{"k.pem", "nowhere/../k.pem", same},
		{"k.pem", "DIR/k.pem", same},
		{"DIR//k.pem", "/DIR/./k.pem", same},
		{"k.pem", "ELSEWHERE/k.pem", same},
		{"link/k.pem", "in/k.pem", same},
		{"in/k.pem", "ELSEWHERE/link/k.pem", same},
		{"in/nowhere/k.pem", "link/nowhere/k.pem", same},
		{"k.pem", "link/../k.pem", same},
		{"k.pem", "ELSEWHERE/link/../k.pem", same},
		{"there.pem", "mounted.pem", same},
		{"k.pem", "k.pem.tmp", beside},
		{"k.pem", "k.pem.lock", beside},
		{"k.pem.tmp", "DIR/k.pem", beside},
		{"in/k.pem.lock", "link/k.pem", beside},
	}
	for _, tt := range tests {
		for kind, format := range map[string]string{
			"two rings":       "keys: {a: {file: %q, read_only: true},\n b: {file: %q}}\n",
			"ring and client": "keys: {a: {file: %q}}\nclients:\n  b: {issuer: 'https://acme.okta.com', client_id: c, dpop_key_file: %q}\n",
			"two clients": "clients:\n  a: {issuer: 'https://acme.okta.com', client_id: c, dpop_key_file: %q}\n" +
				"  b: {issuer: 'https://acme.okta.com', client_id: d, dpop_key_file: %q}\n",
		} {
			t.Run(kind+", "+tt.one+", "+tt.other, func(t *testing.T) {
				file := fmt.Sprintf(format, paths.Replace(tt.one), paths.Replace(tt.other))
				if tt.want != "" {
					wantProblems(t, file, nil, []string{": " + tt.want})
				} else if _, err := load(t, file, nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
