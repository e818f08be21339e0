package broker

// JWKS returns the public keys of a ring as a JWK Set (RFC 7517 section 5), or
// false when no ring of this name is in use. It takes no caller and leaves no
// audit record, unlike all else: public keys are for everybody, and Okta, which
// fetches them, has nothing to show who it is.
func (b *Broker) JWKS(ring string) ([]byte, bool) {
	found := b.world.Load().Rings[ring]
	if found == nil {
		return nil, false
	}
	return found.JWKS(), true
}
