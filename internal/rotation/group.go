package rotation

import (
	"context"
	"sync"
)

// Group is the walkers of one configuration. The zero Group is empty. It is safe for
// concurrent use.
type Group struct {
	turn sync.Mutex // held while walkers are started or stopped

	mu      sync.Mutex
	walkers []*Walker

	stop    context.CancelFunc
	running sync.WaitGroup
}

// Replace stops the walkers there are, and then starts others, which end with ctx.
func (g *Group) Replace(ctx context.Context, walkers []*Walker) {
	g.turn.Lock()
	defer g.turn.Unlock()
	if g.stop != nil {
		g.stop()
		g.running.Wait()
	}
	ctx, g.stop = context.WithCancel(ctx)
	g.mu.Lock()
	g.walkers = walkers
	g.mu.Unlock()
	for _, walker := range walkers {
		g.running.Go(func() { walker.Run(ctx) })
	}
}

// End stops the walkers.
func (g *Group) End() { g.Replace(context.Background(), nil) }

// AwaitedKey is a key that Okta is not known to have.
type AwaitedKey struct{ Ring, Kid, State string }

// Awaited lists those keys. It does not wait for anything.
func (g *Group) Awaited() (awaited []AwaitedKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, walker := range g.walkers {
		if k, is := walker.Awaited(); is {
			awaited = append(awaited, AwaitedKey{walker.cfg.Ring.Name(), k.ID(), string(k.State())})
		}
	}
	return awaited
}
