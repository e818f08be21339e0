package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// Of the files that the process may open each gets its part: half are connections of
// the API listener, an eighth those of a listener for calls, a sixteenth each of health
// and public keys. A call has a second file, the connection to its upstream, so calls
// in flight are bounded by an eighth, whichever listener they came by, and those that wait
// for one of them to end by a sixteenth. What is left is for keys, servers and upstreams'
// idle connections, and no calls, however long they stream, take a connection from
// health, nor more than a part from token requests.
const (
	maxConnections = 4096
	maxCalls       = 2048
	// callWait is how long a call may wait for another to end. It is less than
	// readTimeout, which goes on meanwhile.
	callWait = 5 * time.Second
	// maxOtherConnections is for each of the other listeners.
	maxOtherConnections = 256

	// net/http adds 4 KiB of its own to MaxHeaderBytes: 16 KiB in all.
	maxHeader = 12 << 10

	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	// writeTimeout leaves room for a fetch of six seconds.
	writeTimeout = 30 * time.Second
	idleTimeout  = 2 * time.Minute
	// publicTimeout bounds each step of a connection that comes from the internet.
	publicTimeout = 5 * time.Second

	// After /readyz has turned, the listener stays open until no request has come
	// for Config.Quiet, so that nobody who is about to connect is turned away; but no
	// longer than noticeTime.
	quietTime  = 500 * time.Millisecond
	noticeTime = 2 * time.Second
	// acceptTime is how long the server then has to take the connections that wait for
	// it, when there come no more.
	acceptTime = 500 * time.Millisecond
	// drainTime is how long requests in flight have then.
	drainTime = 15 * time.Second
)

// socketPrefix starts a listen address that is a Unix socket.
const socketPrefix = "unix:"

// Listen opens host:port or unix:/path. It refuses an address that other
// machines can reach: whoever reaches the listener gets tokens.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	if strings.HasPrefix(address, socketPrefix) {
		return ListenAnywhere(ctx, address)
	}
	if err := checkLoopback(address); err != nil {
		return nil, err
	}
	listener, err := ListenAnywhere(ctx, address)
	if errors.Is(err, errTaken) {
		hint := "give another one as PORT"
		if runtime.GOOS == "darwin" && strings.HasSuffix(address, ":5000") {
			hint += "; on macOS the AirPlay Receiver sits on port 5000"
		}
		err = fmt.Errorf("%w: %s", err, hint)
	}
	if err != nil {
		return nil, err
	}
	// What localhost means is for the machine's hosts file to say.
	if tcp, ok := listener.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		_ = listener.Close()
		return nil, notLoopback(address)
	}
	return listener, nil
}

// ListenAnywhere opens host:port or unix:/path at any address, for what anybody
// may see.
func ListenAnywhere(ctx context.Context, address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, socketPrefix); ok {
		return listenSocket(ctx, path)
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false) // there are no filters for it: see turnAway
	listener, err := config.Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		err = errTaken
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
	return listener, nil
}

var errTaken = errors.New("the port is taken")

func notLoopback(address string) error {
	return fmt.Errorf("listening on %s: refused, because other machines could reach it and no callers are configured: listen on 127.0.0.1 or on unix:/path", address)
}

// WithPort replaces the port of a listen address; a Unix socket gives way to
// loopback.
func WithPort(address string, port int) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil || strings.HasPrefix(address, socketPrefix) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("listening on %s: not host:port or unix:/path", address)
	}
	if strings.EqualFold(host, "localhost") {
		return nil
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.IsLoopback() {
		return nil
	}
	return notLoopback(address)
}

// listenSocket makes a socket that its owner and group can use. A socket that
// nobody listens on any more is replaced.
func listenSocket(ctx context.Context, path string) (net.Listener, error) {
	if !strings.HasPrefix(path, "/") { // an abstract socket has no mode
		return nil, fmt.Errorf("listening on %s%s: not an absolute path", socketPrefix, path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("listening on %s%s: another process listens there", socketPrefix, path)
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(path)
		}
	}
	// Connecting needs the right to write, so the mode has to be right from the
	// first moment on, and then exact: a umask only takes bits away.
	umask := syscall.Umask(0o117)
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	syscall.Umask(umask)
	if err != nil {
		return nil, fmt.Errorf("listening on %s%s: %w", socketPrefix, path, err)
	}
	return listener, nil
}

// Serve answers on the listener until ctx ends, then lets requests in flight
// finish, for a while, and returns nil. What goes on after that, as streams do, is cut
// off.
func Serve(ctx context.Context, listener net.Listener, a *API) error {
	return a.serve(ctx, listener, 2, a)
}

// ServeProxy is Serve for a listener of its own where handler makes calls for the
// caller: see Proxied. The handler has to lift the server's time-outs, which are for
// small requests and answers, while it streams.
func ServeProxy(ctx context.Context, listener net.Listener, a *API, handler http.Handler) error {
	return a.serve(ctx, listener, 8, a.Proxied(handler))
}

func (a *API) serve(ctx context.Context, listener net.Listener, part uint64, handler http.Handler) error {
	server := newServer(handler, a.log)
	served := make(chan error, 1)
	open := bounded(listener, maxConnections, part)
	go func() { served <- server.Serve(open) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	a.Drain()
	a.waitForQuiet()
	turnAway(listener, a.quiet/5)
	_ = open.Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		a.log.Warn("the listener ended by itself", "listen", listener.Addr().String(), "err", err)
	}
	a.waitForQuiet() // Shutdown drops a request of which it has read but the header
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.drain)
	defer cancel()
	err := server.Shutdown(drain)
	if err == nil {
		return nil
	}
	_ = server.Close()
	if errors.Is(err, context.DeadlineExceeded) {
		a.log.Warn("requests were cut off: they went on for longer than a stop waits", "listen", listener.Addr().String(), "waited", a.drain)
		return nil
	}
	return fmt.Errorf("draining %s: %w", listener.Addr(), err)
}

// bounded lets most connections be open at once, and no more than a part of the
// files. Further connections wait.
func bounded(listener net.Listener, most, part uint64) net.Listener {
	return netutil.LimitListener(listener, partOfFiles(most, part))
}

// partOfFiles returns most, or what a part of the files is that the process may open,
// if that is less.
func partOfFiles(most, part uint64) int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		most = min(most, max(files.Cur/part, 1))
	}
	return int(most) //nolint:gosec // it is a few thousand at most
}

// ServeHealth answers Health on the listener until ctx ends. It is for a listener
// of its own, and outlives the draining of Serve.
func ServeHealth(ctx context.Context, listener net.Listener, a *API) error {
	return serveAlone(ctx, listener, newServer(a.Health(), a.log), "health")
}

// ServeJWKS answers JWKS on the listener until ctx ends. It is for a listener of its
// own, and outlives the draining of Serve.
func ServeJWKS(ctx context.Context, listener net.Listener, a *API) error {
	server := newServer(a.JWKS(), a.log)
	// Whoever is out there may hold a connection, and Okta has to get one.
	server.ReadTimeout, server.WriteTimeout, server.IdleTimeout = publicTimeout, publicTimeout, publicTimeout
	return serveAlone(ctx, listener, server, "public keys")
}

// serveAlone serves what needs no draining.
func serveAlone(ctx context.Context, listener net.Listener, server *http.Server, what string) error {
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(bounded(listener, maxOtherConnections, 16)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s on %s: %w", what, listener.Addr(), err)
	}
	return nil
}

func newServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// net/http would answer OPTIONS * itself, past the guard.
		DisableGeneralOptionsHandler: true,
	}
}

// waitForQuiet returns when no request has come for a while, which may have begun
// before.
func (a *API) waitForQuiet() {
	for end := time.Now().Add(noticeTime); ; {
		last := time.Unix(0, a.lastRequest.Load())
		wait := min(time.Until(last.Add(a.quiet)), time.Until(end))
		if wait <= 0 {
			return
		}
		<-time.After(wait)
	}
}
