package cli_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/fakeokta"
)

// users asks for the first page, and returns the status of the answer.
func (p *proxying) users(client *http.Client) (int, error) {
	resp, err := client.Get(p.proxy() + "/api/v1/users?limit=2")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// wantUsers makes calls, one after the other, none of which may fail.
func (p *proxying) wantUsers(t *testing.T, calls int) {
	t.Helper()
	for i := range calls {
		if status, err := p.users(http.DefaultClient); err != nil || status != http.StatusOK {
			t.Fatalf("call %d: status %d, %v", i, status, err)
		}
	}
}

// parallel makes as many calls at once, and counts the statuses of the answers.
func (p *proxying) parallel(t *testing.T, calls int) map[int]int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: calls}}
	defer client.CloseIdleConnections()
	statuses := make(chan int, calls)
	start := make(chan struct{})
	var callers sync.WaitGroup
	for range calls {
		callers.Go(func() {
			<-start
			status, err := p.users(client)
			if err != nil {
				t.Error(err)
			}
			statuses <- status
		})
	}
	close(start)
	callers.Wait()
	close(statuses)
	count := map[int]int{}
	for status := range statuses {
		count[status]++
	}
	return count
}

// A token that its resource refuses is replaced, once for all calls that find out,
// also when it is a moment old. But no more than one in ten seconds: somebody who revokes
// tokens, or a resource that takes none, would have the broker fetch for ever. Calls in
// between get the resource's 401.
func TestProxyAfterRevocation(t *testing.T) {
	var flood sync.Mutex // one at a time, as the machine is shared
	bearerAndDPoP(t, func(t *testing.T, p *proxying) {
		p.wantUsers(t, 1)
		issued := p.okta.Counters().TokensIssued
		revoked := func(calls, status, tokens int) {
			t.Helper()
			p.okta.RevokeTokens("0oa1")
			if diff := cmp.Diff(map[int]int{status: calls}, p.parallel(t, calls)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if n := p.okta.Counters().TokensIssued; n != issued+tokens {
				t.Errorf("%d tokens more, want %d", n-issued, tokens)
			}
		}
		revoked(100, http.StatusOK, 1)
		forced := time.Now()
		revoked(100, http.StatusUnauthorized, 1)

		<-time.After(time.Until(forced.Add(10 * time.Second)))
		flood.Lock()
		defer flood.Unlock()
		revoked(1000, http.StatusOK, 2)
		if n := p.okta.Counters(); n.ReusedProofs != 0 || n.ReusedJTI != 0 {
			t.Errorf("%d proofs and %d assertions used twice", n.ReusedProofs, n.ReusedJTI)
		}
	})
}

// Nonces that end, or are refused though they are good, and new keys for the
// assertions cost no call. Neither do they cost a token: it is bound to a key of its
// own.
func TestProxyThroughNoncesAndRotations(t *testing.T) {
	p := startProxying(t, dpopApp(), "")
	p.okta.SetResourceNonce(true)
	p.okta.SetNonceRefusal(20)
	for i := range 8 {
		p.wantUsers(t, 25)
		if i%2 == 0 {
			p.okta.ExpireNonces()
		} else {
			p.register(t, command(t, p.dir, "keys", "rotate", "--kid", fmt.Sprintf("key-%d", i)))
		}
	}
	n := p.okta.Counters()
	if got := p.okta.carried(); len(got) != 1 || n.BoundTokens == 0 {
		t.Errorf("calls carried %d different tokens, want 1", len(got))
	}
	// The first proof has no nonce; four times they end; each twentieth is refused, of
	// those since they ended.
	if got := n.NonceRefusals[fakeokta.Users]; got < 1+4+4 || n.ResourceStatus[http.StatusOK] != 200 {
		t.Errorf("%d refusals, want 9 at least, and %d calls, want 200", got, n.ResourceStatus[http.StatusOK])
	}
	if n.ReusedProofs != 0 {
		t.Errorf("%d proofs used twice", n.ReusedProofs)
	}
}

// A configuration with one more resource costs no call, also not those that are
// under way, and is in force at once.
func TestProxyThroughReloads(t *testing.T) {
	bearerAndDPoP(t, func(t *testing.T, p *proxying) {
		files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "file") }))
		t.Cleanup(files.Close)
		var served atomic.Int64
		var stop atomic.Bool
		var callers sync.WaitGroup
		t.Cleanup(callers.Wait)
		t.Cleanup(func() { stop.Store(true) })
		for range 10 {
			client := &http.Client{Transport: &http.Transport{}}
			callers.Go(func() {
				defer client.CloseIdleConnections()
				for !stop.Load() && !t.Failed() {
					if status, err := p.users(client); err != nil || status != http.StatusOK {
						t.Errorf("status %d, %v", status, err)
					}
					served.Add(1)
				}
			})
		}
		for i := range 5 {
			name := fmt.Sprintf("files%d", i)
			p.configure(t, fmt.Sprintf(", resources: {%s: '%s/base'}", name, files.URL))
			if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			eventually(t, p.logs, func() bool {
				status, body := get(t, p.proxy()+"/~"+name+"/x")
				return status == http.StatusOK && body == "file"
			})
		}
		for before := served.Load(); served.Load() < before+20 && !t.Failed(); {
			<-time.After(time.Millisecond)
		}
		stop.Store(true)
		callers.Wait()
		t.Logf("%d calls through 5 configurations", served.Load())
	})
}

// startStreaming starts a resource whose answers come in two halves, the second
// when the test says so.
func startStreaming(t *testing.T) (url string, more chan<- struct{}) {
	t.Helper()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first half, ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
			_, _ = io.WriteString(w, "second half")
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, release
}

// An answer that is on its way when the broker is told to end is passed on whole,
// from the API and from a listener of its own.
func TestProxyDrains(t *testing.T) {
	upstream, more := startStreaming(t)
	p := startProxying(t, bearerApp(), ", resources: {stream: '"+upstream+"'}")
	var answers []*http.Response
	for _, base := range []string{p.proxy(), "http://" + p.listener(t)} {
		resp, err := http.Get(base + "/~stream/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answers = append(answers, resp)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{strings.TrimPrefix(p.url, "http://"), p.listener(t)} {
		eventually(t, p.logs, func() bool { // it is waiting for the answers now
			_, err := getAt(address, "/healthz")
			return err != nil
		})
	}
	close(more)
	for _, resp := range answers {
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != "first half, second half" {
			t.Errorf("%q, %v", body, err)
		}
	}
	<-p.done
	_ = p.cmd.Wait()
	if code := p.cmd.ProcessState.ExitCode(); code != 0 || strings.Contains(p.logs.String(), "not served any more") {
		t.Errorf("exit code %d: %s", code, p.logs)
	}
}

// Load that goes on while the broker stops finds nobody there in the end: every request
// that was sent is answered, on the API and on a listener of its own.
func TestStopUnderLoad(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("connections that wait to be accepted are lost where no filter keeps others from coming")
	}
	p := startProxying(t, bearerApp(), "")
	p.wantUsers(t, 1)
	var callers sync.WaitGroup
	var answered atomic.Int64
	call := func(address, path string) {
		dialer := &net.Dialer{Timeout: 10 * time.Second}
		gone := false
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			gone = gone || err != nil
			return conn, err
		}}}
		for {
			// A POST is repeated by nobody.
			resp, err := client.Post("http://"+address+path, "application/json", strings.NewReader("{}"))
			if err != nil {
				if !gone {
					t.Errorf("%s, after %d answers: %v", address, answered.Load(), err)
				}
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			answered.Add(1)
		}
	}
	for range 8 {
		callers.Go(func() { call(strings.TrimPrefix(p.url, "http://"), "/healthz") })
		callers.Go(func() { call(p.listener(t), "/api/v1/users") })
	}
	eventually(t, p.logs, func() bool { return answered.Load() > 200 })
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d: %s", code, p.logs)
	}
	callers.Wait()
}
