package rotation_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/okta"
	"okta-token-broker/internal/rotation"
)

const (
	issuer = "https://acme.okta.test"
	scope  = "okta.users.read"
)

// mode is how Okta learns of keys.
type mode string

const (
	manual  mode = "manual"
	jwksURI mode = "jwks_uri" // fetched every twelve minutes
	jwksNow mode = "jwks_now" // and for each request
	api     mode = "api"
)

// org is a fake Okta, and a broker with one ring and clients of it.
type org struct {
	okta    *fakeokta.Okta
	server  *okta.Server
	rotator *okta.Client
	store   *memory
	ring    *keys.Ring
	modes   []mode
	cfg     rotation.Config
	clients map[string]*okta.Client
	log     log
	ahead   time.Duration // of the broker's clock
	walker  *rotation.Walker
	stop    func() // the walker
}

// newOrg makes an org, for a bubble. Its apps, called like the modes, know the
// ring's first key. Nothing is walked yet.
func newOrg(t *testing.T, modes ...mode) *org {
	t.Helper()
	o := &org{store: &memory{}, modes: modes}
	fetch := roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(o.ring.JWKS()))}, nil
	})
	var err error
	if o.okta, err = fakeokta.New(fakeokta.Config{URL: issuer, Fetch: fetch}); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(&o.log, nil))
	o.server = okta.NewServer(okta.ServerConfig{Issuer: issuer, Transport: o.okta.Transport(), Log: logger})
	o.cfg = rotation.Config{RetireAfter: time.Hour, Log: logger}
	o.addRotator(t)
	o.open(t)
	first, _, err := o.ring.Active(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	for i, mode := range modes {
		app := fakeokta.App{ClientID: mode.name(i), ID: "app-" + mode.name(i), Scopes: []string{scope}}
		if mode.fetches() {
			app.JWKSURI = "https://broker.test/jwks.json"
		}
		if mode == jwksURI {
			app.JWKSLag = 12 * time.Minute
		}
		if err := o.okta.AddApp(app); err != nil {
			t.Fatal(err)
		}
		if !mode.fetches() {
			o.register(t, mode.name(i), first)
		}
	}
	return o
}

func (m mode) fetches() bool { return m == jwksURI || m == jwksNow }

func (m mode) name(i int) string { return fmt.Sprintf("%s%d", m, i) }

// addRotator adds a client with a ring of its own that may change the apps' keys.
func (o *org) addRotator(t *testing.T) {
	t.Helper()
	scopes := []string{"okta.apps.manage", "okta.apps.read"}
	ring, err := keys.Open(t.Context(), keys.Config{Name: "rotator", Store: &memory{}, Algorithm: "ES256"})
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := ring.Active(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.okta.AddApp(fakeokta.App{ClientID: "rotator", Scopes: scopes, SuperAdmin: true}); err != nil {
		t.Fatal(err)
	}
	o.register(t, "rotator", k)
	o.rotator = okta.NewClient(okta.ClientConfig{Name: "rotator", ID: "rotator", Server: o.server, Ring: ring})
}

// open opens the ring, and makes what a broker makes of it at its start.
func (o *org) open(t *testing.T) {
	t.Helper()
	var err error
	o.ring, err = keys.Open(t.Context(), keys.Config{Name: "default", Store: o.store, Algorithm: "ES256", Log: o.cfg.Log,
		Now: func() time.Time { return time.Now().Add(o.ahead) }})
	if err != nil {
		t.Fatal(err)
	}
	o.clients, o.cfg.Ring, o.cfg.Clients = map[string]*okta.Client{}, o.ring, nil
	for i, mode := range o.modes {
		name := mode.name(i)
		o.clients[name] = okta.NewClient(okta.ClientConfig{Name: name, ID: name, Server: o.server, Ring: o.ring, Scopes: scope})
		client := rotation.Client{Name: name, Server: o.clients[name], Fetched: mode.fetches()}
		if mode == api {
			client.Registry = okta.NewAppKeys(okta.AppKeysConfig{
				Client: name, AppID: "app-" + name, Rotator: o.rotator,
			})
		}
		o.cfg.Clients = append(o.cfg.Clients, client)
	}
}

// walk starts the walker, and what goes with it in a broker. It ends with the test.
func (o *org) walk(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	o.walker = rotation.New(o.cfg)
	walker, ring := o.walker, o.ring
	running.Go(func() { walker.Run(ctx) })
	running.Go(func() { ring.Watch(ctx) })
	o.stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(func() { o.stop() })
}

// restart ends the broker's process and starts another.
func (o *org) restart(t *testing.T) {
	t.Helper()
	o.stop()
	o.open(t)
	o.walk(t)
}

// register adds a key to an app as an administrator does.
func (o *org) register(t *testing.T, name string, k *keys.Key) {
	t.Helper()
	if err := o.okta.RegisterKey(name, k.JWK()); err != nil {
		t.Fatal(err)
	}
}

// token gets a token for each client, by the key of that kid.
func (o *org) token(t *testing.T, kid string) {
	t.Helper()
	for name, client := range o.clients {
		token, err := client.Exchange(t.Context(), scope)
		if err != nil {
			t.Errorf("client %s: %v", name, err)
			continue
		}
		if token.Kid != kid {
			t.Errorf("client %s has a token of key %q, want %q", name, token.Kid, kid)
		}
	}
}

// stands is the ring in words: active KID, next KID, ... and a + for proven ones.
func stands(ring *keys.Ring) string {
	var all []string
	for _, k := range ring.Keys() {
		plus := ""
		if !k.Proven().IsZero() {
			plus = "+"
		}
		all = append(all, fmt.Sprintf("%s %s%s", k.State(), k.ID(), plus))
	}
	return strings.Join(all, ", ")
}

func (o *org) want(t *testing.T, want string) {
	t.Helper()
	if got := stands(o.ring); got != want {
		t.Errorf("the ring is %q, want %q", got, want)
	}
}

// wantUnrefused checks that Okta refused no token request because of its key.
func (o *org) wantUnrefused(t *testing.T) {
	t.Helper()
	if got := o.okta.Counters().Refused["invalid_client"]; got != 0 {
		t.Errorf("%d requests were refused as invalid_client", got)
	}
}

// after lets fake time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// memory is a keys.Store without a disk.
type memory struct {
	mu   sync.Mutex
	data []byte
	rev  int

	readOnly bool
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
	if m.readOnly {
		return keys.ErrReadOnly
	}
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

func (l *log) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// has reports whether a client has the mode.
func (o *org) has(mode mode) bool { return slices.Contains(o.modes, mode) }

// paste adds a key to the apps where that is somebody's work, if it is not there.
func (o *org) paste(t *testing.T, k *keys.Key) {
	t.Helper()
	for i, mode := range o.modes {
		known := slices.ContainsFunc(o.okta.AppKeys(mode.name(i)), func(saved fakeokta.AppKey) bool { return saved.Kid == k.ID() })
		if mode == manual && !known {
			o.register(t, mode.name(i), k)
		}
	}
}

// stage stages a key, as the command does in another process.
func (o *org) stage(t *testing.T, kid string) {
	t.Helper()
	there, err := keys.Open(t.Context(), keys.Config{Name: "default", Store: o.store, Algorithm: "ES256"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := there.Stage(t.Context(), kid); err != nil {
		t.Fatal(err)
	}
	o.ring.Refresh(t.Context())
}

// keysAtOkta is what is saved for each app, in words.
func (o *org) keysAtOkta() map[string]string {
	all := map[string]string{}
	for i, mode := range o.modes {
		var words []string
		for _, k := range o.okta.AppKeys(mode.name(i)) {
			words = append(words, k.Kid+" "+k.Status)
		}
		all[mode.name(i)] = strings.Join(words, ", ")
	}
	return all
}
