package proxy_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/dpop"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/proxy"
	"okta-token-broker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// standIn decides as the broker does: one token at a time, which is replaced when
// it is the one that was refused.
type standIn struct {
	tokenType string // empty: Bearer
	stuck     bool   // no token can be had but the first
	refusal   error  // of Authorize

	mu       sync.Mutex
	token    int // the number of the current one
	nonce    string
	proofs   int
	requests []broker.CallRequest
	callers  []string
	answers  []broker.Answer
}

func (s *standIn) Authorize(_ context.Context, who caller.Caller, req broker.CallRequest) (broker.Credentials, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, req)
	s.callers = append(s.callers, who.String())
	if s.refusal != nil {
		return broker.Credentials{}, s.refusal
	}
	return s.credentials(req), nil
}

// credentials have a token that names its number, and a proof that says what it is
// for.
func (s *standIn) credentials(req broker.CallRequest) broker.Credentials {
	made := broker.Credentials{Token: oauth.Token{Type: cmp.Or(s.tokenType, "Bearer"), Access: secret.New(fmt.Sprintf("the-token-%d", s.token))}}
	if s.tokenType == "DPoP" {
		s.proofs++
		made.Proof = strings.TrimSpace(fmt.Sprintf("proof-%d %s %s %s", s.proofs, req.Method, req.URL, cmp.Or(req.Nonce, s.nonce)))
	}
	return made
}

func (s *standIn) Answered(_ context.Context, _ caller.Caller, req broker.CallRequest, had broker.Credentials, answer broker.Answer) (broker.Credentials, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, answer)
	code := dpop.Challenge(answer.Challenge).Code
	s.nonce = cmp.Or(answer.Nonce, s.nonce)
	switch {
	case answer.Final:
		return broker.Credentials{}, false
	case code == dpop.UseNonce:
		return s.credentials(req), answer.Nonce != ""
	case code == dpop.InvalidProof:
		return s.credentials(req), true
	case answer.Status != http.StatusUnauthorized || s.stuck:
		return broker.Credentials{}, false
	}
	if had.Token.Access.Equal(secret.New(fmt.Sprintf("the-token-%d", s.token))) {
		s.token++
	}
	return s.credentials(req), true
}

// forget has the broker know no nonce.
func (s *standIn) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nonce = ""
}

// asked returns how many calls were authorized.
func (s *standIn) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// told returns what the broker was told, but for the time.
func (s *standIn) told() (told []broker.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, answer := range s.answers {
		answer.Date = time.Time{}
		told = append(told, answer)
	}
	return told
}

// upstreams are by "client" and "client/resource".
type upstreams map[string]*proxy.Upstream

func (u upstreams) Upstream(who caller.Caller, client, resource string) (*proxy.Upstream, error) {
	if !who.Known() {
		return nil, oauth.Fail(oauth.AccessDenied, "the caller is not known")
	}
	if found := u[strings.TrimSuffix(client+"/"+resource, "/")]; found != nil {
		return found, nil
	}
	return nil, oauth.Fail(oauth.UnknownClient, fmt.Sprintf("no client %q with a resource %q is configured", client, resource))
}

// rig is a proxy on a socket, with an upstream behind it.
type rig struct {
	tb     testing.TB
	broker *standIn
	// url and own are where the proxy is under /proxy, and one client's alone.
	url, own string
	proxy    *proxy.Proxy
	log      *lockedBuffer
	stalled  time.Duration // 0: as in earnest

	mu       sync.Mutex
	received []received
}

// received is a request as the upstream saw it.
type received struct {
	line   string // method and request target
	host   string
	header http.Header
	body   string
	// trailer has what the body was announced to be followed by.
	trailer http.Header
}

// newRig starts an upstream with the handler, and a proxy with the client default,
// whose org it is, and whose resource api is at /base of it.
func newRig(tb testing.TB, stand *standIn, handler http.HandlerFunc) *rig {
	tb.Helper()
	r := &rig{tb: tb, broker: stand, log: &lockedBuffer{}}
	upstream := httptest.NewServer(handler)
	tb.Cleanup(upstream.Close)
	r.start(upstream.URL, newTransport(tb))
	return r
}

func newTransport(tb testing.TB) *http.Transport {
	transport := proxy.NewTransport(nil)
	transport.Proxy = nil
	// A thousand connections at once on a busy machine can take more than a second.
	transport.DialContext = (&net.Dialer{Timeout: 20 * time.Second}).DialContext
	tb.Cleanup(transport.CloseIdleConnections)
	return transport
}

// start starts the proxy in front of an upstream.
func (r *rig) start(origin string, transport http.RoundTripper) {
	r.tb.Helper()
	org := &proxy.Upstream{Client: "default", Base: mustParse(r.tb, origin), AtOkta: true, Transport: transport}
	api := &proxy.Upstream{Client: "default", Base: mustParse(r.tb, origin+"/base"), Transport: transport}
	p := proxy.New(proxy.Config{
		Broker:    r.broker,
		Upstreams: upstreams{"default": org, "default/api": api, "0oa1b2c3d4": org, "0oa1b2c3d4/api": api},
		Who:       func(*http.Request) caller.Caller { return caller.Local("tester") },
		Error:     writeError,
		Log:       slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if r.proxy = p; r.stalled > 0 {
		p.SetStalled(r.stalled)
	}
	under := serve(r.tb, p.Under("/proxy"))
	own := serve(r.tb, p.For("default"))
	r.url, r.own = under+"/proxy/default", own
}

// serve serves as the broker does: with time-outs that are for small answers.
func serve(tb testing.TB, handler http.Handler) (address string) {
	server := httptest.NewUnstartedServer(handler)
	server.Config.ReadTimeout = 10 * time.Second
	server.Config.WriteTimeout = 30 * time.Second
	server.Config.MaxHeaderBytes = 12 << 10
	server.Config.DisableGeneralOptionsHandler = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.Start()
	tb.Cleanup(server.Close)
	return server.URL
}

// writeError answers as internal/httpapi does.
func writeError(w http.ResponseWriter, _ *http.Request, err error) {
	e, ok := errors.AsType[*oauth.Error](err)
	if !ok {
		e = oauth.Fail(oauth.TimedOut, "the request ended before there was an answer")
	}
	status, code := http.StatusInternalServerError, "server_error"
	switch e.Class {
	case oauth.InvalidRequest:
		status, code = http.StatusBadRequest, "invalid_request"
	case oauth.UnknownClient:
		status, code = http.StatusBadRequest, "invalid_client"
	case oauth.AccessDenied:
		status, code = http.StatusForbidden, "access_denied"
	case oauth.BadAnswer:
		status, code = http.StatusBadGateway, "server_error"
	case oauth.Unavailable:
		status, code = http.StatusServiceUnavailable, "temporarily_unavailable"
	case oauth.TimedOut:
		status, code = http.StatusGatewayTimeout, "temporarily_unavailable"
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": e.Description})
}

// record keeps what the upstream saw.
func (r *rig) record(req *http.Request) received {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		r.tb.Error(err)
	}
	got := received{req.Method + " " + req.RequestURI, req.Host, req.Header, string(body), req.Trailer}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.received = append(r.received, got)
	return got
}

// take returns what the upstream saw since the last time.
func (r *rig) take() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.received = nil }()
	return r.received
}

// recording starts a rig whose upstream records, and answers {}.
func recording(tb testing.TB, stand *standIn) *rig {
	var r *rig
	r = newRig(tb, stand, func(_ http.ResponseWriter, req *http.Request) { r.record(req) })
	return r
}

// client does not follow redirects and asks for nothing by itself.
func client(tb testing.TB) *http.Client {
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second,
	}
}

func request(tb testing.TB, method, address string, body io.Reader, header ...string) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, address, body)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header[header[i]] = append(req.Header[header[i]], header[i+1])
	}
	return req
}

// answer is an answer that was read to its end.
type answer struct {
	*http.Response
	body string
}

func do(tb testing.TB, req *http.Request) answer {
	tb.Helper()
	resp, err := client(tb).Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return answer{resp, string(body)}
}

// wantError checks that an answer is an error of the proxy's.
func (a answer) wantError(tb testing.TB, status int, code string) {
	tb.Helper()
	var told map[string]string
	err := json.Unmarshal([]byte(a.body), &told)
	if a.StatusCode != status || err != nil || told["error"] != code || told["error_description"] == "" {
		tb.Errorf("answered %s with %s; want %d and the error %q", a.Status, a.body, status, code)
	}
}

// rawDo sends bytes over a socket, and reads an answer.
func rawDo(tb testing.TB, address, sent string) answer {
	tb.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.WriteString(conn, sent); err != nil {
		tb.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		tb.Fatalf("reading the answer: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return answer{resp, string(body)}
}

func mustParse(tb testing.TB, address string) *url.URL {
	tb.Helper()
	u, err := url.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

// lockedBuffer is a log.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// impatient serves a rig's proxy with time-outs of 100 ms.
func impatient(tb testing.TB, r *rig) (address string) {
	server := httptest.NewUnstartedServer(r.proxy.For("default"))
	server.Config.ReadTimeout, server.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	server.Start()
	tb.Cleanup(server.Close)
	return server.URL
}
