// Package secret holds a value that no fmt verb, slog handler, JSON or YAML
// encoder can print.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Text is a string that prints as "[redacted]" everywhere. Only Reveal gives
// the value. The zero Text is empty. A Text is safe for concurrent use.
//
// The value sits behind a pointer, because %#v of a plain string type, or of a
// struct that holds one, would print it.
type Text struct{ value *string }

// New hides s.
func New(s string) Text {
	return Text{&s}
}

// Reveal returns the hidden value, for the one place that has to send it on.
func (t Text) Reveal() string {
	if t.value == nil {
		return ""
	}
	return *t.value
}

// IsZero reports whether t holds nothing.
func (t Text) IsZero() bool {
	return t.value == nil || *t.value == ""
}

// Equal reports whether both hide the same, in constant time for values of one
// length.
func (t Text) Equal(other Text) bool {
	return subtle.ConstantTimeCompare([]byte(t.Reveal()), []byte(other.Reveal())) == 1
}

// Format answers every fmt verb with "[redacted]".
func (t Text) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, redacted)
}

// LogValue keeps the value out of slog records.
func (t Text) LogValue() slog.Value {
	return slog.StringValue(redacted)
}

// MarshalText keeps the value out of JSON and YAML.
func (t Text) MarshalText() ([]byte, error) {
	return []byte(redacted), nil
}
