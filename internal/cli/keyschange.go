package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/keys"
)

func newKeysRotate(open openFunc) *cobra.Command {
	var kid string
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Begin a rotation, and print the public half of the new key",
		Long: `Makes a new key. Where a client of the ring has registration api or jwks_uri, the
key is the next one, and a running broker walks on: it has Okta know the key,
proves it with a token request, and only then signs with it. Otherwise the key is
active at once; the old one stays in the ring and goes on signing for /token until
somebody has added the new one to the app in Okta.`,
		Example: `  okta-token-broker keys rotate
  okta-token-broker keys rotate --key reports --kid 2026-11`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ring, err := openFor(cmd, open, kid)
			if err != nil {
				return err
			}
			if ring.cfg.Managed(ring.name) {
				return stage(cmd, ring, kid)
			}
			key, err := ring.Rotate(cmd.Context(), kid)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), key.JWK())
		},
	}
	kidFlag(cmd, &kid)
	return cmd
}

func newKeysStage(open openFunc) *cobra.Command {
	var kid string
	cmd := &cobra.Command{
		Use:   "stage",
		Short: "Make the next key, which is published and does not sign, and print its public half",
		Long: `Makes the next key: its public half is published, and it does not sign. A running
broker finds out whether Okta takes it. It activates the key then if the ring has a
schedule or a client with registration api or jwks_uri; otherwise keys activate
does.`,
		Example: `  okta-token-broker keys stage
  okta-token-broker keys stage --key reports --kid 2026-11`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ring, err := openFor(cmd, open, kid)
			if err != nil {
				return err
			}
			return stage(cmd, ring, kid)
		},
	}
	kidFlag(cmd, &kid)
	return cmd
}

func kidFlag(cmd *cobra.Command, kid *string) {
	cmd.Flags().StringVar(kid, "kid", "", "what to call the key (default: its RFC 7638 thumbprint)")
}

// openFor opens the ring that is to get a key of that name.
func openFor(cmd *cobra.Command, open openFunc, kid string) (*keyring, error) {
	if kid != "" {
		if err := keys.CheckKid(kid); err != nil {
			return nil, usageError{err}
		}
	}
	return open(cmd)
}

func stage(cmd *cobra.Command, ring *keyring, kid string) error {
	key, made, err := ring.Stage(cmd.Context(), kid)
	if err != nil {
		return err
	}
	switch {
	case !made && kid != "" && kid != key.ID():
		return fmt.Errorf("key %q is staged already: activate or retire it first", key.ID())
	case !made:
		note(cmd, "key %q was staged already", key.ID())
	case key.State() == keys.Active:
		note(cmd, "it is the first key of the ring, and active")
	case ring.cfg.Managed(ring.name):
		note(cmd, "key %q is staged: a running broker goes on", key.ID())
	}
	return printJSON(cmd.OutOrStdout(), key.JWK())
}

func newKeysActivate(open openFunc) *cobra.Command {
	return &cobra.Command{
		Use:   "activate [KID]",
		Short: "Sign with the next key from now on, or with the one that is named",
		Long: `Makes the next key, or the one that is named, the one that signs, and retires the
one that did. A retired key that is named is taken back. Nobody is asked whether Okta
has the key; until a token request has shown that, /token goes on with the key that
Okta is known to take.`,
		Example: `  okta-token-broker keys activate
  okta-token-broker keys activate 2026-11 --key reports`,
		Args: atMostOne("KID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ring, err := open(cmd)
			if err != nil {
				return err
			}
			key := ring.Next()
			if len(args) > 0 {
				key, err = ring.key(args[0])
			} else if key == nil {
				err = fmt.Errorf("ring %s has no next key: stage one, or name a key", ring.name)
			}
			if err != nil {
				return err
			}
			if err := ring.Activate(cmd.Context(), key); err != nil {
				return err
			}
			if ring.Keys()[0].Proven().IsZero() {
				note(cmd, "key %q is not proven: POST / signs with it now, and /token once a token request under it works", key.ID())
			}
			return printJSON(cmd.OutOrStdout(), key.JWK())
		},
	}
}

func newKeysRetire(open openFunc) *cobra.Command {
	return &cobra.Command{
		Use:   "retire [KID]",
		Short: "Remove old keys from the ring, or the one that is named",
		Long: `Removes the retired keys from the ring for good; or the key that is named, which
may also be the next one. Where registration is api it is removed from the app in
Okta first. While the active key is not proven, the key that /token is signed with
stays, unless it is named.`,
		Example: `  okta-token-broker keys retire
  okta-token-broker keys retire 2026-10 --key reports`,
		Args: atMostOne("KID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ring, err := open(cmd)
			if err != nil {
				return err
			}
			old := ring.old()
			if len(args) > 0 {
				key, err := ring.key(args[0])
				if err != nil {
					return err
				}
				old = []*keys.Key{key}
			}
			if len(args) == 0 && len(old) > 0 {
				if err := ring.prove(cmd.Context()); err != nil {
					return fmt.Errorf("the old keys stay, unless one is named: %w", err)
				}
			}
			for _, key := range old {
				if err := ring.remove(cmd.Context(), key.Thumbprint()); err != nil {
					return err
				}
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), key.ID()); err != nil {
					return err
				}
			}
			if len(old) == 0 {
				note(cmd, "there is no key to retire")
			}
			return nil
		},
	}
}

// old are the retired keys, but for the one that /token is signed with.
func (r *keyring) old() (old []*keys.Key) {
	candidates := r.Candidates("")
	for _, key := range r.Keys() {
		if key.State() == keys.Retired && (!candidates[0].Proven().IsZero() || key != candidates[1]) && key != candidates[0] {
			old = append(old, key)
		}
	}
	return old
}

// remove takes a key out of Okta, where the broker keeps it there, and then out of
// the ring.
func (r *keyring) remove(ctx context.Context, kid string) error {
	registries, err := r.registries(ctx)
	if err != nil {
		return err
	}
	r.Refresh(ctx) // a running broker may have activated it
	key, err := r.key(kid)
	if err != nil {
		return err
	}
	switch key.State() {
	case keys.Active:
		return fmt.Errorf("key %q signs: activate another one first", key.ID())
	case keys.Next: // from the ring first, or a running broker may activate it meanwhile
		if err := r.Retire(ctx, key); err != nil {
			return err
		}
	}
	for _, client := range slices.Sorted(maps.Keys(registries)) {
		if err := registries[client].Remove(ctx, key); err != nil {
			return fmt.Errorf("removing key %q from the app of client %s: %w", key.ID(), client, err)
		}
	}
	err = r.Retire(ctx, key)
	if err != nil && key.State() == keys.Retired { // it may have been taken back meanwhile
		for _, client := range slices.Sorted(maps.Keys(registries)) {
			err = errors.Join(err, registries[client].Register(ctx, key))
		}
	}
	return err
}

func newKeysImport(open openFunc) *cobra.Command {
	var kid string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take a private key that was made elsewhere into the ring, as the next one",
		Long: `Takes a private key from a PEM file (PKCS#1, PKCS#8 or SEC 1) into the ring, as the
next key, or as the active one of an empty ring, and prints its public half. The
file stays: delete it. - reads standard input.`,
		Example: `  okta-token-broker keys import old.pem --kid 2024
  okta-token-broker keys import - --key reports < old.pem`,
		Args: cobra.MatchAll(atMostOne("FILE"), func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("name the FILE to import, or - for standard input")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			ring, err := openFor(cmd, open, kid)
			if err != nil {
				return err
			}
			text, err := readKey(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			key, err := ring.Import(cmd.Context(), text, kid)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), key.JWK())
		},
	}
	kidFlag(cmd, &kid)
	return cmd
}

// maxImport bounds a file to import, in bytes.
const maxImport = 64 << 10

// readKey reads a file of bounded size.
func readKey(stdin io.Reader, path string) ([]byte, error) {
	in := stdin
	if path != "-" {
		file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO may have no writer
		if err != nil {
			return nil, fmt.Errorf("reading the key to import: %w", err)
		}
		defer func() { _ = file.Close() }()
		if info, err := file.Stat(); err == nil && !info.Mode().IsRegular() {
			return nil, fmt.Errorf("reading the key to import: %s is not a regular file", path)
		}
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxImport+1))
	if err == nil && len(text) > maxImport {
		err = fmt.Errorf("it is over %d KiB", maxImport>>10)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key to import: %w", err)
	}
	return text, nil
}
