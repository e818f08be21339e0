package cli

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/config"
)

// choice is the flag --output: one of several words, the chosen one first.
type choice []string

// String implements pflag.Value, as do Set and Type.
func (c *choice) String() string { return (*c)[0] }

// Set chooses a word.
func (c *choice) Set(word string) error {
	i := slices.Index(*c, word)
	if i < 0 {
		return fmt.Errorf("must be one of %s", strings.Join(*c, ", "))
	}
	*c = append(choice{word}, slices.Delete(slices.Clone(*c), i, i+1)...)
	return nil
}

// Type is what help calls the flag's value.
func (c *choice) Type() string { return "format" }

func (c *choice) is(word string) bool { return (*c)[0] == word }

// flag gives a command the flag.
func (c *choice) flag(cmd *cobra.Command) {
	words := slices.Clone(*c)
	cmd.Flags().Var(c, "output", strings.Join(words, ", "))
	mustComplete(cmd, "output", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// complete lets a shell complete a flag with names of the configuration.
func complete(cmd *cobra.Command, flag string, opts *options, names func(config.Config) []string) {
	mustComplete(cmd, flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		loaded, err := config.Load(config.Source{File: opts.configFile, Environ: os.Environ()})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names(loaded.Config), cobra.ShellCompDirectiveNoFileComp
	})
}

func clientNames(cfg config.Config) []string { return slices.Sorted(maps.Keys(cfg.Clients)) }

// mustComplete fails for a flag that is not there alone.
func mustComplete(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err)
	}
}

func newCompletion() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion " + strings.Join(shells, "|"),
		Short: "Print a script that completes commands and flags in a shell",
		Example: `  source <(okta-token-broker completion bash)
  okta-token-broker completion zsh > "${fpath[1]}/_okta-token-broker"
  okta-token-broker completion fish > ~/.config/fish/completions/okta-token-broker.fish`,
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(shells, args[0]) {
				return usagef("name a shell: one of %s", strings.Join(shells, ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return root.GenPowerShellCompletionWithDesc(out)
		},
	}
}
