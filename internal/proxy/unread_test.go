package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"okta-token-broker/internal/proxy"
	"okta-token-broker/internal/transport/transporttest"
)

// An upstream that refuses a call without reading its body, and closes, is heard all the
// same: its nonce is for the second attempt. A body that is not kept brings its refusal.
func TestRefusedUnread(t *testing.T) {
	origin := transporttest.Listen(t, func(conn net.Conn) {
		in := bufio.NewReader(conn)
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if !strings.HasSuffix(req.Header.Get("DPoP"), " fresh") {
			_, _ = io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nDPoP-Nonce: fresh\r\nWWW-Authenticate: DPoP error=\"use_dpop_nonce\"\r\n\r\n")
			return
		}
		n, _ := io.Copy(io.Discard, req.Body)
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%d", len(strconv.FormatInt(n, 10)), n)
	})
	for _, size := range []int{1 << 10, 20 << 10, 64 << 10, 1 << 20} {
		for _, chunked := range []bool{false, true} {
			for range 40 {
				r := &rig{tb: t, broker: &standIn{tokenType: "DPoP"}}
				r.start(origin, proxy.NewTransport(nil))
				var body io.Reader = bytes.NewReader(make([]byte, size))
				if chunked {
					body = only{body}
				}
				got := do(t, request(t, "POST", r.url+"/api", body))
				if kept := got.StatusCode == http.StatusOK && got.body == strconv.Itoa(size); !kept && (got.StatusCode != http.StatusUnauthorized || size <= 64<<10) {
					t.Fatalf("%d bytes, chunked: %t: answered %s, %s", size, chunked, got.Status, got.body)
				}
			}
		}
	}
}

// The connection over which a call with a body was refused is used no more, by whatever
// call: the resource may be about to close it. One without a body has nothing unread.
func TestRefusedConnectionIsNotKept(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		var connections, refused atomic.Int64
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			if !strings.HasSuffix(req.Header.Get("DPoP"), " fresh") {
				refused.Add(1)
				w.Header().Set("DPoP-Nonce", "fresh")
				w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
		}))
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		}
		server.Start()
		t.Cleanup(server.Close)
		stand := &standIn{tokenType: "DPoP"}
		r := &rig{tb: t, broker: stand}
		r.start(server.URL, proxy.NewTransport(nil))
		const calls = 5
		for range calls {
			var body io.Reader
			if method == "POST" {
				body = strings.NewReader("{}")
			}
			stand.forget()
			if got := do(t, request(t, method, r.url+"/api", body)); got.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", method, got.Status)
			}
		}
		want := int64(1)
		if method == "POST" {
			want = calls + 1 // each but the last is the end of one
		}
		if refused.Load() != calls || connections.Load() != want {
			t.Errorf("%s: %d refusals of %d, over %d connections; want %d", method, refused.Load(), calls, connections.Load(), want)
		}
	}
}
