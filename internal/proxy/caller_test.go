package proxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// A caller that announces a body, and has not sent all of it when the answer is there,
// loses its connection: what comes late is not taken for a request, nor waited for.
func TestBodyThatIsNotAllSent(t *testing.T) {
	early := func(w http.ResponseWriter, req *http.Request) {
		_, _ = req.Body.Read(make([]byte, 1))
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Connection", "close") // net/http panics if it keeps one whose body breaks off
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}
	late := "GET /api/uploaded HTTP/1.1\r\nHost: localhost\r\n\r\n"
	tests := []struct {
		name   string
		header string
		part   string // of the body
		gone   bool   // the upstream
		status int
	}{
		{"nobody to send it to", "Content-Length: 10", "", true, http.StatusServiceUnavailable},
		{"nobody to send it to, chunked", "Transfer-Encoding: chunked", "5\r\nbegun\r\n", true, http.StatusServiceUnavailable},
		{"the upstream did not wait", "Content-Length: 1000", "begun", false, http.StatusRequestEntityTooLarge},
		{"the upstream did not wait, chunked", "Transfer-Encoding: chunked", "5\r\nbegun\r\n", false, http.StatusRequestEntityTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stand := &standIn{}
			r := &rig{tb: t, broker: stand, log: &lockedBuffer{}}
			if tt.gone {
				r.start(closedPort(t), newTransport(t))
			} else {
				r = newRig(t, stand, early)
			}
			conn, err := net.Dial("tcp", strings.TrimPrefix(r.own, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "POST /api HTTP/1.1\r\nHost: localhost\r\n"+tt.header+"\r\n\r\n"+tt.part); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			answers := bufio.NewReader(conn)
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != tt.status || !resp.Close {
				t.Errorf("answered %s with %v, %v; want %d, and to close the connection", resp.Status, resp.Header, err, tt.status)
			}
			if _, err := answers.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is still held")
			}
			_, _ = io.WriteString(conn, late)
			_, _ = io.Copy(io.Discard, answers)
			if asked := stand.asked(); asked != 1 {
				t.Errorf("%d calls were made of one", asked)
			}
		})
	}
}
