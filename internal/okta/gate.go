package okta

import (
	"math/rand/v2"
	"sync"
	"time"

	"okta-token-broker/internal/oauth"
)

// leastOutage and mostOutage bound how long a server that failed is left alone.
const (
	leastOutage = time.Second
	mostOutage  = time.Minute
)

// gate keeps exchanges away from a server that limits us, or is down. When its
// time is over, one exchange finds out whether the trouble is, before all others
// go. The zero gate is open. Its times have a monotonic reading, so that it does
// not matter to it when the machine's clock is set.
type gate struct {
	mu      sync.Mutex
	closed  *failure  // why; nil while the gate is open
	limited bool      // closed by a 429, which nothing overrides
	until   time.Time // when one exchange may find out
	probing bool      // one does
	outages int       // since the server worked
	epoch   int       // how often the gate was closed
}

// pass is for an exchange that was let through a gate.
type pass struct {
	epoch int  // when it began
	probe bool // it is the one to find out
}

// enter lets an exchange through, or says why not. Whoever gets a pass has to
// release it.
func (g *gate) enter(now time.Time) (pass, *failure) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed == nil:
		return pass{epoch: g.epoch}, nil
	case g.probing, now.Before(g.until):
		return pass{}, &failure{kind: held, earlier: g.closed}
	}
	g.probing = true
	return pass{epoch: g.epoch, probe: true}, nil
}

// release is for the end of an exchange, however it ends.
func (g *gate) release(p pass) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.probe {
		g.probing = false
	}
}

// limit says why an exchange that is under way may not send another request.
func (g *gate) limit(now time.Time) *failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.limited && now.Before(g.until) {
		return &failure{kind: held, earlier: g.closed}
	}
	return nil
}

// learn takes what came of an exchange; nil is a success. The exchanges that
// began before the gate was closed fail of one outage, and none of them can know
// that a limit is over. But whatever works while the server seems to be down shows
// that it is not.
func (g *gate) learn(p pass, f *failure, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	current := p.epoch == g.epoch
	switch {
	case f.tellsNothing():
	case f.reach() != oauth.ReachServer:
		if current || !g.limited {
			g.closed, g.limited, g.outages = nil, false, 0
		}
	case f.retryAfter > 0:
		if until := now.Add(f.retryAfter); !g.limited || until.After(g.until) {
			g.close(f, until)
			g.limited = true
		}
	case current:
		g.close(f, now.Add(outage(g.outages, rand.Float64())))
		g.limited = false
		g.outages++
	}
}

func (g *gate) close(f *failure, until time.Time) {
	g.closed, g.until = f, until
	g.epoch++
}

// outage is how long a server is left alone that failed so often before: from a
// second to a bound that doubles, by luck from 0 to 1, so that many brokers do not
// come back in step.
func outage(before int, luck float64) time.Duration {
	bound := mostOutage
	if before < 6 {
		bound = min(leastOutage<<before, mostOutage)
	}
	return leastOutage + time.Duration(luck*float64(bound-leastOutage))
}

// wait is how long nothing is sent.
func (g *gate) wait(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		return 0
	}
	return max(g.until.Sub(now), 0)
}
