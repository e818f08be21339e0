package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"okta-token-broker/internal/fakeokta"
)

const (
	theApp     = "0oa1"
	theRotator = "0oaR"
)

// crashOrg is a fake Okta that kills the broker in front of it at a request that it
// chooses, and the folder of that broker.
type crashOrg struct {
	program executable
	dir     string
	walk    walk
	okta    *fakeokta.Okta
	url     string
	kill    kill

	mu       sync.Mutex
	brokers  int           // that were started
	up       chan struct{} // closed once the last one serves
	serving  *serving
	public   string   // where it publishes its keys
	killed   bool     // the first was
	requests int      // of the first broker
	proofs   []string // that were refused, in Okta's words
	tokens   []string // that callers wait for, and that were refused
}

// kill is where the first broker ends; the zero kill is nowhere.
type kill struct {
	request  int    // when this one comes
	answered bool   // or when Okta has done what it asks for, and has not answered
	call     string // when it makes this system call in a write of the ring, the first
}

// callerScopes are those that callers ask for, one at a time, so that each asks Okta.
// A proof asks for all of them.
func callerScopes() (scopes []string) {
	for i := range 100 {
		scopes = append(scopes, fmt.Sprintf("okta.s%d", i))
	}
	return scopes
}

// newCrashOrg makes an org whose app knows the keys of the broker's ring, all of them
// just proven.
func newCrashOrg(t *testing.T, program executable, w walk, kill kill) *crashOrg {
	t.Helper()
	o := &crashOrg{program: program, walk: w, kill: kill}
	server := httptest.NewUnstartedServer(o)
	o.url = "http://" + server.Listener.Addr().String()
	var err error
	if o.okta, err = fakeokta.New(fakeokta.Config{URL: o.url, Fetch: fetcher{o}}); err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(server.Close)
	app := fakeokta.App{ClientID: theApp, Scopes: callerScopes()}
	if w.mode == jwksURIMode {
		app.JWKSURI = "http://published.test" + jwksPath
	}
	for _, app := range []fakeokta.App{app, {ClientID: theRotator, Scopes: rotatorScopes(), SuperAdmin: true}} {
		if err := o.okta.AddApp(app); err != nil {
			t.Fatal(err)
		}
	}

	rings := func(every string) string {
		return "jwks_listen: 127.0.0.1:0\nkeys:\n" +
			"  default: {algorithm: ES256, file: 'DIR/" + ringFile + "', rotation: {every: " + every + ", publish_ahead: 1s, retire_after: 0s}}\n" +
			"  rotator: {algorithm: ES256, file: 'DIR/rotator/" + ringFile + "'}\n"
	}
	o.dir = newFolder(t)
	crashConfig(t, o.dir, rings("0s")) // while there is no client, keys rotate does it at once
	if err := os.Mkdir(filepath.Join(o.dir, "rotator"), 0o700); err != nil {
		t.Fatal(err)
	}
	o.addKey(t, theRotator, "keys rotate --key rotator")
	o.addKey(t, theApp, "keys rotate --kid first")
	if w.begins == byRetiring {
		o.addKey(t, theApp, "keys rotate --kid second")
	}
	o.prove(t, "rotator/"+ringFile, time.Now())
	o.prove(t, ringFile, time.Now())

	every, registration, rotator := "0s", w.mode, ""
	if w.begins == bySchedule {
		every = "1h"
	}
	if w.mode == apiMode {
		registration = apiMode + ", rotator: rotator"
		rotator = fmt.Sprintf("  rotator: {issuer: '%s', client_id: %s, scopes: [%s], key: rotator}\n", o.url, theRotator, strings.Join(rotatorScopes(), ", "))
	}
	crashConfig(t, o.dir, rings(every)+"clients:\n"+rotator+
		fmt.Sprintf("  default: {issuer: '%s', client_id: %s, scopes: [%s], prefetch: false, registration: %s}\n",
			o.url, theApp, strings.Join(callerScopes(), ", "), registration))
	return o
}

func rotatorScopes() []string { return []string{"okta.apps.read", "okta.apps.manage"} }

// addKey has a command make a key, which the app knows from then on.
func (o *crashOrg) addKey(t *testing.T, app, command string) {
	t.Helper()
	jwk := o.program.must(t, o.dir, command)
	if app == theApp && o.walk.mode == jwksURIMode {
		return
	}
	if err := o.okta.RegisterKey(app, json.RawMessage(jwk)); err != nil {
		t.Fatal(err)
	}
}

// prove writes into a ring's file that its keys were made and proven at a time.
func (o *crashOrg) prove(t *testing.T, file string, at time.Time) {
	t.Helper()
	path, when := filepath.Join(o.dir, file), at.UTC().Format(time.RFC3339)
	text := regexp.MustCompile(`(?m) created=.*$`).ReplaceAllString(read(t, path),
		fmt.Sprintf(" created=%s activated=%[1]s proven=%[1]s", when))
	other := filepath.Join(t.TempDir(), ringFile)
	if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
}

// ServeHTTP is Okta, as far as the broker lives to see it.
func (o *crashOrg) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	if !o.request(func() { o.okta.ServeHTTP(answer, r) }) {
		panic(http.ErrAbortHandler)
	}
	if said := answer.Body.String(); strings.Contains(said, "invalid_client") {
		o.refused(string(body), said)
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func (o *crashOrg) refused(body, said string) {
	form, _ := url.ParseQuery(body)
	o.mu.Lock()
	defer o.mu.Unlock()
	if slices.Contains(callerScopes(), form.Get("scope")) {
		o.tokens = append(o.tokens, said)
	} else {
		o.proofs = append(o.proofs, said)
	}
}

// fetcher is Okta's way to the keys that the broker publishes.
type fetcher struct{ *crashOrg }

func (f fetcher) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	if !f.request(func() {
		_, public := f.broker()
		resp, err = http.Get(public + r.URL.Path)
	}) {
		return nil, errors.New("the broker was killed")
	}
	return resp, err
}

// request counts a request, and kills the broker if it is the one. It reports
// whether the broker that is to have the answer lives.
func (o *crashOrg) request(work func()) (lives bool) {
	o.mu.Lock()
	asked := o.brokers
	if !o.killed {
		o.requests++
	}
	doomed := !o.killed && o.requests == o.kill.request
	o.mu.Unlock()
	if doomed && !o.kill.answered {
		o.end()
		return false
	}
	work()
	if doomed {
		o.end()
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.brokers == asked && (asked > 1 || !o.killed)
}

func (o *crashOrg) end() {
	serving, _ := o.broker()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.killed = true; serving != nil {
		_ = serving.cmd.Process.Kill()
	}
}

// broker is the one that serves, once it does, and where it publishes its keys. It is
// nil if it could not be started.
func (o *crashOrg) broker() (s *serving, public string) {
	o.mu.Lock()
	up := o.up
	o.mu.Unlock()
	<-up
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.serving, o.public
}

// serve starts a broker in the folder, under strace if there are options for that.
func (o *crashOrg) serve(t *testing.T, trace ...string) *serving {
	t.Helper()
	up := make(chan struct{})
	defer close(up)
	o.mu.Lock()
	o.brokers++
	o.up, o.serving = up, nil
	o.mu.Unlock()
	cmd := o.program.command(t, o.dir, "serve", "0")
	if trace != nil {
		cmd = straced(t, cmd, trace...)
	}
	s := startServing(t, cmd)
	public := jwksOf(t, s)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.serving, o.public = s, public
	return s
}

// keyLine is what the ring's file says of a key.
type keyLine struct {
	state, kid string
	proven     bool
}

// ring reads the ring's file.
func (o *crashOrg) ring(t *testing.T) (ring []keyLine) {
	t.Helper()
	line := regexp.MustCompile(`state=(\S+) kid=(\S+) .* proven=(\S*)`)
	for _, found := range line.FindAllStringSubmatch(read(t, filepath.Join(o.dir, ringFile)), -1) {
		ring = append(ring, keyLine{found[1], found[2], found[3] != ""})
	}
	return ring
}

// rotated tells whether a rotation is over.
func (o *crashOrg) rotated(t *testing.T) bool {
	t.Helper()
	ring := o.ring(t)
	return len(ring) == 1 && ring[0].state == "active" && ring[0].kid != "first" && ring[0].proven
}

// paste does what an administrator does when a proof was refused: the app gets what
// the broker publishes, if it lives.
func (o *crashOrg) paste(t *testing.T) {
	t.Helper()
	o.mu.Lock()
	public, refused := o.public, len(o.proofs)
	o.mu.Unlock()
	if o.walk.mode != manualMode || refused == 0 {
		return
	}
	resp, err := http.Get(public + jwksPath)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	var set struct{ Keys []json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
		return
	}
	for _, jwk := range set.Keys {
		if err := o.okta.RegisterKey(theApp, jwk); err != nil && !strings.Contains(err.Error(), "already holds") {
			t.Errorf("pasting a key: %v", err)
		}
	}
}

// wantEnded asserts that a broker was killed, and did not end by itself.
func wantEnded(t *testing.T, s *serving) {
	t.Helper()
	<-s.done
	_ = s.cmd.Wait() // it was killed
	if status, known := s.cmd.ProcessState.Sys().(syscall.WaitStatus); !known || status.Signal() != syscall.SIGKILL {
		t.Fatalf("it ended by itself: %v: %s", s.cmd.ProcessState, s.logs)
	}
}
