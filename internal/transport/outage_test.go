package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"okta-token-broker/internal/transport/transporttest"
)

// short is how long these tests wait for what does not come.
const short = 100 * time.Millisecond

// The errors are those that net/http has over sockets of this machine, but for two
// that it has not today.
func TestOutageOf(t *testing.T) {
	const (
		unknown  = "its certificate is from an unknown authority"
		ended    = "the connection ended before the answer did"
		unread   = "the answer could not be read"
		noTLS    = "it speaks no TLS there: the port, or https://, may be wrong"
		refused  = "it ended the handshake: it may want a client certificate, or another version of TLS"
		failed   = "the handshake failed"
		noLookUp = "the host's name could not be looked up"
	)
	tests := []struct {
		name string
		meet func(*testing.T) error
		want Outage
		says string
	}{
		{"nobody listens", over(func(*testing.T, *http.Transport) string {
			return "http://" + closedPort()
		}), Unreachable, "dial: " + syscall.ECONNREFUSED.Error()},
		{"the name server knows no such name", over(named(nxDomain)), Unreachable, "the host's name is not known"},
		{"the name server fails", over(named(servFail)), Unreachable, noLookUp},
		{"the name server is silent", over(named(silence)), TooSlow, noLookUp},

		{"no proxy", over(func(_ *testing.T, transport *http.Transport) string {
			transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: closedPort()})
			return "https://okta.test"
		}), Unreachable, "proxyconnect: " + syscall.ECONNREFUSED.Error()},
		{"the proxy refuses", over(func(t *testing.T, transport *http.Transport) string {
			proxy := says("HTTP/1.1 407 the-proxys-words\r\n\r\n")(t, transport)
			transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: strings.TrimPrefix(proxy, "http://")})
			return "https://okta.test"
		}), Unreachable, "the proxy answered status 407"},
		{"a refusal next to the proxy's words", func(*testing.T) error {
			return fmt.Errorf("the-proxys-words: %w", proxyRefusal(407))
		}, Unreachable, "the proxy answered status 407"},
		{"the proxy is not trusted", over(func(t *testing.T, transport *http.Transport) string {
			proxy := secured(t, nil)
			transport.Proxy = http.ProxyURL(&url.URL{Scheme: "https", Host: proxy.Listener.Addr().String()})
			return "https://okta.test"
		}), Unreachable, unknown},

		{"a certificate of nobody's", over(func(t *testing.T, _ *http.Transport) string { return secured(t, nil).URL }), Untrusted, unknown},
		{"a certificate for another host", over(func(t *testing.T, transport *http.Transport) string {
			server := secured(t, nil)
			transport.TLSClientConfig = &tls.Config{RootCAs: poolOf(server), ServerName: "okta.test"}
			return server.URL
		}), Untrusted, "its certificate is for another host"},
		{"a certificate that has expired", over(func(t *testing.T, transport *http.Transport) string {
			server := secured(t, nil)
			after := func() time.Time { return server.Certificate().NotAfter.Add(time.Second) }
			transport.TLSClientConfig = &tls.Config{RootCAs: poolOf(server), Time: after}
			return server.URL
		}), Untrusted, "its certificate has expired or is not valid yet"},
		{"a certificate is wanted of us", over(func(t *testing.T, transport *http.Transport) string {
			server := secured(t, &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12})
			transport.TLSClientConfig = &tls.Config{RootCAs: poolOf(server)}
			return server.URL
		}), Untrusted, refused},
		{"no TLS", over(func(t *testing.T, transport *http.Transport) string {
			return strings.Replace(says("HTTP/1.1 400 not-TLS\r\n\r\n")(t, transport), "http:", "https:", 1)
		}), Untrusted, noTLS},
		{"a record that was changed", over(func(t *testing.T, transport *http.Transport) string {
			server := secured(t, nil)
			transport.TLSClientConfig = &tls.Config{RootCAs: poolOf(server)}
			return strings.Replace(transporttest.Listen(t, func(conn net.Conn) {
				_, _ = tls.Server(conn, server.TLS).Read(make([]byte, 4<<10))
				_, _ = io.WriteString(conn, "\x17\x03\x03\x00\x20"+strings.Repeat("x", 32))
			}), "http:", "https:", 1)
		}), Untrusted, failed},
		{"a host's name that was checked later", func(t *testing.T) error {
			return secured(t, nil).Certificate().VerifyHostname("okta.test")
		}, Untrusted, "its certificate is for another host"},
		{"an alert", func(*testing.T) error { return fmt.Errorf("dialing: %w", tls.AlertError(40)) }, Untrusted, failed},

		{"slow to connect", over(func(t *testing.T, transport *http.Transport) string {
			transport.DialContext = (&net.Dialer{Timeout: time.Nanosecond}).DialContext
			return silent(t)
		}), TooSlow, "time-out"},
		{"slow in TLS", over(func(t *testing.T, transport *http.Transport) string {
			transport.TLSHandshakeTimeout = short
			return strings.Replace(silent(t), "http:", "https:", 1)
		}), TooSlow, "time-out"},
		{"slow to answer", over(func(t *testing.T, transport *http.Transport) string {
			transport.ResponseHeaderTimeout = short
			return silent(t)
		}), TooSlow, "time-out"},
		{"no answer by the deadline", func(t *testing.T) error {
			ctx, cancel := context.WithTimeout(t.Context(), short)
			defer cancel()
			return get(ctx, t, &http.Transport{}, silent(t))
		}, TooSlow, "time-out"},
		{"half an answer by the deadline", func(t *testing.T) error {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, "the-hosts-words")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}))
			t.Cleanup(server.Close)
			ctx, cancel := context.WithTimeout(t.Context(), short)
			defer cancel()
			return get(ctx, t, &http.Transport{}, server.URL)
		}, TooSlow, "time-out"},

		{"reset", over(func(t *testing.T, _ *http.Transport) string {
			return transporttest.Listen(t, func(conn net.Conn) {
				_, _ = conn.Read(make([]byte, 4<<10))
				_ = conn.(*net.TCPConn).SetLinger(0)
			})
		}), Broken, "read: " + syscall.ECONNRESET.Error()},
		{"closed", over(says("")), Broken, ended},
		{"half an answer", over(says("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nthe-hosts-words")), Broken, ended},
		{"half a chunk", over(says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nthe-hosts-words")), Broken, ended},
		{"not HTTP", over(says("the-hosts-words\r\n\r\n")), Broken, unread},
		{"not a header", over(says("HTTP/1.1 200 OK\r\nthe-hosts-words\r\n\r\n")), Broken, unread},
		{"a stream that is reset", over(func(t *testing.T, transport *http.Transport) string {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
			server.EnableHTTP2 = true
			server.StartTLS()
			t.Cleanup(server.Close)
			transport.TLSClientConfig = &tls.Config{RootCAs: poolOf(server)}
			return server.URL
		}), Broken, unread},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.meet(t)
			if err == nil {
				t.Fatal("nothing went wrong")
			}
			if got, says := OutageOf(err); got != tt.want || says != tt.says {
				t.Errorf("got %d, %q; want %d, %q: %T, %v", got, says, tt.want, tt.says, err, err)
			}
		})
	}
}

// over is a GET of what prepare returns, through the transport that it may change.
func over(prepare func(*testing.T, *http.Transport) (address string)) func(*testing.T) error {
	return func(t *testing.T) error {
		transport := New(Config{})
		transport.Proxy = nil
		return get(t.Context(), t, transport, prepare(t, transport))
	}
}

// get reads an answer to its end.
func get(ctx context.Context, t *testing.T, transport *http.Transport, address string) error {
	t.Helper()
	t.Cleanup(transport.CloseIdleConnections)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.ReadAll(resp.Body)
	return err
}

// closedPort is an address where nobody listens: port 1 is tcpmux's (RFC 1078).
func closedPort() string { return "127.0.0.1:1" }

// says answers each connection with a text.
func says(text string) func(*testing.T, *http.Transport) string {
	return func(t *testing.T, _ *http.Transport) string {
		return transporttest.Listen(t, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 4<<10))
			_, _ = io.WriteString(conn, text)
		})
	}
}

// silent takes all and says nothing.
func silent(t *testing.T) string {
	return transporttest.Listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
}

// secured speaks TLS, with a certificate that only poolOf trusts.
func secured(t *testing.T, config *tls.Config) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = config
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains of each handshake
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func poolOf(server *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return pool
}

// What a name server answers: a RCODE (RFC 1035 section 4.1.1), or nothing.
const (
	servFail = 2
	nxDomain = 3
	silence  = -1
)

// named is a host whose name is looked up at a name server with that answer.
func named(rcode int) func(*testing.T, *http.Transport) string {
	return func(t *testing.T, transport *http.Transport) string {
		server, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
		go func() {
			message := make([]byte, 4<<10)
			for {
				n, from, err := server.ReadFrom(message)
				if err != nil {
					return
				}
				if rcode == silence {
					continue
				}
				message[2] |= 1 << 7 // it is the response to its query
				message[3] = byte(rcode)
				_, _ = server.WriteTo(message[:n], from)
			}
		}()
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "udp", server.LocalAddr().String())
		}}
		dialer := &net.Dialer{Resolver: resolver}
		if rcode == silence {
			dialer.Timeout = short
		}
		transport.DialContext = dialer.DialContext
		return "http://okta.test"
	}
}
