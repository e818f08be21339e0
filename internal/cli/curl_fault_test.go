package cli_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// An answer that is none is told of, without its words: it may repeat the token.
func TestCurlTellsNothingOfABadAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\n" + r.Header.Get("Authorization") + "\r\n\r\n"))
	}))
	t.Cleanup(server.Close)
	p := startCurl(t, bearerApp(), ", resources: {bad: '"+server.URL+"'}")
	stdout, stderr, code := run(t, broker(t, p.dir, nil, "curl", "/~bad/x"))
	want := "the connection to " + strings.TrimPrefix(server.URL, "http://") + " broke, or its answer made no sense: the answer could not be read\n"
	if diff := cmp.Diff(want, stderr[max(0, len(stderr)-len(want)):]); diff != "" || code != 1 || stdout != "" || strings.Contains(stderr, "Bearer") {
		t.Errorf("exit code %d: %q, %q", code, stdout, stderr)
	}
}
