package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/httpapi"
)

func TestGuard(t *testing.T) {
	r := start(t, setup{hosts: []string{"broker.internal"}})
	r.register(t)
	port := r.url[strings.LastIndexByte(r.url, ':'):]
	tests := []struct {
		name   string
		header string
		served bool
	}{
		{"localhost", "Host: localhost" + port, true},
		{"localhost in capitals", "Host: LOCALHOST" + port, true},
		{"no port", "Host: localhost", true},
		{"another port", "Host: localhost:1", true},
		{"loopback", "Host: 127.0.0.1" + port, true},
		{"other loopback", "Host: 127.9.9.9" + port, true},
		{"IPv6 loopback", "Host: [::1]" + port, true},
		{"IPv6 loopback without a port", "Host: [::1]", true},
		{"listed", "Host: broker.internal" + port, true},
		{"listed in capitals", "Host: Broker.Internal", true},
		{"evil", "Host: evil.test" + port, false},
		{"prefix", "Host: localhost.evil.test", false},
		{"suffix", "Host: evil-localhost", false},
		{"trailing dot", "Host: localhost.", false},
		{"loopback with a dot", "Host: 127.0.0.1.", false},
		{"loopback prefix", "Host: 127.0.0.1.evil.test", false},
		{"other address", "Host: 10.0.0.1", false},
		{"unspecified", "Host: 0.0.0.0", false},
		{"decimal", "Host: 2130706433", false},
		{"below a listed one", "Host: x.broker.internal", false},
		{"name in brackets", "Host: [localhost]", false},
		{"Forwarded", "Forwarded: for=192.0.2.1", false},
		{"X-Forwarded-For", "X-Forwarded-For: 192.0.2.1", false},
		{"X-Forwarded-Host, empty", "X-Forwarded-Host: ", false},
		{"X-Forwarded-Proto", "X-Forwarded-Proto: https", false},
		{"X-Forwarded-Port", "X-Forwarded-Port: 443", false},
		{"X-Forwarded", "x-forwarded: for=192.0.2.1", false},
		{"X-Forwarded-User in capitals", "X-FORWARDED-USER: ada", false},
		{"what begins like Forwarded", "Forwarder: none", true},
		{"Origin", "Origin: http://evil.test", false},
		{"Origin null", "Origin: null", false},
		{"Origin of the broker itself", "Origin: " + r.url, false},
		{"Origin empty", "Origin: ", false},
		{"Sec-Fetch-Site none", "Sec-Fetch-Site: none", true},
		{"Sec-Fetch-Site cross-site", "Sec-Fetch-Site: cross-site", false},
		{"Sec-Fetch-Site same-origin", "Sec-Fetch-Site: same-origin", false},
		{"Sec-Fetch-Site empty", "Sec-Fetch-Site: ", false},
	}
	sign := `{"client_id":"` + clientID + `","audience":"` + issuer + `/oauth2/v1/token"}`
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := r.okta.Counters().TokenRequests
			active := r.ring.Keys()[0].ID()
			for _, request := range [][3]string{{"GET", "/token"}, {"POST", "/", sign}, {"GET", "/healthz"}, {"GET", "/openapi.yaml"}} {
				got := r.send(t, request[0], request[1], request[2], tt.header)
				if (got.status == 200) != tt.served || !tt.served && got.status != 403 {
					t.Errorf("%s %s: status %d: %s", request[0], request[1], got.status, got.body)
				}
				if len(got.header.Values("Access-Control-Allow-Origin")) > 0 {
					t.Errorf("%s %s: a CORS header", request[0], request[1])
				}
			}
			if tt.served {
				return
			}
			if got := r.send(t, "POST", "/?rotate=true", sign, tt.header); got.status != 403 || got.json(t)["Error"] == nil {
				t.Errorf("rotation: status %d: %s", got.status, got.body)
			}
			for _, request := range [][2]string{{"OPTIONS", "/token"}, {"GET", "/nowhere"}} {
				if got := r.send(t, request[0], request[1], "", tt.header); got.status != 403 {
					t.Errorf("%s %s: status %d", request[0], request[1], got.status)
				}
			}
			if r.okta.Counters().TokenRequests != before || r.ring.Keys()[0].ID() != active {
				t.Error("something happened before the refusal")
			}
		})
	}
}

func TestMethods(t *testing.T) {
	r := start(t, setup{})
	tests := []struct{ method, path, allow string }{
		{"GET", "/", "POST"},
		{"PUT", "/", "POST"},
		{"OPTIONS", "/", "POST"},
		{"PATCH", "/token", "DELETE, GET, POST"},
		{"HEAD", "/token", "DELETE, GET, POST"},
		{"OPTIONS", "/token", "DELETE, GET, POST"},
		{"GET", "/oauth2/v1/token", "POST"},
		{"DELETE", "/oauth2/v1/token", "POST"},
		{"GET", "/revoke", "POST"},
		{"DELETE", "/revoke", "POST"},
		{"POST", "/healthz", "GET, HEAD"},
		{"BREW", "/token", "DELETE, GET, POST"},
	}
	for _, tt := range tests {
		got := r.send(t, tt.method, tt.path, "")
		if got.status != 405 || got.header.Get("Allow") != tt.allow {
			t.Errorf("%s %s: status %d, Allow %q, want %q", tt.method, tt.path, got.status, got.header.Get("Allow"), tt.allow)
		}
		if tt.method != "HEAD" && got.json(t)["error"] != "invalid_request" {
			t.Errorf("%s %s: %s", tt.method, tt.path, got.body)
		}
	}
	if got := r.send(t, "BREW", "/nowhere", ""); got.status != 404 || got.json(t)["error"] != "not_found" {
		t.Errorf("an unknown method on an unknown path: status %d: %s", got.status, got.body)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := r.send(t, "HEAD", path, ""); got.status != 200 {
			t.Errorf("HEAD %s: status %d", path, got.status)
		}
	}
}

// raw sends bytes as they are and returns what comes back until the connection
// is closed.
func raw(t *testing.T, url, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(conn, request) }()
	got, _ := io.ReadAll(conn)
	return string(got)
}

func TestWireAbuse(t *testing.T) {
	r := start(t, setup{})
	tests := []struct{ name, request, want string }{
		{"17 KiB of headers", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 17<<10) + "\r\n\r\n", "HTTP/1.1 431"},
		{"no Host", "GET /healthz HTTP/1.1\r\n\r\n", "HTTP/1.1 400"},
		{"no Host in HTTP/1.0", "GET /healthz HTTP/1.0\r\n\r\n", "HTTP/1.0 403"},
		{"two Hosts", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", "HTTP/1.1 400"},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "HTTP/1.1 404"},
		{"OPTIONS * from a page", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil\r\nConnection: close\r\n\r\n", "HTTP/1.1 403"},
		{"absolute form of another host", "GET http://evil.test/token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "HTTP/1.1 403"},
		{"CONNECT", "CONNECT evil.test:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "HTTP/1.1 403"},
		{"length and chunked", "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: gzip\r\n\r\nabc", "HTTP/1.1 501"},
		{"two lengths", "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "HTTP/1.1 400"},
		{"a body that never ends", "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n" + strings.Repeat("x", 0x5000) + "\r\n", "HTTP/1.1 413"},
		{"garbage", "\x16\x03\x01\x02\x00\x01\r\n\r\n", "HTTP/1.1 400"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := raw(t, r.url, tt.request); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %s", got, tt.want)
			}
		})
	}
	for _, doubtful := range []string{
		"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		got := raw(t, r.url, doubtful+"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if strings.Count(got, "HTTP/1.") != 1 {
			t.Errorf("what follows a body of doubtful length is served: %q", got)
		}
	}
	fits := "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + strings.Repeat("x", 15<<10) + "\r\n\r\n"
	if got := raw(t, r.url, fits); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("15 KiB of headers: %.60q", got)
	}
}

func TestSlowClients(t *testing.T) {
	t.Parallel() // it takes ten seconds of real time
	r := start(t, setup{})
	tests := map[string]string{
		"half a header": "GET /healthz HTTP/1.1\r\nHost: local",
		"half a body":   "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{",
		"nothing":       "",
	}
	var clients sync.WaitGroup
	for name, request := range tests {
		clients.Go(func() {
			conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, request)
			_ = conn.SetReadDeadline(time.Now().Add(13 * time.Second))
			if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: the connection stays open", name)
			}
		})
	}
	clients.Wait()
}

func TestPanicAnswersAnIDAndNoStack(t *testing.T) {
	logs := &logBuffer{}
	api := httpapi.New(httpapi.Config{Log: newLog(logs, slog.LevelDebug)}) // without a broker
	r := &running{url: serve(t, api, "")}
	got := r.send(t, "GET", "/token", "")
	words, _ := got.json(t)["error_description"].(string)
	if got.status != 500 || got.json(t)["error"] != "server_error" || strings.Contains(got.body, "goroutine") || strings.Contains(got.body, "nil") {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	id := words[strings.LastIndexByte(words, ' ')+1:]
	if len(id) != 36 || !strings.Contains(logs.String(), "request_id="+id) || !strings.Contains(logs.String(), "goroutine") {
		t.Errorf("id %q does not find the stack in the log", id)
	}
}

func TestListenRefusesWhatOthersCanReach(t *testing.T) {
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:0", "*:0"} {
		listener, err := httpapi.Listen(t.Context(), address)
		if err == nil {
			listener.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "no callers are configured") || !strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1:0", "127.0.0.9:0", "localhost:0"} {
		listener, err := httpapi.Listen(t.Context(), address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		listener.Close()
	}
	for _, address := range []string{"", "5000", "127.0.0.1", "unix:", "unix:relative", "unix:@abstract"} {
		if listener, err := httpapi.Listen(t.Context(), address); err == nil {
			listener.Close()
			t.Errorf("%q is taken", address)
		}
	}
}

func TestListenOnATakenPort(t *testing.T) {
	first, err := httpapi.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, err = httpapi.Listen(t.Context(), first.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "the port is taken") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broker.sock")
	r := start(t, setup{listen: "unix:" + path})
	r.register(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	for host, want := range map[string]int{"http://anything/token": 200, "http://localhost/token": 200} {
		resp, err := client.Get(host)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d", host, resp.StatusCode)
		}
	}
	if _, err := httpapi.Listen(t.Context(), "unix:"+path); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a socket in use: %v", err)
	}
}

func TestStaleUnixSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broker.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	listener, err := httpapi.Listen(t.Context(), "unix:"+path)
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()

	file := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(file, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := httpapi.Listen(t.Context(), "unix:"+file); err == nil {
		t.Error("a regular file is taken for a stale socket")
	}
	if data, _ := os.ReadFile(file); string(data) != "data" {
		t.Error("a regular file was removed")
	}
}

// Load that goes on while the broker stops finds nobody there in the end: no request that
// was sent is left without an answer, whether its connection was kept or is new.
func TestDrainLosesNoRequest(t *testing.T) {
	t.Run("Unix", func(t *testing.T) { drainUnderLoad(t, "unix:"+filepath.Join(t.TempDir(), "broker.sock")) })
	t.Run("TCP", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			t.Skip("connections that wait to be accepted are lost where no filter keeps others from coming")
		}
		drainUnderLoad(t, "127.0.0.1:0")
	})
}

func drainUnderLoad(t *testing.T, address string) {
	t.Helper()
	listener, err := httpapi.Listen(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- httpapi.Serve(ctx, listener, httpapi.New(httpapi.Config{})) }()

	var callers sync.WaitGroup
	var answers atomic.Int64
	for range 16 {
		callers.Go(func() {
			for {
				conn, err := net.Dial(listener.Addr().Network(), listener.Addr().String())
				if err != nil {
					return
				}
				for kept := true; kept; {
					resp, err := ask(conn)
					if err != nil {
						t.Errorf("after %d answers: %v", answers.Load(), err)
						break
					}
					kept = !resp.Close
					answers.Add(1)
				}
				conn.Close()
			}
		})
	}
	for answers.Load() < 100 {
		if t.Failed() {
			break
		}
		runtime.Gosched()
	}
	stop()
	callers.Wait()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// ask makes a request that nothing repeats by itself.
func ask(conn net.Conn) (*http.Response, error) {
	if _, err := io.WriteString(conn, "POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp, err
}

func TestDrainFinishesRequestsInFlight(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	r.okta.SetFault(fakeokta.Fault{Delay: 500 * time.Millisecond})
	listener, err := httpapi.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- httpapi.Serve(ctx, listener, r.api) }()

	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for r.okta.Counters().PeakConcurrency == 0 { // until the request is in flight
		if ctx.Err() != nil {
			t.Fatal(ctx.Err())
		}
	}
	stop()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("the request in flight: %v, %v", resp, err)
	}
	resp.Body.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if diff := cmp.Diff(map[string]any{"status": "draining"}, r.send(t, "GET", "/readyz", "").json(t)); diff != "" {
		t.Error(diff)
	}
	if got := r.send(t, "GET", "/healthz", ""); got.status != 200 {
		t.Errorf("/healthz while draining: status %d", got.status)
	}
}
