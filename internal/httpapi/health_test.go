package httpapi_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"okta-token-broker/internal/httpapi"
)

// The health listener is open to everybody, and has nothing else to give.
func TestHealthListener(t *testing.T) {
	r := start(t, setup{})
	r.register(t)
	ctx, stop := context.WithCancel(t.Context())
	listener, err := httpapi.ListenAnywhere(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- httpapi.ServeHealth(ctx, listener, r.api) }()
	health := "http://" + listener.Addr().String()

	tests := []struct {
		method, path, header string
		status               int
		body                 string
	}{
		{"GET", "/healthz", "Host: broker.prod.internal", 200, `{"status":"ok"}`},
		{"GET", "/readyz", "Host: 10.1.2.3:8086", 200, `{"status":"ready"}`},
		{"HEAD", "/readyz", "Origin: https://grafana.internal", 200, ""},
		{"POST", "/healthz", "", 405, "invalid_request"},
		{"GET", "/token", "", 404, "not_found"},
		{"POST", "/token", form, 404, "not_found"},
		{"POST", "/", "", 404, `"Error"`},
		{"GET", "/openapi.yaml", "", 404, "not_found"},
		{"GET", "/", "", 404, "not_found"},
	}
	ask := func(method, path, header string) (int, string) {
		t.Helper()
		var headers []string
		if header != "" {
			headers = append(headers, header)
		}
		resp, err := http.DefaultClient.Do((&running{url: health}).request(t, method, path, "", headers...))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, tt := range tests {
		if status, body := ask(tt.method, tt.path, tt.header); status != tt.status || !strings.Contains(body, tt.body) {
			t.Errorf("%s %s with %q: %d %s", tt.method, tt.path, tt.header, status, body)
		}
	}
	r.api.Drain()
	if status, body := ask("GET", "/readyz", ""); status != 503 || !strings.Contains(body, "draining") {
		t.Errorf("while draining: %d %s", status, body)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if resp, err := http.Get(health + "/healthz"); err == nil {
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
