package httpapi_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"okta-token-broker/api"
	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/httpapi"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/okta"
	"okta-token-broker/internal/proxy"
)

const (
	issuer   = "https://acme.okta.test"
	clientID = "0oa1b2c3d4"
	scopes   = "okta.groups.read okta.users.read"
)

// setup is what a test may choose.
type setup struct {
	algorithm string // ES256 unless given: RSA keys take long to make
	noClient  bool
	signAny   bool
	hosts     []string
	store     keys.Store
	listen    string
	metrics   http.Handler
	maxAge    time.Duration // of public keys
	awaited   func() []api.AwaitedKey
	dpop      okta.DPoP         // and the app requires it, if that is not off
	upstream  http.RoundTripper // of calls; nil: the fake Okta
}

// running is a broker with a fake Okta behind it.
type running struct {
	url  string // empty: without a socket
	okta *fakeokta.Okta
	ring *keys.Ring
	api  *httpapi.API
	logs *logBuffer
	// proxy is what the API has below /proxy.
	proxy *proxy.Proxy
	// proofKey is what the client's tokens are bound to. Nil: none is.
	proofKey *keys.Key
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// start serves on a real socket until the test ends.
func start(t *testing.T, s setup) *running {
	t.Helper()
	logs := &logBuffer{}
	log := newLog(logs, slog.LevelDebug)
	ring := newRing(t, keys.Config{Store: s.store, Algorithm: s.algorithm, Log: log})
	acme := newApp(t, "default", issuer, clientID, scopes)
	acme.upstream = s.upstream
	if s.dpop != "" {
		acme.bind(t, s.dpop)
	}
	p := parts{ring: ring, apps: []app{acme}, signAny: s.signAny, hosts: s.hosts, metrics: s.metrics, maxAge: s.maxAge, awaited: s.awaited, log: log}
	if s.noClient {
		p.apps, p.signAny = nil, true
	}
	r := p.run(t)
	r.okta, r.logs, r.proofKey = acme.okta, logs, acme.client.ProofKey
	r.url = serve(t, r.api, s.listen)
	return r
}

// parts are what a broker is assembled from.
type parts struct {
	ring    *keys.Ring // all apps use it
	apps    []app
	signAny bool
	hosts   []string
	metrics http.Handler
	maxAge  time.Duration
	awaited func() []api.AwaitedKey
	log     *slog.Logger
}

// assemble puts a broker together, which is closed when the test ends. Without a
// client that prefetches it sends nothing.
func (p parts) assemble(tb testing.TB) *httpapi.API {
	tb.Helper()
	return p.run(tb).api
}

// run is assemble, and gives away more of the parts.
func (p parts) run(tb testing.TB) *running {
	tb.Helper()
	world := &broker.World{
		Clients: map[string]*broker.Client{},
		Rings:   map[string]*keys.Ring{p.ring.Name(): p.ring},
		SignAny: p.signAny,
	}
	upstreams := &upstreams{transports: map[string]http.RoundTripper{}}
	for _, app := range p.apps {
		app.server.Log = p.log
		server := okta.NewServer(app.server)
		app.client.Server, app.client.Ring = server, p.ring
		ends, client := server.Endpoints(), okta.NewClient(app.client)
		made := &broker.Client{
			Name: app.client.Name, ID: app.client.ID, Issuer: app.server.Issuer, Ring: p.ring, Scopes: app.scopes,
			Audiences: []string{ends.Token, ends.Introspect, ends.Revoke},
			Prefetch:  app.prefetch,
			Server:    client,
			Resources: app.resources,
		}
		if app.server.TokenEndpoint == "" && !strings.Contains(app.server.Issuer, "/oauth2/") {
			made.OktaOrigin, made.Org = app.server.Issuer, true
		}
		if app.client.ProofKey != nil {
			made.JKT, made.Prover = app.client.ProofKey.Thumbprint(), client
		}
		world.Clients[made.Name] = made
		if upstreams.transports[made.Name] = app.upstream; app.upstream == nil {
			upstreams.transports[made.Name] = app.server.Transport
		}
	}
	b := broker.New(broker.Config{World: world, Log: p.log})
	tb.Cleanup(b.Close)
	upstreams.broker = b
	made := &running{ring: p.ring}
	made.proxy = proxy.New(proxy.Config{
		Broker: b, Upstreams: upstreams, Who: httpapi.Who, Log: p.log,
		Error: func(w http.ResponseWriter, r *http.Request, err error) { made.api.WriteError(w, r, err) },
	})
	made.api = httpapi.New(httpapi.Config{
		Broker:     b,
		Hosts:      p.hosts,
		Proxy:      made.proxy.Under("/proxy"),
		Metrics:    p.metrics,
		JWKSMaxAge: p.maxAge,
		Awaited:    p.awaited,
		Quiet:      time.Millisecond, // nobody is about to connect when a test ends
		Log:        p.log,
	})
	return made
}

// upstreams are where calls go.
type upstreams struct {
	broker     *broker.Broker
	transports map[string]http.RoundTripper // by client
}

func (u *upstreams) Upstream(who caller.Caller, client, resource string) (*proxy.Upstream, error) {
	target, err := u.broker.Target(who, client, resource)
	if err != nil {
		return nil, err
	}
	base, err := url.Parse(target.URL)
	return &proxy.Upstream{Base: base, AtOkta: target.AtOkta, Transport: u.transports[target.Client]}, err
}

// app is an app at an Okta of its own, and how the broker is configured for it.
type app struct {
	okta   *fakeokta.Okta
	server okta.ServerConfig
	client okta.ClientConfig
	scopes oauth.Scopes
	// prefetch keeps the token with these scopes warm.
	prefetch bool
	// resources of the client by name, and where its calls go. Nil: to its server.
	resources map[string]string
	upstream  http.RoundTripper
}

// bind makes the app require DPoP, and sets what the broker makes of that.
func (a *app) bind(tb testing.TB, dpop okta.DPoP) {
	tb.Helper()
	if err := a.okta.SetDPoP(a.client.ID, dpop != okta.DPoPOff); err != nil {
		tb.Fatal(err)
	}
	if a.client.DPoP = dpop; dpop == okta.DPoPOff {
		return
	}
	key, err := keys.New("ES256")
	if err != nil {
		tb.Fatal(err)
	}
	a.client.ProofKey = key
}

// newApp makes an Okta with an app that has no key yet.
func newApp(tb testing.TB, name, issuer, id string, scopes oauth.Scopes) app {
	tb.Helper()
	fake, err := fakeokta.New(fakeokta.Config{
		URL:   issuer,
		Fetch: http.NewFileTransportFS(fstest.MapFS{}), // no jwks_uri is there
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err := fake.AddApp(fakeokta.App{ClientID: id, Scopes: scopes.List()}); err != nil {
		tb.Fatal(err)
	}
	return app{
		okta:   fake,
		server: okta.ServerConfig{Issuer: issuer, Transport: fake.Transport()},
		client: okta.ClientConfig{Name: name, ID: id},
		scopes: scopes,
	}
}

// newRing opens a ring: default, ES256 and in a file that is not there yet unless
// said otherwise.
func newRing(tb testing.TB, cfg keys.Config) *keys.Ring {
	tb.Helper()
	if cfg.Store == nil {
		cfg.Store = newFile(tb)
	}
	cfg.Name, cfg.Algorithm = cmp.Or(cfg.Name, "default"), cmp.Or(cfg.Algorithm, "ES256")
	ring, err := keys.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return ring
}

func newFile(tb testing.TB) *keys.File {
	tb.Helper()
	file, err := keys.NewFile(tb.Context(), filepath.Join(tb.TempDir(), "private_key.pem"), false)
	if err != nil {
		tb.Fatal(err)
	}
	return file
}

// activeKey makes the ring's key if need be.
func activeKey(tb testing.TB, ring *keys.Ring) *keys.Key {
	tb.Helper()
	key, _, err := ring.Active(tb.Context(), "")
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// register gives an app a public key.
func register(tb testing.TB, fake *fakeokta.Okta, id string, jwk json.RawMessage) {
	tb.Helper()
	if err := fake.RegisterKey(id, jwk); err != nil {
		tb.Fatal(err)
	}
}

// serve runs the real server on a real listener until the test ends.
func serve(tb testing.TB, api *httpapi.API, address string) (url string) {
	tb.Helper()
	return "http://" + listen(tb, address, func(ctx context.Context, listener net.Listener) error {
		return httpapi.Serve(ctx, listener, api)
	})
}

// listen serves on address, by default a loopback port, until the test ends.
func listen(tb testing.TB, address string, serve func(context.Context, net.Listener) error) (at string) {
	tb.Helper()
	listener, err := httpapi.Listen(tb.Context(), cmp.Or(address, "127.0.0.1:0"))
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, listener) }()
	tb.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			tb.Errorf("serving: %v", err)
		}
	})
	return listener.Addr().String()
}

// register gives the ring's active key to the fake Okta, making it if need be.
func (r *running) register(t *testing.T) {
	t.Helper()
	register(t, r.okta, clientID, activeKey(t, r.ring).JWK())
}

// answer is a response that was read whole.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatalf("status %d, not JSON: %q", a.status, a.body)
	}
	return got
}

// request makes a request, with the query as it is. headers are "Name: value";
// Host is one of them.
func (r *running) request(t *testing.T, method, path, body string, headers ...string) *http.Request {
	t.Helper()
	url := cmp.Or(r.url, "http://localhost")
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Path, req.URL.RawQuery, _ = strings.Cut(path, "?")
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	return req
}

// send makes a request, and holds it and its answer against the contract.
func (r *running) send(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	req := r.request(t, method, path, body, headers...)
	got := r.do(t, req)
	wantByContract(t, req, got)
	return got
}

// do sends a request to the listener, or where there is none to the handler.
func (r *running) do(t *testing.T, req *http.Request) answer {
	t.Helper()
	if r.url == "" {
		recorder := httptest.NewRecorder()
		in := req.Clone(req.Context())
		in.URL.Scheme, in.URL.Host = "", "" // as a server reads it
		r.api.ServeHTTP(recorder, in)
		return answer{recorder.Code, recorder.Header(), recorder.Body.String()}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

const form = "Content-Type: application/x-www-form-urlencoded"
