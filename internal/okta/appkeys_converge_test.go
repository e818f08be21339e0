package okta

import (
	"context"
	"strings"
	"testing"
	"time"

	"okta-token-broker/internal/fakeokta"
	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// What a broker left half done before a crash, or another one is about to do, comes
// to the same end.
func TestAppKeysConverge(t *testing.T) {
	const absent = ""
	type operation = func(*AppKeys, context.Context, *keys.Key) error
	tests := []struct {
		name   string
		before string // status of the key
		run    operation
		after  string
		calls  string
	}{
		{"register, absent", absent, (*AppKeys).Register, "ACTIVE", "GET POST"},
		{"register, inactive", "INACTIVE", (*AppKeys).Register, "ACTIVE", "GET activate"},
		{"register, active", "ACTIVE", (*AppKeys).Register, "ACTIVE", "GET"},
		{"remove, active", "ACTIVE", (*AppKeys).Remove, absent, "GET deactivate DELETE"},
		{"remove, deactivated", "INACTIVE", (*AppKeys).Remove, absent, "GET DELETE"},
		{"remove, absent", absent, (*AppKeys).Remove, absent, "GET"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newKeyWorld(t)
			key, other := newKey(t, ""), newKey(t, "")
			k.save(t, other.JWK())
			if tt.before != absent {
				k.save(t, key.JWK())
			}
			if tt.before == "INACTIVE" {
				k.administer(t, k.okta.AppKeys(clientID)[1], "deactivate")
			}
			want := map[string]string{other.ID(): "ACTIVE"}
			if tt.after != absent {
				want[key.ID()] = tt.after
			}
			calls := tt.calls
			for range 2 {
				if err := tt.run(k.AppKeys, t.Context(), key); err != nil {
					t.Fatal(err)
				}
				k.wantKeys(t, calls, want)
				calls = "GET"
			}
		})
	}
}

// Brokers of two rings on one app leave each other's keys alone, also where the kids
// are the same, and so do they with a key that is there under another kid.
func TestAppKeysOfOthersAreLeftAlone(t *testing.T) {
	k := newKeyWorld(t)
	other := NewAppKeys(AppKeysConfig{Client: "billing", AppID: appID, Rotator: k.rotator.client})
	ours, theirs := newKey(t, ""), newKey(t, "")
	k.registers(t, ours)
	if err := other.Register(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	both := map[string]string{ours.ID(): "ACTIVE", theirs.ID(): "ACTIVE"}
	k.wantKeys(t, "GET POST GET POST", both)

	impostor := newKey(t, theirs.ID())
	if e := explained(t, k.Register(t.Context(), impostor)); e.Class != oauth.Refused || !strings.Contains(e.Description, "another public key under the kid") {
		t.Errorf("class %d: %s", e.Class, e.Description)
	}
	k.wantKeys(t, "GET", both)
	k.removes(t, impostor)
	k.wantKeys(t, "GET", both)

	k.save(t, ours.JWKAs("by hand"))
	k.removes(t, ours)
	k.wantKeys(t, "GET deactivate DELETE", map[string]string{"by hand": "ACTIVE", theirs.ID(): "ACTIVE"})
	k.registers(t, ours)
	k.wantKeys(t, "GET POST", map[string]string{"by hand": "ACTIVE", theirs.ID(): "ACTIVE", ours.ID(): "ACTIVE"})
}

// Another broker of the ring does between our list and our change what we are
// about to do, or undoes it.
func TestAppKeysRaces(t *testing.T) {
	tests := []struct {
		name   string
		run    func(*AppKeys, context.Context, *keys.Key) error
		before string // status of the key
		when   string // the call that the other one is ahead of
		other  []string
		after  bool
		calls  string
	}{
		{"registered", (*AppKeys).Register, "", "POST", []string{"add"}, true, "GET POST GET"},
		{"registered and deactivated", (*AppKeys).Register, "", "POST", []string{"add", "deactivate"}, true, "GET POST GET activate"},
		{"activated", (*AppKeys).Register, "INACTIVE", "activate", []string{"activate"}, true, "GET activate"},
		{"deleted before activation", (*AppKeys).Register, "INACTIVE", "activate", []string{"delete"}, true, "GET activate POST"},
		{"deactivated", (*AppKeys).Remove, "ACTIVE", "deactivate", []string{"deactivate"}, false, "GET deactivate DELETE"},
		{"deleted before deactivation", (*AppKeys).Remove, "ACTIVE", "deactivate", []string{"delete"}, false, "GET deactivate"},
		{"deleted", (*AppKeys).Remove, "ACTIVE", "DELETE", []string{"delete"}, false, "GET deactivate DELETE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newKeyWorld(t)
			key, other := newKey(t, ""), newKey(t, "")
			k.save(t, other.JWK())
			does := map[string]func(){
				"add":        func() { k.save(t, key.JWK()) },
				"activate":   func() { k.administer(t, k.okta.AppKeys(clientID)[1], "activate") },
				"deactivate": func() { k.administer(t, k.okta.AppKeys(clientID)[1], "deactivate") },
				"delete":     func() { k.okta.RemoveKey(clientID, key.ID()) },
			}
			if tt.before != "" {
				does["add"]()
			}
			if tt.before == "INACTIVE" {
				does["deactivate"]()
			}
			k.api.before = func(call string) {
				if call == tt.when {
					k.api.before = nil
					for _, what := range tt.other {
						does[what]()
					}
				}
			}
			if err := tt.run(k.AppKeys, t.Context(), key); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{other.ID(): "ACTIVE"}
			if tt.after {
				want[key.ID()] = "ACTIVE"
			}
			k.wantKeys(t, tt.calls, want)
		})
	}
}

// A change whose answer is lost was made: the next call finds that out.
func TestAppKeysLostAnswers(t *testing.T) {
	for _, call := range []string{"POST", "deactivate", "DELETE"} {
		t.Run(call, func(t *testing.T) {
			k := newKeyWorld(t)
			key, other := newKey(t, ""), newKey(t, "")
			k.save(t, other.JWK())
			want := map[string]string{other.ID(): "ACTIVE"}
			run, after := k.Register, "GET"
			if call == "POST" {
				want[key.ID()] = "ACTIVE"
			} else {
				k.save(t, key.JWK())
				run = k.Remove
			}
			if call == "deactivate" {
				after = "GET DELETE"
			}
			k.api.before = func(c string) {
				if c == call {
					k.okta.SetFaultAt(fakeokta.AppKeys, fakeokta.Fault{Count: 1, After: true, Reset: true})
				}
			}
			e := explained(t, run(t.Context(), key))
			if e.Class != oauth.Unavailable || e.RetryAfter != time.Second || e.Upstream != nil {
				t.Errorf("class %d, retry after %v, upstream %v: %v", e.Class, e.RetryAfter, e.Upstream, e)
			}
			k.api.took()
			if err := run(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			k.wantKeys(t, after, want)
		})
	}
}
