package tokens

import (
	"context"
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"
)

const (
	// backgroundRate is how many fetches a second are begun in the background per
	// issuer, so that an outage of many keys does not end in a storm: with those at
	// either end, no second has more than 20.
	backgroundRate = 19
	// lookEvery bounds how long nobody looks at a token that is kept warm. Timers
	// stand still while a machine is suspended; the token ends all the same.
	lookEvery = 5 * time.Minute
)

// renewal is the age at which a token is renewed: three quarters of its life,
// give or take a tenth of that, so that tokens which were fetched together are
// not renewed together. jitter is from -1 to 1.
func renewal(life time.Duration, jitter float64) time.Duration {
	return time.Duration(float64(life) * 0.75 * (1 + jitter/10))
}

// step is what is to be done with an entry.
type step int

const (
	rest step = iota
	renew
	remove
)

// next says what is to be done with an entry that has no flight, and in how long.
// Before retryAt the background may not ask for it.
func (e *entry) next(now, retryAt time.Time) (step, time.Duration) {
	held, left := e.good(now)
	retry := retryAt.Sub(now)
	switch {
	case held != nil && left > held.ahead && !held.stale.Load():
		return rest, left - held.ahead
	case e.kept, held != nil && held.read.Load() && retry < left:
		return renew, retry
	case held != nil:
		return remove, left
	}
	return remove, e.failures.until.Sub(now)
}

// arm does what is due with an entry, or sets its timer. It can be called at any
// time, and as often as one likes. The caller holds mu.
func (s *Store) arm(e *entry, now time.Time) {
	if e.gone || e.flight != nil { // which calls again when it has landed
		return
	}
	do, in := e.next(now, s.retryAt(e))
	if do == renew && in <= 0 && !s.pace.of(e.key.Issuer).AllowN(now, 1) {
		// Nobody queues: a place that is not used would be lost for the others.
		in = time.Millisecond + rand.N(time.Second)
	}
	switch {
	case in > 0:
		if e.kept {
			in = min(in, lookEvery)
		}
		s.wake(e, in)
	case do == renew:
		s.takeOff(context.Background(), e)
	case do == remove:
		s.take(e)
	}
}

// wake calls arm later.
func (s *Store) wake(e *entry, in time.Duration) {
	if e.timer != nil {
		e.timer.Reset(in)
		return
	}
	e.timer = time.AfterFunc(in, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.arm(e, s.now())
	})
}

// backoff is full jitter under a bound that doubles with each failure, from a
// second to a minute.
func backoff(failures int) time.Duration {
	most := time.Minute
	if failures < 7 {
		most = time.Second << (failures - 1)
	}
	return rand.N(most)
}

// limiters are token buckets by name.
type limiters struct {
	every time.Duration
	burst int
	by    map[string]*rate.Limiter
}

func (l limiters) of(name string) *rate.Limiter {
	if l.by[name] == nil {
		l.by[name] = rate.NewLimiter(rate.Every(l.every), l.burst)
	}
	return l.by[name]
}
