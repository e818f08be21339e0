package proxy_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A trailer has nothing that the header must not have, nor what belongs there.
func TestTrailer(t *testing.T) {
	forbidden := []string{
		"Set-Cookie", "Connection", "Content-Length", "X-Content-Type-Options", "Content-Type", "Transfer-Encoding",
		"Link", "Location", "Access-Control-Allow-Origin", "Dpop-Nonce", "Cache-Control",
	}
	for _, announced := range []bool{false, true} {
		var sent strings.Builder
		sent.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n")
		if announced { // net/http takes no notice of some of these
			for _, name := range forbidden {
				if name != "Content-Length" && name != "Transfer-Encoding" {
					sent.WriteString("Trailer: " + name + "\r\n")
				}
			}
			sent.WriteString("Trailer: X-Checksum\r\n")
		}
		sent.WriteString("\r\n2\r\n{}\r\n0\r\nX-Checksum: 1\r\n")
		for _, name := range forbidden {
			sent.WriteString(name + ": evil\r\n")
		}
		r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}}
		r.start(raw(sent.String()+"\r\n")(t), newTransport(t))
		got := rawText(t, r.own, "GET /api HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if _, trailer, _ := strings.Cut(got, "\r\n0\r\n"); trailer != "X-Checksum: 1\r\n\r\n" {
			t.Errorf("announced %t: the trailer is %q", announced, trailer)
		}
		if header, _, _ := strings.Cut(got, "\r\n\r\n"); strings.Contains(header, "Cookie") || strings.Contains(header, "Link") {
			t.Errorf("announced %t: the header is %q", announced, header)
		}
	}
}

// rawText sends bytes over a socket, and returns all that comes back.
func rawText(tb testing.TB, address, sent string) string {
	tb.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, sent); err != nil {
		tb.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		tb.Fatal(err)
	}
	return string(got)
}

// Over the wire a link is what Okta calls it, and a body has the type that the upstream
// gave it, or none.
func TestHeaderOverTheWire(t *testing.T) {
	for sent, want := range map[string]string{
		"":                                   "",
		"Content-Type: \r\n":                 "Content-Type: \r\n",
		"Content-Type: application/json\r\n": "Content-Type: application/json\r\n",
		"Link: </a>\r\nLink: </b>\r\n":       "link: <http://localhost/a>\r\nlink: <http://localhost/b>\r\n",
	} {
		r := &rig{tb: t, broker: &standIn{}, log: &lockedBuffer{}}
		r.start(raw("HTTP/1.1 200 OK\r\nDate: now\r\n"+sent+"Content-Length: 8\r\n\r\n<script>")(t), newTransport(t))
		got := rawText(t, r.own, "GET /api HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		header, body, _ := strings.Cut(got, "\r\n\r\n")
		rest := header + "\r\n"
		for _, other := range []string{"HTTP/1.1 200 OK\r\n", "Date: now\r\n", "Content-Length: 8\r\n", "X-Content-Type-Options: nosniff\r\n", "Connection: close\r\n"} {
			rest = strings.Replace(rest, other, "", 1)
		}
		if rest != want || body != "<script>" {
			t.Errorf("sent %q, and %q came of it, of %q", sent, rest, got)
		}
	}
}
