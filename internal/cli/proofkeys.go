package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"okta-token-broker/internal/config"
	"okta-token-broker/internal/keys"
)

// proofAlgorithm is that of the keys that sign DPoP proofs.
const proofAlgorithm = "ES256"

// proofKey is what a client's tokens are bound to, if they are: a key of its own, so
// that no rotation makes tokens useless.
type proofKey struct {
	key  *keys.Key  // nil: dpop is off
	file *keys.File // nil: the key is gone with the process
	held string     // what the file held when it was read last: a revision, or why not
}

// proofKey returns the key of a client. The file is read each time. One that is gone or
// bad leaves the key in use: without it the tokens that callers hold are useless.
func (b *builder) proofKey(ctx context.Context, name string, cfg config.Client) (proofKey, error) {
	var inUse proofKey
	if old := b.clients[name]; old.cfg.DPoPKeyFile == cfg.DPoPKeyFile {
		inUse = old.proof
	}
	switch {
	case cfg.DPoP == config.DPoPOff:
		return proofKey{}, nil
	case cfg.DPoPKeyFile == "" && inUse.key != nil:
		return inUse, nil // other settings change nothing for its tokens
	case cfg.DPoPKeyFile == "":
		key, err := keys.New(proofAlgorithm)
		return proofKey{key: key}, err
	}
	next, err := b.readProofKey(ctx, name, cfg.DPoPKeyFile, inUse.key == nil)
	switch {
	case err != nil:
		err = fmt.Errorf("clients.%s.dpop_key_file: %w", name, err)
		if inUse.key == nil || ctx.Err() != nil {
			return proofKey{}, err
		}
		b.log.Error("reading a DPoP key again; the one in use stays", "client", name, "err", err)
		next.key = inUse.key
	case inUse.key != nil && inUse.key.Thumbprint() == next.key.Thumbprint():
		next.key = inUse.key
	}
	return next, nil
}

// readProofKey reads the key in a file. If it may, it makes one that is not there.
func (b *builder) readProofKey(ctx context.Context, client, path string, mayMake bool) (proofKey, error) {
	file, err := keys.NewFile(ctx, path, false)
	if err != nil {
		return proofKey{}, err
	}
	key, held, err := file.Key(ctx)
	if mayMake && errors.Is(err, fs.ErrNotExist) {
		if err = file.MakeKey(ctx, proofAlgorithm); err == nil {
			b.log.Info("DPoP key made", "client", client, "file", path)
		}
		if err == nil || errors.Is(err, keys.ErrConflict) { // another process was first
			key, held, err = file.Key(ctx)
		}
	}
	if held == "" && err != nil {
		held = err.Error()
	}
	switch {
	case !mayMake && errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%s is gone", path)
	case err == nil && key.Algorithm() != proofAlgorithm:
		err = fmt.Errorf("the key in %s must be EC P-256: without the file, the next start makes one", path)
	}
	return proofKey{key, file, held}, err
}

// stale says which clients have other DPoP keys in their files than when these were
// read. Empty: none.
func (b *builder) stale(ctx context.Context) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(b.clients)) {
		proof := b.clients[name].proof
		if proof.file == nil {
			continue
		}
		_, now, err := proof.file.Load(ctx)
		if err != nil {
			now = err.Error()
		}
		if now != proof.held {
			all = append(all, name+" "+now)
		}
	}
	return strings.Join(all, "\n")
}

// logChangedProofKeys says which clients' tokens are useless from now on, since they
// were bound to the keys before.
func (b *builder) logChangedProofKeys(before map[string]builtClient) {
	for _, name := range slices.Sorted(maps.Keys(b.clients)) {
		old, now := before[name].proof.key, b.clients[name].proof.key
		if old != nil && now != nil && old.Thumbprint() != now.Thumbprint() {
			b.log.Info("DPoP key changed", "client", name, "jkt", now.Thumbprint())
		}
	}
}
