// Command okta-token-broker holds the private key of an Okta app so that no
// service has to.
package main

import (
	"os"

	"okta-token-broker/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr))
}
