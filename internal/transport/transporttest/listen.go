package transporttest

import (
	"net"
	"testing"
)

// Listen has serve take each connection to a port of this machine, until the test ends,
// and closes it then. The address is that of an http URL.
func Listen(tb testing.TB, serve func(net.Conn)) (address string) {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}
