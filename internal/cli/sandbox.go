package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/config"
	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/httpapi"
)

const (
	sandboxClientID = "0oasandbox"
	sandboxScope    = "okta.users.read"
	// sandboxMark begins a file that may be written over.
	sandboxMark = "# Written by okta-token-broker sandbox, anew at each start."
)

// sandboxFlags are what a user may choose.
type sandboxFlags struct {
	dir, faults string
	seed        uint64
	tokenLife   time.Duration
	dpop        bool
	refuseNonce int
}

func newSandbox(opts *options) *cobra.Command {
	var flags sandboxFlags
	cmd := &cobra.Command{
		Use:   "sandbox [PORT]",
		Short: "Try the broker out: with a fake Okta, no network and no account",
		Long: `Starts a fake Okta and the broker in one process, registers the broker's public
key there, and prints commands to paste. Everything it writes is in one folder.

--faults makes the fake Okta's token endpoint misbehave:

` + fakeokta.FaultHelp(),
		Example: `  okta-token-broker sandbox
  okta-token-broker sandbox 5050 --dir ./sandbox
  okta-token-broker sandbox --token-life 10s --faults 503@30%,reset@10%`,
		Args: onePort,
		RunE: func(cmd *cobra.Command, args []string) error {
			port, err := portArgument(args)
			if err != nil {
				return err
			}
			if opts.configFile != "" {
				return usagef("the sandbox writes a configuration of its own: leave out --config")
			}
			faults, err := fakeokta.ParseFaults(flags.faults)
			if err != nil {
				return usagef("--faults: %w", err)
			}
			if flags.tokenLife < 2*time.Second || flags.tokenLife > 24*time.Hour || flags.tokenLife%time.Second != 0 {
				return usagef("--token-life must be whole seconds, 2s to 24h")
			}
			if cmd.Flags().Changed("refuse-nonce") && (!flags.dpop || flags.refuseNonce < 2) {
				return usagef("--refuse-nonce must be 2 at least, and goes with --dpop")
			}
			return sandbox(cmd, flags, faults, port)
		},
	}
	cmd.Flags().StringVar(&flags.dir, "dir", "", "folder for the key and the configuration (default: a temporary one, removed at the end)")
	cmd.Flags().StringVar(&flags.faults, "faults", "", "how the fake Okta misbehaves, as above")
	cmd.Flags().Uint64Var(&flags.seed, "seed", 1, "decides which requests the faults with a share meet")
	cmd.Flags().BoolVar(&flags.dpop, "dpop", false, "the fake Okta wants DPoP proofs, with nonces, at its token endpoint and its API")
	cmd.Flags().IntVar(&flags.refuseNonce, "refuse-nonce", 0, "with --dpop: every how many good nonces one is refused, 2 at least (default: none is)")
	cmd.Flags().DurationVar(&flags.tokenLife, "token-life", time.Hour, "how long the fake Okta's tokens live")
	return cmd
}

func sandbox(cmd *cobra.Command, flags sandboxFlags, faults []fakeokta.Fault, port int) (err error) {
	// The temporary folder holds a key: closing the terminal must end it, too.
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
	defer stop()
	listen := config.Default().Listen
	if port >= 0 {
		listen = httpapi.WithPort(listen, port)
	}
	listener, err := httpapi.Listen(ctx, listen)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	dir, remove, err := sandboxDir(flags.dir)
	if err != nil {
		return err
	}
	defer func() {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // it was ended while it began
		}
		err = errors.Join(err, remove())
	}()

	okta, issuer, stopOkta, err := startFakeOkta(ctx, flags)
	if err != nil {
		return err
	}
	defer stopOkta()
	configFile, err := writeSandboxConfig(dir, listener.Addr().String(), issuer)
	if err != nil {
		return err
	}
	// The way of a user's own configuration, without the variables of a real org.
	loaded, err := config.Load(config.Source{File: configFile})
	if err != nil {
		return err
	}
	cfg := loaded.Config
	log, err := serverLog(cmd.ErrOrStderr(), cfg)
	if err != nil {
		return err
	}
	if err := registerKey(ctx, cfg, okta, log); err != nil {
		return err
	}
	okta.SetFault(faults...)
	if err := banner(cmd.OutOrStdout(), listener.Addr(), issuer, configFile, flags.dpop); err != nil {
		return err
	}
	err = run(ctx, cfg, listeners{api: listener}, log, nil)
	seen := okta.Counters()
	log = log.With("token_requests", seen.TokenRequests, "faults", seen.Faults[fakeokta.Token],
		"tokens", seen.TokensIssued, "reused_assertions", seen.ReusedJTI)
	if flags.dpop {
		log = log.With("refused_nonces", seen.NonceRefusals[fakeokta.Token]+seen.NonceRefusals[fakeokta.Users], "reused_proofs", seen.ReusedProofs)
	}
	log.Info("what the fake Okta saw")
	return err
}

// sandboxDir makes the folder, and says how to leave it.
func sandboxDir(dir string) (path string, remove func() error, err error) {
	if dir == "" {
		path, err = os.MkdirTemp("", "okta-token-broker-sandbox-")
		return path, func() error { return os.RemoveAll(path) }, err
	}
	if path, err = filepath.Abs(dir); err == nil {
		err = os.MkdirAll(path, 0o700)
	}
	if err == nil {
		err = checkSandboxDir(path)
	}
	if err != nil {
		return "", nil, fmt.Errorf("making the sandbox folder: %w", err)
	}
	return path, func() error { return nil }, nil
}

// checkSandboxDir keeps the sandbox away from a real key ring and configuration.
func checkSandboxDir(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) == 0 {
		return err
	}
	old, err := os.ReadFile(filepath.Join(path, config.DefaultFile))
	if err != nil || !strings.HasPrefix(string(old), sandboxMark) {
		return fmt.Errorf("%s is neither empty nor a sandbox: choose another --dir", path)
	}
	return nil
}

// startFakeOkta serves a fake Okta with one app on a free loopback port.
func startFakeOkta(ctx context.Context, flags sandboxFlags) (okta *fakeokta.Okta, issuer string, stop func(), err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", nil, fmt.Errorf("listening for the fake Okta: %w", err)
	}
	issuer = "http://" + listener.Addr().String()
	okta, err = fakeokta.New(fakeokta.Config{URL: issuer, TokenLife: flags.tokenLife, Seed: flags.seed})
	if err == nil {
		okta.SetResourceNonce(flags.dpop)
		okta.SetNonceRefusal(flags.refuseNonce)
		err = okta.AddApp(fakeokta.App{ClientID: sandboxClientID, Scopes: []string{sandboxScope}, DPoP: flags.dpop})
	}
	if err != nil {
		_ = listener.Close()
		return nil, "", nil, fmt.Errorf("starting the fake Okta: %w", err)
	}
	server := &http.Server{Handler: okta, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	return okta, issuer, func() { _ = server.Close(); <-done }, nil
}

func writeSandboxConfig(dir, listen, issuer string) (path string, err error) {
	path = filepath.Join(dir, config.DefaultFile)
	text := fmt.Sprintf(sandboxMark+`
listen: %s
keys:
  default:
    file: %q
clients:
  default:
    issuer: %s
    client_id: %s
    scopes: [%s]
`, listen, filepath.Join(dir, "private_key.pem"), issuer, sandboxClientID, sandboxScope)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("writing the sandbox configuration: %w", err)
	}
	return path, nil
}

// registerKey gives the broker's public key to the fake Okta, as an
// administrator does by pasting it.
func registerKey(ctx context.Context, cfg config.Config, okta *fakeokta.Okta, log *slog.Logger) error {
	ring, err := openRing(ctx, cfg, config.DefaultKey, log, nil)
	if err != nil {
		return err
	}
	key, _, err := ring.Active(ctx, "")
	if err != nil {
		return err
	}
	if err := okta.RegisterKey(sandboxClientID, key.JWK()); err != nil {
		return fmt.Errorf("registering the public key: %w", err)
	}
	return nil
}

func banner(out io.Writer, listen net.Addr, issuer, configFile string, dpop bool) error {
	host := listen.String()
	if tcp, ok := listen.(*net.TCPAddr); ok {
		host = fmt.Sprintf("localhost:%d", tcp.Port)
	}
	kind := "An access token"
	call := `An API call with it:
  curl -H "Authorization: Bearer $(curl -sH 'Accept: text/plain' ` + host + `/token)" ` + issuer + `/api/v1/users

The same, made by the broker`
	if dpop {
		kind, call = "An access token that is bound to a key (DPoP)", "An API call with it, and a proof, made by the broker"
	}
	_, err := fmt.Fprintf(out, `The broker serves http://%[1]s, a fake Okta serves %[2]s.
Configuration: %[3]s

%[5]s:
  curl %[1]s/token

%[6]s:
  curl '%[1]s/proxy/default/api/v1/users?limit=2'

A signed client assertion:
  curl %[1]s -d '{"client_id": "%[4]s", "audience": "%[2]s/oauth2/v1/token"}'

Ctrl-C ends it.
`, host, issuer, configFile, sandboxClientID, kind, call)
	return err
}
