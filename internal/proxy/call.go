package proxy

import (
	"cmp"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
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
	resource string  // its name. Empty: the client's org
	here     string  // the path of the proxy that stands for the upstream's base
	client   string  // its name, or its client_id
	target   url.URL // without the query
	body     *body   // nil: there is none
	giveUp   func()  // ends the exchange, as the upstream takes nothing of the body
	writer   *patientWriter
	reverse  httputil.ReverseProxy
	broken   error // why the answer broke off
}

// aim finds where the call goes, and refuses a path that could lead elsewhere.
func (c *call) aim(rest string) error {
	base := c.upstream.Base
	path := strings.TrimSuffix(base.EscapedPath(), "/") + rest
	if err := broker.CheckPath(path, c.upstream.AtOkta); err != nil {
		return err
	}
	path = cmp.Or(path, "/")
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return oauth.Fail(oauth.InvalidRequest, "the path is malformed")
	}
	c.target = url.URL{Scheme: base.Scheme, Host: base.Host, Path: decoded, RawPath: path}
	return nil
}

// rewrite makes of the caller's request the one that is sent.
func (c *call) rewrite(r *httputil.ProxyRequest) {
	out := r.Out
	out.Host = "" // it is that of the URL
	to := c.target
	// As it came: ReverseProxy mends it for proxies that look at it.
	to.RawQuery, to.ForceQuery = r.In.URL.RawQuery, r.In.URL.ForceQuery
	out.URL = &to
	out.Trailer = nil // it would come past stripRequest
	stripRequest(out.Header)
	// RFC 9110 section 7.6.3. Of those before only brokers are told of, so that a call
	// ends which goes round through several.
	out.Header["Via"] = append(brokersIn(r.In.Header["Via"]), strings.TrimPrefix(r.In.Proto, "HTTP/")+" "+c.proxy.id)
	if out.Body != nil {
		c.body = newBody(out.Body, out.ContentLength, c.writer.control, c.proxy.buffers, c.proxy.stalled, c.giveUp)
		out.Body = c.body.first()
		out.GetBody = c.body.again
	}
}

// RoundTrip makes the exchange.
func (c *call) RoundTrip(out *http.Request) (*http.Response, error) {
	// ReverseProxy's context passes on interim answers (1xx), and all that is in
	// their headers.
	ctx := c.in.Context()
	if c.body != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: c.body.sentOver})
	}
	e := &exchange{broker: c.proxy.broker, who: c.who, call: broker.CallRequest{Client: c.client}, transport: c.upstream.Transport, from: c.settings()}
	resp, err := e.do(out.WithContext(ctx))
	_, unanswered := errors.AsType[cause](err)
	if err != nil && (unanswered || ctx.Err() != nil) && c.body.failed() {
		err = oauth.Fail(oauth.InvalidRequest, "the body of the request could not be read to its end")
	}
	if unanswered {
		c.log().InfoContext(ctx, "a call had no answer", "err", err)
	}
	return resp, err
}

// modify makes of the upstream's answer the caller's.
func (c *call) modify(resp *http.Response) error {
	c.body.forget()
	c.body.heard()
	stripAnswer(resp.Header)
	stripTrailer(resp.Trailer) // what is announced of it
	c.endConnection(resp.Header)
	resp.Header["X-Content-Type-Options"] = []string{"nosniff"}
	c.rewriteURLs(resp.Header, "Link", rewriteLinks)
	c.rewriteURLs(resp.Header, "Location", rewriteURL)
	c.rewriteURLs(resp.Header, "Content-Location", rewriteURL)
	resp.Body = c.answerBody(resp)
	if resp.ContentLength >= 0 && resp.ContentLength <= bufferSize && c.body.whole() {
		// The header can wait for the first of the body, as the caller has nothing more
		// to send. To flush it alone would cost a tenth of the throughput.
		c.reverse.FlushInterval, c.writer.missing = 0, resp.ContentLength
	}
	return nil
}

// rewriteURLs rewrites the URLs in a header's fields of a name. What could lead into
// the broker goes.
func (c *call) rewriteURLs(header http.Header, name string, rewrite func(string, func(string) (string, bool)) string) {
	var kept []string
	for _, field := range header[name] {
		if told := rewrite(field, c.inward); told != "" {
			kept = append(kept, told)
		}
	}
	if header[name] = kept; kept == nil {
		delete(header, name)
	}
}

// endConnection has the caller's connection end with this answer, unless all of the
// body was read: what follows of it must not be taken for the next request.
func (c *call) endConnection(header http.Header) {
	if !c.body.whole() {
		header["Connection"] = []string{"close"}
	}
}

func (c *call) log() *slog.Logger {
	return c.proxy.log.With("client", c.client, "upstream", c.upstream.Base.Host)
}

// settings names what leads to the upstream in the configuration.
func (c *call) settings() settings {
	of := "clients." + cmp.Or(c.upstream.Client, c.client)
	if c.resource != "" {
		return settings{of + ".resources." + c.resource, of + ".ca_file"}
	}
	return settings{of + ".issuer", of + ".ca_file"}
}

// brokersIn returns the brokers among those that a request came through. Others may
// have put several into one field.
func brokersIn(via []string) (brokers []string) {
	for _, field := range via {
		for one := range strings.SplitSeq(field, ",") {
			one = strings.TrimSpace(one)
			if _, name, _ := strings.Cut(one, " "); strings.HasPrefix(name, viaPrefix) {
				brokers = append(brokers, one)
			}
		}
	}
	return brokers
}

// inward returns what the caller is told in the place of a URL that the upstream gives.
// Of one that the proxy serves it is the proxy's own. Any other is told in full, and not
// at all if it could lead into the broker, which speaks no TLS and goes by more names
// than are known here. Nothing is told as the upstream wrote it: what is no URL to this
// parser may be one to the caller's.
func (c *call) inward(ref string) (told string, ok bool) {
	u, err := url.Parse(ref)
	if err != nil {
		return "", false
	}
	asked, base := c.target, c.upstream.Base
	asked.RawQuery = c.in.URL.RawQuery
	u = asked.ResolveReference(u)
	switch {
	case u.User != nil: // RFC 9110 section 4.2.4
	case sameOrigin(u, base):
		if rest, served := c.serves(wirePath(u)); served {
			u.Scheme, u.Host, u.Path, u.RawPath = "", "", "", ""
			return c.origin() + c.here + rest + u.String(), true
		}
		ok = u.Scheme == "https" || !c.onSocket()
	case u.Scheme == "https":
		ok = u.Host != "" && !sameOrigin(u, &url.URL{Scheme: "https", Host: c.in.Host}) // which may be TLS by somebody else
	default:
		ok = u.Scheme == "mailto" // any other can be a way to a host
	}
	return u.String(), ok
}

// serves finds where the proxy serves a path of the upstream.
func (c *call) serves(path string) (rest string, ok bool) {
	rest, below := strings.CutPrefix(path, strings.TrimSuffix(c.upstream.Base.EscapedPath(), "/"))
	return rest, below && broker.CheckPath(rest, false) == nil && broker.CheckPath(path, c.upstream.AtOkta) == nil &&
		(c.resource != "" || !strings.HasPrefix(rest, "/~")) // which would be a resource's here
}

// onSocket reports whether the caller came by a Unix socket: whatever host a URL of
// plain HTTP has, it leads there.
func (c *call) onSocket() bool {
	local, _ := c.in.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return local != nil && local.Network() == "unix"
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
