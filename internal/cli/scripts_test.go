package cli_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"okta-token-broker/internal/config"
)

// TestScripts runs the commands as users do. Beside testscript's own commands,
// the scripts have
//
//	fakeokta CLIENT-ID SCOPE...   starts a fake Okta with that app; its URL is $OKTA
//	register CLIENT-ID FILE       adds the JWK in the file to the app
//	superadmin CLIENT-ID SCOPE... adds an app that may change the keys of others
//	oktakeys CLIENT-ID            prints the keys that are saved for the app
//	oktafails N STATUS            lets the key API take N requests and fail the next one
//	oktadown                      ends the fake Okta
//	fill FILE                     puts the variables into a file that has them as $NAME
//	newkey KIND FILE              makes a key file: pkcs1, pkcs8, sec1, encrypted, public, short, large
//	get ADDRESS PATH              prints what the broker answers, once it serves; the
//	                              address can be a configuration, whose listen is meant
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			block, err := newKeyPEM()
			// As it often stands in an environment: on one line.
			env.Setenv(quickEnd[0], quickEnd[1])
			env.Setenv("EC_KEY", strings.ReplaceAll(block, "\n", `\n`))
			env.Values[scriptOrg{}] = &scriptOrg{}
			return err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"fakeokta":   startOrg,
			"register":   register,
			"superadmin": addSuperAdmin,
			"oktakeys":   printSavedKeys,
			"oktafails":  failKeyAPI,
			"oktadown":   func(ts *testscript.TestScript, _ bool, _ []string) { orgOf(ts).server.Close() },
			"newkey":     writeNewKey,
			"fill": func(ts *testscript.TestScript, _ bool, args []string) {
				filled := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(filled), 0o600))
			},
			"get": func(ts *testscript.TestScript, _ bool, args []string) {
				address := args[0]
				if strings.HasSuffix(address, ".yaml") {
					address = ts.MkAbs(address)
				}
				body, err := getWhenServed(address, args[1])
				ts.Check(err)
				_, err = io.WriteString(ts.Stdout(), body)
				ts.Check(err)
			},
		},
	})
}

// newKeyPEM makes a P-256 key in PKCS#8.
func newKeyPEM() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), err
}

// getWhenServed asks until somebody listens, for 20 seconds at most.
func getWhenServed(address, path string) (body string, err error) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if body, err = getAt(address, path); err == nil {
			return body, nil
		}
	}
	return "", fmt.Errorf("nobody serves at %s: %w", address, err)
}

// getAt asks at host:port, at unix:/path, or at the listen address of a
// configuration.
func getAt(address, path string) (string, error) {
	if strings.HasSuffix(address, ".yaml") {
		loaded, err := config.Load(config.Source{File: address})
		if err != nil {
			return "", err
		}
		address = loaded.Listen
	}
	network := "tcp"
	if socket, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", socket
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
	resp, err := client.Get("http://localhost" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d\n%s", resp.StatusCode, body), err
}
