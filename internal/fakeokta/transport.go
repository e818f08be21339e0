package fakeokta

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// ServeHTTP serves the org on a real server.
func (o *Okta) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a, err := o.handle(r)
	if err != nil {
		drop(w)
		return
	}
	maps.Copy(w.Header(), o.headers(a))
	w.WriteHeader(a.status)
	var to io.Writer = w
	if a.slow {
		to = flushing{w, http.NewResponseController(w)}
	}
	_, err = io.Copy(to, a.body)
	if a.cut || err != nil {
		// Without the flush the headers would be lost with the connection.
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// flushing sends each write on its way.
type flushing struct {
	io.Writer
	controller *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err != nil {
		return n, err
	}
	return n, f.controller.Flush()
}

// drop ends a connection without an answer: with a reset where it can be had, so that the client sees a broken
// connection and not an orderly end.
func drop(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil { // HTTP/2
		panic(http.ErrAbortHandler)
	}
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = conn.Close()
}

// Transport returns a client's way to the org that opens no socket, starts no goroutine and waits on timers alone, so that
// it works on fake time. An app with a jwks_uri is the exception: its keys come by Config.Fetch, which does all of that
// by default. Only URLs under Config.URL lead somewhere: any other host cannot be resolved. It does not negotiate
// compression.
func (o *Okta) Transport() http.RoundTripper {
	return transport{o}
}

type transport struct{ okta *Okta }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if !strings.EqualFold(r.URL.Scheme+"://"+r.URL.Host, t.okta.url) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{
			Err: "no such host", Name: r.URL.Hostname(), IsNotFound: true,
		}}
	}

	a, err := t.okta.handle(r)
	if errors.Is(err, errReset) {
		return nil, brokenConnection()
	}
	if err != nil {
		return nil, err
	}
	if a.cut {
		a.body = io.MultiReader(a.body, broken{})
	}
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)),
		StatusCode:    a.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        t.okta.headers(a),
		Body:          io.NopCloser(a.body),
		ContentLength: -1,
		Request:       r,
	}, nil
}

// broken is the rest of a body whose connection has gone.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, brokenConnection() }

// brokenConnection is what a client sees of a dropped connection, under both names that net/http has for it.
func brokenConnection() error {
	return &net.OpError{Op: "read", Net: "tcp", Err: fmt.Errorf("%w: %w", syscall.ECONNRESET, io.ErrUnexpectedEOF)}
}
