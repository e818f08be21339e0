package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/config"
	"okta-token-broker/internal/httpapi"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/okta"
)

func newSign(opts *options) *cobra.Command {
	var request broker.SignRequest
	var client string
	output := oneOf("json", "jwt")
	cmd := &cobra.Command{
		Use:   "sign",
		Short: "Sign a client assertion, without a running broker",
		Example: `  okta-token-broker sign --client default
  okta-token-broker sign --client-id 0oa1b2c3d4 --audience https://acme.okta.com/oauth2/v1/token --output jwt`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if request.ValidFor < time.Second || request.ValidFor > time.Hour {
				return usagef("--valid-for must be 1s to 1h")
			}
			if request.Kid != "" {
				if err := keys.CheckKid(request.Kid); err != nil {
					return usageError{err}
				}
			}
			cfg, _, b, err := opts.assemble(cmd)
			if err != nil {
				return err
			}
			defer b.Close()
			if err := fillFromClient(&request, client, cfg); err != nil {
				return err
			}
			signed, err := b.Sign(cmd.Context(), commandLine(), request)
			if err != nil {
				return fmt.Errorf("signing: %w", err)
			}
			if output.chosen == "jwt" {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), signed.JWT)
				return err
			}
			return printJSON(cmd.OutOrStdout(), httpapi.SignedAnswer(signed))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&client, "client", "", "take client id and audience from this client of the configuration")
	flags.StringVar(&request.ClientID, "client-id", "", "iss and sub of the assertion")
	flags.StringVar(&request.Audience, "audience", "", "aud of the assertion, such as a token endpoint")
	flags.StringVar(&request.Kid, "kid", "", "kid of the assertion; a key that is made for it keeps it")
	flags.DurationVar(&request.ValidFor, "valid-for", 10*time.Minute, "how long the assertion lives, 1s to 1h")
	output.flag(cmd)
	complete(cmd, "client", opts, clientNames)
	return cmd
}

// fillFromClient completes a request with what the configuration knows.
func fillFromClient(request *broker.SignRequest, name string, cfg config.Config) error {
	if name != "" {
		client, ok := cfg.Clients[name]
		if !ok {
			return usagef("no client %q is configured", name)
		}
		if request.ClientID == "" {
			request.ClientID = client.ClientID
		}
		if request.Audience == "" {
			request.Audience = okta.EndpointsOf(client.Issuer, client.TokenEndpoint).Audience(client.Issuer, client.Audience == config.AudienceIssuer)
		}
	}
	if request.ClientID == "" || request.Audience == "" {
		return usagef("give --client, or --client-id and --audience")
	}
	return nil
}
