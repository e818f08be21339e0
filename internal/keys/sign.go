package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	_ "crypto/sha256" // for SHA-256
	_ "crypto/sha512" // for SHA-384 and SHA-512
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/golang-jwt/jwt/v5"
)

// Sign returns the compact JWS over claims. It adds alg, which follows from the
// key (RFC 8725 section 3.1), to header.
func (k *Key) Sign(ctx context.Context, header, claims map[string]any) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("signing with key %q: %w", k.kid, err)
	}
	token := jwt.Token{Header: make(map[string]any, len(header)+1), Claims: jwt.MapClaims(claims)}
	for name, value := range header {
		token.Header[name] = value
	}
	token.Header["alg"] = k.alg
	text, err := token.SigningString()
	if err != nil {
		return "", fmt.Errorf("signing with key %q: %w", k.kid, err)
	}
	signature, err := k.signature(ctx, text)
	if err != nil {
		return "", fmt.Errorf("signing with key %q: %w", k.kid, err)
	}
	return text + "." + token.EncodeSegment(signature), nil
}

// signature signs a text the way of RFC 7518 section 3.3 or 3.4.
func (k *Key) signature(ctx context.Context, text string) ([]byte, error) {
	hash := crypto.SHA256
	switch k.alg[2:] {
	case "384":
		hash = crypto.SHA384
	case "512":
		hash = crypto.SHA512
	}
	h := hash.New()
	h.Write([]byte(text))
	signature, err := k.digest(ctx, h.Sum(nil), hash)
	if public, isEC := k.signer.Public().(*ecdsa.PublicKey); isEC && err == nil {
		return joseSignature(signature, (public.Params().BitSize+7)/8)
	}
	return signature, err
}

// digest lets the signer sign.
func (k *Key) digest(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
	if h, elsewhere := k.signer.(*held); elsewhere {
		return h.sign(ctx, digest, hash)
	}
	return k.signer.Sign(rand.Reader, digest, hash)
}

// joseSignature writes an ECDSA signature as RFC 7518 section 3.4 has it, two
// numbers of size bytes; crypto.Signer gives ASN.1.
func joseSignature(der []byte, size int) ([]byte, error) {
	var numbers struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &numbers)
	if err != nil || len(rest) > 0 || numbers.R.Sign() <= 0 || numbers.S.Sign() <= 0 ||
		numbers.R.BitLen() > 8*size || numbers.S.BitLen() > 8*size {
		return nil, errors.New("the signer did not give an ECDSA signature in ASN.1")
	}
	out := make([]byte, 2*size)
	numbers.R.FillBytes(out[:size])
	numbers.S.FillBytes(out[size:])
	return out, nil
}
