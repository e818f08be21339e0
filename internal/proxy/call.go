package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/oauth"
)

// call is one request on its way. It is the http.RoundTripper under its
// ReverseProxy.
type call struct {
	proxy    *Proxy
	in       *http.Request // as it came
	who      caller.Caller
	upstream *Upstream
	resource string // its name. Empty: the client's org
	here     string // the path of the proxy that stands for the upstream's base
	request  broker.CallRequest
	path     string // on the wire, at the upstream
	decoded  string
	body     *body // nil: there is none
	writer   *patientWriter
	control  *http.ResponseController
	reverse  httputil.ReverseProxy
}

// aim finds where the call goes, and refuses a path that could lead elsewhere.
func (c *call) aim(client, rest string) error {
	base := c.upstream.Base
	c.path = strings.TrimSuffix(base.EscapedPath(), "/") + rest
	if err := broker.CheckPath(rest, false); err != nil {
		return err
	}
	if err := broker.CheckPath(c.path, c.upstream.Org); err != nil {
		return err
	}
	if c.path == "" {
		c.path = "/"
	}
	var err error
	if c.decoded, err = url.PathUnescape(c.path); err != nil {
		return oauth.Fail(oauth.InvalidRequest, "the path is malformed")
	}
	c.request = broker.CallRequest{Client: client, Method: c.in.Method, URL: base.Scheme + "://" + base.Host + c.path}
	return nil
}

// rewrite makes of the caller's request the one that is sent.
func (c *call) rewrite(r *httputil.ProxyRequest) {
	out := r.Out
	out.Host = "" // it is that of the URL
	out.URL = &url.URL{
		Scheme: c.upstream.Base.Scheme, Host: c.upstream.Base.Host, Path: c.decoded, RawPath: c.path,
		// As it came: ReverseProxy mends it for proxies that look at it.
		RawQuery: r.In.URL.RawQuery, ForceQuery: r.In.URL.ForceQuery,
	}
	out.Trailer = nil // it would come past stripRequest
	stripRequest(out.Header)
	if out.Body != nil {
		c.body = newBody(out.Body, out.ContentLength, c.control)
		out.Body = c.body.first()
		out.GetBody = c.body.again
	}
}

// RoundTrip makes the exchange.
func (c *call) RoundTrip(out *http.Request) (*http.Response, error) {
	// ReverseProxy's context passes on interim answers (1xx), and all that is in
	// their headers.
	ctx := c.in.Context()
	resp, err := Do(c.proxy.broker, c.who, c.request, c.upstream.Transport, out.WithContext(ctx))
	if _, unanswered := errors.AsType[cause](err); unanswered {
		if c.body.failed() {
			err = oauth.Fail(oauth.InvalidRequest, "the body of the request could not be read to its end")
		}
		c.proxy.log.InfoContext(ctx, "a call had no answer", "client", c.request.Client, "upstream", c.upstream.Base.Host, "err", err)
	}
	return resp, err
}

// modify makes of the upstream's answer the caller's.
func (c *call) modify(resp *http.Response) error {
	stripAnswer(resp.Header)
	c.endConnection(resp.Header)
	resp.Header["X-Content-Type-Options"] = []string{"nosniff"}
	links := resp.Header["Link"]
	for i := range links {
		links[i] = rewriteLinks(links[i], c.inward)
	}
	locations := resp.Header["Location"]
	for i := range locations {
		locations[i] = c.inward(locations[i])
	}
	switch {
	case resp.ContentLength < 0:
		resp.Body = &trailed{resp.Body, resp}
	case resp.ContentLength <= bufferSize && c.body.whole():
		// The header can wait for the first of the body, as the caller has nothing more
		// to send. To flush it alone would cost a tenth of the throughput.
		c.reverse.FlushInterval, c.writer.missing = 0, resp.ContentLength
	}
	return nil
}

// endConnection has the caller's connection end with this answer, unless all of the
// body was read: what follows of it must not be taken for the next request.
func (c *call) endConnection(header http.Header) {
	if !c.body.whole() {
		header["Connection"] = []string{"close"}
	}
}

// trailed is the body of an answer that may have a trailer, which is known when
// the body has been closed.
type trailed struct {
	io.ReadCloser
	resp *http.Response
}

func (t *trailed) Close() error {
	err := t.ReadCloser.Close()
	stripAnswer(t.resp.Trailer)
	return err
}

// inward returns what the caller is told in the place of a URL that the upstream gives.
// Of one that the proxy serves it is the proxy's own. Any other is told in full, as the
// upstream's: relative to the proxy it would lead into the broker, and so might one
// with the broker's name.
func (c *call) inward(ref string) string {
	u, err := url.Parse(ref)
	if err != nil || u.Opaque != "" || ref == "" || ref[0] == '#' {
		return ref
	}
	base := c.upstream.Base
	u = (&url.URL{Scheme: base.Scheme, Host: base.Host, Path: c.decoded, RawPath: c.path}).ResolveReference(u)
	if strings.EqualFold(u.Host, c.in.Host) {
		u.Scheme, u.Host = base.Scheme, base.Host
	}
	if !sameOrigin(u, base) {
		return ref
	}
	path := wirePath(u)
	rest, below := strings.CutPrefix(path, strings.TrimSuffix(base.EscapedPath(), "/"))
	if !below || broker.CheckPath(rest, false) != nil || broker.CheckPath(path, c.upstream.Org) != nil ||
		c.resource == "" && strings.HasPrefix(rest, "/~") { // which would be a resource's here
		return u.String()
	}
	tail := ""
	if i := strings.IndexAny(ref, "?#"); i >= 0 {
		tail = ref[i:]
	}
	return c.origin() + c.here + rest + tail
}

// origin is where the caller sees the proxy. Without a Host it sees but a path.
func (c *call) origin() string {
	switch {
	case c.in.Host == "":
		return ""
	case c.in.TLS != nil:
		return "https://" + c.in.Host
	}
	return "http://" + c.in.Host
}
