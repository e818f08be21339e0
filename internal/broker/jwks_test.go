package broker_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/broker"
	"okta-token-broker/internal/keys"
)

// Each ring in use is published under its name, as it is at the moment, and
// another World has other rings.
func TestJWKS(t *testing.T) {
	rings := map[string]*keys.Ring{}
	for _, name := range []string{"default", "corp"} {
		ring, err := keys.Open(t.Context(), keys.Config{Name: name, Store: newFile(t), Algorithm: "ES256"})
		if err != nil {
			t.Fatal(err)
		}
		rings[name] = ring
	}
	b := broker.New(broker.Config{World: &broker.World{Rings: rings}})
	t.Cleanup(b.Close)
	published := func(name string) (kids []string) {
		t.Helper()
		data, ok := b.JWKS(name)
		if !ok {
			t.Fatalf("no ring %q", name)
		}
		var set struct {
			Keys []struct{ Kid, Use, D string }
		}
		if err := json.Unmarshal(data, &set); err != nil {
			t.Fatal(err)
		}
		for _, key := range set.Keys {
			if key.Use != "sig" || key.D != "" {
				t.Errorf("ring %s: %s", name, data)
			}
			kids = append(kids, key.Kid)
		}
		return kids
	}

	if got := published("default"); len(got) != 0 {
		t.Errorf("a ring without a key: %q", got)
	}
	for _, kid := range []string{"one", "two"} {
		if _, err := rings["default"].Rotate(t.Context(), kid); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"two", "one"}, published("default")); diff != "" {
		t.Error(diff)
	}
	if got := published("corp"); len(got) != 0 {
		t.Errorf("another ring: %q", got)
	}

	b.Swap(&broker.World{Rings: map[string]*keys.Ring{"corp": rings["default"]}})
	if diff := cmp.Diff([]string{"two", "one"}, published("corp")); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"default", "", "Corp", "../corp"} {
		if data, ok := b.JWKS(name); ok || data != nil {
			t.Errorf("ring %q: %s", name, data)
		}
	}
}
