package cli

import (
	"fmt"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/config"
	"okta-token-broker/internal/oauth"
	"okta-token-broker/internal/proxy"
)

// While a configuration with one more resource takes the place of another, a call to
// it is refused or finds its way: at no moment is the resource there and the way is
// not. The org is there throughout, and connections stay.
func TestUpstreamsOfAGrowingConfiguration(t *testing.T) {
	const org = "https://acme.okta.test"
	b := broker.New(broker.Config{World: &broker.World{}})
	defer b.Close()
	u := &upstreams{broker: b}
	resources := map[string]string{}
	take := func() {
		of := maps.Clone(resources)
		next, err := u.routes(config.Config{Clients: map[string]config.Client{"default": {Issuer: org, Resources: of}}})
		if err != nil {
			t.Fatal(err)
		}
		u.add(next)
		b.Swap(&broker.World{Clients: map[string]*broker.Client{"default": {Name: "default", Org: org, Resources: of}}})
		u.replace(next)
	}
	u.replace(routes{by: map[broker.Target]*proxy.Upstream{}, transports: map[string]*http.Transport{}})
	take()
	transport := u.inUse.transports[""]

	var newest atomic.Int64
	var stop atomic.Bool
	var calls sync.WaitGroup
	defer calls.Wait()
	defer stop.Store(true)
	for range 2 {
		calls.Go(func() {
			for !stop.Load() {
				name := fmt.Sprintf("r%d", newest.Load())
				if _, err := u.Upstream(commandLine(), "default", name); err != nil && oauth.ClassOf(err) != oauth.InvalidRequest {
					t.Errorf("resource %s: %v", name, err)
					return
				}
				if found, err := u.Upstream(commandLine(), "default", ""); err != nil || found.Base.String() != org || !found.Org {
					t.Errorf("the org: %v", err)
					return
				}
			}
		})
	}
	for i := range 300 {
		newest.Store(int64(i))
		name, base := fmt.Sprintf("r%d", i), fmt.Sprintf("https://r%d.test/base", i)
		resources[name] = base
		take()
		found, err := u.Upstream(commandLine(), "default", name)
		if err != nil || found.Base.String() != base || found.Org || found.Transport != transport {
			t.Fatalf("resource %s: %+v, %v", name, found, err)
		}
	}
}
