package dpop

import "time"

// Terms are what a server says of the proofs that it takes. What is not there is as
// before.
type Terms struct {
	// Nonce goes into the next proofs, until there is a newer one (RFC 9449 section 9).
	// What cannot be a nonce is none.
	Nonce string
	// Decoded says in which form the path is compared: see Proof.
	Decoded *bool
	// Date is the time by the server's clock when it refused a proof for what may be its
	// time.
	Date time.Time
}
