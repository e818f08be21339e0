// Package cli is the command line, and the only place where the parts of the
// broker are put together.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/config"
	"okta-token-broker/internal/telemetry"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake in how a command was called.
type usageError struct{ error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// commandLine is the caller of operations that need no running broker.
func commandLine() caller.Caller { return caller.Local("command line") }

// options are the flags that all commands have.
type options struct{ configFile string }

// logFor makes the log of a configuration.
type logFor func(w io.Writer, cfg config.Config) (*slog.Logger, error)

// serverLog takes what the configuration asks for.
func serverLog(w io.Writer, cfg config.Config) (*slog.Logger, error) {
	return telemetry.Logger(w, cfg.Log.Level, cfg.Log.Format)
}

// commandLog is for commands that end by themselves: their results are what
// matters, so it takes no less than warnings, unless debug was asked for.
func commandLog(w io.Writer, cfg config.Config) (*slog.Logger, error) {
	level := "warn"
	if cfg.Log.Level == "debug" || cfg.Log.Level == "error" {
		level = cfg.Log.Level
	}
	return telemetry.Logger(w, level, cfg.Log.Format)
}

func (o options) read() (*config.Loaded, error) {
	return config.Load(config.Source{File: o.configFile, Environ: os.Environ()})
}

// load reads the configuration and makes the log, which is told what was ignored.
func (o options) load(cmd *cobra.Command, newLog logFor) (*config.Loaded, *slog.Logger, error) {
	loaded, err := o.read()
	if err != nil {
		return nil, nil, err
	}
	log, err := newLog(cmd.ErrOrStderr(), loaded.Config)
	if err != nil {
		return nil, nil, err
	}
	for _, warning := range loaded.Warnings {
		log.Warn("the configuration may not do what is meant", "warning", warning)
	}
	return loaded, log, nil
}

// Main runs the program with the arguments behind its name and returns the exit
// code: 0, 1 for a failure, 2 for wrong use. SIGINT and SIGTERM end it in order,
// one more a second later at once. It takes over the process: its signals, and the standard
// log, which is silenced.
func Main(args []string, stdout, stderr io.Writer) int {
	// net/http's transport prints what servers send unasked, unfiltered.
	log.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Some send the first signal twice.
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })
	// Whoever reads the log may go: that is no reason to end.
	signal.Ignore(syscall.SIGPIPE)

	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintln(stderr, "okta-token-broker: "+err.Error())
	if _, ok := errors.AsType[usageError](err); ok {
		_, _ = fmt.Fprintln(stderr, "Run 'okta-token-broker --help' for usage.")
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	opts := &options{}
	root := &cobra.Command{
		Use:   "okta-token-broker [serve] [PORT]",
		Short: "Holds the private key of an Okta app and hands out signed assertions and access tokens",
		Long: `okta-token-broker holds the private key of an Okta app, so that no service has
to. Services ask it over loopback or a Unix socket for signed client assertions
(POST /) and for ready access tokens (GET /token).`,
		Example: `  okta-token-broker sandbox          # try it out, with a fake Okta
  okta-token-broker keys jwk         # the public key to paste into Okta
  okta-token-broker                  # serve on 127.0.0.1:5000
  okta-token-broker 8080             # serve on 127.0.0.1:8080`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          onePort,
		RunE:          func(cmd *cobra.Command, args []string) error { return serve(cmd, opts, args) },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVar(&opts.configFile, "config", "",
		"configuration file (default $"+config.FileVariable+", else "+config.DefaultFile+" if there)")
	root.SetHelpCommand(newHelp(root))
	root.AddCommand(newServe(opts), newSandbox(opts), newToken(opts), newSign(opts), newCurl(opts), newKeys(opts), newConfig(opts), newVersion(), newCompletion())
	return root
}

func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show what a command does",
		Example: "  okta-token-broker help keys rotate",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("no such command: %q", strings.Join(args, " "))
			}
			return cmd.Help()
		},
	}
}

// portArgument reads the one optional PORT. -1 means that there is none.
func portArgument(args []string) (int, error) {
	if len(args) == 0 {
		return -1, nil
	}
	port, err := strconv.Atoi(args[0])
	switch {
	case err != nil:
		return 0, usagef("unknown command or port; port must be an integer: %q", args[0])
	case port < 0 || port > 65535:
		return 0, usagef("port must be 0 to 65535")
	case len(args) > 1:
		return 0, usagef("one port at most")
	}
	return port, nil
}

// onePort is the Args of the commands that take a PORT.
func onePort(_ *cobra.Command, args []string) error {
	_, err := portArgument(args)
	return err
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument: %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// atMostOne takes one argument or none.
func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("%s takes one %s: %q is too much", cmd.CommandPath(), name, args[1])
		}
		return nil
	}
}

// scopeFlag reads scopes by comma or space into the form of RFC 6749.
func scopeFlag(flag string) string {
	return strings.ReplaceAll(flag, ",", " ")
}
