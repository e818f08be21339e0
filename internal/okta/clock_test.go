package okta

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/oauth"
)

func TestClockIsCorrected(t *testing.T) {
	tests := []struct {
		ahead time.Duration // of the server's clock
		posts int           // of the first exchange
	}{
		{-9 * time.Minute, 2},
		{-5 * time.Minute, 2},
		{-2 * time.Minute, 2},
		{-31 * time.Second, 2},
		{-29 * time.Second, 1}, // the back-dated iat covers it
		{-3 * time.Second, 1},
		{0, 1},
		{3 * time.Second, 1},
		{2 * time.Minute, 1}, // the assertion has not ended yet
		{4*time.Minute + 59*time.Second, 1},
		{5 * time.Minute, 2},
		{9 * time.Minute, 2},
	}
	for _, tt := range tests {
		t.Run(tt.ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.rotate(t) // a second key at hand, that a clock must not use up
				w.register(t)
				w.okta.SetClockOffset(tt.ahead)
				if token := w.works(t); token.Kid != w.active().ID() || token.Left(time.Now()) != time.Hour {
					t.Errorf("token of key %q with %v left: the clock is no cause for either", token.Kid, token.Left(time.Now()))
				}
				w.wantPosts(t, tt.posts)

				w.works(t)
				w.wantPosts(t, tt.posts+1)
				_, claims := decode(t, w.wire.sent()[tt.posts].assertion())
				if tt.ahead.Abs() < 5*time.Second {
					wantTime(t, claims["iat"], time.Now().Add(-30*time.Second), 0)
				} else {
					wantTime(t, claims["iat"], time.Now().Add(tt.ahead-30*time.Second), time.Second)
					wantTime(t, claims["exp"], time.Now().Add(tt.ahead+5*time.Minute), time.Second)
				}
				if seen := w.okta.Counters(); seen.ReusedJTI != 0 || seen.DistinctJTI != tt.posts+1 {
					t.Errorf("the server saw %d jti, and %d again", seen.DistinctJTI, seen.ReusedJTI)
				}
			})
		})
	}
}

func wantTime(t *testing.T, claim any, want time.Time, within time.Duration) {
	t.Helper()
	number, ok := claim.(interface{ Int64() (int64, error) })
	if !ok {
		t.Fatalf("claim %v is not a number", claim)
	}
	got, err := number.Int64()
	if err != nil {
		t.Fatal(err)
	}
	if off := time.Unix(got, 0).Sub(want).Abs(); off > within {
		t.Errorf("claim is %v off from %v", off, want)
	}
}

// The offset follows the server's clock, and goes when it is right again.
func TestClockCorrectionFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, step := range []struct {
			ahead time.Duration
			posts int // in all, so far
		}{{-9 * time.Minute, 2}, {9 * time.Minute, 4}, {0, 6}, {0, 7}} {
			w.okta.SetClockOffset(step.ahead)
			w.works(t)
			w.wantPosts(t, step.posts)
		}
	})
}

// A proxy may write a Date of its own, which is not the clock that assertions are
// checked by.
func TestDateThatIsNotTheClock(t *testing.T) {
	for _, ahead := range []time.Duration{-8 * time.Minute, 2 * time.Minute, 8 * time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				lie := func() {
					w.okta.SetFault(fakeokta.Fault{Header: http.Header{"Date": {time.Now().Add(ahead).UTC().Format(http.TimeFormat)}}})
				}
				lie()
				w.works(t)
				w.wantPosts(t, 1)
				for range 3 { // at most one refusal in all
					lie()
					w.works(t)
				}
				if posts := w.okta.Counters().TokenRequests; posts > 5 {
					t.Errorf("%d posts for 4 tokens", posts)
				}
				// The lie ends: the clock is believed again.
				w.okta.ClearFault()
				w.okta.SetClockOffset(-3 * time.Minute)
				w.works(t)
				w.works(t)
			})
		})
	}
}

// A server whose Date cannot make up its mind is followed once per exchange.
func TestClockIsCorrectedOnce(t *testing.T) {
	for _, words := range []string{"The client_assertion token is expired.", ""} {
		t.Run(words, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := scripted(t, func(n int, _ *http.Request) (*http.Response, error) {
					return answer(401, refusing("invalid_client", words), "Date", dateAt(time.Duration(n)*time.Minute)), nil
				})
				if e := w.fails(t); e.Class != oauth.Refused || !strings.Contains(e.Description, "clock") {
					t.Errorf("class %d, %q: want Refused, and the clock named", e.Class, e.Description)
				}
				w.wantPosts(t, 2)
			})
		})
	}
}

func TestClockTooFarOff(t *testing.T) {
	for _, ahead := range []time.Duration{-20 * time.Minute, 20 * time.Minute, -11 * time.Minute, 11 * time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.okta.SetClockOffset(ahead)
				for posts := 1; posts <= 2; posts++ { // it is not learned from either
					e := w.fails(t)
					if e.Class != oauth.Refused || !strings.Contains(e.Description, "clock") {
						t.Errorf("class %d, %q: want Refused, and the clock named", e.Class, e.Description)
					}
					w.wantPosts(t, posts)
				}
				if !strings.Contains(w.log.text(), "synchronise this machine's clock") {
					t.Error("the log does not warn of the clock")
				}
			})
		})
	}
}

// The log says when a clock has moved, also where it did so slowly, and when it is
// right again; not on each answer.
func TestClockIsLogged(t *testing.T) {
	tests := []struct {
		name  string
		ahead []time.Duration // of the server's clock, by exchange
		want  []string        // what is logged
	}{
		{"right", []time.Duration{0, 3 * time.Second, -3 * time.Second}, nil},
		{"off", []time.Duration{time.Minute, time.Minute, 62 * time.Second}, []string{"offset=1m0s corrected=true"}},
		{"and right again", []time.Duration{-time.Minute, 0, 0}, []string{"offset=-1m0s corrected=true", "agree again"}},
		{"drifting", []time.Duration{2 * time.Second, 4 * time.Second, 6 * time.Second, 8 * time.Second, 10 * time.Second, 12 * time.Second},
			[]string{"offset=6s corrected=true", "offset=12s corrected=true"}},
		{"too far off", []time.Duration{time.Hour, time.Hour}, []string{"offset=1h0m0s corrected=false"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Second / 2) // the middle of the second that a Date names
				w := newWorld(t)
				for _, ahead := range tt.ahead {
					w.okta.SetClockOffset(ahead)
					_, _ = w.exchange(t)
				}
				var got []string
				for line := range strings.Lines(w.log.text()) {
					if strings.Contains(line, "clock and ours") {
						got = append(got, line)
					}
				}
				if len(got) != len(tt.want) {
					t.Fatalf("%d lines, want %d:\n%s", len(got), len(tt.want), strings.Join(got, ""))
				}
				for i, want := range tt.want {
					if !strings.Contains(got[i], want) || !strings.Contains(got[i], "issuer="+issuer) {
						t.Errorf("line %d: no %q in %s", i+1, want, got[i])
					}
				}
			})
		})
	}
}

// When the broker's own clock is set, assertions follow with the next answer.
func TestBrokersClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var jump time.Duration
		w := newWorld(t, func(s *ServerConfig, _ *ClientConfig) {
			s.Now = func() time.Time { return time.Now().Add(jump) }
		})
		posts := 0
		for _, step := range []struct {
			jump  time.Duration
			posts int // of this exchange
		}{{0, 1}, {8 * time.Minute, 2}, {8 * time.Minute, 1}, {-8 * time.Minute, 2}, {0, 2}, {0, 1}} {
			jump = step.jump
			w.works(t)
			posts += step.posts
			w.wantPosts(t, posts)
		}
	})
}
