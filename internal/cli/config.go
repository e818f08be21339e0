package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newConfig(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check or show the configuration",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigCheck(opts), newConfigShow(opts))
	return cmd
}

func newConfigCheck(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Find everything that is wrong with the configuration",
		Long: `Reads the file and the environment as serve does and lists all mistakes, each
with its line. It opens no other file and no port, and asks no server.`,
		Example: `  okta-token-broker config check
  okta-token-broker config check --config /etc/okta-token-broker.yaml`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, _, err := opts.load(cmd, commandLog)
			if err != nil {
				return err
			}
			name := loaded.File
			if name == "" {
				name = "without a file"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok (clients: %d, keys: %d)\n", name, len(loaded.Clients), len(loaded.Keys))
			return err
		},
	}
}

func newConfigShow(opts *options) *cobra.Command {
	output := oneOf("yaml", "json")
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show every setting in force, and where it comes from",
		Long: `Shows every setting in force with its source: FILE:LINE, the name of an
environment variable, or default. A key that came in the environment is redacted.
The YAML is a configuration file again, but for such a key.`,
		Example: `  okta-token-broker config show
  okta-token-broker config show --output json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, _, err := opts.load(cmd, commandLog)
			if err != nil {
				return err
			}
			if output.chosen == "json" {
				return printJSON(cmd.OutOrStdout(), loaded.Settings())
			}
			text, err := loaded.YAML()
			if err == nil {
				_, err = cmd.OutOrStdout().Write(text)
			}
			return err
		},
	}
	output.flag(cmd)
	return cmd
}
