package httpapi

import "time"

// NewServer lets a benchmark put another handler behind Serve's settings.
var NewServer = newServer

// SetCalls bounds how many calls can be in flight, and how long others wait.
func (a *API) SetCalls(most int, wait time.Duration) {
	a.calls, a.callWait = make(chan struct{}, most), wait
}

// Calls is how many can be in flight.
func (a *API) Calls() int { return cap(a.calls) }
