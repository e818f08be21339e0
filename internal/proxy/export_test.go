package proxy

import "time"

// SetStalled has a Proxy be as patient as a test can be.
func (p *Proxy) SetStalled(stalled time.Duration) { p.stalled = stalled }
