package transport

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A request tells when it is repeated, once each time, and can change its header then.
// One that net/http must not repeat goes out once.
func TestOnRepeat(t *testing.T) {
	tests := []struct {
		name    string
		breaks  int // the request whose connection breaks, or none
		method  string
		seen    []string
		repeats int
		fails   bool
	}{
		{"nothing breaks", 0, http.MethodGet, []string{"", ""}, 0, false},
		{"a kept connection breaks", 2, http.MethodGet, []string{"", "", "1"}, 1, false},
		{"a new connection breaks", 1, http.MethodGet, []string{""}, 0, true},
		{"what may have had an effect", 2, http.MethodPost, []string{"", ""}, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex // a connection that breaks says nothing of what came before
			var seen []string
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				if seen = append(seen, r.Header.Get("Repeats")); len(seen) == tt.breaks {
					panic(http.ErrAbortHandler)
				}
			}))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			t.Cleanup(server.Close)
			transport := New(Config{})
			t.Cleanup(transport.CloseIdleConnections)
			repeats, failed := 0, false
			for range 2 {
				req, err := http.NewRequestWithContext(t.Context(), tt.method, server.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := transport.RoundTrip(req.WithContext(OnRepeat(req.Context(), func() {
					repeats++
					req.Header.Set("Repeats", strconv.Itoa(repeats))
				})))
				if failed = err != nil; failed {
					break
				}
				resp.Body.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff(tt.seen, seen); diff != "" || repeats != tt.repeats || failed != tt.fails {
				t.Errorf("failed %t, repeated %d times; the server saw (-want +got)\n%s", failed, repeats, diff)
			}
		})
	}
}
