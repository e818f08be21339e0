package keys

import (
	"context"
	"time"
)

// Key reads a file that holds one key for a purpose of its own, such as DPoP proofs.
// It takes what a ring takes; of several keys the first counts. rev is as Load returns
// it, also where the file holds no key.
func (f *File) Key(ctx context.Context) (k *Key, rev string, err error) {
	data, rev, err := f.Load(ctx)
	if err != nil {
		return nil, "", err
	}
	ring, err := parseRing(data, "", nil)
	if err != nil {
		return nil, rev, f.failed("reading", err)
	}
	return ring[0], rev, nil
}

// MakeKey makes a key for one of Algorithms and stores it, as durably as a ring. It
// returns ErrConflict where the file is there already.
func (f *File) MakeKey(ctx context.Context, algorithm string) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	k, err := New(algorithm)
	if err != nil {
		return err
	}
	now := time.Now().Truncate(time.Second)
	k = k.with(func(k *Key) { k.state, k.created, k.activated = Active, now, now })
	data, err := formatRing([]*Key{k})
	if err != nil {
		return f.failed("writing", err)
	}
	return f.Save(ctx, data, "")
}
