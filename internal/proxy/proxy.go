// Package proxy makes a caller's request for it, with the access token put in:
//
//	/proxy/{client}/{path...}              to the client's org
//	/proxy/{client}/~{resource}/{path...}  to a resource of the client, by its name
//
// The caller chooses method, path, query, body and most of the header. Where the
// request goes is configured, and what it carries is for the broker to say, which
// refuses a path that an upstream could take for another one (broker.CheckPath).
// Path and query go out byte for byte as they came in.
package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/oauth"
)

// Config is what a Proxy needs.
type Config struct {
	Broker    Broker
	Upstreams Upstreams
	// Who says who is asking.
	Who func(*http.Request) caller.Caller
	// Error answers an error, which is an *oauth.Error or that of a context that
	// ended. It gets the request as it came in.
	Error func(http.ResponseWriter, *http.Request, error)
	// Log takes what went wrong between here and the upstreams. Nil: nothing is
	// logged.
	Log *slog.Logger
}

// Proxy makes callers' requests. It is safe for concurrent use.
type Proxy struct {
	broker    Broker
	upstreams Upstreams
	who       func(*http.Request) caller.Caller
	fail      func(http.ResponseWriter, *http.Request, error)
	log       *slog.Logger
	id        string        // among the brokers that a request came through
	stalled   time.Duration // see the constant
	silent    *log.Logger
	buffers   *buffers
}

// New makes a Proxy.
func New(cfg Config) *Proxy {
	p := &Proxy{
		broker: cfg.Broker, upstreams: cfg.Upstreams, who: cfg.Who, fail: cfg.Error, log: cfg.Log,
		id:      viaPrefix + rand.Text()[:8],
		stalled: stalled,
		silent:  log.New(io.Discard, "", 0),
		buffers: &buffers{},
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p
}

// Under returns a handler of prefix/{client}/..., for every method. It reads the
// path itself, from the URL as it came over the wire; nothing in front of it may
// clean that.
func (p *Proxy) Under(prefix string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		after, under := strings.CutPrefix(wirePath(r.URL), prefix+"/")
		segment, rest := broker.CutSegment(after)
		client, err := url.PathUnescape(segment)
		if !under || err != nil || client == "" || broker.CheckPath("/"+segment, false) != nil {
			p.fail(w, r, oauth.Fail(oauth.InvalidRequest, "the path must be "+prefix+"/CLIENT/..., with a client of the configuration"))
			return
		}
		p.serve(w, r, client, prefix+"/"+segment, rest)
	})
}

// For returns a handler of all paths, for a listener that is one client's.
func (p *Proxy) For(client string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.serve(w, r, client, "", wirePath(r.URL))
	})
}

// serve makes a request of a client for its caller. here is the path of the
// client's proxy, and rest what follows on it.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, client, here, rest string) {
	if err := p.check(r); err != nil {
		p.fail(w, r, err)
		return
	}
	resource, after, err := CutResource(rest)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	here, rest = here+strings.TrimSuffix(rest, after), after
	who := p.who(r)
	upstream, err := p.upstreams.Upstream(who, client, resource)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	c := &call{proxy: p, in: r, who: who, client: client, upstream: upstream, resource: resource, here: here}
	if err := c.aim(rest); err != nil {
		p.fail(w, r, err)
		return
	}
	c.serve(w)
}

// CutResource cuts the name of a resource off a path that begins with /~NAME. Of one
// that does not, resource is empty. It refuses an empty name, with an *oauth.Error.
func CutResource(path string) (resource, rest string, err error) {
	after, named := strings.CutPrefix(path, "/~")
	if !named {
		return "", path, nil
	}
	if resource, rest = broker.CutSegment(after); resource == "" {
		return "", "", oauth.Fail(oauth.InvalidRequest, "a resource's name is missing after ~")
	}
	return resource, rest, nil
}

// viaPrefix begins a broker's name in Via.
const viaPrefix = "okta-token-broker-"

// check refuses what a proxy must not pass on.
func (p *Proxy) check(r *http.Request) error {
	switch {
	case slices.ContainsFunc(r.Header["Via"], func(value string) bool { return strings.Contains(value, p.id) }):
		return oauth.Fail(oauth.InvalidRequest, "the call has come back: the issuer or a resource of the client leads to this broker")
	case r.URL.Scheme != "" || r.URL.Host != "" || r.Method == http.MethodConnect:
		return oauth.Fail(oauth.InvalidRequest, "the request target must be a path: this is not a forward proxy, and where requests go is configured")
	case slices.ContainsFunc(r.Header["Upgrade"], leavesHTTP):
		return oauth.Fail(oauth.InvalidRequest, "the proxy does not upgrade connections: what is called must speak HTTP alone")
	}
	return nil
}

// leavesHTTP reports whether an Upgrade field asks for another protocol than HTTP,
// such as WebSocket. The HTTP clients of Java and Apache offer h2c and TLS with every
// request, and go on without where a server ignores that (RFC 9110 section 7.8).
func leavesHTTP(upgrade string) bool {
	for protocol := range strings.SplitSeq(upgrade, ",") {
		switch name, _, _ := strings.Cut(strings.TrimSpace(protocol), "/"); strings.ToLower(name) {
		case "", "h2c", "http", "tls":
		default:
			return true
		}
	}
	return false
}

// serve makes the request and passes the answer on.
func (c *call) serve(w http.ResponseWriter) {
	c.writer = newPatientWriter(w, c.proxy.stalled)
	if c.in.ContentLength != 0 {
		// An upstream may answer while it reads: without this the server would read
		// all of the body first.
		_ = c.writer.control.EnableFullDuplex()
		ctx, cancel := context.WithCancelCause(c.in.Context())
		defer cancel(nil)
		c.in = c.in.WithContext(ctx)
		c.giveUp = func() { cancel(errNotTaken(c.target.Host)) }
	}
	c.reverse = httputil.ReverseProxy{
		Rewrite:        c.rewrite,
		Transport:      c,
		ModifyResponse: c.modify,
		ErrorHandler:   c.fail,
		FlushInterval:  -1,
		BufferPool:     c.proxy.buffers,
		ErrorLog:       c.proxy.silent, // it would log what upstreams say
	}
	defer func() { c.body.end() }() // there is one only later
	defer c.replace()
	c.reverse.ServeHTTP(c.writer, c.in)
	c.writer.begin()
	c.writer.patience() // the server has yet to write the end of the answer
}

// replace answers an error in the place of an answer that broke off, if the caller has
// nothing of that yet. ReverseProxy panics then, to end the connection.
func (c *call) replace() {
	switch p := recover(); {
	case p == nil:
	case c.broken != nil && c.writer.drop():
		c.fail(c.writer, c.in, c.broken)
		c.writer.begin()
	case c.broken != nil:
		_ = c.writer.FlushError() // what was written of it is the caller's
		panic(p)
	default:
		panic(p)
	}
}

// fail answers an error.
func (c *call) fail(w http.ResponseWriter, _ *http.Request, err error) {
	c.endConnection(w.Header())
	c.proxy.fail(w, c.in, err)
}

// wirePath returns a URL's path as it came over the wire. RawPath is empty where
// that is how the library encodes it.
func wirePath(u *url.URL) string { return cmp.Or(u.RawPath, u.EscapedPath()) }

const (
	// stalled is how long a caller may neither take of an answer nor give of a body
	// what there is to take or give, and an upstream neither take of the body nor
	// answer. To answer, once it has all, it has answerTimeout, which is less.
	stalled = time.Minute
	// lingering is how long the server waits for the rest of a body that nobody wants
	// any more, before it ends the connection.
	lingering = time.Second
)
