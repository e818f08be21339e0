package httpapi

import (
	"net"
	"os"
	"time"
)

// turnAway lets no further connection begin on a listener, where that can be done, and
// returns when the server has taken those that have, and there was none for a while: to
// close the listener alone would reset them, when their clients may have sent a request
// already.
func turnAway(listener net.Listener, quiet time.Duration) {
	switch listener := listener.(type) {
	case *net.TCPListener:
		dropSYN(listener, quiet)
	case *net.UnixListener:
		listener.SetUnlinkOnClose(false) // another broker may have a socket there by then
		if os.Remove(listener.Addr().String()) == nil {
			<-time.After(quiet)
		}
	}
}
