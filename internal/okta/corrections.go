package okta

import (
	"strings"

	"okta-token-broker/internal/dpop"
)

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
// errors twice, and a nonce again after another correction.
type corrections struct {
	tried map[correction]bool
	waits int
}

// choose picks what to do about a failure. It gives up where the same again would be
// refused again. hasOther says that there is another key to try, mayProve that the client
// can prove that it holds a DPoP key.
func (done *corrections) choose(f *failure, hasOther, mayProve bool) correction {
	fix := f.fix(done.tried[useClock])
	if !done.may(fix, f, hasOther, mayProve) {
		return giveUp
	}
	if done.tried == nil {
		done.tried = map[correction]bool{}
	}
	if fix != useNonce {
		delete(done.tried, useNonce) // there are servers that take each once, and it was sent
	}
	done.tried[fix] = true
	if fix == waitAndRetry {
		done.waits++
	}
	return fix
}

// may reports whether a correction is left, and could help.
func (done *corrections) may(fix correction, f *failure, hasOther, mayProve bool) bool {
	switch fix {
	case giveUp, noKeyWill:
		return false
	case otherKey:
		return hasOther // of which there is one less each time
	case waitAndRetry:
		return done.waits < maxWaits
	}
	switch {
	case done.tried[fix]:
		return false
	case fix == useClock:
		return f.clockMoved
	case fix == useProof:
		return mayProve && !f.proved
	case fix == useNonce:
		return f.nonce != ""
	case fix == decodePath:
		return strings.Contains(f.endpoint, "%")
	}
	return true
}

// fix is the correction for a failure, by the server's words where they are known, else
// by state.
func (f *failure) fix(clockDone bool) correction {
	fix := giveUp
	switch f.kind {
	case refused:
		fix = f.row.fix
	case broken:
		fix = retryBroken
	}
	switch {
	case fix == byState:
		return f.fixByState(clockDone)
	case !f.proved && (fix.ofProof() || fix == useClock && f.ofProof()):
		return useProof
	case fix == useClock && f.ofProof() && !f.clockMoved:
		return newProof
	}
	return fix
}

// ofProof reports whether a refusal is one of a DPoP proof, or of the lack of one.
func (f *failure) ofProof() bool { return dpop.Refusal{Code: f.code}.OfProof() }

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
