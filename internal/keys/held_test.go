package keys

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"io/fs"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

// TestHeldKeys walks a ring whose private keys are in a KMS, for every algorithm.
func TestHeldKeys(t *testing.T) {
	for _, alg := range Algorithms() {
		t.Run(alg, func(t *testing.T) {
			store := newKMS()
			ring := open(t, "", Config{Store: store, Algorithm: alg})
			reopened := func() *Ring { return open(t, "", Config{Store: store, Algorithm: alg}) }
			want := func(states ...string) {
				t.Helper()
				for name, ring := range map[string]*Ring{"the ring": ring, "the ring opened anew": reopened()} {
					var got []string
					for _, k := range ring.Keys() {
						got = append(got, string(k.State())+" "+k.ID())
						wantSigns(t, k, alg)
					}
					if diff := cmp.Diff(states, got); diff != "" {
						t.Errorf("%s (-want +got):\n%s", name, diff)
					}
				}
			}
			_, made, err := ring.Active(t.Context(), "first")
			if err != nil || !made {
				t.Fatalf("made %t, error %v", made, err)
			}
			want("active first")
			rotate(t, ring, "second")
			want("active second", "retired first")
			next, _, err := ring.Stage(t.Context(), "third")
			ok(t, err)
			ring.Prove(next)
			want("active second", "next third", "retired first")
			ok(t, ring.Activate(t.Context(), next))
			want("active third", "retired second", "retired first")
			ok(t, ring.Retire(t.Context(), ring.Find("first")))
			want("active third", "retired second")
			if k := reopened().Keys()[0]; k.Proven().IsZero() {
				t.Error("the proof was not stored")
			}
			store.wantNoPrivateKey(t)
		})
	}
}

// wantSigns verifies a signature with golang-jwt and with go-jose.
func wantSigns(tb testing.TB, k *Key, alg string) {
	tb.Helper()
	claims := map[string]any{"iss": "me", "aud": "you", "exp": float64(time.Now().Add(time.Hour).Unix())}
	// An ECDSA number now and then has a leading zero, which must not be lost.
	for range 3 {
		signed, err := k.Sign(tb.Context(), map[string]any{"kid": k.ID()}, claims)
		ok(tb, err)
		parsed, err := jwt.Parse(signed, func(*jwt.Token) (any, error) { return k.signer.Public(), nil }, jwt.WithValidMethods([]string{alg}))
		if err != nil {
			tb.Fatalf("verifying with golang-jwt: %v", err)
		}
		if diff := cmp.Diff(jwt.MapClaims(claims), parsed.Claims); diff != "" {
			tb.Errorf("claims (-want +got):\n%s", diff)
		}
		verify(tb, signed, k.JWK(), alg)
	}
}

// TestHeldKeysAsCryptoKnowsThem: what a Holder hands out is never stored, also
// where it is a private key that x509 could write.
func TestHeldKeysAsCryptoKnowsThem(t *testing.T) {
	store := &softKMS{newKMS()}
	ring := open(t, "", Config{Store: store})
	rotate(t, ring, "first")
	_, _, err := ring.Stage(t.Context(), "second")
	ok(t, err)
	wantKids(t, open(t, "", Config{Store: store}), "first", "second")
	store.wantNoPrivateKey(t)
}

// softKMS hands out the private keys themselves.
type softKMS struct{ *kms }

func (s *softKMS) Generate(ctx context.Context, algorithm string) (crypto.Signer, error) {
	return bare(s.kms.Generate(ctx, algorithm))
}

func (s *softKMS) Open(ctx context.Context, public crypto.PublicKey) (crypto.Signer, error) {
	return bare(s.kms.Open(ctx, public))
}

func bare(signer crypto.Signer, err error) (crypto.Signer, error) {
	if err != nil {
		return nil, err
	}
	return signer.(opaque).private, nil
}

// TestHolderTakesNoPrivateKey: it would stand in the store.
func TestHolderTakesNoPrivateKey(t *testing.T) {
	store := newKMS()
	ring := open(t, "", Config{Store: store})
	_, err := ring.Import(t.Context(), []byte(pkcs8(ecKey(0))), "")
	wantError(t, err, "importing a key into ring default: in the KMS holds no private keys: import it where they are")
	if _, _, err := store.Load(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the store holds a ring: %v", err)
	}
}

// TestKMSIsDown: the keys at hand go on, and a change is refused with the reason.
func TestKMSIsDown(t *testing.T) {
	store := newKMS()
	var log journal
	ring := open(t, "", Config{Store: store, Log: log.log()})
	rotate(t, ring, "first")
	rotate(t, open(t, "", Config{Store: store}), "second")
	store.down = errors.New("the KMS is down")
	for range 2 {
		ring.Refresh(t.Context())
	}
	wantKids(t, ring, "first")
	log.wantCount(t, 1, "the KMS is down")
	wantSigns(t, active(t, ring), "ES256")
	_, err := ring.Rotate(t.Context(), "third")
	wantError(t, err, "rotating ring default", "the KMS is down")
	_, _, err = ring.Stage(t.Context(), "third")
	wantError(t, err, "staging a key of ring default", "the KMS is down")
	_, err = Open(t.Context(), Config{Store: store})
	wantError(t, err, "reading key ring in the KMS", "the KMS is down")

	store.down = nil
	ring.Refresh(t.Context())
	wantKids(t, ring, "second", "first")
	delete(store.private, publicDER(ring.Find("first").signer.Public()))
	_, err = Open(t.Context(), Config{Store: store})
	wantError(t, err, "the KMS has no such key")
}

// signs is a key whose signer does what it is told.
func signs(tb testing.TB, alg string, how func(crypto.Signer, []byte, crypto.SignerOpts) ([]byte, error)) *Key {
	tb.Helper()
	store := newKMS()
	store.sign = how
	return rotate(tb, open(tb, "", Config{Store: store, Algorithm: alg}), "k")
}

func TestSignersThatFail(t *testing.T) {
	number := func(bits uint) *big.Int { return new(big.Int).Lsh(big.NewInt(1), bits) }
	sequence := func(numbers ...*big.Int) []byte { return must(asn1.Marshal(numbers)) }
	one := big.NewInt(1)
	noASN1 := "the signer did not give an ECDSA signature in ASN.1"
	answers := map[string][]byte{
		"nothing":         nil,
		"no ASN.1":        []byte("nonsense"),
		"two raw numbers": make([]byte, 64),
		"one number":      sequence(one),
		"cut":             sequence(number(255), number(255))[:60],
		"with more":       append(sequence(one, one), 0),
		"zero":            sequence(one, big.NewInt(0)),
		"negative":        sequence(big.NewInt(-1), one),
		"too long":        sequence(one, number(256)),
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			k := signs(t, "ES256", func(crypto.Signer, []byte, crypto.SignerOpts) ([]byte, error) { return answer, nil })
			signed, err := k.Sign(t.Context(), nil, map[string]any{"iss": "me"})
			wantError(t, err, `signing with key "k": `+noASN1)
			if signed != "" {
				t.Errorf("signed %q", signed)
			}
		})
	}
	for _, alg := range []string{"RS256", "ES256"} {
		t.Run("error "+alg, func(t *testing.T) {
			down := errors.New("the KMS refuses")
			k := signs(t, alg, func(crypto.Signer, []byte, crypto.SignerOpts) ([]byte, error) { return nil, down })
			signed, err := k.Sign(t.Context(), nil, map[string]any{"iss": "me"})
			wantError(t, err, `signing with key "k": the KMS refuses`)
			if !errors.Is(err, down) || signed != "" {
				t.Errorf("signed %q, error %v", signed, err)
			}
		})
		t.Run("panic "+alg, func(t *testing.T) {
			k := signs(t, alg, func(crypto.Signer, []byte, crypto.SignerOpts) ([]byte, error) { panic("PIN 1234") })
			for range 2 * maxBusy { // each lets the next one in
				signed, err := k.Sign(t.Context(), nil, map[string]any{"iss": "me"})
				wantError(t, err, `signing with key "k": the signer panicked`)
				if signed != "" || err != nil && strings.Contains(err.Error(), "1234") {
					t.Errorf("signed %q, error %v", signed, err)
				}
			}
		})
	}
}

// TestSignerHears that it is to sign the way of PKCS #1 v1.5, with which hash.
func TestSignerHears(t *testing.T) {
	hashes := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}
	for _, alg := range Algorithms() {
		k := signs(t, alg, func(private crypto.Signer, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
			if _, isPSS := opts.(*rsa.PSSOptions); isPSS || opts.HashFunc() != hashes[alg[2:]] || len(digest) != opts.HashFunc().Size() {
				t.Errorf("%s: %d bytes to sign, options %v", alg, len(digest), opts)
			}
			return private.Sign(rand.Reader, digest, opts)
		})
		wantSigns(t, k, alg)
	}
}

func TestSignerHangs(t *testing.T) {
	tests := []struct {
		name   string
		within func(context.Context) (context.Context, context.CancelFunc)
		after  time.Duration
		want   string
		is     error
	}{
		{"for ever", func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} },
			2 * time.Second, "the signer did not answer within 2s", context.DeadlineExceeded},
		{"longer than the caller waits", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 300*time.Millisecond)
		}, 300 * time.Millisecond, "deadline exceeded", context.DeadlineExceeded},
		{"and the caller leaves", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, time.Second, "canceled", context.Canceled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hang := make(chan struct{})
				k := signs(t, "ES256", func(private crypto.Signer, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
					<-hang
					return private.Sign(rand.Reader, digest, opts)
				})
				start := time.Now()
				ctx, cancel := tt.within(t.Context())
				defer cancel()
				signed, err := k.Sign(ctx, nil, map[string]any{"iss": "me"})
				wantError(t, err, `signing with key "k": `, tt.want)
				if !errors.Is(err, tt.is) || signed != "" {
					t.Errorf("signed %q, error %v, want %v", signed, err, tt.is)
				}
				if took := time.Since(start); took != tt.after {
					t.Errorf("it took %v, want %v", took, tt.after)
				}
				close(hang)
				synctest.Wait() // what was left behind ends
				wantSigns(t, k, "ES256")
			})
		})
	}
}

// TestSignersInFlight: a signer that hangs does not pile up what waits for it,
// and each one that comes back lets another in.
func TestSignersInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		inside, most := 0, 0
		count := func(n int) (now, ever int) {
			mu.Lock()
			defer mu.Unlock()
			inside += n
			most = max(most, inside)
			return inside, most
		}
		hang := make(chan struct{})
		k := signs(t, "ES256", func(private crypto.Signer, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
			count(1)
			defer count(-1)
			<-hang
			return private.Sign(rand.Reader, digest, opts)
		})
		var waiting sync.WaitGroup
		sign := func(n int) (errs chan error) {
			errs = make(chan error, n)
			for range n {
				waiting.Go(func() {
					_, err := k.Sign(t.Context(), nil, map[string]any{"iss": "me"})
					errs <- err
				})
			}
			return errs
		}
		late := sign(100)
		waiting.Wait()
		for range 100 {
			wantError(t, <-late, "the signer did not answer within 2s")
		}
		if now, _ := count(0); now != maxBusy {
			t.Errorf("%d signatures are under way though nobody waits, want %d", now, maxBusy)
		}
		// As long as they are, nobody else gets in.
		wantError(t, <-sign(1), "the signer did not answer within 2s")

		inTurn := sign(100)
		synctest.Wait()
		close(hang)
		waiting.Wait()
		for range 100 {
			ok(t, <-inTurn)
		}
		synctest.Wait()
		if now, ever := count(0); ever != maxBusy || now != 0 {
			t.Errorf("%d signatures were under way at once, and %d are now; want %d and none", ever, now, maxBusy)
		}
	})
}

// TestOneKeyHangsAlone: the exchange falls back to another key.
func TestOneKeyHangsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		var hung crypto.Signer
		store := newKMS()
		store.sign = func(private crypto.Signer, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
			if private == hung {
				<-hang
			}
			return private.Sign(rand.Reader, digest, opts)
		}
		ring := open(t, "", Config{Store: store})
		rotate(t, ring, "first")
		rotate(t, ring, "second")
		keys := ring.Keys()
		hung = store.private[publicDER(keys[0].signer.Public())]
		for range maxBusy + 1 {
			_, err := keys[0].Sign(t.Context(), nil, map[string]any{"iss": "me"})
			wantError(t, err, "did not answer")
		}
		wantSigns(t, keys[1], "ES256")
		if !slices.Contains(kids(ring.Candidates("")), "first") {
			t.Error("the other key is no candidate")
		}
	})
}
