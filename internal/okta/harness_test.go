package okta

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

const (
	issuer   = "https://acme.okta.test"
	endpoint = issuer + "/oauth2/v1/token"
	clientID = "0oa1b2c3d4"
	asked    = oauth.Scopes("okta.groups.read okta.users.read")
)

// world is one client of an authorization server, with everything it sends and
// logs on record.
type world struct {
	okta   *fakeokta.Okta // nil behind a script
	wire   *wire          // nil on a real network
	ring   *keys.Ring
	client *Client
	log    *log

	checked int // requests that wantProofs has seen
}

// newWorld is a client of a fake Okta that knows its public key.
func newWorld(t *testing.T, changes ...func(*ServerConfig, *ClientConfig)) *world {
	t.Helper()
	return newWorldOf(t, fakeokta.Config{URL: issuer}, fakeokta.App{}, changes...)
}

// newWorldOf is newWorld with another org, and another kind of app.
func newWorldOf(t *testing.T, config fakeokta.Config, app fakeokta.App, changes ...func(*ServerConfig, *ClientConfig)) *world {
	t.Helper()
	org := newOktaOf(t, config, app)
	w := newClient(t, org.Transport(), changes...)
	w.okta = org
	w.register(t)
	return w
}

func newOkta(t *testing.T, baseURL string) *fakeokta.Okta {
	t.Helper()
	return newOktaOf(t, fakeokta.Config{URL: baseURL}, fakeokta.App{})
}

func newOktaOf(t *testing.T, config fakeokta.Config, app fakeokta.App) *fakeokta.Okta {
	t.Helper()
	org, err := fakeokta.New(config)
	if err != nil {
		t.Fatal(err)
	}
	app.ClientID, app.Scopes = clientID, asked.List()
	if err := org.AddApp(app); err != nil {
		t.Fatal(err)
	}
	return org
}

// newClient is a client whose requests go to transport; nil means the real
// network.
func newClient(t testing.TB, transport http.RoundTripper, changes ...func(*ServerConfig, *ClientConfig)) *world {
	t.Helper()
	w := &world{log: &log{}}
	logger := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	serverConfig := ServerConfig{Issuer: issuer, Log: logger}
	if transport != nil {
		w.wire = &wire{next: transport}
		serverConfig.Transport = w.wire
	}
	ring, err := keys.Open(t.Context(), keys.Config{
		Name: "signer", Store: &memory{}, Algorithm: "ES256", Log: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ring.Active(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	clientConfig := ClientConfig{Name: "billing", ID: clientID, Ring: ring}
	for _, change := range changes {
		change(&serverConfig, &clientConfig)
	}
	clientConfig.Server = NewServer(serverConfig)
	w.ring, w.client = clientConfig.Ring, NewClient(clientConfig)
	return w
}

// scripted is a client whose n-th POST, from 1 on, gets what script makes of it.
func scripted(t *testing.T, script func(n int, r *http.Request) (*http.Response, error)) *world {
	t.Helper()
	n := 0
	return newClient(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		n++
		return script(n, r)
	}))
}

// always is a client whose every POST gets the same answer.
func always(t *testing.T, status int, body string, headers ...string) *world {
	t.Helper()
	return scripted(t, func(int, *http.Request) (*http.Response, error) { return answer(status, body, headers...), nil })
}

// on sets the issuer, for servers on the real network.
func on(baseURL string) func(*ServerConfig, *ClientConfig) {
	return func(s *ServerConfig, _ *ClientConfig) { s.Issuer = baseURL }
}

// register makes the active key known to the fake Okta.
func (w *world) register(t *testing.T) {
	t.Helper()
	if err := w.okta.RegisterKey(clientID, w.active().JWK()); err != nil {
		t.Fatal(err)
	}
}

func (w *world) active() *keys.Key { return w.ring.Keys()[0] }

func (w *world) rotate(t *testing.T) {
	t.Helper()
	if _, err := w.ring.Rotate(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
}

func (w *world) exchange(t *testing.T) (oauth.Token, error) {
	t.Helper()
	return w.client.Exchange(t.Context(), asked)
}

// works is an exchange that must succeed.
func (w *world) works(t *testing.T) oauth.Token {
	t.Helper()
	token, err := w.exchange(t)
	if err != nil {
		t.Fatalf("no token: %v", err)
	}
	return token
}

// fails is an exchange that must fail.
func (w *world) fails(t *testing.T) *oauth.Error {
	t.Helper()
	token, err := w.exchange(t)
	if err == nil {
		t.Fatalf("got a token for %q, want an error", token.Scopes)
	}
	return explained(t, err)
}

func explained(t *testing.T, err error) *oauth.Error {
	t.Helper()
	e, ok := err.(*oauth.Error) //nolint:errorlint // the broker promises this type, and not one around it
	if !ok {
		t.Fatalf("got a %T, want an *oauth.Error: %v", err, err)
	}
	return e
}

// texts is all that a caller or the log gets to see of an error.
func (w *world) texts(e *oauth.Error) string {
	return fmt.Sprintf("%s\n%s\n%+v\n%s", e.Error(), e.Description, e.Upstream, w.log.text())
}

func (w *world) wantPosts(t *testing.T, want int) {
	t.Helper()
	if got := len(w.wire.sent()); got != want {
		t.Errorf("%d POSTs, want %d", got, want)
	}
}

// wire records each request on its way to next.
type wire struct {
	next http.RoundTripper

	mu    sync.Mutex
	posts []post
}

type post struct {
	at      time.Time
	method  string
	url     string
	header  http.Header
	form    url.Values
	getBody bool
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.posts = append(w.posts, post{time.Now(), r.Method, r.URL.String(), r.Header.Clone(), form, r.GetBody != nil})
	w.mu.Unlock()
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	return w.next.RoundTrip(r)
}

func (w *wire) sent() []post {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]post(nil), w.posts...)
}

func (p post) assertion() string { return p.form.Get("client_assertion") }

// decode reads a JWT's header and claims. Numbers stay as they are written.
func decode(t *testing.T, token string) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is not a JWT", token)
	}
	for i, into := range []*map[string]any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answer makes a response of JSON; headers are pairs, and an empty value takes
// a header away.
func answer(status int, body string, headers ...string) *http.Response {
	h := http.Header{"Content-Type": {"application/json"}, "Date": {dateAt(0)}}
	for i := 0; i < len(headers); i += 2 {
		if h.Set(headers[i], headers[i+1]); headers[i+1] == "" {
			h.Del(headers[i])
		}
	}
	return &http.Response{StatusCode: status, Header: h, ContentLength: -1, Body: io.NopCloser(strings.NewReader(body))}
}

// good is a token answer with members replaced; a nil value takes one away.
func good(changes ...map[string]any) string {
	members := map[string]any{"token_type": "Bearer", "expires_in": 3600, "access_token": "good", "scope": string(asked)}
	for _, change := range changes {
		maps.Copy(members, change)
	}
	maps.DeleteFunc(members, func(_ string, v any) bool { return v == nil })
	text, err := json.Marshal(members)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// refusing is the body of an OAuth error.
func refusing(code, description string) string {
	text, err := jsontext.AppendQuote(nil, description)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"error":%q,"error_description":%s}`, code, text)
}

func dateAt(offset time.Duration) string {
	return time.Now().Add(offset).UTC().Format(http.TimeFormat)
}

// memory is a keys.Store without a disk.
type memory struct {
	mu   sync.Mutex
	data []byte
	rev  int
}

func (m *memory) String() string { return "in memory" }

func (m *memory) Load(context.Context) ([]byte, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rev == 0 {
		return nil, "", fs.ErrNotExist
	}
	return bytes.Clone(m.data), strconv.Itoa(m.rev), nil
}

func (m *memory) Save(_ context.Context, data []byte, rev string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if (rev == "") != (m.rev == 0) || rev != "" && rev != strconv.Itoa(m.rev) {
		return keys.ErrConflict
	}
	m.data, m.rev = bytes.Clone(data), m.rev+1
	return nil
}

// log is what a logger wrote.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
