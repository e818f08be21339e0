package httpapi_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"okta-token-broker/internal/httpapi"
)

// Calls in flight are bounded, by whichever listener they came, and what is over that
// is refused after a while. Everything else goes on.
func TestCallsAtOnce(t *testing.T) {
	const most = 3
	arrived, goOn := make(chan struct{}), make(chan struct{})
	calls := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-goOn
		_, _ = io.WriteString(w, "called")
	})
	api := httpapi.New(httpapi.Config{Proxy: calls, Quiet: time.Millisecond})
	api.SetCalls(most, 1, time.Millisecond)
	r := &running{url: serve(t, api, "")}
	own := &running{url: "http://" + listen(t, "", func(ctx context.Context, listener net.Listener) error {
		return httpapi.ServeProxy(ctx, listener, api, calls)
	})}
	requests := map[*running]string{r: "/proxy/default/x", own: "/x"}
	for range 2 { // what has ended makes room
		answers := make(chan answer, most)
		for i := range most {
			at := []*running{r, own}[i%2]
			req := at.request(t, "GET", requests[at], "")
			go func() { answers <- at.do(t, req) }()
			<-arrived
		}
		for at, path := range requests {
			text := raw(t, at.url, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
			if !strings.Contains(text, "\r\nConnection: close\r\n") {
				t.Errorf("the connection of one more stays: %s", text)
			}
			got := at.do(t, at.request(t, "GET", path, ""))
			if got.status != http.StatusServiceUnavailable || got.json(t)["error"] != "temporarily_unavailable" || got.header.Get("Retry-After") != "1" {
				t.Errorf("one more: status %d, %v: %s", got.status, got.header, got.body)
			}
			got.wantInOktasForm(t)
			if got := at.do(t, at.request(t, "GET", path, "", "Origin: http://evil.test")); got.status != http.StatusForbidden {
				t.Errorf("one that is refused anyway: status %d", got.status)
			}
		}
		for _, path := range []string{"/healthz", "/readyz", "/openapi.yaml"} {
			if got := r.send(t, "GET", path, ""); got.status != http.StatusOK {
				t.Errorf("%s: status %d", path, got.status)
			}
		}
		for range most {
			goOn <- struct{}{}
			if got := <-answers; got.status != http.StatusOK || got.body != "called" {
				t.Errorf("status %d: %s", got.status, got.body)
			}
		}
	}
}

// A call over the bound is made when another ends, and not at all when its caller leaves.
func TestCallsWait(t *testing.T) {
	goOn := make(chan struct{})
	var made atomic.Int64
	api := httpapi.New(httpapi.Config{Quiet: time.Millisecond, Proxy: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		made.Add(1)
		<-goOn
	})})
	const many = 20
	api.SetCalls(1, many-1, time.Hour)
	r := &running{url: serve(t, api, "")}
	answers := make(chan answer, many)
	for range many {
		req := r.request(t, "GET", "/proxy/default/x", "")
		go func() { answers <- r.do(t, req) }()
	}
	for made.Load() == 0 || api.Waiting() < many-1 {
		runtime.Gosched()
	}
	if got := r.do(t, r.request(t, "GET", "/proxy/default/x", "")); got.status != http.StatusServiceUnavailable {
		t.Errorf("one more than may wait: status %d", got.status)
	}
	if got := r.do(t, r.request(t, "GET", "/healthz", "")); got.status != http.StatusOK {
		t.Errorf("/healthz: status %d", got.status)
	}
	goOn <- struct{}{} // makes room for one to wait
	<-answers
	for made.Load() == 1 {
		runtime.Gosched()
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	here := &running{api: api}
	if got := here.do(t, r.request(t, "GET", "/proxy/default/x", "").WithContext(gone)); got.status != http.StatusServiceUnavailable {
		t.Errorf("one that left: status %d", got.status)
	}
	for range many - 1 {
		goOn <- struct{}{}
		if got := <-answers; got.status != http.StatusOK {
			t.Errorf("status %d: %s", got.status, got.body)
		}
	}
	if n := made.Load(); n != many {
		t.Errorf("%d calls were made, want %d", n, many)
	}
}

// Connections for calls are an eighth of the files that the process may open, and so
// are the calls in flight.
func TestPartsOfTheFiles(t *testing.T) {
	const part = 64
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	few := files
	few.Cur = 8 * part
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files) }()
	api := httpapi.New(httpapi.Config{Quiet: time.Millisecond})
	if got := api.Calls(); got != part {
		t.Errorf("%d calls can be in flight, want %d", got, part)
	}
	address := listen(t, "", func(ctx context.Context, listener net.Listener) error {
		return httpapi.ServeProxy(ctx, listener, api, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "called") }))
	})
	var conns []net.Conn
	call := func() (answered bool) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		return answers(conn, 5*time.Second)
	}
	for i := range part {
		if !call() {
			t.Fatalf("connection %d is not served", i)
		}
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answers(conn, 200*time.Millisecond) {
		t.Error("one more is served")
	}
	_ = conns[0].Close()
	if !answers(conn, 5*time.Second) {
		t.Error("it is not served when there is room")
	}
}

// answers reports whether something comes over a connection in time.
func answers(conn net.Conn, within time.Duration) bool {
	_ = conn.SetReadDeadline(time.Now().Add(within))
	n, _ := conn.Read(make([]byte, 1<<10))
	return n > 0
}

// A stream does not make an error of a stop. It is cut off when its time is up.
func TestStopWithAStream(t *testing.T) {
	logs := &logBuffer{}
	api := httpapi.New(httpapi.Config{Quiet: time.Millisecond, Drain: 50 * time.Millisecond, Log: newLog(logs, slog.LevelWarn)})
	listener, err := httpapi.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served, left := make(chan error, 1), make(chan struct{})
	go func() {
		served <- httpapi.ServeProxy(ctx, listener, api, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			close(left)
		}))
	}()
	at := &running{url: "http://" + listener.Addr().String()}
	resp, err := http.DefaultClient.Do(at.request(t, "GET", "/", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stop()
	if err := <-served; err != nil {
		t.Errorf("ServeProxy: %v", err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the stream looks whole")
	}
	<-left
	if !strings.Contains(logs.String(), "requests were cut off") {
		t.Errorf("the log says %s", logs)
	}
}
