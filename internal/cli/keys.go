package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/config"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/okta"
)

func newKeys(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Look at and change signing keys, without a running broker",
		Long: `The keys commands work on the file of a key ring. A running broker takes up
what they change within two seconds, and goes on from there.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	name := cmd.PersistentFlags().String("key", config.DefaultKey, "the ring's name in the configuration")
	complete(cmd, "key", opts, keyNames)
	open := func(cmd *cobra.Command) (*keyring, error) { return openKeyring(cmd, opts, *name) }
	cmd.AddCommand(newKeysList(open), newKeysJWK(open), newKeysRotate(open), newKeysStage(open), newKeysActivate(open),
		newKeysRetire(open), newKeysImport(open), newKeysExport(open))
	return cmd
}

type openFunc func(*cobra.Command) (*keyring, error)

// keyring is a ring with what its configuration says of it.
type keyring struct {
	*keys.Ring
	name string
	cfg  config.Config
	log  *slog.Logger
}

func openKeyring(cmd *cobra.Command, opts *options, name string) (*keyring, error) {
	loaded, log, err := opts.load(cmd, commandLog)
	if err != nil {
		return nil, err
	}
	ring, err := openRing(cmd.Context(), loaded.Config, name, log, nil)
	if err != nil {
		return nil, err
	}
	return &keyring{ring, name, loaded.Config, log}, nil
}

// registries are where the keys of those clients are registered whose keys the
// broker registers, by client.
func (r *keyring) registries(ctx context.Context) (map[string]*okta.AppKeys, error) {
	registries := map[string]*okta.AppKeys{}
	b := builder{log: r.log}
	for _, name := range r.clients() {
		if r.cfg.Clients[name].Registration != config.RegistrationAPI {
			continue
		}
		if b.clients == nil {
			if _, err := b.build(ctx, r.cfg); err != nil {
				return nil, err
			}
		}
		registries[name] = b.appKeys(r.cfg, name)
	}
	return registries, nil
}

// clients are the names of those that sign with the ring.
func (r *keyring) clients() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(r.cfg.Clients)), func(name string) bool { return r.cfg.Clients[name].Key != r.name })
}

// key finds the key that an argument names.
func (r *keyring) key(kid string) (*keys.Key, error) {
	if k := r.Find(kid); k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("ring %s has no key %q: see okta-token-broker keys list --key %s", r.name, kid, r.name)
}

func newKeysJWK(open openFunc) *cobra.Command {
	return &cobra.Command{
		Use:   "jwk [KID]",
		Short: "Print the public key to paste into Okta; makes the key if there is none",
		Long: `Prints the public half of the active key, or of the one that is named, as a JWK.
In Okta's admin console it goes into the app under General, Client Credentials:
choose "Public key / Private key" and "Save keys in Okta", then Add key and paste.`,
		Example: `  okta-token-broker keys jwk
  okta-token-broker keys jwk --key reports`,
		Args: atMostOne("KID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ring, err := open(cmd)
			if err != nil {
				return err
			}
			var key *keys.Key
			if len(args) > 0 {
				key, err = ring.key(args[0])
			} else {
				key, _, err = ring.Active(cmd.Context(), "")
			}
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), key.JWK())
		},
	}
}

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
	return r.Retire(ctx, key)
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

func newKeysExport(open openFunc) *cobra.Command {
	var public bool
	cmd := &cobra.Command{
		Use:   "export --public",
		Short: "Print the public halves of all keys of a ring as a JWK Set",
		Long: `Prints what /.well-known/jwks.json serves: the public halves of all keys of the
ring as a JWK Set. Private keys are not exported; the ring's file is PEM.`,
		Example: `  okta-token-broker keys export --public
  okta-token-broker keys export --public --key reports > jwks.json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !public {
				return usageError{errors.New("private keys are not exported: give --public for the public ones")}
			}
			ring, err := open(cmd)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), ring.JWKS())
		},
	}
	cmd.Flags().BoolVar(&public, "public", false, "export the public keys")
	return cmd
}

// note tells the user something beside the result.
func note(cmd *cobra.Command, format string, args ...any) {
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "note: "+format+"\n", args...)
}

// printJSON writes a result for people: indented.
func printJSON(w io.Writer, value any) error {
	out, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", out)
	return err
}
