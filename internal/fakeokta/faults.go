package fakeokta

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// errReset stands for a connection that is dropped without an answer.
var errReset = errors.New("connection reset")

// Fault is what the token endpoint does to a request. Whatever it is, the assertion is checked and its jti consumed, as by
// Okta, so that a client which sends an assertion again is found out.
type Fault struct {
	// Count is the number of requests the fault meets. 0: all of them, until it is cleared or set anew.
	Count int
	// Delay passes before the work is done; with After, between the work and the answer.
	Delay time.Duration
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
	// After does the work all the same, so that a token is issued, and lost if Status or Reset is set.
	After bool
	// Reset drops the connection: before anything is answered, or, with a Status, after the headers and the body.
	Reset bool
	// Rewrite may change the JSON of an answer of 200 that the work results in.
	Rewrite func(map[string]any)
}

// SetFault makes the token endpoint misbehave from the next request on, in place of what was set before. Several faults
// come one after the other, each for its Count of requests.
func (o *Okta) SetFault(faults ...Fault) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.faults = slices.Clone(faults)
}

// ClearFault makes the token endpoint behave. Requests that are being delayed go on so.
func (o *Okta) ClearFault() {
	o.SetFault()
}

// nextFault is the fault that meets the present request; the zero Fault does nothing.
func (o *Okta) nextFault() Fault {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.faults) == 0 {
		return Fault{}
	}
	fault := o.faults[0]
	switch fault.Count {
	case 0:
	case 1:
		o.faults = o.faults[1:]
	default:
		o.faults[0].Count--
	}
	return fault
}

// replacesWork tells whether no token is issued.
func (f Fault) replacesWork() bool {
	return !f.After && (f.Status != 0 || f.Reset)
}

// apply turns the answer that the work resulted in, if it was done, into the one that is given.
func (f Fault) apply(a answer) (answer, error) {
	if f.Reset && f.Status == 0 {
		return answer{}, errReset
	}
	if f.Rewrite != nil && a.status == http.StatusOK {
		a = rewrite(a, f.Rewrite)
	}
	if f.Status != 0 {
		a = f.answer()
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

// rewrite lets change loose on the JSON of one of this package's own answers.
func rewrite(a answer, change func(map[string]any)) answer {
	var members map[string]any
	if err := json.NewDecoder(a.body).Decode(&members); err != nil {
		panic("fakeokta: an answer of its own is not JSON: " + err.Error())
	}
	change(members)
	return jsonAnswer(a.status, members)
}
