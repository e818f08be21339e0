package okta

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"okta-token-broker/internal/fakeokta"
)

const requests, offset = "okta_token_broker_upstream_requests_total", "okta_token_broker_clock_offset_seconds"

// gathered are the values of the registry by metric, issuer and outcome; the
// clock's in whole seconds, as a Date header is.
func gathered(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				name += " " + label.GetName() + "=" + label.GetValue()
			}
			values[name] = math.Round(metric.GetCounter().GetValue() + metric.GetGauge().GetValue())
		}
	}
	return values
}

// Each request counts once, by what came of it, and the clock's gauge follows
// every answer, a refusal or a revocation's too.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Second / 2) // the middle of the second that a Date names
		registry := prometheus.NewRegistry()
		metrics := NewMetrics(registry)
		measured := func(s *ServerConfig, _ *ClientConfig) { s.Metrics = metrics }
		w := newWorld(t, measured)
		const ours = " issuer=" + issuer
		want := map[string]float64{}
		check := func(when string, ahead time.Duration, changes map[string]float64) {
			t.Helper()
			for outcome, n := range changes {
				want[requests+ours+" outcome="+outcome] += n
			}
			want[offset+ours] = ahead.Seconds()
			if diff := cmp.Diff(want, gathered(t, registry)); diff != "" {
				t.Errorf("%s (-want +got)\n%s", when, diff)
			}
		}

		token := w.works(t)
		check("a token", 0, map[string]float64{"ok": 1})
		w.okta.SetClockOffset(7 * time.Second)
		w.revokes(t, token.Access.Reveal())
		check("a revocation", 7*time.Second, map[string]float64{"ok": 1})
		w.okta.SetClockOffset(-time.Minute)
		w.works(t)
		check("a wrong clock", -time.Minute, map[string]float64{"refused": 1, "ok": 1})
		w.okta.SetClockOffset(time.Hour)
		_ = w.fails(t)
		check("a clock that is too wrong", time.Hour, map[string]float64{"refused": 2})
		w.okta.SetClockOffset(0)
		w.okta.SetFault(fakeokta.Fault{Count: 1, Reset: true}, fakeokta.Fault{Count: 2, Status: 503})
		w.works(t)
		check("an outage", 0, map[string]float64{"failed": 3, "ok": 1})
		w.okta.SetFault(fakeokta.Fault{Count: 1, Status: 200, Body: "<html>"})
		_ = w.fails(t)
		check("nonsense", 0, map[string]float64{"failed": 1})
		time.Sleep(time.Second) // the server is left alone
		w.okta.SetFault(limited(42 * time.Second))
		_ = w.fails(t)
		check("a limit", 0, map[string]float64{"limited": 1})
		_ = w.fails(t)
		check("not sent", 0, nil)
		time.Sleep(42 * time.Second)
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := w.client.Exchange(gone, asked); err == nil {
			t.Error("got a token")
		}
		check("nobody asks", 0, nil)

		// Another server has lines of its own, in the same registry.
		_ = newWorld(t, measured, on("https://another.okta.test")).fails(t)
		want[requests+" issuer=https://another.okta.test outcome=failed"] = 1
		check("another server", 0, nil)
	})
}
