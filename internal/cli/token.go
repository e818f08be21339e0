package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/config"
	"okta-token-broker/internal/httpapi"
	"okta-token-broker/internal/rotation"
)

func newToken(opts *options) *cobra.Command {
	var name, scope string
	output := oneOf("json", "token", "header")
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Get an access token, without a running broker",
		Example: `  okta-token-broker token
  okta-token-broker token --client reports --scope okta.users.read,okta.groups.read
  curl -H "$(okta-token-broker token --output header)" https://acme.okta.com/api/v1/users`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, world, b, err := opts.assemble(cmd)
			if err != nil {
				return err
			}
			defer b.Close()
			client, err := world.Client(name)
			if err != nil {
				return fmt.Errorf("getting a token: %w", err)
			}
			token, err := b.Token(cmd.Context(), commandLine(), broker.TokenRequest{Client: client.Name, Scope: scopeFlag(scope)})
			if err != nil {
				return fmt.Errorf("getting a token: %w", err)
			}
			answer, err := httpapi.TokenAnswer(token, time.Now())
			if err != nil {
				return fmt.Errorf("getting a token: %w", err)
			}
			switch out := cmd.OutOrStdout(); output.chosen {
			case "token":
				_, err = fmt.Fprintln(out, answer.AccessToken)
			case "header":
				if token.JKT != "" {
					note(cmd, "the token is bound to a key, so each call needs a DPoP proof as well, and without dpop_key_file the key is gone now: use okta-token-broker curl")
				}
				_, err = fmt.Fprintf(out, "Authorization: %s %s\n", answer.TokenType, answer.AccessToken)
			default:
				err = printJSON(out, answer)
			}
			storeProof(cmd.Context(), world, client)
			return err
		},
	}
	cmd.Flags().StringVar(&name, "client", config.DefaultClient, "the client's name in the configuration")
	cmd.Flags().StringVar(&scope, "scope", "", "scopes, by comma or space (default: all of the client's)")
	output.flag(cmd)
	complete(cmd, "client", opts, clientNames)
	return cmd
}

// storeProof stores that the key which a client's token was bought under is proven,
// if the client has its ring for itself: of others this process has not heard.
func storeProof(ctx context.Context, world *broker.World, client *broker.Client) {
	for _, other := range world.Clients {
		if other != client && other.Ring == client.Ring {
			return
		}
	}
	server, ok := client.Server.(rotation.Server)
	if !ok {
		return
	}
	for _, key := range client.Ring.Keys() {
		if server.Works(key) {
			client.Ring.Prove(key)
			client.Ring.Refresh(ctx)
		}
	}
}
