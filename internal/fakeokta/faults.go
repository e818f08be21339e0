package fakeokta

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// errReset stands for a connection that is dropped without an answer.
var errReset = errors.New("connection reset")

// Fault is what an endpoint does to a request. Whatever it is, a client assertion is checked and its jti consumed, as by
// Okta, so that a client which sends an assertion again is found out.
type Fault struct {
	// Count is the number of requests the fault meets. 0: all of them, until it is cleared or set anew.
	Count int
	// Share, where it is not 0, is the part of the requests that the fault meets, up to 1, at random by Config.Seed. The
	// shares of several faults add up.
	Share float64
	// Delay passes before the work is done; with After, between the work and the answer.
	Delay time.Duration
	// Hang never answers: the request waits, as for Delay, until the client goes.
	Hang bool
	// Status makes the endpoint answer with this HTTP status (200 to 599) instead of doing its work. 0: with what the
	// work results in.
	Status int
	// Body and ContentType go with Status. An empty content type means application/json.
	Body        string
	ContentType string
	// Stream, where set, makes the body of each answer instead of Body: for one that is too large for memory, or slow.
	Stream func() io.Reader
	// Header replaces headers of the answer, also of one that the work results in. A nil value removes a header.
	Header http.Header
	// RetryIn, where it is not 0, makes X-Rate-Limit-Reset lie so far ahead by the server's clock, or in the past.
	RetryIn time.Duration
	// Skew makes the server's clock run ahead for this request, in the checks and in the Date header.
	Skew time.Duration
	// After does the work all the same, so that a token is issued, and lost if Status or Reset is set.
	After bool
	// Reset drops the connection: before anything is answered, or, with a Status, after the headers and the body.
	Reset bool
	// Truncate drops the connection halfway through the body of an answer that the work results in.
	Truncate bool
	// Drip sends the body byte by byte, with this pause before each.
	Drip time.Duration
	// Rewrite may change the JSON object of an answer of 200 that the work results in. Other answers are left alone.
	Rewrite func(map[string]any)
}

// SetFault makes the token endpoints misbehave: it is SetFaultAt for Token.
func (o *Okta) SetFault(faults ...Fault) {
	o.SetFaultAt(Token, faults...)
}

// SetFaultAt makes an endpoint misbehave from the next request on, in place of what was set before. The first of the
// faults that meets a request is the one it gets: several with a Count come one after the other, and those with a Share
// are drawn, once per request, in the same sequence after each call. A request that a RateLimit refuses meets none: it
// is answered at once, uses up no Count and draws nothing.
func (o *Okta) SetFaultAt(e Endpoint, faults ...Fault) {
	hash := fnv.New64a()
	_, _ = io.WriteString(hash, string(e)) // endpoints do not share their luck
	p := &plan{faults: slices.Clone(faults), random: rand.New(rand.NewPCG(o.seed, hash.Sum64()))}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.plans[e] = p
}

// ClearFault makes all endpoints behave. Requests that are being delayed go on so.
func (o *Okta) ClearFault() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.plans)
}

// A plan is what an endpoint has before it. Okta's lock guards it.
type plan struct {
	faults []Fault
	random *rand.Rand
}

// nextFault is the fault that meets the present request; the zero Fault, which does nothing, if none does.
func (o *Okta) nextFault(e Endpoint) Fault {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.plans[e]
	if p == nil {
		return Fault{}
	}
	fault, met := p.next()
	if met {
		o.tally.note(func(n *Counters) { n.Faults[e]++ })
	}
	return fault
}

func (p *plan) next() (Fault, bool) {
	luck := p.random.Float64() // for every request, so that the decision about the tenth is the same after any script
	for i, fault := range p.faults {
		if fault.Share > 0 && luck >= fault.Share {
			luck -= fault.Share
			continue
		}
		switch fault.Count {
		case 0:
		case 1:
			p.faults = slices.Delete(p.faults, i, i+1)
		default:
			p.faults[i].Count--
		}
		return fault, true
	}
	return Fault{}, false
}

// replacesWork tells whether the endpoint does nothing.
func (f Fault) replacesWork() bool {
	return !f.After && (f.Status != 0 || f.Reset)
}

// wait lets the fault's time pass, or the client go.
func (f Fault) wait(ctx context.Context) error {
	if err := pause(ctx, f.Delay); err != nil {
		return err
	}
	if f.Hang {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return nil
}

// apply turns the answer that the work resulted in, if it was done, into the one that is given.
func (f Fault) apply(ctx context.Context, a answer, now time.Time) (answer, error) {
	if f.Reset && f.Status == 0 {
		return answer{}, errReset
	}
	switch {
	case f.Status != 0:
		a = f.answer()
	case f.Rewrite != nil && a.status == http.StatusOK:
		a = rewrite(a, f.Rewrite)
	}
	if f.Truncate && f.Status == 0 {
		a = truncate(a)
	}
	if f.Drip > 0 {
		a.body, a.slow = &drip{ctx: ctx, body: a.body, pause: f.Drip}, true
	}
	if f.Skew != 0 {
		a.header.Set("Date", now.UTC().Format(http.TimeFormat))
	}
	if f.RetryIn != 0 {
		a.header.Set("X-Rate-Limit-Reset", strconv.FormatInt(now.Add(f.RetryIn).Unix(), 10))
	}
	for name, values := range f.Header {
		a.header[http.CanonicalHeaderKey(name)] = values
	}
	return a, nil
}

func (f Fault) answer() answer {
	a := answer{
		status: f.Status,
		header: http.Header{"Content-Type": {"application/json"}},
		body:   strings.NewReader(f.Body),
		cut:    f.Reset,
	}
	if f.ContentType != "" {
		a.header.Set("Content-Type", f.ContentType)
	}
	if f.Stream != nil {
		a.body = f.Stream()
	}
	return a
}

// rewrite lets change loose on the JSON of one of this package's own answers, if it is an object.
func rewrite(a answer, change func(map[string]any)) answer {
	body := readOwn(a)
	var members map[string]any
	if json.Unmarshal(body, &members) != nil {
		a.body = bytes.NewReader(body)
		return a
	}
	change(members)
	a.body = jsonAnswer(a.status, members).body
	return a
}

// truncate keeps the first half.
func truncate(a answer) answer {
	body := readOwn(a)
	a.body, a.cut = bytes.NewReader(body[:len(body)/2]), true
	return a
}

// readOwn reads the body of one of this package's own answers, which are in memory.
func readOwn(a answer) []byte {
	body, err := io.ReadAll(a.body)
	if err != nil {
		panic("fakeokta: an answer of its own cannot be read: " + err.Error())
	}
	return body
}

// drip is a body that comes byte by byte.
type drip struct {
	ctx   context.Context
	body  io.Reader
	pause time.Duration
}

func (d *drip) Read(p []byte) (int, error) {
	if err := pause(d.ctx, d.pause); err != nil {
		return 0, err
	}
	return d.body.Read(p[:min(1, len(p))])
}
