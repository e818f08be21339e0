package httpapi_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"okta-token-broker/internal/httpapi"
)

// The health listener is open to everybody, and has nothing else to give.
func TestHealthListener(t *testing.T) {
	const counted = "okta_token_broker_nothing 0\n"
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, counted) })
	r := start(t, setup{metrics: metrics})
	r.register(t)
	ctx, stop := context.WithCancel(t.Context())
	listener, err := httpapi.ListenAnywhere(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- httpapi.ServeHealth(ctx, listener, r.api) }()
	health := &running{url: "http://" + listener.Addr().String()}

	const elsewhere = `"no such path: /healthz, /readyz and /metrics are all there is"}`
	tests := []struct {
		method, path, header string
		status               int
		body                 string
	}{
		{"GET", "/healthz", "Host: broker.prod.internal", 200, `{"status":"ok"}`},
		{"GET", "/readyz", "Host: 10.1.2.3:8086", 200, `{"status":"ready"}`},
		{"HEAD", "/readyz", "Origin: https://grafana.internal", 200, ""},
		{"GET", "/metrics", "Host: broker.prod.internal:8086", 200, counted},
		{"POST", "/metrics", form, 405, "invalid_request"},
		{"POST", "/healthz", form, 405, "invalid_request"},
		{"GET", "/token", "Accept: */*", 404, `{"error":"not_found","error_description":` + elsewhere},
		{"POST", "/token", form, 404, `{"error":"not_found","error_description":` + elsewhere},
		{"POST", "/", form, 404, `{"Error":` + elsewhere},
		{"GET", "/openapi.yaml", "Accept: */*", 404, elsewhere},
		{"GET", "/", "Accept: */*", 404, elsewhere},
	}
	for _, tt := range tests {
		got := health.do(t, health.request(t, tt.method, tt.path, "", tt.header))
		if got.status != tt.status || !strings.Contains(got.body, tt.body) {
			t.Errorf("%s %s with %q: %d %s, want %d %s", tt.method, tt.path, tt.header, got.status, got.body, tt.status, tt.body)
		}
	}
	if got := r.send(t, "GET", "/metrics", ""); got.status != 404 {
		t.Errorf("on the API's listener: status %d: %s", got.status, got.body)
	}
	unmeasured := httptest.NewRecorder()
	start(t, setup{}).api.Health().ServeHTTP(unmeasured, httptest.NewRequest("GET", "/metrics", nil))
	if unmeasured.Code != 404 {
		t.Errorf("without metrics: status %d: %s", unmeasured.Code, unmeasured.Body)
	}
	r.api.Drain()
	if got := health.do(t, health.request(t, "GET", "/readyz", "")); got.status != 503 || !strings.Contains(got.body, "draining") {
		t.Errorf("while draining: %d %s", got.status, got.body)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if resp, err := http.Get(health.url + "/healthz"); err == nil {
		resp.Body.Close()
		t.Error("it goes on after its end")
	}
}

func TestOnlyHealthMayListenAnywhere(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0"} {
		listener, err := httpapi.ListenAnywhere(t.Context(), address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		_ = listener.Close()
		if listener, err := httpapi.Listen(t.Context(), address); err == nil {
			_ = listener.Close()
			t.Errorf("%s: the API listens there, too", address)
		}
	}
}
