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
	// Final says that the proof was the last of its call. Another may have been refused
	// just before it.
	Final bool
}

// Made is what is in a proof that a server may refuse it for. By the time that it does,
// others may have found out on what terms it takes them.
type Made struct {
	// Decoded is as in Proof.
	Decoded bool
	// Clock was added to our time to date it.
	Clock time.Duration
}
