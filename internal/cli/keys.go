package cli

import (
	"cmp"
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
	complete(cmd, "key", opts, keyNames)
	open := func(cmd *cobra.Command) (*keys.Ring, error) {
		loaded, log, err := opts.load(cmd, commandLog)
		if err != nil {
			return nil, err
		}
		return openRing(cmd.Context(), loaded.Config, *name, log, nil)
	}
	cmd.AddCommand(newKeysList(open), newKeysJWK(open), newKeysRotate(open))
	return cmd
}

type openFunc func(*cobra.Command) (*keys.Ring, error)

func newKeysList(open openFunc) *cobra.Command {
	output := oneOf("table", "json")
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys of a ring",
		Example: `  okta-token-broker keys list
  okta-token-broker keys list --key reports --output json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ring, err := open(cmd)
			if err != nil {
				return err
			}
			if output.chosen == "json" {
				return printJSON(cmd.OutOrStdout(), listed(ring))
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "KID\tALG\tSTATE\tCREATED\tACTIVATED\tPROVEN")
			for _, k := range listed(ring) {
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", k.Kid, k.Algorithm, k.State,
					cmp.Or(k.Created, "-"), cmp.Or(k.Activated, "-"), cmp.Or(k.Proven, "-"))
			}
			return table.Flush()
		},
	}
	output.flag(cmd)
	return cmd
}

// listedKey is a key as keys list shows it. Times are RFC 3339, and empty where
// nobody wrote them down.
type listedKey struct {
	Kid       string `json:"kid"`
	Algorithm string `json:"alg"`
	State     string `json:"state"`
	Created   string `json:"created,omitempty"`
	Activated string `json:"activated,omitempty"`
	Proven    string `json:"proven,omitempty"`
}

func listed(ring *keys.Ring) []listedKey {
	list := []listedKey{}
	for _, k := range ring.Keys() {
		list = append(list, listedKey{k.ID(), k.Algorithm(), string(k.State()), when(k.Created()), when(k.Activated()), when(k.Proven())})
	}
	return list
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
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
		Example: `  okta-token-broker keys jwk
  okta-token-broker keys jwk --key reports`,
		Args: noArguments,
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
		Example: `  okta-token-broker keys rotate
  okta-token-broker keys rotate --key reports --kid 2026-11`,
		Args: noArguments,
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
