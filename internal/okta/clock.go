package okta

import (
	"net/http"
	"sync"
	"time"
)

const (
	// leastOffset is the clock difference up to which an assertion's own slack
	// (back-dated iat, exp well ahead) covers it. A Date header has whole
	// seconds.
	leastOffset = 5 * time.Second
	// mostOffset is the difference beyond which a Date header is not believed.
	mostOffset = 10 * time.Minute
)

// clock is what is known of a server's clock. The zero clock is right.
type clock struct {
	mu     sync.Mutex
	offset time.Duration // of the Date header against our clock, the last one
	noted  time.Duration // that was logged
	lying  bool          // the Date is not the clock that assertions are checked by
}

// observe takes the server's clock from the header of an answer.
func (s *Server) observe(header http.Header, sent, received time.Time) {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return
	}
	// The header was cut to a whole second at some time between the two.
	ours := sent.Add(received.Sub(sent) / 2)
	offset := date.Add(time.Second / 2).Sub(ours)
	s.metrics.clock(s.issuer, offset)
	if !s.clock.set(offset) {
		return
	}
	log := s.log.With("issuer", s.issuer, "offset", offset.Round(time.Second).String())
	if offset.Abs() <= leastOffset {
		log.Info("the authorization server's clock and ours agree again")
		return
	}
	log.Warn("the authorization server's clock and ours differ: synchronise this machine's clock", "corrected", offset.Abs() <= mostOffset)
}

// set reports whether the clock has moved since that was last said. Another offset
// is believed anew.
func (c *clock) set(offset time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = offset
	if (offset - c.noted).Abs() <= leastOffset {
		return false
	}
	c.noted, c.lying = offset, false
	return true
}

// correction is what to add to our clock for assertions, 0 while the server's
// is close enough or not to be believed.
func (c *clock) correction() time.Duration {
	if offset := c.believed(); offset.Abs() > leastOffset {
		return offset
	}
	return 0
}

// believed is the offset, 0 if it is not to be believed.
func (c *clock) believed() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.offset.Abs() > mostOffset || c.lying {
		return 0
	}
	return c.offset
}

// uncorrected is a difference between the clocks that is too large to be
// corrected, else 0.
func (c *clock) uncorrected() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.offset.Abs() <= mostOffset {
		return 0
	}
	return c.offset.Abs().Round(time.Second)
}

// heed reports whether another clock is to be tried for an assertion that was
// refused, that was made with a correction. ofClock: it was refused for its times.
func (c *clock) heed(used time.Duration, ofClock bool) bool {
	moved := (c.correction() - used).Abs() > leastOffset
	if ofClock && used != 0 && !moved {
		// Refused for the clock that the Date header says it has: a proxy may have
		// written that header.
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lying = true
		return true
	}
	return moved
}
