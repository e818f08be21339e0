package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"

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

// built connects the parts for the clients whose keys the broker registers; nil when
// there are none.
func (r *keyring) built(ctx context.Context) (*builder, error) {
	b := &builder{log: r.log}
	for _, name := range r.clients() {
		if r.cfg.Clients[name].Registration == config.RegistrationAPI {
			_, err := b.build(ctx, r.cfg)
			return b, err
		}
	}
	return nil, nil
}

// registries are where the keys of those clients are registered, by client.
func (r *keyring) registries(ctx context.Context) (map[string]*okta.AppKeys, error) {
	registries := map[string]*okta.AppKeys{}
	b, err := r.built(ctx)
	if b == nil || err != nil {
		return registries, err
	}
	for _, name := range r.clients() {
		if r.cfg.Clients[name].Registration == config.RegistrationAPI {
			registries[name] = b.appKeys(r.cfg, name)
		}
	}
	return registries, nil
}

// prove asks for a token under the active key for each of those clients: somebody may
// have removed it at Okta.
func (r *keyring) prove(ctx context.Context) error {
	b, err := r.built(ctx)
	if b == nil || err != nil {
		return err
	}
	for _, name := range r.clients() {
		if r.cfg.Clients[name].Registration != config.RegistrationAPI {
			continue
		}
		if err := b.clients[name].okta.Prove(ctx, r.Keys()[0]); err != nil {
			return fmt.Errorf("asking for a token of client %s under the active key: %w", name, err)
		}
	}
	return nil
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
