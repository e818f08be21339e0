package cli_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"okta-token-broker/internal/fakeokta"
)

// scriptOrg is the fake Okta of a script.
type scriptOrg struct {
	okta   *fakeokta.Okta
	server *httptest.Server
}

func orgOf(ts *testscript.TestScript) *scriptOrg { return ts.Value(scriptOrg{}).(*scriptOrg) }

func startOrg(ts *testscript.TestScript, _ bool, args []string) {
	org := orgOf(ts)
	org.server = httptest.NewUnstartedServer(nil)
	ts.Defer(org.server.Close)
	url := "http://" + org.server.Listener.Addr().String()
	ts.Setenv("OKTA", url)
	var err error
	org.okta, err = fakeokta.New(fakeokta.Config{URL: url})
	ts.Check(err)
	ts.Check(org.okta.AddApp(fakeokta.App{ClientID: args[0], Scopes: args[1:]}))
	org.server.Config.Handler = org.okta
	org.server.Start()
}

func addSuperAdmin(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(orgOf(ts).okta.AddApp(fakeokta.App{ClientID: args[0], Scopes: args[1:], SuperAdmin: true}))
}

func register(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(orgOf(ts).okta.RegisterKey(args[0], json.RawMessage(ts.ReadFile(args[1]))))
}

func printSavedKeys(ts *testscript.TestScript, _ bool, args []string) {
	for _, k := range orgOf(ts).okta.AppKeys(args[0]) {
		_, err := fmt.Fprintf(ts.Stdout(), "%s %s\n", k.Kid, k.Status)
		ts.Check(err)
	}
}

func failKeyAPI(ts *testscript.TestScript, _ bool, args []string) {
	before, err := strconv.Atoi(args[0])
	ts.Check(err)
	status, err := strconv.Atoi(args[1])
	ts.Check(err)
	orgOf(ts).okta.SetFaultAt(fakeokta.AppKeys, fakeokta.Fault{Count: before}, fakeokta.Fault{Count: 1, Status: status, Body: `{}`})
}

// writeNewKey makes a key as other tools write it.
func writeNewKey(ts *testscript.TestScript, _ bool, args []string) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	var kind string
	var der []byte
	switch args[0] {
	case "pkcs1", "short":
		bits := 2048
		if args[0] == "short" {
			bits = 1024
		}
		key, err := rsa.GenerateKey(rand.Reader, bits)
		ts.Check(err)
		kind, der = "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)
	case "pkcs8":
		kind = "PRIVATE KEY"
		der, err = x509.MarshalPKCS8PrivateKey(ec)
	case "sec1":
		kind = "EC PRIVATE KEY"
		der, err = x509.MarshalECPrivateKey(ec)
	case "encrypted": // what is in it nobody gets to see
		kind = "ENCRYPTED PRIVATE KEY"
		der, err = x509.MarshalPKCS8PrivateKey(ec)
	case "large":
		kind, der = "PRIVATE KEY", make([]byte, 64<<10)
	case "public":
		kind = "PUBLIC KEY"
		der, err = x509.MarshalPKIXPublicKey(ec.Public())
	default:
		ts.Fatalf("no such kind of key: %s", args[0])
	}
	ts.Check(err)
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), text, 0o600))
}
