package oauth

import (
	"fmt"
	"slices"
	"strings"
)

// Bounds on a scope set, so that a request cannot make one that costs memory.
const (
	maxScopes      = 200
	maxScopesBytes = 8 << 10
)

// Scopes is a set of scope tokens (RFC 6749 section 3.3) in canonical form:
// sorted, unique, one space between two. Equal sets are equal strings, so a
// Scopes serves as part of a map key.
type Scopes string

// NewScopes makes a set of the given scope tokens. It refuses an empty token
// and characters outside RFC 6749's scope-token.
func NewScopes(tokens ...string) (Scopes, error) {
	if len(tokens) > maxScopes {
		return "", fmt.Errorf("more than %d scopes", maxScopes)
	}
	size := 0
	for _, token := range tokens {
		if token == "" {
			return "", fmt.Errorf("a scope is empty")
		}
		if size += len(token) + 1; size > maxScopesBytes {
			return "", fmt.Errorf("scopes are over %d bytes", maxScopesBytes)
		}
		if i := strings.IndexFunc(token, notScopeRune); i >= 0 {
			return "", fmt.Errorf("a scope has a character that RFC 6749 section 3.3 does not allow (byte %d)", i+1)
		}
	}
	sorted := slices.Sorted(slices.Values(tokens))
	return Scopes(strings.Join(slices.Compact(sorted), " ")), nil
}

// ParseScopes reads a space-separated scope parameter.
func ParseScopes(s string) (Scopes, error) {
	if len(s) > maxScopesBytes {
		return "", fmt.Errorf("scopes are over %d bytes", maxScopesBytes)
	}
	return NewScopes(strings.FieldsFunc(s, func(r rune) bool { return r == ' ' })...)
}

// List returns the scope tokens, sorted.
func (s Scopes) List() []string {
	if s == "" {
		return nil
	}
	return strings.Split(string(s), " ")
}

// Within reports whether every scope of s is in all.
func (s Scopes) Within(all Scopes) bool {
	return s == all || len(s.Without(all)) == 0
}

// Without returns the scopes of s that are not in other.
func (s Scopes) Without(other Scopes) []string {
	known := other.List()
	return slices.DeleteFunc(s.List(), func(token string) bool {
		_, found := slices.BinarySearch(known, token)
		return found
	})
}

// scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
func notScopeRune(r rune) bool {
	return r < 0x21 || r > 0x7E || r == '"' || r == '\\'
}
