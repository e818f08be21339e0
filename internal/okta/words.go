package okta

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// explain turns a failure into words for whoever runs the broker: what is
// wrong, on which side, and what to do.
func (c *Client) explain(f *failure, active *keys.Key) *oauth.Error {
	if f.kind == held {
		e := c.explain(f.earlier, active)
		if e.Repeated = !f.late; e.Repeated {
			e.Description += fmt.Sprintf("; nothing was sent: the server is asked again in %.0fs", math.Ceil(e.RetryAfter.Seconds()))
		}
		return e
	}
	e := &oauth.Error{Upstream: f.upstream(), Reach: f.reach(), Err: f}
	server := c.cfg.Server
	// Other servers' token endpoint may be at another host than their issuer.
	who, setting := server.issuer, "clients."+c.cfg.Name+".issuer"
	if !server.isOkta {
		who, setting = server.endpoints.Token, "clients."+c.cfg.Name+".token_endpoint"
	}
	switch f.kind {
	case signing:
		e.Class, e.Description = oauth.Internal, "the broker could not sign an assertion; its log has the reason"
		if errors.Is(f.err, context.DeadlineExceeded) {
			e.Class, e.Description = oauth.TimedOut, "the time was up before the broker had signed an assertion: ask again"
		}
	case refused:
		e.Class, e.Description = f.row.class, c.fill(f, active)
		if offset := server.clock.uncorrected(); offset != 0 && f.mayBeClock() {
			e.Description += fmt.Sprintf("; the server's clock and the broker's differ by %v, which is too much to correct: synchronise the broker's", offset)
		}
	default:
		e.Class, e.Description = f.unanswered(who, setting, c.cfg.Name)
	}
	if f.kind == badAnswer {
		e.Err = nil // the description has it
	}
	if e.Class == oauth.Unavailable || e.Class == oauth.TimedOut {
		e.RetryAfter = time.Second
	}
	if e.Reach == oauth.ReachServer {
		e.RetryAfter = max(e.RetryAfter, server.gate.wait(server.now()))
	}
	return e
}

// unanswered explains a failure without an answer that is of use: who was asked,
// the setting that says so, and the client that it is for.
func (f *failure) unanswered(who, setting, client string) (oauth.Class, string) {
	switch f.kind {
	case badAnswer:
		words := fmt.Sprintf("%s gave an answer that is not usable: %v", who, f.err)
		if _, is := errors.AsType[advised](f.err); !is {
			words += "; check " + setting + ", and that no proxy answers in its place"
		}
		return oauth.BadAnswer, words
	case abandoned:
		return oauth.TimedOut, "the request ended before " + who + " answered"
	case tooSlow:
		return oauth.TimedOut, who + " did not answer in time: ask again; if this goes on, check the network and HTTPS_PROXY"
	case untrusted:
		return oauth.Unavailable, fmt.Sprintf("TLS with %s failed (%v): check the certificate, and clients.%s.ca_file for a private CA", who, f.err, client)
	case unreachable:
		return oauth.Unavailable, who + " cannot be reached: check " + setting + ", the network, DNS and HTTPS_PROXY"
	}
	return oauth.Unavailable, "the connection to " + who + " broke: ask again; if this goes on, check the network and HTTPS_PROXY"
}

// mayBeClock reports whether a wrong clock can be why the server refused: by what
// it says, or because it says nothing. There are servers that fail with a 500.
func (f *failure) mayBeClock() bool {
	return f.row.fix == useClock || f.row.fix == byState || f.status >= 500
}

// quoteKid keeps an error short: a kid may have 2 KiB.
func quoteKid(kid string) string {
	const most = 128
	if len(kid) > most {
		return fmt.Sprintf("%.32q...", kid)
	}
	return strconv.Quote(kid)
}

// fill puts what the client is configured with into the row's advice.
func (c *Client) fill(f *failure, active *keys.Key) string {
	server := c.cfg.Server
	return strings.NewReplacer(
		"{client}", c.cfg.Name,
		"{id}", strconv.Quote(c.cfg.ID),
		"{ring}", c.cfg.Ring.Name(),
		"{kid}", quoteKid(active.ID()),
		"{issuer}", server.issuer,
		"{org}", originOf(server.issuer),
		"{endpoint}", f.endpoint,
		"{audience}", c.audience(f.endpoint),
	).Replace(f.row.advice)
}
