package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/httpapi"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/okta"
	"okta-token-broker/internal/tokens"
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
}

// running is a broker on a real socket, with a fake Okta behind it.
type running struct {
	url  string
	okta *fakeokta.Okta
	ring *keys.Ring
	api  *httpapi.API
	logs *logBuffer
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

// start serves until the test ends.
func start(t *testing.T, s setup) *running {
	t.Helper()
	ctx := t.Context()
	logs := &logBuffer{}
	log := newLog(logs)

	if s.store == nil {
		file, err := keys.NewFile(ctx, filepath.Join(t.TempDir(), "private_key.pem"), false)
		if err != nil {
			t.Fatal(err)
		}
		s.store = file
	}
	if s.algorithm == "" {
		s.algorithm = "ES256"
	}
	ring, err := keys.Open(ctx, keys.Config{Name: "default", Store: s.store, Algorithm: s.algorithm, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	fake, err := fakeokta.New(fakeokta.Config{URL: issuer})
	if err != nil {
		t.Fatal(err)
	}
	if err := fake.AddApp(fakeokta.App{ClientID: clientID, Scopes: strings.Fields(scopes)}); err != nil {
		t.Fatal(err)
	}

	server := okta.NewServer(okta.ServerConfig{Issuer: issuer, Transport: fake.Transport(), Log: log})
	client := okta.NewClient(okta.ClientConfig{Name: "default", ID: clientID, Server: server, Ring: ring})
	world := &broker.World{Rings: map[string]*keys.Ring{"default": ring}, SignAny: s.signAny || s.noClient}
	if !s.noClient {
		ends := server.Endpoints()
		world.Clients = map[string]*broker.Client{"default": {
			Name: "default", ID: clientID, Issuer: issuer, Ring: ring, Scopes: scopes,
			Audiences: []string{ends.Token, ends.Introspect, ends.Revoke},
		}}
	}
	store := tokens.New(tokens.Config{Exchanger: exchanger{client}, Log: log})
	api := httpapi.New(httpapi.Config{
		Broker: broker.New(broker.Config{World: world, Tokens: store, Log: log}),
		Hosts:  s.hosts,
		Log:    log,
	})
	r := &running{okta: fake, ring: ring, api: api, logs: logs}
	r.url = serve(t, api, s.listen)
	return r
}

func newLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type exchanger struct{ client *okta.Client }

func (e exchanger) Exchange(ctx context.Context, key tokens.Key) (oauth.Token, error) {
	return e.client.Exchange(ctx, key.Scopes)
}

// serve runs the real server on a real listener until the test ends.
func serve(t *testing.T, api *httpapi.API, address string) (url string) {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := httpapi.Listen(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- httpapi.Serve(ctx, listener, api) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return "http://" + listener.Addr().String()
}

// register gives the ring's active key to the fake Okta, making it if need be.
func (r *running) register(t *testing.T) {
	t.Helper()
	key, _, err := r.ring.Active(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.okta.RegisterKey(clientID, key.JWK()); err != nil {
		t.Fatal(err)
	}
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

// request makes a request. headers are "Name: value"; Host is one of them.
func (r *running) request(t *testing.T, method, path, body string, headers ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
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
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := answer{resp.StatusCode, resp.Header, string(read)}
	wantByContract(t, req, got)
	return got
}

const form = "Content-Type: application/x-www-form-urlencoded"
