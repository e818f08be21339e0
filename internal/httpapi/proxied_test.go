package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/httpapi"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/okta"
)

// own serves the client's proxy at / of a listener until the test ends. The broker
// of the result is the same, at another address.
func (r *running) own(t *testing.T) *running {
	t.Helper()
	address := listen(t, "", func(ctx context.Context, listener net.Listener) error {
		return httpapi.ServeProxy(ctx, listener, r.api, r.proxy.For("default"))
	})
	at := *r
	at.url = "http://" + address
	return &at
}

// A call needs no credential, and what a caller has of its own does no harm.
func TestCallsAreMade(t *testing.T) {
	for _, setting := range []okta.DPoP{okta.DPoPOff, okta.DPoPAuto, okta.DPoPRequired} {
		t.Run(string(setting), func(t *testing.T) {
			r := start(t, setup{dpop: setting})
			r.register(t)
			r.okta.SetUsers(5)
			r.okta.SetResourceNonce(setting != okta.DPoPOff)
			for path, at := range map[string]*running{"/proxy/default": r, "/proxy/" + clientID: r, "": r.own(t)} {
				next, pages, users := path+"/api/v1/users?limit=2", 0, 0
				for ; next != ""; pages++ {
					req := at.request(t, "GET", next, "", "Authorization: SSWS mine", "DPoP: mine", "Cookie: sid=mine")
					got := at.do(t, req)
					var page []map[string]any
					if err := json.Unmarshal([]byte(got.body), &page); got.status != http.StatusOK || err != nil {
						t.Fatalf("%s: status %d, %v: %s", next, got.status, err, got.body)
					}
					users += len(page)
					next = ""
					for _, link := range got.header["Link"] {
						if target, _, ok := strings.Cut(link, `>; rel="next"`); ok {
							next, ok = strings.CutPrefix(target, "<"+at.url)
							if !ok {
								t.Errorf("the next page is not at the proxy: %s", link)
							}
						}
					}
					if got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("X-Rate-Limit-Remaining") == "" {
						t.Errorf("%s: %v", path, got.header)
					}
				}
				if pages != 3 || users != 5 {
					t.Errorf("%s: %d users on %d pages", path, users, pages)
				}
			}
			if n := r.okta.Counters(); n.TokensIssued != 1 {
				t.Errorf("%d tokens were issued", n.TokensIssued)
			}
		})
	}
}

// What goes through is of any size and has any method.
func TestCallsAreNotLimited(t *testing.T) {
	r := start(t, setup{upstream: agreeable{}})
	r.register(t)
	large := strings.Repeat("x", 1<<20)
	for path, at := range map[string]*running{"/proxy/default/x": r, "/x": r.own(t)} {
		if got := at.do(t, at.request(t, "POST", path, large)); got.status != http.StatusOK || got.body != large {
			t.Errorf("POST %s: status %d, %d bytes: %.200s", path, got.status, len(got.body), got.body)
		}
		for _, method := range []string{"PROPFIND", "BREW", "OPTIONS"} {
			if got := at.do(t, at.request(t, method, path, "as it is")); got.status != http.StatusOK || got.body != "as it is" {
				t.Errorf("%s %s: status %d: %s", method, path, got.status, got.body)
			}
		}
	}
}

func TestGuardOfCalls(t *testing.T) {
	r := start(t, setup{upstream: agreeable{}, hosts: []string{"broker.internal"}})
	r.register(t)
	own := r.own(t)
	requests := []struct {
		at           *running
		method, path string
	}{
		{r, "GET", "/proxy/default/x"}, {r, "POST", "/proxy/default/"}, {r, "BREW", "/proxy/default/x"}, {r, "OPTIONS", "/proxy/default/x"},
		{own, "GET", "/x"}, {own, "POST", "/"}, {own, "BREW", "/x"}, {own, "OPTIONS", "/x"},
	}
	for header, served := range map[string]bool{
		"Host: localhost":              true,
		"Host: Broker.internal:1":      true,
		"Sec-Fetch-Site: none":         true,
		"Host: evil.test":              false,
		"Host: localhost.":             false,
		"Origin: http://evil.test":     false,
		"Origin: null":                 false,
		"Sec-Fetch-Site: same-origin":  false,
		"Forwarded: for=192.0.2.1":     false,
		"X-Forwarded-For: 192.0.2.1":   false,
		"X-Forwarded-Host: localhost":  false,
		"X-Forwarded-Proto: gopher://": false,
		"X-Forwarded-Ssl: on":          false,
		"X_FORWARDED_PREFIX: /x":       true, // of which the upstream hears nothing
	} {
		for _, q := range requests {
			before := r.okta.Counters().TokenRequests
			got := q.at.do(t, q.at.request(t, q.method, q.path, "", header))
			if served {
				if got.status != http.StatusOK {
					t.Errorf("%s %s with %s: status %d: %s", q.method, q.path, header, got.status, got.body)
				}
				continue
			}
			if got.status != http.StatusForbidden || got.json(t)["error"] != "access_denied" || got.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s %s with %s: status %d: %s", q.method, q.path, header, got.status, got.body)
			}
			got.wantInOktasForm(t)
			if r.okta.Counters().TokenRequests != before {
				t.Errorf("%s %s with %s: a token was asked for", q.method, q.path, header)
			}
		}
	}
}

// wantInOktasForm checks that an error of the broker's has the same words where Okta's
// SDKs look for them.
func (a answer) wantInOktasForm(t *testing.T) {
	t.Helper()
	told := a.json(t)
	code, summary := told["errorCode"], told["errorSummary"]
	if code == nil || code != told["error"] || summary == nil || summary != told["error_description"] {
		t.Errorf("not in Okta's form: %s", a.body)
	}
}

// A caller's Authorization is for the upstream: whether it sends one changes nothing
// of the broker's own errors.
func TestErrorsOfCalls(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	own := r.own(t)
	for _, tt := range []struct {
		at     *running
		path   string
		status int
		code   string
	}{
		{r, "/proxy/nobody/api/v1/users", 400, "invalid_client"},
		{r, "/proxy/default/~orders/1", 400, "invalid_request"},
		{r, "/proxy/default/oauth2/v1/token", 403, "access_denied"},
		{r, "/proxy/default/a/../b", 400, "invalid_request"},
		{r, "/proxy/", 400, "invalid_request"},
		{own, "/~orders/1", 400, "invalid_request"},
		{own, "/oauth2/v1/token", 403, "access_denied"},
		{own, "/", 404, ""}, // which Okta says in its own words
	} {
		for _, method := range []string{"GET", "POST"} {
			got := tt.at.do(t, tt.at.request(t, method, tt.path, "", "Authorization: Basic bm9ib2R5OnNlY3JldA=="))
			code, _ := got.json(t)["error"].(string)
			if got.status != tt.status || code != tt.code || got.header.Get("WWW-Authenticate") != "" {
				t.Errorf("%s %s: status %d: %s", method, tt.path, got.status, got.body)
			}
			if code != "" {
				got.wantInOktasForm(t)
			}
		}
	}
	// Their answer would give the token away.
	for _, method := range []string{"TRACE", "TRACK", "track"} {
		if got := own.do(t, own.request(t, method, "/api/v1/users", "")); got.status != 400 || got.json(t)["error"] != "invalid_request" {
			t.Errorf("%s: status %d: %s", method, got.status, got.body)
		}
	}
	if n := r.okta.Counters().Requests[fakeokta.Users]; n != 0 {
		t.Errorf("%d calls were made", n)
	}
}

func TestWithoutAProxy(t *testing.T) {
	r := &running{url: serve(t, httpapi.New(httpapi.Config{}), "")}
	for _, method := range []string{"GET", "POST", "BREW"} {
		if got := r.do(t, r.request(t, method, "/proxy/default/x", "")); got.status != http.StatusNotFound || got.json(t)["error"] != "not_found" {
			t.Errorf("%s: status %d: %s", method, got.status, got.body)
		}
	}
	with := start(t, setup{})
	for _, path := range []string{"/proxy", "/proxies/default/x", "//proxy/default/x"} {
		if got := with.do(t, with.request(t, "GET", path, "")); got.status != http.StatusNotFound || got.json(t)["error"] != "not_found" {
			t.Errorf("%s: status %d: %s", path, got.status, got.body)
		}
	}
}

// A failure is answered as long as nothing was; after that the connection ends, and
// nothing is added to what an upstream said.
func TestFailuresOfCalls(t *testing.T) {
	logs := &logBuffer{}
	api := httpapi.New(httpapi.Config{Log: newLog(logs, slog.LevelDebug)})
	failing := map[string]func(http.ResponseWriter, *http.Request){
		"panic": func(http.ResponseWriter, *http.Request) { panic("no nonsense") },
		"error": func(w http.ResponseWriter, r *http.Request) {
			api.WriteError(w, r, oauth.Fail(oauth.BadAnswer, "it \"broke\""))
		},
		"other error": func(w http.ResponseWriter, r *http.Request) { api.WriteError(w, r, errors.New("s3cr3t")) },
		"left":        func(w http.ResponseWriter, r *http.Request) { api.WriteError(w, r, context.Canceled) },
	}
	told := func(code, words string) map[string]any {
		return map[string]any{"error": code, "error_description": words, "errorCode": code, "errorSummary": words}
	}
	wants := map[string]map[string]any{
		"error":       told("server_error", "it 'broke'"),
		"other error": told("server_error", "the broker failed; its log has the reason"),
		"left":        told("temporarily_unavailable", "the request ended before there was an answer"),
	}
	statuses := map[string]int{"panic": 500, "error": 502, "other error": 500, "left": 504}
	begin := map[string]func(http.ResponseWriter){
		"nothing":         func(http.ResponseWriter) {},
		"interim answers": func(w http.ResponseWriter) { w.WriteHeader(http.StatusEarlyHints) },
		"a status":        func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK); _ = http.NewResponseController(w).Flush() },
		"a body": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, "half a")
			_ = http.NewResponseController(w).Flush()
		},
	}
	for how, fail := range failing {
		for after, write := range begin {
			t.Run(how+" after "+after, func(t *testing.T) {
				at := &running{url: "http://" + listen(t, "", func(ctx context.Context, listener net.Listener) error {
					return httpapi.ServeProxy(ctx, listener, api, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						write(w)
						fail(wrapped{w}, r)
					}))
				})}
				resp, err := http.DefaultClient.Do(at.request(t, "POST", "/", ""))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if after == "a status" || after == "a body" {
					if err == nil || resp.StatusCode != http.StatusOK || strings.Contains(string(body), "error") {
						t.Errorf("status %d, %v: %s", resp.StatusCode, err, body)
					}
					return
				}
				got := answer{resp.StatusCode, resp.Header, string(body)}
				if err != nil || got.status != statuses[how] {
					t.Fatalf("status %d, %v: %s", got.status, err, body)
				}
				got.wantInOktasForm(t)
				if want := wants[how]; want != nil {
					if diff := cmp.Diff(want, got.json(t)); diff != "" {
						t.Error(diff)
					}
				} else if !strings.Contains(got.body, "request id") || strings.Contains(got.body, "nonsense") {
					t.Error(got.body)
				}
			})
		}
	}
	if !strings.Contains(logs.String(), "no nonsense") {
		t.Error("the panic is not in the log")
	}
}

// wrapped is what a handler may put around its http.ResponseWriter.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// When the broker ends, calls in flight are finished.
func TestServeProxyDrains(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	arrived, goOn := make(chan struct{}), make(chan struct{})
	listener, err := httpapi.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- httpapi.ServeProxy(ctx, listener, r.api, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			close(arrived)
			<-goOn
			r.proxy.For("default").ServeHTTP(w, req)
		}))
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /api/v1/users HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-arrived
	stop()
	for status := 0; status != http.StatusServiceUnavailable; { // until it drains
		status = r.send(t, "GET", "/readyz", "").status
	}
	close(goOn)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the call in flight: %v, %v", resp, err)
	}
	resp.Body.Close()
	if err := <-served; err != nil {
		t.Errorf("ServeProxy: %v", err)
	}
	if n := r.okta.Counters().Requests[fakeokta.Users]; n != 1 {
		t.Errorf("%d calls", n)
	}
}

// Calls count as requests: while they come, a listener for them that is to end is
// still there for the next one.
func TestServeProxyWaitsForQuiet(t *testing.T) {
	const quiet = time.Second
	api := httpapi.New(httpapi.Config{Quiet: quiet})
	listener, err := httpapi.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- httpapi.ServeProxy(ctx, listener, api, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	}()
	at := &running{url: "http://" + listener.Addr().String()}
	call := func() {
		t.Helper()
		req := at.request(t, "GET", "/", "")
		req.Close = true // the next one has to connect
		if got := at.do(t, req); got.status != http.StatusOK {
			t.Errorf("status %d: %s", got.status, got.body)
		}
	}
	call()
	stop()
	for end := time.Now().Add(quiet / 2); time.Now().Before(end) && !t.Failed(); {
		call()
	}
	if err := <-served; err != nil {
		t.Errorf("ServeProxy: %v", err)
	}
}
