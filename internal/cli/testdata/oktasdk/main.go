// Command oktasdk lists the users of an org with Okta's own SDK as it is, without a
// credential, through a broker that has a listener for it (proxy_listen).
//
//	oktasdk HOST:PORT LIMIT
//
// It prints a line for each page: the logins that are on it.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/okta/okta-sdk-golang/v6/okta"
)

func main() {
	if err := list(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "oktasdk:", err)
		os.Exit(1)
	}
}

func list(address, limit string) error {
	perPage, err := strconv.ParseInt(limit, 10, 32)
	if err != nil {
		return err
	}
	cfg, err := okta.NewConfiguration(okta.WithCache(false))
	if err != nil {
		return err
	}
	// WithOrgUrl would lose the port.
	cfg.Scheme, cfg.Host = "http", address
	client := okta.NewAPIClient(cfg)

	users, answer, err := client.UserAPI.ListUsers(cfg.Context).Limit(int32(perPage)).Execute()
	for err == nil {
		printPage(users)
		if !answer.HasNextPage() {
			return nil
		}
		users = nil
		answer, err = answer.Next(&users)
	}
	return err
}

func printPage(users []okta.User) {
	var logins []string
	for _, user := range users {
		logins = append(logins, user.Profile.GetLogin())
	}
	fmt.Println(strings.Join(logins, " "))
}
