package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"okta-token-broker/internal/assertion"
	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// SignRequest asks for a client assertion.
type SignRequest struct {
	ClientID, Audience string
	// Kid is answered and written into the JWT. Empty: the active key's for a
	// configured client, else a random one.
	Kid string
	// ValidFor is the assertion's life, an hour at most. 0: 10 minutes.
	ValidFor time.Duration
	// Rotate makes a new key first.
	Rotate bool
}

// maxField bounds what goes into a JWT from a request, in bytes.
const maxField = 2 << 10

const (
	defaultValidFor = 10 * time.Minute
	maxValidFor     = time.Hour
)

// check finds what must not go into a JWT, in the Flask server's style.
func (req SignRequest) check() error {
	fields := []struct{ name, value string }{{"client_id", req.ClientID}, {"audience", req.Audience}, {"kid", req.Kid}}
	for _, field := range fields {
		switch {
		case field.value == "" && field.name != "kid":
			return oauth.Fail(oauth.InvalidRequest, field.name+" must not be empty!")
		case len(field.value) > maxField:
			return oauth.Fail(oauth.InvalidRequest, fmt.Sprintf("%s must not be longer than %d bytes!", field.name, maxField))
		case strings.ContainsFunc(field.value, unicode.IsControl) || !utf8.ValidString(field.value):
			return oauth.Fail(oauth.InvalidRequest, field.name+" must not have control characters!")
		}
	}
	if req.ValidFor < 0 {
		return oauth.Fail(oauth.InvalidRequest, "valid_for must not be negative!")
	}
	if req.ValidFor > maxValidFor { // Okta takes no longer life
		return oauth.Fail(oauth.InvalidRequest, "valid_for must not be higher than 3600 seconds (1 hour)!")
	}
	return nil
}

// Signed is a client assertion with the public key that verifies it.
type Signed struct {
	JWK json.RawMessage
	JWT string
	// KeyChanged says that this request made the key.
	KeyChanged bool
}

// Sign makes a client assertion.
func (b *Broker) Sign(ctx context.Context, who caller.Caller, req SignRequest) (Signed, error) {
	signed, err := b.sign(ctx, who, req)
	b.audit(ctx, "audit: sign", who, err, slog.String("client_id", req.ClientID), slog.String("audience", req.Audience),
		slog.Bool("rotate", req.Rotate), slog.Bool("key_changed", signed.KeyChanged))
	return signed, err
}

func (b *Broker) sign(ctx context.Context, who caller.Caller, req SignRequest) (Signed, error) {
	if !who.Known() {
		return Signed{}, oauth.Fail(oauth.AccessDenied, "the caller is not known")
	}
	if err := req.check(); err != nil {
		return Signed{}, err
	}
	ring, configured, err := b.signer(req)
	if err != nil {
		return Signed{}, err
	}

	// The kid that is answered stays with a key made here, so that registering
	// the answered jwk is all it takes.
	kid := req.Kid
	if kid == "" && !configured {
		kid = uuid.NewString()
	}
	var signed Signed
	var key *keys.Key
	if req.Rotate {
		key, err = ring.Rotate(ctx, kid)
		signed.KeyChanged = err == nil
	} else {
		key, signed.KeyChanged, err = ring.Active(ctx, kid)
	}
	if err != nil {
		return Signed{}, keyError(err)
	}
	if kid == "" {
		kid = key.ID()
	}

	now := b.now()
	signed.JWK = key.JWKAs(kid)
	signed.JWT, err = assertion.Sign(ctx, key, assertion.Assertion{
		ClientID: req.ClientID,
		Audience: req.Audience,
		Kid:      kid,
		Use:      "sig",
		IssuedAt: now,
		Expires:  now.Add(cmp.Or(req.ValidFor, defaultValidFor)),
	})
	if err != nil {
		return Signed{}, &oauth.Error{Class: oauth.Internal, Description: "signing failed", Err: err}
	}
	return signed, nil
}

// signer finds the ring that signs for a client id, and refuses what
// signing.allow does not allow. configured says that the id is a configured
// client's.
func (b *Broker) signer(req SignRequest) (ring *keys.Ring, configured bool, err error) {
	world := b.world.Load()
	clients := world.byID[req.ClientID]
	if slices.ContainsFunc(clients, func(client *Client) bool { return client.Rotator }) {
		return nil, false, rotatorRefused()
	}
	for _, client := range clients {
		if slices.Contains(client.Audiences, req.Audience) {
			return client.Ring, true, nil
		}
	}
	switch {
	case world.SignAny && len(clients) > 0:
		return clients[0].Ring, true, nil
	case world.SignAny:
		return world.Rings[DefaultRing], false, nil
	case len(clients) > 0:
		return nil, false, oauth.Fail(oauth.AccessDenied, "audience is not the token, introspection or revocation endpoint of the client, and signing.allow is clients")
	}
	return nil, false, oauth.Fail(oauth.AccessDenied, "client_id is not a configured client's, and signing.allow is clients")
}

// keyError classes an error of a key ring.
func keyError(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &oauth.Error{Class: oauth.NoSpace, Description: "the key ring could not be written: no space is left; the old key, if there is one, goes on signing", Err: err}
	case errors.Is(err, keys.ErrReadOnly):
		return &oauth.Error{Class: oauth.Internal, Description: "the key ring is read-only (keys.NAME.read_only, or a key from the environment); the old key goes on signing", Err: err}
	}
	return &oauth.Error{Class: oauth.Internal, Description: "the key ring could not be written; the old key, if there is one, goes on signing; the broker's log has the reason", Err: err}
}
