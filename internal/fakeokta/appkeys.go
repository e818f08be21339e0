package fakeokta

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	appsRead   = "okta.apps.read"
	appsManage = "okta.apps.manage"

	statusActive   = "ACTIVE"
	statusInactive = "INACTIVE"

	instant = "2006-01-02T15:04:05.000Z" // how the management API writes a time
)

// KeyList is a form in which the key API lists an app's keys. All of them have been seen.
type KeyList int

// The forms.
const (
	KeysMember  KeyList = iota // {"keys":[...]}
	JWKSMember                 // {"jwks":{"keys":[...]}}
	KeysInArray                // [...]
)

// AppKey is what a test may know about a saved key.
type AppKey struct {
	ID     string // "pks...", which stands in paths
	Kid    string
	Status string // ACTIVE or INACTIVE
}

// AppKeys are the keys that are saved for an app, oldest first; none for an app that is not there.
func (o *Okta) AppKeys(clientID string) []AppKey {
	a := o.app(clientID)
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var keys []AppKey
	for _, k := range a.keys {
		keys = append(keys, AppKey{ID: k.id, Kid: k.KeyID, Status: k.status()})
	}
	return keys
}

// A savedKey is one of an app's public keys. The app's lock guards it.
type savedKey struct {
	jose.JSONWebKey
	id               string
	active           bool
	created, updated time.Time
}

func (k *savedKey) status() string {
	if k.active {
		return statusActive
	}
	return statusInactive
}

// view is the key in the form of the API: the JWK and what Okta adds.
func (k *savedKey) view() map[string]any {
	members := map[string]any{}
	jwk, err := k.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(jwk, &members)
	}
	if err != nil {
		panic("fakeokta: a saved key is not JSON: " + err.Error())
	}
	members["id"], members["status"] = k.id, k.status()
	members["created"], members["lastUpdated"] = k.created.UTC().Format(instant), k.updated.UTC().Format(instant)
	return members
}

// add saves a key, and returns a copy.
func (a *app) add(key jose.JSONWebKey, active bool, now time.Time) (savedKey, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.remote.uri != "":
		return savedKey{}, errors.New("the app takes its keys from a jwks_uri")
	case len(a.keys) >= maxKeys:
		return savedKey{}, fmt.Errorf("the app holds %d keys, the most it may", maxKeys)
	case slices.ContainsFunc(a.keys, func(k *savedKey) bool { return k.KeyID == key.KeyID }):
		return savedKey{}, errors.New("the app already holds a key of this kid")
	}
	saved := &savedKey{JSONWebKey: key, id: "pks" + rand.Text()[:17], active: active, created: now, updated: now}
	a.keys = append(a.keys, saved)
	return *saved, nil
}

// activeKeys are the saved keys that assertions verify with.
func (a *app) activeKeys() ([]jose.JSONWebKey, *refusal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var keys []jose.JSONWebKey
	for _, k := range a.keys {
		if k.active {
			keys = append(keys, k.JSONWebKey)
		}
	}
	if len(keys) == 0 {
		return nil, invalidClient("The client does not have a JWKSet configured, but the client_assertion requires one.")
	}
	return keys, nil
}

// manage admits a call to the key API: by the token's scope, and, to change keys, by the role of the app that has the
// token. Only a Super Admin may change the keys of an app that holds Okta's scopes.
func (o *Okta) manage(c *call, scope string, work func(*call, *app) answer) answer {
	g, refused := o.admit(c, scope)
	if refused != nil {
		return *refused
	}
	if caller := o.app(g.client); scope == appsManage && (caller == nil || !caller.superAdmin) {
		return forbidden()
	}
	o.mu.Lock()
	var found *app
	for _, a := range o.apps {
		if a.appID == c.app {
			found = a
		}
	}
	o.mu.Unlock()
	if found == nil {
		return notFound(c.app, "AppInstance")
	}
	return work(c, found)
}

func notFound(id, kind string) answer {
	return apiError(http.StatusNotFound, "E0000007", "Not found: Resource not found: "+id+" ("+kind+")")
}

func invalidKey(cause string) answer {
	return apiError(http.StatusBadRequest, "E0000001", "Api validation failed: jwks", cause)
}

func (o *Okta) listKeys(_ *call, a *app) answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := []any{}
	for _, k := range a.keys {
		list = append(list, k.view())
	}
	var v any = map[string]any{"keys": list}
	switch o.keyList {
	case KeysMember:
	case JWKSMember:
		v = map[string]any{"jwks": v}
	case KeysInArray:
		v = list
	}
	return jsonAnswer(http.StatusOK, v)
}

func (o *Okta) addKey(c *call, a *app) answer {
	var body struct {
		Status string `json:"status"`
	}
	if c.bodyErr != nil || len(c.body) > maxBody || json.Unmarshal(c.body, &body) != nil {
		return apiError(http.StatusBadRequest, "E0000003", "The request body was not well-formed.")
	}
	if body.Status != "" && body.Status != statusActive && body.Status != statusInactive {
		return invalidKey("status: must be ACTIVE or INACTIVE")
	}
	key, err := publicKey(c.body)
	if err != nil {
		return invalidKey(err.Error())
	}
	added, err := a.add(key, body.Status != statusInactive, c.now)
	if err != nil {
		return invalidKey(err.Error())
	}
	return jsonAnswer(http.StatusCreated, added.view())
}

// withKey does something with the key that the path names, by its id and not its kid.
func (a *app) withKey(id string, do func(*savedKey) answer) answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.keys {
		if k.id == id {
			return do(k)
		}
	}
	return notFound(id, "OAuth2ClientJsonWebKey")
}

func (o *Okta) getKey(c *call, a *app) answer {
	return a.withKey(c.key, func(k *savedKey) answer { return jsonAnswer(http.StatusOK, k.view()) })
}

func (o *Okta) activateKey(c *call, a *app) answer {
	return a.withKey(c.key, func(k *savedKey) answer {
		k.active, k.updated = true, c.now
		return jsonAnswer(http.StatusOK, k.view())
	})
}

func (o *Okta) deactivateKey(c *call, a *app) answer {
	return a.withKey(c.key, func(k *savedKey) answer {
		if !slices.ContainsFunc(a.keys, func(other *savedKey) bool { return other.active && other != k }) {
			return invalidKey("the last active key of an app cannot be deactivated")
		}
		k.active, k.updated = false, c.now
		return jsonAnswer(http.StatusOK, k.view())
	})
}

func (o *Okta) deleteKey(c *call, a *app) answer {
	return a.withKey(c.key, func(k *savedKey) answer {
		if k.active {
			return invalidKey("an active key cannot be deleted: deactivate it first")
		}
		a.keys = slices.DeleteFunc(a.keys, func(other *savedKey) bool { return other == k })
		return emptyAnswer(http.StatusNoContent)
	})
}
