package cli_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"okta-token-broker/internal/fakeokta"
)

// serving is the program as a process that serves.
type serving struct {
	cmd    *exec.Cmd
	url    string
	stdout string
	logs   *lines
	done   chan struct{}
}

// lines are what a process has written so far.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.WriteString(line + "\n")
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// startServing starts the program and waits until it serves.
func startServing(t *testing.T, cmd *exec.Cmd) *serving {
	t.Helper()
	s := &serving{cmd: cmd, logs: &lines{}, done: make(chan struct{})}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdout.Close() }()
	cmd.Stdout = stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-s.done })
	listening := make(chan string, 1)
	go func() {
		defer close(s.done)
		address := regexp.MustCompile(`msg=serving listen=(\S+)`)
		for scan := bufio.NewScanner(stderr); scan.Scan(); {
			s.logs.add(scan.Text())
			if found := address.FindStringSubmatch(scan.Text()); found != nil {
				listening <- found[1]
			}
		}
	}()
	select {
	case address := <-listening:
		s.url = "http://" + address
	case <-s.done:
		t.Fatalf("it ended: %s", s.logs)
	case <-time.After(30 * time.Second):
		t.Fatal("it does not serve")
	}
	banner, err := os.ReadFile(stdout.Name()) // it is written before the program serves
	if err != nil {
		t.Fatal(err)
	}
	s.stdout = string(banner)
	return s
}

// eventually waits for what another process is about to do. Nothing tells a test
// when it has, so that it has to look again and again; it gives up after 20 seconds.
func eventually(t *testing.T, what fmt.Stringer, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not happen: %s", what)
		}
	}
}

// stop ends the program with a signal and returns its exit code.
func (s *serving) stop(t *testing.T, signal os.Signal) int {
	t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	<-s.done
	_ = s.cmd.Wait()
	return s.cmd.ProcessState.ExitCode()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// startOkta serves a fake Okta with one app on a real socket.
func startOkta(t *testing.T) (*fakeokta.Okta, string) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	issuer := "http://" + server.Listener.Addr().String()
	okta, err := fakeokta.New(fakeokta.Config{URL: issuer})
	if err != nil {
		t.Fatal(err)
	}
	if err := okta.AddApp(fakeokta.App{ClientID: "0oa1", Scopes: []string{"okta.users.read"}}); err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = okta
	server.Start()
	t.Cleanup(server.Close)
	return okta, issuer
}

func oktaVariables(issuer string) []string {
	return []string{"OKTA_CLIENT_ORGURL=" + issuer, "OKTA_CLIENT_CLIENTID=0oa1", "OKTA_CLIENT_SCOPES=okta.users.read"}
}

// The way from nothing to an API call, as the README shows it, with the
// variables of Okta's SDKs.
func TestConnectingAnOrg(t *testing.T) {
	okta, issuer := startOkta(t)
	dir := t.TempDir()
	env := oktaVariables(issuer)

	_, stderr, code := run(t, broker(t, dir, env, "token"))
	if code != 1 || !strings.Contains(stderr, "keys jwk") {
		t.Errorf("before the key is registered: exit code %d: %s", code, stderr)
	}
	jwk, stderr, code := run(t, broker(t, dir, env, "keys", "jwk"))
	if code != 0 {
		t.Fatalf("keys jwk: %s", stderr)
	}
	if err := okta.RegisterKey("0oa1", json.RawMessage(jwk)); err != nil {
		t.Fatal(err)
	}

	header, stderr, code := run(t, broker(t, dir, env, "token", "--output", "header", "--scope", "okta.users.read"))
	if code != 0 || !strings.HasPrefix(header, "Authorization: Bearer ") {
		t.Fatalf("token: exit code %d: %s", code, stderr)
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", issuer+"/api/v1/users", nil)
	req.Header.Set("Authorization", strings.TrimSpace(strings.TrimPrefix(header, "Authorization: ")))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("calling the resource: status %d", resp.StatusCode)
	}
	if list, _, _ := run(t, broker(t, dir, env, "keys", "list")); !regexp.MustCompile(`active .* proven\n`).MatchString(list) {
		t.Errorf("the key is not proven after a token:\n%s", list)
	}

	s := startServing(t, broker(t, dir, env, "0"))
	if status, body := get(t, s.url+"/token"); status != 200 {
		t.Errorf("GET /token: status %d: %s", status, body)
	}
	if code := s.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM: exit code %d: %s", code, s.logs)
	}
	if okta.Counters().ReusedJTI != 0 {
		t.Error("an assertion was used twice")
	}
}

func TestSigningPolicyIsLogged(t *testing.T) {
	tests := []struct {
		config string
		env    []string
		want   string
	}{
		{want: `allow=any because="signing.allow is not set and 0 clients are configured"`},
		{env: oktaVariables("https://acme.okta.com"), want: `allow=clients because="signing.allow is not set and 1 clients are configured"`},
		{config: "signing: {allow: any}\n", env: oktaVariables("https://acme.okta.com"), want: `allow=any because="signing.allow says so"`},
	}
	for _, tt := range tests {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "okta-token-broker.yaml"), []byte(tt.config), 0o600); err != nil {
			t.Fatal(err)
		}
		s := startServing(t, broker(t, dir, tt.env, "serve", "0"))
		if code := s.stop(t, os.Interrupt); code != 0 {
			t.Errorf("SIGINT: exit code %d", code)
		}
		if !strings.Contains(s.logs.String(), tt.want) {
			t.Errorf("log: %s, want %s", s.logs, tt.want)
		}
	}
}

// A running broker takes up what the command line changed.
func TestRunningBrokerTakesUpAChangedRing(t *testing.T) {
	dir := t.TempDir()
	s := startServing(t, broker(t, dir, nil, "serve", "0"))
	answer := func() (signed struct {
		JWK     struct{ N string }
		Changed bool `json:"private_key_changed"`
	}) {
		t.Helper()
		resp, err := http.Post(s.url, "application/json", strings.NewReader(`{"client_id":"a","audience":"b"}`))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&signed); err != nil {
			t.Fatal(err)
		}
		return signed
	}
	first := answer()
	if !first.Changed {
		t.Error("the first request did not make the key")
	}
	rotated, stderr, code := run(t, broker(t, dir, nil, "keys", "rotate"))
	if code != 0 {
		t.Fatal(stderr)
	}
	var jwk struct{ N string }
	if err := json.Unmarshal([]byte(rotated), &jwk); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(2 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for answer().JWK.N != jwk.N {
		select {
		case <-deadline:
			t.Fatal("not taken up within 2 s")
		case <-tick.C:
		}
	}
	if answer().Changed {
		t.Error("a rotation elsewhere counts as this request's")
	}

	// A bad file leaves the last good ring in force.
	path := filepath.Join(dir, "private_key.pem")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 75 {
		if answer().JWK.N != jwk.N {
			t.Fatal("another key signs")
		}
		<-tick.C
	}
	if !strings.Contains(stopped(t, s), "chmod 600") {
		t.Errorf("the log does not say what to do: %s", s.logs)
	}
}

// stopped ends the program and returns its whole log.
func stopped(t *testing.T, s *serving) string {
	t.Helper()
	if code := s.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	return s.logs.String()
}

func TestTakenPort(t *testing.T) {
	s := startServing(t, broker(t, t.TempDir(), nil, "serve", "0"))
	port := s.url[strings.LastIndexByte(s.url, ':')+1:]
	stdout, stderr, code := run(t, broker(t, t.TempDir(), nil, port))
	if code != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "port is taken") {
		t.Errorf("exit code %d: %q", code, stderr)
	}
}

func TestListenerThatOthersCanReach(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "okta-token-broker.yaml"), []byte("listen: 0.0.0.0:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := run(t, broker(t, dir, nil))
	if code != 1 || !strings.Contains(stderr, "no callers are configured") {
		t.Errorf("exit code %d: %q", code, stderr)
	}
}

// What the last second taught is stored.
func TestProofSurvivesAQuickEnd(t *testing.T) {
	okta, issuer := startOkta(t)
	dir, env := t.TempDir(), oktaVariables(issuer)
	jwk, stderr, code := run(t, broker(t, dir, env, "keys", "jwk"))
	if code != 0 {
		t.Fatal(stderr)
	}
	if err := okta.RegisterKey("0oa1", json.RawMessage(jwk)); err != nil {
		t.Fatal(err)
	}
	s := startServing(t, broker(t, dir, env, "0"))
	if status, body := get(t, s.url+"/token"); status != 200 {
		t.Fatalf("status %d: %s", status, body)
	}
	s.stop(t, syscall.SIGTERM)
	if list, _, _ := run(t, broker(t, dir, env, "keys", "list")); !regexp.MustCompile(`active .* proven\n`).MatchString(list) {
		t.Errorf("the proof is lost:\n%s", list)
	}
}

// Callers that go elsewhere once /readyz says so lose no request.
func TestStoppingUnderLoad(t *testing.T) {
	okta, issuer := startOkta(t)
	dir, env := t.TempDir(), oktaVariables(issuer)
	jwk, _, _ := run(t, broker(t, dir, env, "keys", "jwk"))
	if err := okta.RegisterKey("0oa1", json.RawMessage(jwk)); err != nil {
		t.Fatal(err)
	}
	s := startServing(t, broker(t, dir, append(env, "OKTA_TOKEN_BROKER_HEALTH_LISTEN=127.0.0.1:0"), "0"))
	ready := healthOf(t, s) + "/readyz"
	var served atomic.Int64
	var elsewhere atomic.Bool
	var callers sync.WaitGroup
	status := func(client *http.Client, url string) int {
		resp, err := client.Get(url)
		if err != nil {
			t.Errorf("a request failed: %v", err)
			return 0
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	for i := range 20 {
		// Half of them make a connection for each request.
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: i%2 == 0}}
		callers.Go(func() {
			defer client.CloseIdleConnections()
			for !elsewhere.Load() && !t.Failed() {
				if got := status(client, s.url+"/token"); got != 200 {
					t.Errorf("status %d", got)
				}
				served.Add(1)
			}
		})
	}
	callers.Go(func() {
		for !t.Failed() && status(http.DefaultClient, ready) == 200 {
			runtime.Gosched()
		}
		elsewhere.Store(true)
	})
	for served.Load() < 500 && !t.Failed() {
		runtime.Gosched()
	}
	if code := s.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d: %s", code, s.logs)
	}
	callers.Wait()
	t.Logf("%d requests served", served.Load())
}
