package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/net/http/httpguts"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/config"
	"okta-token-broker/internal/proxy"
)

// curlFlags are those of curl, by its names.
type curlFlags struct {
	client, scope string
	method        string
	headers, data []string
	include, fail bool
}

func newCurl(opts *options) *cobra.Command {
	var flags curlFlags
	cmd := &cobra.Command{
		Use:   "curl URL...",
		Short: "Call an API with the client's token, and a DPoP proof where it takes one",
		Long: `Calls URLs with the client's access token, and with a DPoP proof where the token is
bound to a key, without a running broker. -X, -H, -d and -i mean what they mean in curl;
-f does, but for the exit code, which is 1. A URL must be at the client's org, outside
/oauth2/, or below one of its resources. One that begins with a slash is at the org, or,
with /~NAME/, at that resource. Redirects are not followed.`,
		Example: `  okta-token-broker curl '/api/v1/users?limit=2'
  okta-token-broker curl -i https://acme.okta.com/api/v1/users
  okta-token-broker curl --client admin -H 'Content-Type: application/json' -d @user.json /api/v1/users
  okta-token-broker curl --client shop /~orders/v1/orders`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("name a URL")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return curl(cmd, opts, flags, args) },
	}
	cmd.Flags().StringVar(&flags.client, "client", config.DefaultClient, "the client's name in the configuration")
	cmd.Flags().StringVar(&flags.scope, "scope", "", "scopes, by comma or space (default: all of the client's)")
	cmd.Flags().StringVarP(&flags.method, "request", "X", "", "method (default: GET, POST with data)")
	cmd.Flags().StringArrayVarP(&flags.headers, "header", "H", nil, "header as 'Name: value'; 'Name:' alone leaves out what is sent by default")
	cmd.Flags().StringArrayVarP(&flags.data, "data", "d", nil, "body; @FILE reads a file, @- standard input")
	cmd.Flags().BoolVarP(&flags.include, "include", "i", false, "print status and headers of the answer, too")
	cmd.Flags().BoolVarP(&flags.fail, "fail", "f", false, "fail on a status of 400 and above, without its body")
	// People type curl -sS.
	cmd.Flags().BoolP("silent", "s", false, "without effect: no progress is shown anyway")
	cmd.Flags().BoolP("show-error", "S", false, "without effect: errors are shown anyway")
	complete(cmd, "client", opts, clientNames)
	return cmd
}

func curl(cmd *cobra.Command, opts *options, flags curlFlags, urls []string) error {
	if !httpguts.ValidHeaderFieldName(curlMethod(flags)) { // both are tokens (RFC 9110 section 5.6.2)
		return usagef("-X takes a method, such as GET")
	}
	header, err := curlHeader(flags)
	if err != nil {
		return err
	}
	body, err := curlBody(flags.data, cmd.InOrStdin())
	if err != nil {
		return err
	}
	cfg, world, b, err := opts.assemble(cmd)
	if err != nil {
		return err
	}
	defer b.Close()
	client, err := world.Client(flags.client)
	if err != nil {
		return err
	}
	resolved := make([]string, len(urls))
	for i, word := range urls {
		if resolved[i], err = curlURL(b, client.Name, word); err != nil {
			return err
		}
	}
	roots, err := rootsOf(cfg.Clients[client.Name])
	if err != nil {
		return err
	}
	transport := proxy.NewTransport(roots.pool)
	defer transport.CloseIdleConnections()
	defer storeProof(cmd.Context(), world, client) // a token may be had though the call failed

	c := curlCall{broker: b, header: header, body: body, transport: transport}
	var failed []error // one does not keep the others from being called
	for i, url := range resolved {
		c.request = broker.CallRequest{Client: client.Name, Scope: scopeFlag(flags.scope), Method: curlMethod(flags), URL: url}
		if err := c.run(cmd, flags); err != nil {
			failed = append(failed, fmt.Errorf("calling %s: %w", urls[i], err))
		}
	}
	return errors.Join(failed...)
}

// curlURL returns the URL that a word means: as in the proxy's paths, one that begins
// with a slash is at the client's org, or at one of its resources.
func curlURL(b *broker.Broker, client, word string) (string, error) {
	if strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", usagef("a URL has no spaces and no letters but those of ASCII: percent-encode them, a space as %%20")
	}
	if !strings.HasPrefix(word, "/") {
		return word, nil
	}
	resource, rest, err := proxy.CutResource(word)
	if err != nil {
		return "", usagef("%v", err)
	}
	target, err := b.Target(commandLine(), client, resource)
	return target.URL + rest, err
}

// curlCall is a call that is made here, and not by a proxy for somebody.
type curlCall struct {
	broker    *broker.Broker
	request   broker.CallRequest
	header    http.Header
	body      []byte
	transport *http.Transport
}

// run makes the call and prints the answer.
func (c *curlCall) run(cmd *cobra.Command, flags curlFlags) error {
	resp, err := c.send(cmd.Context())
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	out := cmd.OutOrStdout()
	if flags.include {
		if _, err := fmt.Fprintf(out, "%s %s\r\n", resp.Proto, resp.Status); err != nil {
			return err
		}
		if err := resp.Header.Write(out); err != nil {
			return err
		}
		if _, err := io.WriteString(out, "\r\n"); err != nil {
			return err
		}
	}
	if flags.fail && resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the answer's status is %d", resp.StatusCode)
	}
	if _, err := io.Copy(out, resp.Body); err != nil {
		return fmt.Errorf("passing the answer on: %w", err)
	}
	return nil
}

// send sends the request, and once more if other credentials may help.
func (c *curlCall) send(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, c.request.Method, c.request.URL, bytes.NewReader(c.body))
	if err != nil {
		return nil, errors.New("the method or the URL is malformed")
	}
	req.Header = c.header.Clone()
	return proxy.Do(c.broker, commandLine(), c.request, c.transport, req)
}

func curlMethod(flags curlFlags) string {
	switch {
	case flags.method != "":
		return flags.method
	case len(flags.data) > 0:
		return http.MethodPost
	}
	return http.MethodGet
}

// curlHeader reads the headers. Those that the broker sets are refused, and one
// without a value is not sent.
func curlHeader(flags curlFlags) (http.Header, error) {
	header := http.Header{"User-Agent": {"okta-token-broker"}, "Accept": {"*/*"}}
	if len(flags.data) > 0 {
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	given := http.Header{}
	for _, line := range flags.headers {
		name, value, ok := strings.Cut(line, ":")
		name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
		switch {
		case !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value):
			return nil, usagef("-H takes 'Name: value'")
		case name == "Authorization", name == "Dpop", name == "Host":
			return nil, usagef("-H %s: the broker sets it", name)
		}
		given.Add(name, strings.TrimSpace(value))
	}
	for name, values := range given {
		if header[name] = values; values[0] == "" {
			header[name] = nil // also where there is a default
		}
	}
	return header, nil
}

// maxCurlBody bounds a body, in bytes: it is kept for a second attempt.
const maxCurlBody = 16 << 20

// curlBody reads the data as curl does: parts are joined by &, and files lose their
// line breaks.
func curlBody(data []string, stdin io.Reader) ([]byte, error) {
	var parts []string
	for _, part := range data {
		path, isFile := strings.CutPrefix(part, "@")
		if !isFile {
			parts = append(parts, part)
			continue
		}
		in := stdin
		if path != "-" {
			file, err := os.Open(path)
			if err != nil {
				return nil, fmt.Errorf("reading data: %w", err)
			}
			defer func() { _ = file.Close() }()
			in = file
		}
		read, err := io.ReadAll(io.LimitReader(in, maxCurlBody+1))
		if err == nil && len(read) > maxCurlBody {
			err = fmt.Errorf("it is over %d MiB", maxCurlBody>>20)
		}
		if err != nil {
			return nil, fmt.Errorf("reading data: %w", err)
		}
		parts = append(parts, strings.NewReplacer("\r", "", "\n", "").Replace(string(read)))
	}
	return []byte(strings.Join(parts, "&")), nil
}
