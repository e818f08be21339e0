package okta

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of all servers. The nil *Metrics is ready, and counts nothing.
type Metrics struct {
	posts  *prometheus.CounterVec
	offset *prometheus.GaugeVec
}

// NewMetrics registers the metrics.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	m := &Metrics{
		posts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "okta_token_broker_upstream_requests_total",
			Help: "Requests to the authorization server by what came of them: ok, refused, limited, failed.",
		}, []string{"issuer", "outcome"}),
		offset: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "okta_token_broker_clock_offset_seconds",
			Help: "How far the authorization server's clock is ahead of the broker's.",
		}, []string{"issuer"}),
	}
	registerer.MustRegister(m.posts, m.offset)
	return m
}

func (m *Metrics) posted(issuer string, fail *failure) {
	if m == nil || fail.unsent() {
		return
	}
	outcome := "ok"
	switch {
	case fail == nil:
	case fail.status == http.StatusTooManyRequests:
		outcome = "limited"
	case fail.kind == refused && fail.status < 500:
		outcome = "refused"
	default:
		outcome = "failed"
	}
	m.posts.WithLabelValues(issuer, outcome).Inc()
}

func (m *Metrics) clock(issuer string, offset time.Duration) {
	if m != nil {
		m.offset.WithLabelValues(issuer).Set(offset.Seconds())
	}
}
