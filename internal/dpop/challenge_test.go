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
			if got, want := Challenge(tt.fields), (Refusal{tt.code, tt.description}); got != want {
				t.Errorf("challenge gives %q, want %q", got, want)
			}
		})
	}
}

func TestRefusal(t *testing.T) {
	tests := []struct {
		code, description string
		ofProof, ofPath   bool
	}{
		{"", "", false, false},
		{"invalid_token", "", false, false},
		{"use_dpop_nonce", "", true, false},
		{"invalid_dpop_proof", "", true, false},
		{"Invalid_DPoP_Proof", "htu", false, false}, // codes are compared by case (RFC 6749 section 5.2)
		{"invalid_dpop_proof", "The DPoP proof JWT is issued in the future.", true, false},
		{"invalid_dpop_proof", "'htu' claim in the DPoP proof JWT is invalid.", true, true},
		{"invalid_dpop_proof", "DPoP proof htu mismatch", true, true},
		{"invalid_dpop_proof", "DPoP HTTP URL mismatch", true, true},          // Keycloak
		{"invalid_dpop_proof", "DPoP HTTP method mismatch", true, false},      // also
		{"use_dpop_nonce", "htu was not looked at, for a nonce", true, false}, // with a nonce it may do
		{"invalid_token", "'htu' claim in the DPoP proof JWT is invalid.", false, false},
		{"", "DPoP HTTP URL mismatch", false, false},
	}
	for _, tt := range tests {
		r := Refusal{tt.code, tt.description}
		if ofProof, ofPath := r.OfProof(), r.OfPath(); ofProof != tt.ofProof || ofPath != tt.ofPath {
			t.Errorf("%q: of proof %t, of path %t; want %t, %t", r, ofProof, ofPath, tt.ofProof, tt.ofPath)
		}
	}
}

// FuzzChallenge looks for fields that the parser does not come to the end of.
func FuzzChallenge(f *testing.F) {
	for _, seed := range []string{`DPoP error="a\"b", error_description=c`, `Bearer, DPoP`, `=,=`, `"`, `a="\`, "DPoP \t error==\"=\""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, field string) {
		if said := Challenge([]string{field}); len(said.Code)+len(said.Description) > len(field) {
			t.Errorf("of %q it makes %q", field, said)
		}
	})
}
