package keys

import (
	"bytes"
	"encoding/json"
)

// JWKS returns the public halves of all keys of the ring as a JWK Set (RFC 7517
// section 5), the active one first: what is to sign next is published before it
// does, and what has signed as long as its signatures may be about. Of keys that
// are called the same it has the first, since a kid is to be unique there: the
// active one, else the newest.
func (r *Ring) JWKS() json.RawMessage {
	var set bytes.Buffer
	set.WriteString(`{"keys":[`)
	seen := map[string]bool{}
	for _, k := range r.current.Load().keys {
		if seen[k.kid] {
			continue
		}
		if len(seen) > 0 {
			set.WriteByte(',')
		}
		seen[k.kid] = true
		set.Write(k.jwk)
	}
	set.WriteString("]}")
	return set.Bytes()
}
