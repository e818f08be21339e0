package httpapi

import "time"

// NewServer lets a benchmark put another handler behind Serve's settings.
var NewServer = newServer

// SetCalls bounds how many calls can be in flight, and how many others wait, and for how
// long.
func (a *API) SetCalls(most, waiting int, wait time.Duration) {
	a.calls, a.waiting, a.callWait = make(chan struct{}, most), make(chan struct{}, waiting), wait
}

// Calls is how many can be in flight.
func (a *API) Calls() int { return cap(a.calls) }

// Waiting is how many wait.
func (a *API) Waiting() int { return len(a.waiting) }
