package proxy

import (
	"net/url"
	"testing"
)

// A host has no case, and a scheme has a port of its own.
func TestSameOrigin(t *testing.T) {
	const acme, local = "https://acme.okta.com", "http://127.0.0.1:8080/base"
	tests := []struct {
		base, url string
		want      bool
	}{
		{acme, "https://acme.okta.com/api", true},
		{acme, "https://ACME.Okta.com/api", true},
		{acme, "https://acme.okta.com:443/api", true},
		{acme + ":443", "https://acme.okta.com/api", true},
		{acme + ":80", "https://acme.okta.com:80/api", true},
		{acme, "https://acme.okta.com:80/api", false},
		{acme, "https://acme.okta.com:8443/api", false},
		{acme, "http://acme.okta.com/api", false},
		{acme, "http://acme.okta.com:443/api", false},
		{acme, "https://acme.okta.com.evil.test/api", false},
		{acme, "https://acme.okta.co/api", false},
		{acme, "/api", false},
		{local, "http://127.0.0.1:8080/api", true},
		{local, "http://127.0.0.1/api", false},
		{local, "http://127.0.0.1:80/api", false},
		{"http://localhost", "http://localhost:80/api", true},
		{"http://localhost", "http://localhost:443/api", false},
	}
	for _, tt := range tests {
		base, err := url.Parse(tt.base)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := sameOrigin(u, base); got != tt.want {
			t.Errorf("%s is at the origin of %s: %t, want %t", tt.url, tt.base, got, tt.want)
		}
	}
}
