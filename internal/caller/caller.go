// Package caller says who is asking. Every operation of the broker takes a
// Caller, so that none can be offered without a decision about whom it serves.
package caller

// Caller is whoever asks for an operation. The zero Caller is nobody and may do
// nothing.
type Caller struct{ name string }

// Local returns the caller that may do everything because it could reach the
// broker where only this machine can: over loopback, over a Unix socket, or on
// the command line. The name goes into the audit record.
func Local(name string) Caller { return Caller{name} }

// String returns the name for the audit record.
func (c Caller) String() string { return c.name }

// Known reports whether c is anybody.
func (c Caller) Known() bool { return c.name != "" }
