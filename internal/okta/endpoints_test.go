package okta

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEndpointsOf(t *testing.T) {
	org := Endpoints{
		Token:      "https://acme.okta.com/oauth2/v1/token",
		Introspect: "https://acme.okta.com/oauth2/v1/introspect",
		Revoke:     "https://acme.okta.com/oauth2/v1/revoke",
	}
	custom := Endpoints{
		Token:      "https://acme.okta.com/oauth2/default/v1/token",
		Introspect: "https://acme.okta.com/oauth2/default/v1/introspect",
		Revoke:     "https://acme.okta.com/oauth2/default/v1/revoke",
	}
	tests := []struct {
		name, issuer, tokenEndpoint string
		want                        Endpoints
	}{
		{name: "org", issuer: "https://acme.okta.com", want: org},
		{name: "org with a slash", issuer: "https://acme.okta.com/", want: org},
		{name: "custom", issuer: "https://acme.okta.com/oauth2/default", want: custom},
		{name: "custom with a slash", issuer: "https://acme.okta.com/oauth2/default/", want: custom},
		{
			name: "custom by id", issuer: "https://login.example.com/oauth2/aus1a2b3c",
			want: Endpoints{
				Token:      "https://login.example.com/oauth2/aus1a2b3c/v1/token",
				Introspect: "https://login.example.com/oauth2/aus1a2b3c/v1/introspect",
				Revoke:     "https://login.example.com/oauth2/aus1a2b3c/v1/revoke",
			},
		},
		{
			name: "a port", issuer: "http://127.0.0.1:8080",
			want: Endpoints{
				Token:      "http://127.0.0.1:8080/oauth2/v1/token",
				Introspect: "http://127.0.0.1:8080/oauth2/v1/introspect",
				Revoke:     "http://127.0.0.1:8080/oauth2/v1/revoke",
			},
		},
		{
			name: "a token endpoint by name", issuer: "https://idp.example.com/realms/acme",
			tokenEndpoint: "https://idp.example.com/realms/acme/protocol/openid-connect/token",
			want:          Endpoints{Token: "https://idp.example.com/realms/acme/protocol/openid-connect/token"},
		},
		{
			name: "a token endpoint beside an org", issuer: "https://acme.okta.com",
			tokenEndpoint: "https://elsewhere.example.com/token?tenant=1",
			want:          Endpoints{Token: "https://elsewhere.example.com/token?tenant=1"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, EndpointsOf(tt.issuer, tt.tokenEndpoint)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			server := NewServer(ServerConfig{Issuer: tt.issuer, TokenEndpoint: tt.tokenEndpoint})
			if diff := cmp.Diff(tt.want, server.Endpoints()); diff != "" {
				t.Errorf("of a Server (-want +got)\n%s", diff)
			}
		})
	}
}
