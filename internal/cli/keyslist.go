package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"okta-token-broker/internal/config"
	"okta-token-broker/internal/keys"
)

func newKeysList(open openFunc) *cobra.Command {
	output := oneOf("table", "json")
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys of a ring, and where they stand at Okta",
		Long: `Lists the keys of a ring: the active one first, which signs. AGE counts from when
the key was made, SIGNS from when it began to sign, PROVEN from when a token request
under it first worked for every client. OKTA says of each client where the key stands:
proven; awaited (somebody has to add it to the app, or Okta has to fetch it); unproven,
for an old key; or what Okta lists (ACTIVE, INACTIVE, absent) where registration is
api.`,
		Example: `  okta-token-broker keys list
  okta-token-broker keys list --key reports --output json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ring, err := open(cmd)
			if err != nil {
				return err
			}
			list := ring.list(cmd.Context(), time.Now())
			if output.chosen == "json" {
				return printJSON(cmd.OutOrStdout(), list)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "KID\tALG\tSTATE\tAGE\tSIGNS\tPROVEN\tOKTA")
			for _, k := range list {
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.Kid, k.Algorithm, k.State,
					cmp.Or(k.ages[0], "-"), cmp.Or(k.ages[1], "-"), cmp.Or(k.ages[2], "-"), cmp.Or(k.standing(), "-"))
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
	Kid string `json:"kid"`
	// Thumbprint names the key where two have the same kid.
	Thumbprint string `json:"thumbprint"`
	Algorithm  string `json:"alg"`
	State      string `json:"state"`
	Created    string `json:"created,omitempty"`
	Activated  string `json:"activated,omitempty"`
	Proven     string `json:"proven,omitempty"`
	// AgeSeconds is the age of the key, from Created.
	AgeSeconds int64 `json:"age_seconds,omitempty"`
	// Okta is by client.
	Okta map[string]string `json:"okta,omitempty"`

	ages [3]string // since Created, Activated, Proven
}

func (r *keyring) list(ctx context.Context, now time.Time) []listedKey {
	registered := r.registered(ctx)
	list := []listedKey{}
	for _, k := range r.Keys() {
		listed := listedKey{
			Kid: k.ID(), Thumbprint: k.Thumbprint(), Algorithm: k.Algorithm(), State: string(k.State()),
			Created: when(k.Created()), Activated: when(k.Activated()), Proven: when(k.Proven()),
			ages: [3]string{age(now, k.Created()), age(now, k.Activated()), age(now, k.Proven())},
			Okta: map[string]string{},
		}
		if !k.Created().IsZero() {
			listed.AgeSeconds = int64(now.Sub(k.Created()) / time.Second)
		}
		for _, client := range r.clients() {
			listed.Okta[client] = standing(k)
			if status, asked := registered[client]; asked {
				listed.Okta[client] = status(k)
			}
		}
		list = append(list, listed)
	}
	return list
}

// standing is what the ring knows of where a key stands at Okta.
func standing(k *keys.Key) string {
	switch {
	case !k.Proven().IsZero():
		return "proven"
	case k.State() == keys.Retired:
		return "unproven"
	}
	return "awaited"
}

// registered asks Okta which keys are registered for the clients whose keys the
// broker registers.
func (r *keyring) registered(ctx context.Context) map[string]func(*keys.Key) string {
	unknown := func(err error) func(*keys.Key) string {
		return func(*keys.Key) string { return "unknown: " + err.Error() }
	}
	standings := map[string]func(*keys.Key) string{}
	registries, err := r.registries(ctx)
	if err != nil {
		for _, name := range r.clients() {
			if r.cfg.Clients[name].Registration == config.RegistrationAPI {
				standings[name] = unknown(err)
			}
		}
	}
	for name, registry := range registries {
		saved, err := registry.Status(ctx)
		if err != nil {
			standings[name] = unknown(err)
			continue
		}
		standings[name] = func(k *keys.Key) string {
			for _, key := range saved {
				if key.Is(k) {
					return key.Status
				}
			}
			return "absent"
		}
	}
	return standings
}

// standing is one word where it is the same for all clients.
func (k listedKey) standing() string {
	words := slices.Compact(slices.Sorted(maps.Values(k.Okta)))
	if len(words) > 1 {
		words = nil
		for _, client := range slices.Sorted(maps.Keys(k.Okta)) {
			words = append(words, client+"="+k.Okta[client])
		}
	}
	return strings.Join(words, ", ")
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// age is how long ago a time was, in its largest unit.
func age(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	switch d := now.Sub(t); {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	default:
		return fmt.Sprintf("%ds", max(d, 0)/time.Second)
	}
}
