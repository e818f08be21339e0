package keys

import "context"

// Static is a read-only Store of PEM that was handed over, for a key that comes
// in an environment variable.
type Static struct {
	pem *string // behind a pointer, so that no fmt verb prints it
}

// NewStatic returns a Store of this PEM.
func NewStatic(pem string) Static { return Static{&pem} }

// String says that the key is not in a file; it holds nothing of the PEM.
func (s Static) String() string { return "in the environment" }

// Load returns the PEM.
func (s Static) Load(context.Context) ([]byte, string, error) {
	pem := []byte(*s.pem)
	return pem, fingerprint(pem), nil
}

// Save refuses with ErrReadOnly.
func (s Static) Save(context.Context, []byte, string) error {
	return ErrReadOnly
}
