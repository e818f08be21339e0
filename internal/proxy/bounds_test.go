package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/proxy"
)

// The header of an answer is taken up to 64 KiB.
func TestLongHeaderOfAnAnswer(t *testing.T) {
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", int(req.ContentLength)))
	})
	for length, want := range map[int]int{60 << 10: http.StatusOK, 70 << 10: http.StatusBadGateway} {
		got := do(t, request(t, "POST", r.url+"/api", strings.NewReader(strings.Repeat("b", length))))
		if got.StatusCode != want || want == http.StatusOK && len(got.Header.Get("X-Long")) != length {
			t.Errorf("a header of %d bytes: answered %s; want %d", length, got.Status, want)
		}
	}
}

// refusal is the body of a first answer, which is not passed on.
type refusal struct {
	left, read int
	closed     atomic.Bool
}

func (r *refusal) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), r.left)
	r.left -= n
	r.read += n
	return n, nil
}

func (r *refusal) Close() error {
	r.closed.Store(true)
	return nil
}

// refusing answers the first token with a 401.
type refusing struct {
	body  *refusal
	known bool // its length
}

func (r refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, ProtoMajor: 1, Header: http.Header{}, Body: http.NoBody, Request: req}
	if req.Header.Get("Authorization") == "Bearer the-token-0" {
		resp.StatusCode, resp.Body, resp.ContentLength = http.StatusUnauthorized, r.body, -1
		if r.known {
			resp.ContentLength = int64(r.body.left)
		}
	}
	return resp, nil
}

// What a refusal says is read to its end, so that the connection can be used again, unless
// that is over 8 KiB. Where this is known before nothing is read.
func TestRestOfARefusal(t *testing.T) {
	const most = 8 << 10
	tests := []struct {
		length int
		known  bool
		read   int
	}{
		{0, true, 0},
		{10, true, 10},
		{most, true, most},
		{most + 1, true, 0},
		{1 << 20, true, 0},
		{10, false, 10},
		{most, false, most},
		{1 << 20, false, most + 1},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d, known: %t", tt.length, tt.known), func(t *testing.T) {
			body := &refusal{left: tt.length}
			resp, err := proxy.Do(&standIn{}, caller.Local("test"), broker.CallRequest{}, refusing{body, tt.known}, request(t, "GET", "http://upstream.test/api", nil))
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("answered %v, %v", resp, err)
			}
			defer resp.Body.Close()
			if body.read != tt.read || !body.closed.Load() {
				t.Errorf("%d bytes were read, closed: %t; want %d", body.read, body.closed.Load(), tt.read)
			}
		})
	}
}
