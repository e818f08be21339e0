package rotation

import (
	"github.com/prometheus/client_golang/prometheus"

	"okta-token-broker/internal/keys"
)

// Metrics are the package's metrics, for all rings. Nil ones count nothing.
type Metrics struct {
	steps   *prometheus.CounterVec
	keys    *prometheus.GaugeVec
	awaited *prometheus.GaugeVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "okta_token_broker_rotation_steps_total",
			Help: "Steps of key rotations: stage, register, prove, activate, remove (at Okta) and retire, by outcome (ok or error).",
		}, []string{"ring", "step", "outcome"}),
		keys: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "okta_token_broker_keys",
			Help: "Keys of a ring by state (next, active, retired).",
		}, []string{"ring", "state"}),
		awaited: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "okta_token_broker_key_awaited",
			Help: "1 while Okta is not known to have a key of the ring that it should have.",
		}, []string{"ring"}),
	}
	registry.MustRegister(m.steps, m.keys, m.awaited)
	return m
}

func (m *Metrics) count(ring, step string, err error) {
	if m == nil {
		return
	}
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	m.steps.WithLabelValues(ring, step, outcome).Inc()
}

// show takes up how the ring stands.
func (m *Metrics) show(w *Walker) {
	if m == nil {
		return
	}
	ring := w.cfg.Ring
	counts := map[keys.State]float64{keys.Next: 0, keys.Active: 0, keys.Retired: 0}
	for _, k := range ring.Keys() {
		counts[k.State()]++
	}
	for state, n := range counts {
		m.keys.WithLabelValues(ring.Name(), string(state)).Set(n)
	}
	awaited := 0.0
	if _, is := w.Awaited(); is {
		awaited = 1
	}
	m.awaited.WithLabelValues(ring.Name()).Set(awaited)
}

// forget removes the gauges of a ring that nobody walks any more.
func (m *Metrics) forget(ring string) {
	if m == nil {
		return
	}
	m.keys.DeletePartialMatch(prometheus.Labels{"ring": ring})
	m.awaited.DeleteLabelValues(ring)
}
