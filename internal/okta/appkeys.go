package okta

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// maxAppKeys is how many public keys Okta saves for an app.
const maxAppKeys = 50

// AppKeysConfig is what AppKeys needs.
type AppKeysConfig struct {
	// Client is the name in the configuration of the client whose keys they are.
	Client string
	// AppID is the id of its app in Okta's management API.
	AppID string
	// Rotator is the client that may manage the app's keys. Its server is the org
	// that has the app: its tokens are sent to the server that they come from, and
	// to no other.
	Rotator *Client
}

// AppKeys is the public keys that Okta has saved for one app. It changes those that
// it is told to and no other, so that several brokers, and people, can have keys in
// one app. Every operation finds out first how things stand, so that it can be
// repeated whatever became of it before.
//
// It is safe for concurrent use, and does one operation at a time. Each takes at
// most ten requests of 5 seconds, and two exchanges of the rotator. Errors are
// *oauth.Error: Unavailable and TimedOut pass by themselves, the others take
// somebody who changes what the description names.
type AppKeys struct {
	cfg  AppKeysConfig
	org  string
	url  string        // of the list
	turn chan struct{} // holds a value while an operation runs, to which the rest belongs

	token   oauth.Token // the rotator's
	limited *failure    // the last 429
	until   time.Time   // when its limit ends
}

// NewAppKeys makes AppKeys. It sends nothing.
func NewAppKeys(cfg AppKeysConfig) *AppKeys {
	org := originOf(cfg.Rotator.cfg.Server.issuer)
	return &AppKeys{cfg: cfg, org: org, url: keysURL(org, cfg.AppID), turn: make(chan struct{}, 1)}
}

// Register makes Okta accept assertions that the key signed. Where the app has the
// same public key under another kid, it gets it under this one, too: assertions
// name their kid.
func (a *AppKeys) Register(ctx context.Context, key *keys.Key) error {
	return a.do(ctx, key.ID(), func(op *operation) *failure { return op.register(ctx, key) })
}

// Remove makes Okta forget the key. It leaves the last active key of an app where it
// is, which is an error.
func (a *AppKeys) Remove(ctx context.Context, key *keys.Key) error {
	return a.do(ctx, key.ID(), func(op *operation) *failure { return op.remove(ctx, key) })
}

// Status lists all keys of the app.
func (a *AppKeys) Status(ctx context.Context) ([]AppKey, error) {
	var listed []AppKey
	err := a.do(ctx, "", func(op *operation) (fail *failure) {
		listed, fail = op.list(ctx)
		return fail
	})
	return listed, err
}

// do runs an operation when it is its turn. Two at once would both find a key
// missing and both register it.
func (a *AppKeys) do(ctx context.Context, kid string, run func(*operation) *failure) error {
	if !a.cfg.Rotator.cfg.Server.isOkta {
		return oauth.Fail(oauth.InvalidRequest, "clients."+a.cfg.Client+".rotator names "+a.cfg.Rotator.cfg.Name+
			", whose server is not Okta (it has a token_endpoint): public keys are registered at Okta alone")
	}
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return a.explain(&failure{kind: abandoned, err: ctx.Err()}, kid)
	}
	defer func() { <-a.turn }()
	if fail := run(&operation{AppKeys: a}); fail != nil {
		return a.explain(fail, kid)
	}
	return nil
}

// operation is one of AppKeys, under way.
type operation struct {
	*AppKeys
	renewed bool // the token was, as the API refused it
}

func (op *operation) register(ctx context.Context, key *keys.Key) *failure {
	listed, fail := op.list(ctx)
	if fail != nil {
		return fail
	}
	if done, fail := op.inForce(ctx, key, listed); done || fail != nil {
		return fail
	}
	refusal := op.add(ctx, key)
	if refusal == nil || refusal.status != http.StatusBadRequest {
		return refusal
	}
	// Another broker of the ring may have been first.
	if listed, fail = op.list(ctx); fail != nil {
		return fail
	}
	if done, fail := op.inForce(ctx, key, listed); done || fail != nil {
		return fail
	}
	switch {
	case len(listed) >= maxAppKeys:
		refusal.row.advice = tooManyAdvice
	case slices.ContainsFunc(listed, func(k AppKey) bool { return k.Kid == "" }):
		refusal.row.advice = noKidAdvice
	}
	return refusal
}

// inForce activates the key if it is listed, and reports whether it is in force now.
// False without a failure says that the app does not have the key.
func (op *operation) inForce(ctx context.Context, key *keys.Key, listed []AppKey) (bool, *failure) {
	i := slices.IndexFunc(listed, func(k AppKey) bool { return k.Is(key) })
	switch {
	case i >= 0 && listed[i].Active():
		return true, nil
	case i >= 0:
		fail := op.change(ctx, listed[i], "activate")
		if fail.gone() {
			return false, nil
		}
		return fail == nil, fail
	case slices.ContainsFunc(listed, func(k AppKey) bool { return k.Kid == key.ID() }):
		return false, unwilling(duplicateAdvice)
	}
	return false, nil
}

func (op *operation) remove(ctx context.Context, key *keys.Key) *failure {
	listed, fail := op.list(ctx)
	if fail != nil {
		return fail
	}
	i := slices.IndexFunc(listed, func(k AppKey) bool { return k.Is(key) })
	if i < 0 {
		return nil
	}
	saved := listed[i]
	if saved.Active() {
		if !slices.ContainsFunc(slices.Delete(listed, i, i+1), AppKey.verifies) {
			return unwilling(lastActiveAdvice)
		}
		fail := op.change(ctx, saved, "deactivate")
		switch {
		case fail.gone():
			return nil
		case fail != nil && fail.code == invalid: // the others went in the meantime
			fail.row.advice = lastActiveAdvice
			return fail
		case fail != nil:
			return fail
		}
	}
	if fail := op.change(ctx, saved, "delete"); !fail.gone() {
		return fail
	}
	return nil
}

// list reads all keys of the app.
func (op *operation) list(ctx context.Context) ([]AppKey, *failure) {
	const maxPages = 3
	var listed []AppKey
	page := op.url
	for pages := 1; ; pages++ {
		got, fail := op.call(ctx, http.MethodGet, page, nil)
		if fail != nil {
			return nil, fail
		}
		found, err := got.keys()
		if err != nil {
			return nil, got.unusable(err)
		}
		listed = append(listed, found...)
		// Of the next page's URL the query alone counts: Okta may write another of the
		// org's host names, and the token goes to none but its own.
		query := nextQuery(got.resp.Header)
		switch {
		case query == "":
			return listed, nil
		case pages == maxPages:
			return nil, got.unusable(errors.New("the list of the app's keys does not end"))
		}
		page = op.url + "?" + query
	}
}

// add saves the key, active from the start.
func (op *operation) add(ctx context.Context, key *keys.Key) *failure {
	body, err := json.Marshal(struct {
		JWK    jsontext.Value `json:",embed"`
		Status string         `json:"status"`
	}{jsontext.Value(key.JWK()), statusActive})
	if err != nil {
		return &failure{kind: signing, err: err}
	}
	got, fail := op.call(ctx, http.MethodPost, op.url, body)
	if fail != nil {
		return fail
	}
	if saved, err := got.key(); err != nil || !saved.Is(key) || !saved.Active() {
		return got.unusable(errors.New("the answer does not show the key that was registered"))
	}
	op.changed("register", key.ID())
	return nil
}

// change activates, deactivates or deletes a saved key.
func (op *operation) change(ctx context.Context, saved AppKey, how string) *failure {
	if saved.ID == "" {
		return &failure{kind: badAnswer, err: errors.New("the list gives the key no id that can stand in a path")}
	}
	method, target := http.MethodPost, op.url+"/"+saved.ID+"/lifecycle/"+how
	if how == "delete" {
		method, target = http.MethodDelete, op.url+"/"+saved.ID
	}
	if _, fail := op.call(ctx, method, target, nil); fail != nil {
		return fail
	}
	op.changed(how, saved.Kid)
	return nil
}

func (op *operation) changed(how, kid string) {
	op.cfg.Rotator.cfg.Server.log.Info("public keys changed at Okta",
		"client", op.cfg.Client, "app", op.cfg.AppID, "change", how, "kid", kid)
}
