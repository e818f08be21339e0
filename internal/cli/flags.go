package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/config"
)

// choice is the flag --output: one of several words.
type choice struct {
	words  []string
	chosen string
}

// oneOf is a choice of words, the first by default.
func oneOf(words ...string) *choice { return &choice{words, words[0]} }

// String implements pflag.Value, as do Set and Type.
func (c *choice) String() string { return c.chosen }

// Set chooses a word.
func (c *choice) Set(word string) error {
	if !slices.Contains(c.words, word) {
		return fmt.Errorf("must be one of %s", strings.Join(c.words, ", "))
	}
	c.chosen = word
	return nil
}

// Type is what help calls the flag's value.
func (c *choice) Type() string { return "format" }

// flag gives a command the flag.
func (c *choice) flag(cmd *cobra.Command) {
	cmd.Flags().Var(c, "output", strings.Join(c.words, ", "))
	mustComplete(cmd, "output", cobra.FixedCompletions(c.words, cobra.ShellCompDirectiveNoFileComp))
}

// complete lets a shell complete a flag with names of the configuration.
func complete(cmd *cobra.Command, flag string, opts *options, names func(config.Config) []string) {
	mustComplete(cmd, flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		loaded, err := opts.read()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names(loaded.Config), cobra.ShellCompDirectiveNoFileComp
	})
}

func clientNames(cfg config.Config) []string { return slices.Sorted(maps.Keys(cfg.Clients)) }

func keyNames(cfg config.Config) []string { return slices.Sorted(maps.Keys(cfg.Keys)) }

// mustComplete panics only if the command lacks the flag.
func mustComplete(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err)
	}
}
