package fakeokta

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

const rotator = "0oaRotator"

// newRotator adds an app that may manage keys, and returns an access token of its.
func newRotator(tb testing.TB, o *Okta, a App) string {
	tb.Helper()
	a.ClientID = rotator
	if a.Scopes == nil {
		a.Scopes = []string{appsRead, appsManage}
	}
	if err := o.AddApp(a); err != nil {
		tb.Fatal(err)
	}
	if err := o.RegisterKey(rotator, jwk(tb, "k1", &rsaKey().PublicKey)); err != nil {
		tb.Fatal(err)
	}
	got := askAs(tb, o, rotator, rsaKey(), endpoint, map[string][]string{"scope": {strings.Join(a.Scopes, " ")}})
	token, _ := got.JSON["access_token"].(string)
	if token == "" {
		tb.Fatalf("status %d, %v", got.Status, got.JSON)
	}
	return token
}

// api calls the key API of an app; target is a method and what follows ".../jwks".
func api(tb testing.TB, o *Okta, token, appID, target, body string) reply {
	tb.Helper()
	method, rest, _ := strings.Cut(target, " ")
	r, err := http.NewRequestWithContext(tb.Context(), method, baseURL+"/api/v1/apps/"+appID+"/credentials/jwks"+rest, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return do(tb, o, r)
}

func withMember(jwk json.RawMessage, member string) string {
	return strings.TrimSuffix(string(jwk), "}") + "," + member + "}"
}

func kidsOf(o *Okta, client string) map[string]string {
	kids := map[string]string{}
	for _, k := range o.AppKeys(client) {
		kids[k.Kid] = k.Status
	}
	return kids
}

func wantKids(tb testing.TB, o *Okta, want map[string]string) {
	tb.Helper()
	if diff := cmp.Diff(want, kidsOf(o, clientID)); diff != "" {
		tb.Errorf("keys (-want +got):\n%s", diff)
	}
}

// The life of a key, as a rotation goes through it.
func TestKeyLife(t *testing.T) {
	o := newOkta(t, Config{})
	token := newRotator(t, o, App{SuperAdmin: true})
	underK2 := func() reply {
		return exchange(t, o, sign(t, jose.ES256, ecKey(), map[string]any{"kid": "k2"}, goodClaims()), "okta.users.read")
	}

	added := api(t, o, token, clientID, "POST ", string(jwk(t, "k2", &ecKey().PublicKey)))
	id, _ := added.JSON["id"].(string)
	if added.Status != http.StatusCreated || !strings.HasPrefix(id, "pks") || added.JSON["kid"] != "k2" ||
		added.JSON["status"] != "ACTIVE" || added.JSON["crv"] != "P-256" || added.JSON["use"] != "sig" {
		t.Fatalf("status %d, %v", added.Status, added.JSON)
	}
	if got := api(t, o, token, clientID, "GET /"+id, ""); got.Status != http.StatusOK || !cmp.Equal(got.JSON, added.JSON) {
		t.Errorf("status %d, %v", got.Status, got.JSON)
	}
	underK2().wantToken(t, "okta.users.read")

	step := func(target string, status int, kids map[string]string) {
		t.Helper()
		if got := api(t, o, token, clientID, target, ""); got.Status != status {
			t.Errorf("%s: status %d, %v", target, got.Status, got.JSON)
		}
		wantKids(t, o, kids)
	}
	step("DELETE /"+id, 400, map[string]string{"k1": "ACTIVE", "k2": "ACTIVE"})
	step("POST /"+id+"/lifecycle/deactivate", 200, map[string]string{"k1": "ACTIVE", "k2": "INACTIVE"})
	underK2().wantError(t, 401, "invalid_client", wordsKid)
	exchange(t, o, sign(t, jose.RS256, rsaKey(), nil, goodClaims()), "okta.users.read").wantToken(t, "okta.users.read")
	step("POST /"+id+"/lifecycle/activate", 200, map[string]string{"k1": "ACTIVE", "k2": "ACTIVE"})
	underK2().wantToken(t, "okta.users.read")
	step("POST /"+o.AppKeys(clientID)[0].ID+"/lifecycle/deactivate", 200, map[string]string{"k1": "INACTIVE", "k2": "ACTIVE"})
	step("POST /"+id+"/lifecycle/deactivate", 400, map[string]string{"k1": "INACTIVE", "k2": "ACTIVE"})
	step("DELETE /"+o.AppKeys(clientID)[0].ID, 204, map[string]string{"k2": "ACTIVE"})
	step("DELETE /k2", 404, map[string]string{"k2": "ACTIVE"}) // a kid is not an id
	if n := o.Counters().Requests[AppKeys]; n != 9 {
		t.Errorf("%d requests", n)
	}
}

func TestAddKeyRefuses(t *testing.T) {
	o := newOkta(t, Config{})
	token := newRotator(t, o, App{SuperAdmin: true})
	public := jwk(t, "k2", &ecKey().PublicKey)
	for name, test := range map[string]struct{ body, cause string }{
		"duplicate kid": {string(jwk(t, "k1", &ecKey().PublicKey)), "the app already holds a key of this kid"},
		"small RSA":     {`{"kty":"RSA","kid":"k2","use":"sig","e":"AQAB","n":"` + strings.Repeat("_", 170) + `"}`, "not an RSA key of 2048 bits or more, nor a P-256, P-384 or P-521 key"},
		"private":       {string(jwk(t, "k2", ecKey())), `member "d" is private: send the public key alone`},
		"status":        {withMember(public, `"status":"NEW"`), "status: must be ACTIVE or INACTIVE"},
	} {
		got := api(t, o, token, clientID, "POST ", test.body)
		causes := []any{map[string]any{"errorSummary": test.cause}}
		if diff := cmp.Diff(causes, got.JSON["errorCauses"]); got.Status != 400 || got.JSON["errorCode"] != "E0000001" || diff != "" {
			t.Errorf("%s: status %d, %v, causes (-want +got):\n%s", name, got.Status, got.JSON["errorCode"], diff)
		}
	}
	if got := api(t, o, token, clientID, "POST ", "hello"); got.Status != 400 || got.JSON["errorCode"] != "E0000003" {
		t.Errorf("not JSON: status %d, %v", got.Status, got.JSON)
	}
	wantKids(t, o, map[string]string{"k1": "ACTIVE"})

	if got := api(t, o, token, clientID, "POST ", withMember(public, `"status":"INACTIVE"`)); got.Status != http.StatusCreated {
		t.Fatalf("status %d, %v", got.Status, got.JSON)
	}
	wantKids(t, o, map[string]string{"k1": "ACTIVE", "k2": "INACTIVE"})
	for i := range maxKeys - 2 {
		register(t, o, fmt.Sprint("more", i), &ecKey().PublicKey)
	}
	if got := api(t, o, token, clientID, "POST ", string(jwk(t, "k51", &ecKey().PublicKey))); got.Status != 400 || got.JSON["errorCode"] != "E0000001" {
		t.Errorf("the 51st key: status %d, %v", got.Status, got.JSON)
	}
}

func TestKeyRights(t *testing.T) {
	const read, change = "GET ", "POST "
	body := string(jwk(t, "k2", &ecKey().PublicKey))
	for _, test := range []struct {
		name   string
		app    App
		call   string
		status int
		code   string
	}{
		{"Super Admin reads", App{SuperAdmin: true}, read, 200, ""},
		{"Super Admin changes", App{SuperAdmin: true}, change, 201, ""},
		{"another reads", App{}, read, 200, ""},
		{"another changes", App{}, change, 403, "E0000006"},
		{"read scope, reads", App{SuperAdmin: true, Scopes: []string{appsRead}}, read, 200, ""},
		{"read scope, changes", App{SuperAdmin: true, Scopes: []string{appsRead}}, change, 403, "E0000006"},
		{"another scope, reads", App{SuperAdmin: true, Scopes: []string{"okta.users.read"}}, read, 403, "E0000006"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOkta(t, Config{})
			token := newRotator(t, o, test.app)
			got := api(t, o, token, clientID, test.call, body)
			if code, _ := got.JSON["errorCode"].(string); got.Status != test.status || code != test.code {
				t.Errorf("status %d, %v", got.Status, got.JSON)
			}
			if n := len(o.AppKeys(clientID)); (n == 2) != (test.status == http.StatusCreated) {
				t.Errorf("%d keys", n)
			}
		})
	}
}

func TestKeyAPINotFound(t *testing.T) {
	o := newOkta(t, Config{})
	token := newRotator(t, o, App{ID: "0oaAppID", SuperAdmin: true})
	for target, code := range map[string]string{
		"nobody GET ":                       "E0000007",
		rotator + " GET ":                   "E0000007", // the client id where the app has another id
		clientID + " GET /pksNone":          "E0000007",
		clientID + " PUT /pksNone":          "E0000022",
		clientID + " POST /x/lifecycle/end": "E0000022",
		clientID + " GET /x/lifecycle":      "E0000022",
	} {
		appID, call, _ := strings.Cut(target, " ")
		if got := api(t, o, token, appID, call, ""); got.Status != http.StatusNotFound || got.JSON["errorCode"] != code {
			t.Errorf("%s: status %d, %v", target, got.Status, got.JSON)
		}
	}
	if got := api(t, o, "nobodys", clientID, "GET ", ""); got.Status != http.StatusUnauthorized || got.JSON["errorCode"] != "E0000011" {
		t.Errorf("status %d, %v", got.Status, got.JSON)
	}
	if got := api(t, o, token, "0oaAppID", "GET ", ""); got.Status != http.StatusOK {
		t.Errorf("status %d, %v", got.Status, got.JSON)
	}
}

func TestKeyListForms(t *testing.T) {
	for list, open := range map[KeyList][2]string{
		KeysMember:  {`{"keys":[`, `]}`},
		JWKSMember:  {`{"jwks":{"keys":[`, `]}}`},
		KeysInArray: {`[`, `]`},
	} {
		o := newOkta(t, Config{KeyList: list})
		token := newRotator(t, o, App{SuperAdmin: true})
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, baseURL+"/api/v1/apps/"+clientID+"/credentials/jwks", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		res, err := o.Transport().RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		body := strings.TrimSpace(string(raw))
		key, ok := strings.CutPrefix(body, open[0])
		key, ends := strings.CutSuffix(key, open[1])
		var members map[string]any
		if err := json.Unmarshal([]byte(key), &members); !ok || !ends || err != nil {
			t.Fatalf("form %d: %s: %v", list, body, err)
		}
		for _, name := range []string{"id", "kid", "kty", "n", "e", "status", "created", "lastUpdated"} {
			if v, _ := members[name].(string); v == "" {
				t.Errorf("no %s in %s", name, key)
			}
		}
	}
}
