package fakeokta

import (
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const wordsRateLimit = "API call exceeded rate limit due to too many requests."

// RateLimit bounds the requests of an endpoint; each authorization server's is bounded by itself. The limit comes before
// the faults: what it refuses meets none, and what it lets through has counted against it, also where a fault answers.
// Users begins with a limit that nobody meets, so that the resource's answers have the headers; the others, without one.
type RateLimit struct {
	// Requests per window. 0: any number, and no X-Rate-Limit headers.
	Requests int
	// Window begins with the first request after the last window. 0: one minute.
	Window time.Duration
	// Concurrent is how many requests may be in progress. One more is refused with X-Rate-Limit-Limit: 0. 0: any number.
	Concurrent int
	// OAuth makes the refusal the OAuth error invalid_grant instead of E0000047: the token endpoint has been seen to
	// answer with either.
	OAuth bool
}

// SetRateLimit limits an endpoint from now on, in a new window. The zero RateLimit lifts the limit.
func (o *Okta) SetRateLimit(e Endpoint, limit RateLimit) {
	if limit.Window <= 0 {
		limit.Window = time.Minute
	}
	o.limits.mu.Lock()
	defer o.limits.mu.Unlock()
	if o.limits.limits == nil {
		o.limits.limits = map[Endpoint]RateLimit{}
	}
	o.limits.limits[e] = limit
	maps.DeleteFunc(o.limits.windows, func(b bucket, _ *window) bool { return b.endpoint == e })
}

// A bucket is what requests count against.
type bucket struct {
	endpoint Endpoint
	server   string
}

type window struct {
	end  time.Time
	used int
}

// limiter counts. The zero limiter is ready.
type limiter struct {
	mu      sync.Mutex
	limits  map[Endpoint]RateLimit
	windows map[bucket]*window
	busy    map[bucket]int
}

// A verdict is what the limiter says to a request.
type verdict struct {
	header  http.Header // none without a limit
	refused bool
	oauth   bool
}

// enter counts a request in, by the server's clock, and leave counts it out.
func (l *limiter) enter(b bucket, now time.Time) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy == nil {
		l.busy, l.windows = map[bucket]int{}, map[bucket]*window{}
	}
	l.busy[b]++
	limit := l.limits[b.endpoint]
	w := l.windows[b]
	if w == nil || !now.Before(w.end) || now.Before(w.end.Add(-limit.Window-time.Second)) { // or the clock was set back
		// It ends on a whole second, so that X-Rate-Limit-Reset is true.
		w = &window{end: now.Add(limit.Window + time.Second - time.Nanosecond).Truncate(time.Second)}
		l.windows[b] = w
	}
	v := verdict{oauth: limit.OAuth}
	switch {
	case limit.Concurrent > 0 && l.busy[b] > limit.Concurrent:
		v.refused, v.header = true, rateHeaders(0, 0, w.end)
	case limit.Requests > 0 && w.used == limit.Requests:
		v.refused, v.header = true, rateHeaders(limit.Requests, 0, w.end)
	case limit.Requests > 0:
		w.used++
		v.header = rateHeaders(limit.Requests, limit.Requests-w.used, w.end)
	}
	return v
}

func (l *limiter) leave(b bucket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy[b]--
}

func rateHeaders(limit, remaining int, reset time.Time) http.Header {
	return http.Header{
		"X-Rate-Limit-Limit":     {strconv.Itoa(limit)},
		"X-Rate-Limit-Remaining": {strconv.Itoa(remaining)},
		"X-Rate-Limit-Reset":     {strconv.FormatInt(reset.Unix(), 10)},
	}
}

// show adds the headers that every answer of a limited endpoint has.
func (v verdict) show(h http.Header) { maps.Copy(h, v.header) }

// answer is the refusal.
func (v verdict) answer() answer {
	a := apiError(http.StatusTooManyRequests, "E0000047", wordsRateLimit)
	if v.oauth {
		a = oauthError(http.StatusTooManyRequests, "invalid_grant", wordsRateLimit)
	}
	v.show(a.header)
	return a
}
