package proxy

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"time"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/transport"
)

// Do makes a request with the credentials that the broker has for the call, and once
// more if the resource refuses them, the broker has others, and the body can be sent
// again, which is what req.GetBody is for. Of call it takes client, scope and nonce:
// what is authorized is what is sent. It changes req's header. The caller closes the
// answer's body. The request ends with its context, whose error is then returned. Other
// errors are the broker's, or of type *oauth.Error, with nothing in their text that the
// other side sent.
func Do(b Broker, who caller.Caller, call broker.CallRequest, transport http.RoundTripper, req *http.Request) (*http.Response, error) {
	e := &exchange{broker: b, who: who, call: call, transport: transport, from: settings{"the address in the configuration", "ca_file"}}
	return e.do(req)
}

// exchange is a request and its answer.
type exchange struct {
	broker      Broker
	who         caller.Caller
	call        broker.CallRequest
	transport   http.RoundTripper
	from        settings
	credentials broker.Credentials // that were sent last
	conn        *closeNotifyConn   // that they went over. Nil: it does not tell
	use         int64              // of conn, by this request
}

// do is Do.
func (e *exchange) do(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	e.call.Method, e.call.URL = req.Method, req.URL.Scheme+"://"+req.URL.Host+cmp.Or(wirePath(req.URL), "/")
	first, err := e.broker.Authorize(ctx, e.who, e.call)
	if err != nil {
		return nil, err
	}
	e.credentials = first
	resp, err := e.send(req)
	if err != nil {
		return nil, err
	}
	answer, matters := answerOf(resp)
	if !matters {
		return resp, nil
	}
	next, ok := e.broker.Answered(ctx, e.who, e.call, e.credentials, answer)
	e.endConnection(req, resp)
	switch {
	case !ok:
		return resp, nil
	case !rewind(req):
		e.tell(ctx, answer)
		return resp, nil
	}
	discard(resp)
	e.credentials = next
	e.call.Nonce = cmp.Or(answer.Nonce, e.call.Nonce) // also if net/http repeats it
	if resp, err = e.send(req); err != nil {
		return nil, err
	}
	e.endConnection(req, resp)
	again, matters := answerOf(resp)
	// Other calls may have the nonce now that this one is through with it.
	if again.Nonce = cmp.Or(again.Nonce, answer.Nonce); matters || again.Nonce != "" {
		e.tell(ctx, again)
	}
	return resp, nil
}

// endConnection has a connection end with its answer, if that refuses a request with a
// body. Who refused before it read the body may close the connection at any moment, though
// it did not say so (RFC 9112 section 9.6 asks it to), and what is sent over it then is
// lost.
func (e *exchange) endConnection(req *http.Request, resp *http.Response) {
	if e.conn == nil || req.ContentLength == 0 || resp.ProtoMajor != 1 || resp.Header["Www-Authenticate"] == nil {
		return
	}
	if resp.Body == http.NoBody {
		e.conn.closeAfter(e.use)
		return
	}
	resp.Body = lastBody{resp.Body, e.conn, e.use}
}

// lastBody is the body of the last answer of a connection.
type lastBody struct {
	io.ReadCloser
	conn *closeNotifyConn
	use  int64
}

func (b lastBody) Close() error {
	err := b.ReadCloser.Close()
	b.conn.closeAfter(b.use)
	return err
}

// tell tells the broker of the last answer.
func (e *exchange) tell(ctx context.Context, answer broker.Answer) {
	answer.Final = true
	e.broker.Answered(ctx, e.who, e.call, e.credentials, answer)
}

// send makes one attempt.
func (e *exchange) send(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	e.carry(req.Header)
	resp, err := e.transport.RoundTrip(req.WithContext(e.begins(e.reproving(ctx, req.Header))))
	if err == nil && (resp.StatusCode < 200 || resp.StatusCode > 599) { // an upgrade that nobody asked for, or no status at all
		_ = resp.Body.Close()
		err = errStatus
	}
	if err != nil {
		return nil, fault(ctx, req.URL.Host, e.from, err)
	}
	return resp, nil
}

// begins notes which connection the request goes over, and has that know.
func (e *exchange) begins(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		if e.conn = closeNotifyConnOf(got.Conn); e.conn != nil {
			e.use = e.conn.begin()
		}
	}})
}

// carry puts the credentials in a header.
func (e *exchange) carry(header http.Header) {
	header["Authorization"] = []string{e.credentials.Token.Type + " " + e.credentials.Token.Access.Reveal()}
	delete(header, "Dpop")
	if e.credentials.Proof != "" {
		header["Dpop"] = []string{e.credentials.Proof}
	}
}

// reproving has the request carry another proof when net/http repeats it by itself. A
// resource may take a proof but once (RFC 9449 section 11.1), and may have seen the one
// that got no answer. If there are no other credentials, the same go out again.
func (e *exchange) reproving(ctx context.Context, header http.Header) context.Context {
	if e.credentials.Proof == "" {
		return ctx
	}
	return transport.OnRepeat(ctx, func() {
		if fresh, err := e.broker.Authorize(ctx, e.who, e.call); err == nil {
			e.credentials = fresh
			e.carry(header)
		}
	})
}

// rewind makes req ready to be sent again. The attempt before may still be reading
// its own header and body.
func rewind(req *http.Request) bool {
	if req.Body != nil {
		if req.GetBody == nil {
			return false
		}
		again, err := req.GetBody()
		if err != nil {
			return false
		}
		req.Body = again
	}
	req.Header = req.Header.Clone()
	return true
}

// answerOf finds what an answer says of the credentials, and reports whether the
// broker has to know of it.
func answerOf(resp *http.Response) (answer broker.Answer, matters bool) {
	answer = broker.Answer{Status: resp.StatusCode, Nonce: resp.Header.Get("DPoP-Nonce")}
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusBadRequest {
		answer.Challenge = resp.Header["Www-Authenticate"]
		answer.Date, _ = http.ParseTime(resp.Header.Get("Date"))
	}
	return answer, answer.Nonce != "" || answer.Status == http.StatusUnauthorized || answer.Challenge != nil
}

const (
	// maxDiscarded is how much of an answer is read to keep its connection, in bytes.
	maxDiscarded = 8 << 10
	// discarding is how long that may take: a new connection takes no longer.
	discarding = 100 * time.Millisecond
)

func discard(resp *http.Response) {
	if resp.ContentLength <= maxDiscarded {
		late := time.AfterFunc(discarding, func() { _ = resp.Body.Close() })
		defer late.Stop()
		_, _ = io.CopyN(io.Discard, resp.Body, maxDiscarded+1) // to its end
	}
	_ = resp.Body.Close()
}
