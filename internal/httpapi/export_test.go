package httpapi

// NewServer lets a benchmark put another handler behind Serve's settings.
var NewServer = newServer

// SetCalls bounds how many calls can be in flight.
func (a *API) SetCalls(most int) { a.calls = make(chan struct{}, most) }

// Calls is how many can be in flight.
func (a *API) Calls() int { return cap(a.calls) }
