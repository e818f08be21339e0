package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/config"
	"okta-token-broker/internal/keys"
)

func newKeys(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Look at and rotate signing keys, without a running broker",
		Long: `The keys commands work on the file of a key ring. A running broker takes up
what they change within two seconds.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	name := cmd.PersistentFlags().String("key", config.DefaultKey, "the ring's name in the configuration")
	open := func(cmd *cobra.Command) (*keys.Ring, error) {
		cfg, err := opts.load()
		if err != nil {
			return nil, err
		}
		log, err := commandLog(cmd.ErrOrStderr(), cfg)
		if err != nil {
			return nil, err
		}
		return openRing(cmd.Context(), cfg, *name, log)
	}
	cmd.AddCommand(newKeysList(open), newKeysJWK(open), newKeysRotate(open))
	return cmd
}

type openFunc func(*cobra.Command) (*keys.Ring, error)

func newKeysList(open openFunc) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the keys of a ring",
		Example: "  okta-token-broker keys list --key default",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ring, err := open(cmd)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "KID\tALG\tSTATE\tCREATED\tACTIVATED\tPROVEN")
			for _, k := range ring.Keys() {
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID(), k.Algorithm(), k.State(), when(k.Created()), when(k.Activated()), when(k.Proven()))
			}
			return table.Flush()
		},
	}
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func newKeysJWK(open openFunc) *cobra.Command {
	return &cobra.Command{
		Use:   "jwk",
		Short: "Print the public key to paste into Okta; makes the key if there is none",
		Long: `Prints the public half of the active key as a JWK. In Okta's admin console it
goes into the app under General, Client Credentials: choose "Public key / Private
key" and "Save keys in Okta", then Add key and paste.`,
		Example: "  okta-token-broker keys jwk",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ring, err := open(cmd)
			if err != nil {
				return err
			}
			key, _, err := ring.Active(cmd.Context(), "")
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
		Short: "Make a new active key and print its public half",
		Long: `Makes a new active key at once and retires the old one. The retired key stays in
the ring, and /token falls back to it until Okta knows the new one.`,
		Example: "  okta-token-broker keys rotate",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kid != "" {
				if err := keys.CheckKid(kid); err != nil {
					return usageError{err}
				}
			}
			ring, err := open(cmd)
			if err != nil {
				return err
			}
			key, err := ring.Rotate(cmd.Context(), kid)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), key.JWK())
		},
	}
	cmd.Flags().StringVar(&kid, "kid", "", "what to call the key (default: its RFC 7638 thumbprint)")
	return cmd
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
