package cli_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"okta-token-broker/internal/fakeokta"
)

// watchedOkta is a fake Okta on a real socket that writes down who asked it for
// tokens.
type watchedOkta struct {
	*fakeokta.Okta
	issuer string

	mu       sync.Mutex
	requests []tokenRequest
}

// tokenRequest is a request to a token endpoint, with what was answered.
type tokenRequest struct {
	client, kid, scope string
	at                 time.Time
	status             int
	answer             string
}

func (r tokenRequest) String() string {
	if r.status == http.StatusOK {
		r.answer = "a token"
	}
	return fmt.Sprintf("%s asks for %q under %q: %d %s", r.client, r.scope, r.kid, r.status, r.answer)
}

// startWatchedOkta starts an org whose tokens live that long.
func startWatchedOkta(t *testing.T, life time.Duration) *watchedOkta {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	o := &watchedOkta{issuer: "http://" + server.Listener.Addr().String()}
	var err error
	if o.Okta, err = fakeokta.New(fakeokta.Config{URL: o.issuer, TokenLife: life}); err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = o
	server.Start()
	t.Cleanup(server.Close)
	return o
}

// addApp adds an app. One that is called rotator may change the keys of others.
func (o *watchedOkta) addApp(t *testing.T, clientID string, scopes ...string) {
	t.Helper()
	if err := o.AddApp(fakeokta.App{ClientID: clientID, Scopes: scopes, SuperAdmin: clientID == "rotator"}); err != nil {
		t.Fatal(err)
	}
}

// paste adds a key to an app, as an administrator does.
func (o *watchedOkta) paste(t *testing.T, clientID, jwk string) {
	t.Helper()
	if err := o.RegisterKey(clientID, json.RawMessage(jwk)); err != nil {
		t.Fatal(err)
	}
}

// saved are the keys of an app in words: KID STATUS.
func (o *watchedOkta) saved(clientID string) []string {
	var words []string
	for _, k := range o.AppKeys(clientID) {
		words = append(words, k.Kid+" "+k.Status)
	}
	return words
}

// ServeHTTP answers one request.
func (o *watchedOkta) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/v1/token") {
		o.Okta.ServeHTTP(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body))
	answer := &copied{ResponseWriter: w}
	o.Okta.ServeHTTP(answer, r)
	var header struct{ Kid string }
	var claims struct{ Iss string }
	for i, part := range slices.Collect(strings.SplitSeq(form.Get("client_assertion"), ".")) {
		text, _ := base64.RawURLEncoding.DecodeString(part)
		switch i {
		case 0:
			_ = json.Unmarshal(text, &header)
		case 1:
			_ = json.Unmarshal(text, &claims)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.requests = append(o.requests, tokenRequest{claims.Iss, header.Kid, form.Get("scope"), time.Now(), answer.status, answer.body.String()})
}

// copied is an answer that is also kept.
type copied struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (c *copied) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *copied) Write(p []byte) (int, error) {
	c.body.Write(p)
	return c.ResponseWriter.Write(p)
}

// asked lists the token requests that match, oldest first.
func (o *watchedOkta) asked(match func(tokenRequest) bool) []tokenRequest {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(o.requests), func(r tokenRequest) bool { return !match(r) })
}

// configure writes the configuration of a folder.
func configure(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "okta-token-broker.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// command runs the program in a folder, and returns what it prints.
func command(t *testing.T, dir string, args ...string) string {
	t.Helper()
	stdout, stderr, code := run(t, broker(t, dir, nil, args...))
	if code != 0 {
		t.Fatalf("%s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}
