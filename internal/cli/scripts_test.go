package cli_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"okta-token-broker/internal/config"
	"okta-token-broker/internal/fakeokta"
)

// TestScripts runs the commands as users do. Beside testscript's own commands,
// the scripts have
//
//	fakeokta CLIENT-ID SCOPE...   starts a fake Okta with that app; its URL is $OKTA
//	register CLIENT-ID FILE       adds the JWK in the file to the app
//	get ADDRESS PATH              prints what the broker answers, once it serves; the
//	                              address can be a configuration, whose listen is meant
func TestScripts(t *testing.T) {
	type oktaKey struct{}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			block, err := newKeyPEM()
			// As it often stands in an environment: on one line.
			env.Setenv(quickEnd[0], quickEnd[1])
			env.Setenv("EC_KEY", strings.ReplaceAll(block, "\n", `\n`))
			env.Values[oktaKey{}] = new(*fakeokta.Okta)
			return err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"fakeokta": func(ts *testscript.TestScript, _ bool, args []string) {
				server := httptest.NewUnstartedServer(nil)
				ts.Defer(server.Close)
				ts.Setenv("OKTA", "http://"+server.Listener.Addr().String())
				okta, err := fakeokta.New(fakeokta.Config{URL: "http://" + server.Listener.Addr().String()})
				ts.Check(err)
				ts.Check(okta.AddApp(fakeokta.App{ClientID: args[0], Scopes: args[1:]}))
				server.Config.Handler = okta
				server.Start()
				*ts.Value(oktaKey{}).(**fakeokta.Okta) = okta
			},
			"register": func(ts *testscript.TestScript, _ bool, args []string) {
				okta := *ts.Value(oktaKey{}).(**fakeokta.Okta)
				ts.Check(okta.RegisterKey(args[0], json.RawMessage(ts.ReadFile(args[1]))))
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
