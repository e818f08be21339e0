package dpop

import "strings"

// The codes with which servers refuse a proof (RFC 9449 sections 5, 7.1, 8 and 9).
const (
	// InvalidProof: there is none, or it will not do.
	InvalidProof = "invalid_dpop_proof"
	// UseNonce: it lacks the nonce that comes in DPoP-Nonce.
	UseNonce = "use_dpop_nonce"
)

// Refusal is error and error_description of a request that was refused (RFC 6749 section
// 5.2, RFC 6750 section 3). They are the server's words: for comparing, not for passing
// on.
type Refusal struct{ Code, Description string }

// OfProof reports whether it is one of a proof, or of the lack of one.
func (r Refusal) OfProof() bool { return r.Code == UseNonce || r.Code == InvalidProof }

// OfPath reports whether it is one of a proof in which the path has a form that the server
// does not compare with. It has no code of its own, so the words decide: most servers name
// the claim, Keycloak says what is in it.
func (r Refusal) OfPath() bool {
	return r.Code == InvalidProof && (strings.Contains(r.Description, "htu") || strings.Contains(r.Description, "DPoP HTTP URL"))
}

// Challenge returns what the challenge for DPoP says, else that for Bearer, in the fields
// of WWW-Authenticate (RFC 9110 section 11.6.1, RFC 9449 section 7.1). What it does not
// understand it passes over.
func Challenge(fields []string) (said Refusal) {
	found := false
	for _, field := range fields {
		scheme := ""
		for field != "" {
			var word, value string
			word, value, field = cutParameter(field)
			name := word
			if space := strings.LastIndexAny(word, " \t"); space >= 0 { // a scheme, and its first parameter
				scheme, name = strings.TrimSpace(word[:space]), word[space+1:]
			}
			isDPoP := strings.EqualFold(scheme, "DPoP")
			if !isDPoP && (found || !strings.EqualFold(scheme, "Bearer")) {
				continue
			}
			if isDPoP && !found {
				found, said = true, Refusal{}
			}
			switch strings.ToLower(name) {
			case "error":
				said.Code = value
			case "error_description":
				said.Description = value
			}
		}
	}
	return said
}

// cutParameter cuts name=value and the comma behind it off a field. The name may
// have a scheme in front.
func cutParameter(field string) (name, value, rest string) {
	field = strings.TrimLeft(field, " \t,")
	end := strings.IndexAny(field, "=,")
	if end < 0 || field[end] == ',' {
		name, rest, _ = strings.Cut(field, ",")
		return name, "", rest
	}
	name, field = strings.TrimSpace(field[:end]), strings.TrimLeft(field[end+1:], " \t")
	if !strings.HasPrefix(field, `"`) {
		value, rest, _ = strings.Cut(field, ",")
		return name, strings.TrimSpace(value), rest
	}
	var unquoted strings.Builder
	for i := 1; i < len(field); i++ {
		switch {
		case field[i] == '"':
			return name, unquoted.String(), field[i+1:]
		case field[i] == '\\' && i+1 < len(field):
			i++
		}
		unquoted.WriteByte(field[i])
	}
	return name, unquoted.String(), ""
}
