package dpop

import "testing"

func TestChallenge(t *testing.T) {
	tests := []struct {
		name              string
		fields            []string
		code, description string
	}{
		{"none", nil, "", ""},
		{"empty", []string{""}, "", ""},
		{"Okta's", []string{`DPoP algs="RS256 ES256", authorization_uri="http://x/y?a=b,c", realm="x", scope="okta.users.read", error="use_dpop_nonce", error_description="Resource server requires nonce in DPoP proof.", resource="/api/v1/users"`}, "use_dpop_nonce", "Resource server requires nonce in DPoP proof."},
		{"Bearer", []string{`Bearer error="invalid_token"`}, "invalid_token", ""},
		{"case", []string{`dpop ERROR="use_dpop_nonce"`}, "use_dpop_nonce", ""},
		{"token for a value", []string{`DPoP error=use_dpop_nonce , algs=ES256`}, "use_dpop_nonce", ""},
		{"spaces", []string{"  DPoP   error = \"use_dpop_nonce\"\t,\terror_description = \"x\""}, "use_dpop_nonce", "x"},
		{"escapes", []string{`DPoP error_description="a \"b\" \\c, error=d", error="e"`}, "e", `a "b" \c, error=d`},
		{"DPoP behind Bearer", []string{`Bearer error="a", error_description="b", DPoP error="c"`}, "c", ""},
		{"Bearer behind DPoP", []string{`DPoP error="c", Bearer error="a", error_description="b"`}, "c", ""},
		{"in fields of their own", []string{`Bearer error="a"`, `Basic realm="error"`, `DPoP error="c"`}, "c", ""},
		{"DPoP that says nothing", []string{`Bearer error="invalid_token", DPoP algs="ES256"`}, "", ""},
		{"schemes alone", []string{`Negotiate, Bearer, DPoP`}, "", ""},
		{"another scheme", []string{`Basic error="a"`}, "", ""},
		{"no scheme", []string{`error="a"`}, "", ""},
		{"open quotes", []string{`DPoP error="a`}, "a", ""},
		{"commas", []string{`,, ,DPoP ,error="a",,`}, "a", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if code, description := Challenge(tt.fields); code != tt.code || description != tt.description {
				t.Errorf("challenge gives %q, %q; want %q, %q", code, description, tt.code, tt.description)
			}
		})
	}
}

// FuzzChallenge looks for fields that the parser does not come to the end of.
func FuzzChallenge(f *testing.F) {
	for _, seed := range []string{`DPoP error="a\"b", error_description=c`, `Bearer, DPoP`, `=,=`, `"`, `a="\`, "DPoP \t error==\"=\""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, field string) {
		if code, description := Challenge([]string{field}); len(code)+len(description) > len(field) {
			t.Errorf("of %q it makes %q and %q", field, code, description)
		}
	})
}
