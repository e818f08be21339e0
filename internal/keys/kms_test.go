package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"sync"
	"testing"
)

// kms is a Holder in memory: a Store of public keys, and the private ones apart.
type kms struct {
	mu      sync.Mutex
	data    []byte
	written [][]byte                 // all that was ever saved
	private map[string]crypto.Signer // by public key in DER
	down    error                    // what Generate and Open answer
	sign    func(crypto.Signer, []byte, crypto.SignerOpts) ([]byte, error)
}

func newKMS() *kms { return &kms{private: map[string]crypto.Signer{}} }

func (s *kms) String() string { return "in the KMS" }

func (s *kms) Load(context.Context) ([]byte, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.data == nil {
		return nil, "", fs.ErrNotExist
	}
	return s.data, fingerprint(s.data), nil
}

func (s *kms) Save(_ context.Context, data []byte, rev string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.data == nil && rev != "" || s.data != nil && rev != fingerprint(s.data) {
		return ErrConflict
	}
	s.data = data
	s.written = append(s.written, data)
	return nil
}

func (s *kms) Generate(ctx context.Context, algorithm string) (crypto.Signer, error) {
	private, err := newSigner(algorithm)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.private[publicDER(private.Public())] = private
	return s.signer(ctx, private.Public())
}

func (s *kms) Open(ctx context.Context, public crypto.PublicKey) (crypto.Signer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signer(ctx, public)
}

// signer finds a key. The caller holds mu.
func (s *kms) signer(ctx context.Context, public crypto.PublicKey) (crypto.Signer, error) {
	private := s.private[publicDER(public)]
	switch {
	case s.down != nil:
		return nil, s.down
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case private == nil:
		return nil, errors.New("the KMS has no such key")
	}
	return opaque{private.Public(), private, s.sign}, nil
}

func publicDER(public crypto.PublicKey) string {
	return string(must(x509.MarshalPKIXPublicKey(public)))
}

// public is the block of a key in a Holder's data.
func public(private crypto.Signer) string {
	return block(publicBlock, []byte(publicDER(private.Public())))
}

// opaque is a signer of no type that anybody knows.
type opaque struct {
	public  crypto.PublicKey
	private crypto.Signer
	how     func(crypto.Signer, []byte, crypto.SignerOpts) ([]byte, error)
}

func (o opaque) Public() crypto.PublicKey { return o.public }

func (o opaque) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if o.how != nil {
		return o.how(o.private, digest, opts)
	}
	return o.private.Sign(random, digest, opts)
}

// wantNoPrivateKey looks through all that was ever in the store.
func (s *kms) wantNoPrivateKey(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.written) == 0 {
		tb.Error("nothing was stored")
	}
	for _, data := range s.written {
		for rest := data; ; {
			var found *pem.Block
			if found, rest = pem.Decode(rest); found == nil {
				break
			}
			if found.Type != publicBlock {
				tb.Errorf("the store holds a block of type %q", found.Type)
			}
			for _, private := range s.private {
				if bytes.Contains(found.Bytes, secret(tb, private)) {
					tb.Error("the store holds a private key")
				}
			}
		}
	}
}

// secret is the number that a private key is.
func secret(tb testing.TB, private crypto.Signer) []byte {
	tb.Helper()
	switch private := private.(type) {
	case *rsa.PrivateKey:
		return private.D.Bytes()
	case *ecdsa.PrivateKey:
		return must(private.Bytes())
	}
	tb.Fatalf("no secret in a %T", private)
	return nil
}
