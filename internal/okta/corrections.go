package okta

import "strings"

// correction is what an exchange does after a failed attempt.
type correction string

const (
	giveUp       correction = "none"
	noKeyWill    correction = "none, whatever the key" // gives up
	useClock     correction = "clock"                  // the offset is taken up by itself
	newJTI       correction = "jti"                    // every attempt has a new one
	otherKey     correction = "other key"
	retryBroken  correction = "retry"
	waitAndRetry correction = "wait"

	// Of DPoP (RFC 9449). A nonce is taken up by itself.
	useProof   correction = "proof"
	useNonce   correction = "nonce"
	newProof   correction = "another proof"
	decodePath correction = "decoded path"

	// byState is for the errors that have no words to go by.
	byState correction = "by state"
)

// maxWaits is how often a server error is retried.
const maxWaits = 2

// corrections remembers what an exchange has tried: each at most once, server
// errors twice.
type corrections struct {
	tried map[correction]bool
	waits int
}

// choose picks what to do about a failure, by the server's words where they are
// known, else by state. It gives up where the same again would be refused
// again. hasOther says that there is another key to try, mayProve that the client
// can prove that it holds a DPoP key.
func (done *corrections) choose(f *failure, hasOther, mayProve bool) correction {
	fix := giveUp
	switch f.kind {
	case refused:
		fix = f.row.fix
	case broken:
		fix = retryBroken
	}
	switch {
	case fix == byState:
		fix = f.fixByState(done.tried[useClock])
	case !f.proved && (fix.ofProof() || fix == useClock && f.ofProof()):
		fix = useProof
	case fix == useClock && f.ofProof() && !f.clockMoved:
		fix = newProof
	}

	possible := !done.tried[fix]
	switch fix {
	case giveUp, noKeyWill:
		possible = false
	case useClock:
		possible = possible && f.clockMoved
	case otherKey:
		possible = hasOther // of which there is one less each time
	case useProof:
		possible = possible && mayProve && !f.proved
	case useNonce:
		possible = possible && f.brought
	case decodePath:
		possible = possible && strings.Contains(f.endpoint, "%")
	case waitAndRetry:
		possible = done.waits < maxWaits
		done.waits++
	}
	if !possible {
		return giveUp
	}
	if done.tried == nil {
		done.tried = map[correction]bool{}
	}
	done.tried[fix] = true
	return fix
}

// The codes of RFC 9449, sections 5 and 8.
const (
	invalidProof = "invalid_dpop_proof"
	wantsNonce   = "use_dpop_nonce"
)

// ofProof reports whether a refusal is one of a DPoP proof, or of the lack of one.
func (f *failure) ofProof() bool { return f.code == invalidProof || f.code == wantsNonce }

// ofProof reports whether a correction is one of a proof that was sent.
func (fix correction) ofProof() bool {
	return fix == useNonce || fix == newProof || fix == decodePath
}

// refusesKeys reports whether the server said that the key will not do for the client,
// or may have meant that.
func (f *failure) refusesKeys() bool {
	switch f.row.fix {
	case otherKey, noKeyWill:
		return true
	case byState:
		return f.refusesClient()
	}
	return false
}

// fixByState is for servers that say a bare invalid_client for every cause.
func (f *failure) fixByState(clockDone bool) correction {
	switch {
	case !f.refusesClient():
		return giveUp
	case f.clockMoved && !clockDone:
		return useClock
	}
	return otherKey
}
