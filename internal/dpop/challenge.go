package dpop

import "strings"

// The codes with which servers refuse a proof (RFC 9449 sections 5, 7.1, 8 and 9).
const (
	// InvalidProof: there is none, or it will not do.
	InvalidProof = "invalid_dpop_proof"
	// UseNonce: it lacks the nonce that comes in DPoP-Nonce.
	UseNonce = "use_dpop_nonce"
)

// Challenge returns error and error_description of the challenge for DPoP, else
// for Bearer, in the fields of WWW-Authenticate (RFC 9110 section 11.6.1, RFC 9449
// section 7.1). They are the server's words: for comparing, not for passing on. What it
// does not understand it passes over.
func Challenge(fields []string) (code, description string) {
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
				found, code, description = true, "", ""
			}
			switch strings.ToLower(name) {
			case "error":
				code = value
			case "error_description":
				description = value
			}
		}
	}
	return code, description
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
