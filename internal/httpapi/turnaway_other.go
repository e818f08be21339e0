//go:build !linux

package httpapi

import (
	"net"
	"time"
)

// turnAway lets no further connection begin on a listener, where that can be done.
func turnAway(net.Listener, time.Duration) {}
