package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/httpapi"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/okta"
	"okta-token-broker/internal/proxy"
	"okta-token-broker/internal/secret"
	"okta-token-broker/internal/telemetry"
)

const (
	// workers are the goroutines that load either side, each with a connection of
	// its own.
	workers = 8
	// turn is how long a side is loaded before the other has its turn.
	turn = 50 * time.Millisecond
)

// BenchmarkProxy sets the whole way of a call, as the broker serves it with its audit
// record in a file, against a bare ReverseProxy that goes to the same upstream over a
// Transport of its own with the same settings, and adds the header fields that the
// upstream wants. With DPoP the bare one makes one ES256 signature for each call, over
// as many bytes as a proof has: that is what no proxy can do without.
func BenchmarkProxy(b *testing.B) {
	for _, tt := range []struct {
		name, method, body string
		kind               string
		bytes              int // of the answer
	}{
		{"Bearer/GET-1KiB", "GET", "", oauth.Bearer, 1 << 10},
		{"Bearer/POST-1KiB", "POST", strings.Repeat("y", 1<<10), oauth.Bearer, 1 << 10},
		{"Bearer/GET-16KiB", "GET", "", oauth.Bearer, 16 << 10},
		{"Bearer/GET-1MiB", "GET", "", oauth.Bearer, 1 << 20},
		{"DPoP/GET-1KiB", "GET", "", oauth.DPoP, 1 << 10},
	} {
		b.Run(tt.name, func(b *testing.B) {
			answer := bytes.Repeat([]byte("x"), tt.bytes)
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.Header.Get("Authorization"), tt.kind+" ") || (r.Header.Get("DPoP") != "") != (tt.kind == oauth.DPoP) {
					b.Error("not the credentials")
				}
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Link", "<http://"+r.Host+"/api/v1/users?after=00u1&limit=2>; rel=\"next\"")
				_, _ = w.Write(answer)
			}))
			b.Cleanup(upstream.Close)
			compare(b, ours(b, upstream.URL, tt.kind, tt.method, tt.body), bare(b, upstream.URL, tt.kind, tt.method, tt.body))
		})
	}
}

// access is as long as Okta's tokens are.
var access = strings.Repeat("t", 900)

// seller has a token of one hour.
type seller struct{ kind string }

func (s seller) Exchange(context.Context, oauth.Scopes) (oauth.Token, error) {
	return oauth.Token{Type: s.kind, Access: secret.New(access), Expires: time.Now().Add(time.Hour), Life: time.Hour}, nil
}

func (s seller) Revoke(context.Context, string) error { return nil }

func ours(b *testing.B, upstream, kind, method, body string) side {
	logFile, err := os.Create(filepath.Join(b.TempDir(), "broker.log"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = logFile.Close() })
	log, err := telemetry.Logger(logFile, "info", "text")
	if err != nil {
		b.Fatal(err)
	}
	proofKey, err := keys.New("ES256")
	if err != nil {
		b.Fatal(err)
	}
	store, err := keys.NewFile(b.Context(), filepath.Join(b.TempDir(), "private_key.pem"), false)
	if err != nil {
		b.Fatal(err)
	}
	ring, err := keys.Open(b.Context(), keys.Config{Name: "default", Store: store})
	if err != nil {
		b.Fatal(err)
	}
	prover := okta.NewClient(okta.ClientConfig{
		Name: "default", ID: "0oa1", Ring: ring, DPoP: okta.DPoPAuto, ProofKey: proofKey,
		Server: okta.NewServer(okta.ServerConfig{Issuer: upstream}),
	})
	domain := broker.New(broker.Config{Log: log, World: &broker.World{Clients: map[string]*broker.Client{"default": {
		Name: "default", ID: "0oa1", Issuer: upstream, Ring: ring, Scopes: "okta.users.read",
		Server: seller{kind}, JKT: proofKey.Thumbprint(), Prover: prover, Org: upstream,
	}}}})
	b.Cleanup(domain.Close)
	p := proxy.New(proxy.Config{
		Broker:    domain,
		Upstreams: upstreams{"default": {Base: mustParse(b, upstream), Org: true, Transport: newTransport(b)}},
		Who:       httpapi.Who,
		Error:     writeError,
		Log:       log,
	})
	api := httpapi.New(httpapi.Config{Broker: domain, Proxy: p.Under("/proxy"), Log: log})
	return loading("proxy", serve(b, api), method, "/proxy/default/api/v1/users?limit=2", body)
}

func bare(b *testing.B, upstream, kind, method, body string) side {
	target := mustParse(b, upstream)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	text := bytes.Repeat([]byte("p"), 400)
	reverse := &httputil.ReverseProxy{
		Transport: newTransport(b),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header["Authorization"] = []string{kind + " " + access}
			if kind == oauth.DPoP {
				digest := sha256.Sum256(text)
				signature, err := ecdsa.SignASN1(rand.Reader, private, digest[:])
				if err != nil {
					b.Error(err)
				}
				r.Out.Header["Dpop"] = []string{string(text) + base64.RawURLEncoding.EncodeToString(signature)}
			}
		},
	}
	return loading("bare", serve(b, reverse), method, "/api/v1/users?limit=2", body)
}

// side is one of the two that are compared: it makes the function that a worker
// calls over and over.
type side struct {
	name  string
	start func(testing.TB) (call func() error)
}

// loading makes the same request over and over, as curl sends it, on a connection
// per worker that does as little as can be, so that the proxy is what is measured.
func loading(name, address, method, target, body string) side {
	r := httptest.NewRequest(method, address+target, strings.NewReader(body))
	r.Header.Set("User-Agent", "curl/8.5.0")
	r.Header.Set("Accept", "*/*")
	var sent bytes.Buffer
	_ = r.Write(&sent)
	return side{name, func(tb testing.TB) func() error {
		conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { conn.Close() })
		reader := bufio.NewReader(conn)
		return func() error {
			if _, err := conn.Write(sent.Bytes()); err != nil {
				return err
			}
			resp, err := http.ReadResponse(reader, nil)
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return errors.New(resp.Status)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			return err
		}
	}}
}

// compare loads ours and the reference in turns, each first in every other round,
// so that what else the machine does falls on both. An iteration is a round. It
// reports the median rate of each, and of the ratios of each round the median and
// the quartiles; the median ratio by processor time, client and upstream included,
// which is the one to believe when the machine is busy; and the median latencies,
// over all of a side's turns.
func compare(b *testing.B, ours, reference side) {
	sides := []*load{newLoad(b, ours), newLoad(b, reference)}
	for _, l := range sides { // warms up
		l.run(b)
		l.took = nil
	}
	var rates [2][]float64
	var ratios, cpuRatios []float64
	for round := 0; b.Loop(); round++ {
		var now [2]sample
		for i := range sides {
			i ^= round & 1
			now[i] = sides[i].run(b)
			rates[i] = append(rates[i], now[i].perSecond)
		}
		ratios = append(ratios, now[0].perSecond/now[1].perSecond)
		cpuRatios = append(cpuRatios, now[0].perCPUSecond/now[1].perCPUSecond)
	}
	b.ReportMetric(0, "ns/op") // of a round: it says nothing
	for i, s := range []side{ours, reference} {
		b.ReportMetric(quantile(rates[i], 0.5), s.name+"/s")
		b.ReportMetric(quantile(sides[i].took, 0.5), s.name+"-p50-us")
		b.ReportMetric(quantile(sides[i].took, 0.99), s.name+"-p99-us")
	}
	b.ReportMetric(quantile(ratios, 0.5), "ratio")
	b.ReportMetric(quantile(ratios, 0.25), "ratio-q1")
	b.ReportMetric(quantile(ratios, 0.75), "ratio-q3")
	b.ReportMetric(quantile(cpuRatios, 0.5), "ratio-by-cpu")
}

func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	return values[int(q*float64(len(values)-1)+0.5)]
}

// sample is what one turn did.
type sample struct{ perSecond, perCPUSecond float64 }

type load struct {
	calls []func() error

	mu   sync.Mutex
	took []float64 // latencies, in microseconds
}

func newLoad(tb testing.TB, s side) *load {
	l := &load{}
	for range workers {
		l.calls = append(l.calls, s.start(tb))
	}
	return l
}

// run loads the side for one turn.
func (l *load) run(tb testing.TB) sample {
	var calls atomic.Int64
	var running sync.WaitGroup
	begin, cpu := time.Now(), cpuTime(tb)
	for _, call := range l.calls {
		running.Go(func() {
			var took []float64
			for now := time.Now(); now.Sub(begin) < turn; {
				if err := call(); err != nil {
					tb.Error(err)
					return
				}
				after := time.Now()
				took = append(took, float64(after.Sub(now).Nanoseconds())/1e3)
				now = after
			}
			calls.Add(int64(len(took)))
			l.mu.Lock()
			defer l.mu.Unlock()
			l.took = append(l.took, took...)
		})
	}
	running.Wait()
	n := float64(calls.Load())
	return sample{n / time.Since(begin).Seconds(), n / (cpuTime(tb) - cpu).Seconds()}
}

// cpuTime is what this process has used.
func cpuTime(tb testing.TB) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
