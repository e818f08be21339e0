package keys

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

const (
	// signTimeout bounds one signature of a signer that is not in this process.
	signTimeout = 2 * time.Second
	// maxBusy bounds the signatures of one key that are under way there, those
	// that nobody waits for any more included.
	maxBusy = 16
)

// held is a signer whose private key a Holder keeps. It may hang, and
// crypto.Signer has no context.
type held struct {
	crypto.Signer
	busy chan struct{}
}

// hold takes the answer of a Holder.
func hold(signer crypto.Signer, err error) (crypto.Signer, error) {
	if err != nil {
		return nil, err
	}
	return &held{signer, make(chan struct{}, maxBusy)}, nil
}

// sign waits for the signature until ctx ends, signTimeout at most. A signer
// that hangs is left behind then.
func (h *held) sign(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
	late := fmt.Errorf("the signer did not answer within %v: %w", signTimeout, context.DeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, signTimeout, late)
	defer cancel()
	select {
	case h.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	type result struct {
		signature []byte
		err       error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-h.busy }()
		signature, err := h.try(digest, hash)
		done <- result{signature, err}
	}()
	select {
	case r := <-done:
		return r.signature, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// try makes an error of a panic: a driver's fault must not end the process. What
// it panicked with may hold what it works with, and is not shown.
func (h *held) try(digest []byte, hash crypto.Hash) (signature []byte, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the signer panicked")
		}
	}()
	return h.Sign(rand.Reader, digest, hash)
}
