package httpapi

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// dropSYN has a listener get no packet that begins a connection, and returns when none
// waits to be accepted any more, nor has for a while. Clients send that packet once more a
// second later (RFC 6298), when nobody listens.
func dropSYN(listener *net.TCPListener, quiet time.Duration) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return
	}
	noSYN := [...]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},         // the flags of the TCP header (RFC 9293 section 3.1)
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 2, Jf: 1}, // SYN is not taken
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
	}
	_ = raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(noSYN)), Filter: &noSYN[0]})
	})
	start := time.Now()
	for last := start; err == nil && time.Since(last) < quiet && time.Since(start) < acceptTime; <-time.After(time.Millisecond) {
		_ = raw.Control(func(fd uintptr) {
			var info *unix.TCPInfo
			info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err == nil && info.Unacked > 0 { // of a listener: how many wait to be accepted
				last = time.Now()
			}
		})
	}
}
