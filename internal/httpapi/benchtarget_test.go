package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/httpapi"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/telemetry"
)

// target is a broker as it is run: on a loopback socket, its audit records
// going as text into a file.
type target struct {
	api     *httpapi.API
	log     *slog.Logger
	address string
	private crypto.Signer
}

func newTarget(tb testing.TB, algorithm string) *target {
	tb.Helper()
	return startTarget(tb, algorithm, newApp(tb, "default", issuer, clientID, scopes))
}

// tokenSize is how long Okta's access tokens are, in bytes.
const tokenSize = 900

// startTarget is newTarget with an app of one's own.
func startTarget(tb testing.TB, algorithm string, acme app) *target {
	tb.Helper()
	logFile, err := os.Create(filepath.Join(tb.TempDir(), "broker.log"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = logFile.Close() })
	log, err := telemetry.Logger(logFile, "info", "text")
	if err != nil {
		tb.Fatal(err)
	}
	private := newPrivate(tb, algorithm)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	store := keys.NewStatic(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	ring := newRing(tb, keys.Config{Store: store, Log: log})
	register(tb, acme.okta, clientID, activeKey(tb, ring).JWK())
	acme.okta.SetFault(fakeokta.Fault{Rewrite: func(answer map[string]any) {
		answer["access_token"] = strings.Repeat("x", tokenSize)
	}})
	api := parts{ring: ring, apps: []app{acme}, log: log}.assemble(tb)
	return &target{api: api, log: log, private: private, address: strings.TrimPrefix(serve(tb, api, ""), "http://")}
}

func newPrivate(tb testing.TB, algorithm string) crypto.Signer {
	var private crypto.Signer
	var err error
	if algorithm == "RS256" {
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return private
}

// bare serves another handler with the settings of the broker's own server.
func (t *target) bare(tb testing.TB, handler http.HandlerFunc) (address string) {
	return listen(tb, "", func(ctx context.Context, l net.Listener) error {
		server := httpapi.NewServer(handler, t.log)
		context.AfterFunc(ctx, func() { _ = server.Close() })
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

// newRequest returns the bytes of a request as curl sends it.
func newRequest(method, path, host, body string) []byte {
	var out bytes.Buffer
	r := httptest.NewRequest(method, "http://"+host+path, strings.NewReader(body))
	r.Header.Set("User-Agent", "curl/8.5.0")
	r.Header.Set("Accept", "*/*")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	_ = r.Write(&out)
	return out.Bytes()
}

// reply writes a body under the header fields of another answer.
func reply(w http.ResponseWriter, header http.Header, body string) {
	for _, name := range []string{"Cache-Control", "Content-Type", "Pragma"} {
		w.Header().Set(name, header.Get(name))
	}
	_, _ = io.WriteString(w, body)
}

// connection is a keep-alive client that does as little as can be, so that the
// server is what is measured.
type connection struct {
	conn    net.Conn
	reader  *bufio.Reader
	request []byte
}

func dial(tb testing.TB, address string, request []byte) *connection {
	tb.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return &connection{conn, bufio.NewReader(conn), request}
}

// do makes the request. The answer's body has to be read before the next one.
func (c *connection) do() (*http.Response, error) {
	if _, err := c.conn.Write(c.request); err != nil {
		return nil, err
	}
	return http.ReadResponse(c.reader, nil)
}

// client makes the same request over and over, on a connection per worker.
func client(name, address string, request []byte) side {
	return side{name, func(tb testing.TB) func() error {
		c := dial(tb, address, request)
		return func() error {
			resp, err := c.do()
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return errors.New(resp.Status)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			return err
		}
	}}
}

// once makes one request. Its answer has no Date.
func once(tb testing.TB, address string, request []byte) answer {
	tb.Helper()
	resp, err := dial(tb, address, request).do()
	if err != nil {
		tb.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		tb.Fatal(resp.Status, err)
	}
	resp.Header.Del("Date")
	return answer{resp.StatusCode, resp.Header, string(body)}
}
