package fakeokta

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// newDirectory is an org with that many users, and a token that reads and manages them.
func newDirectory(tb testing.TB, c Config, users int) (*Okta, string) {
	tb.Helper()
	o := newOkta(tb, c)
	o.SetUsers(users)
	return o, newRotator(tb, o, App{Scopes: []string{usersRead, usersManage}})
}

func logins(tb testing.TB, got reply) []string {
	tb.Helper()
	list, is := got.JSON["users"].([]any)
	if got.Status != http.StatusOK || !is {
		tb.Fatalf("status %d, %v", got.Status, got.JSON)
	}
	names := []string{}
	for _, u := range list {
		names = append(names, u.(map[string]any)["profile"].(map[string]any)["login"].(string))
	}
	return names
}

func TestPagination(t *testing.T) {
	o, token := newDirectory(t, Config{}, 5)
	want := [][]string{
		{"ada.example@example.com", "ben.sample@example.com"},
		{"cleo.specimen@example.com", "dan.template@example.com"},
		{"ada.example5@example.com"},
	}
	cursors := []string{"", "after=00u1fakeokta00000002&", "after=00u1fakeokta00000004&"}
	for i := range want {
		got := get(t, o, usersPath+"?"+cursors[i]+"limit=2", "Bearer "+token)
		if diff := cmp.Diff(want[i], logins(t, got)); diff != "" {
			t.Errorf("page %d (-want +got):\n%s", i, diff)
		}
		links := []string{fmt.Sprintf(`<%s/api/v1/users?%slimit=2>; rel="self"`, baseURL, cursors[i])}
		if i+1 < len(want) {
			links = append(links, fmt.Sprintf(`<%s/api/v1/users?%slimit=2>; rel="next"`, baseURL, cursors[i+1]))
		}
		if diff := cmp.Diff(links, got.Header.Values("Link")); diff != "" {
			t.Errorf("links of page %d (-want +got):\n%s", i, diff)
		}
		if got.Header.Get("X-Rate-Limit-Limit") == "" || got.Header.Get("X-Rate-Limit-Reset") == "" {
			t.Errorf("page %d: %v", i, got.Header)
		}
	}
}

func TestPageLimits(t *testing.T) {
	for _, test := range []struct {
		users       int
		query       string
		listed      int
		self, links string // what limit the links say, and how many links there are
	}{
		{0, "", 0, "limit=200", "self"},
		{200, "", 200, "limit=200", "self"},
		{201, "", 200, "limit=200", "self next"},
		{201, "?limit=1000", 200, "limit=200", "self next"},
		{3, "?limit=3", 3, "limit=3", "self"},
		{3, "?limit=2&filter=a+b", 2, "filter=a+b&limit=2", "self next"},
		{3, "?after=00u1fakeokta00000003", 0, "after=00u1fakeokta00000003&limit=200", "self"},
	} {
		o, token := newDirectory(t, Config{}, test.users)
		got := get(t, o, usersPath+test.query, "Bearer "+token)
		if n := len(logins(t, got)); n != test.listed {
			t.Errorf("%d users, %q: %d listed, want %d", test.users, test.query, n, test.listed)
		}
		links := got.Header.Values("Link")
		if len(links) != len(strings.Fields(test.links)) || !strings.Contains(links[0], "?"+test.self+">") {
			t.Errorf("%d users, %q: links %q", test.users, test.query, links)
		}
	}
}

func TestRefusedPages(t *testing.T) {
	o, token := newDirectory(t, Config{}, 3)
	for query, code := range map[string]string{
		"limit=0": "E0000001", "limit=-1": "E0000001", "limit=all": "E0000001", "limit=": "E0000001",
		"after=nobody": "E0000031",
	} {
		got := get(t, o, usersPath+"?"+query, "Bearer "+token)
		if got.Status != http.StatusBadRequest || got.JSON["errorCode"] != code {
			t.Errorf("%s: status %d, %v", query, got.Status, got.JSON)
		}
	}
}

func TestOriginOfLinks(t *testing.T) {
	for _, test := range []struct{ name, origin, host, want string }{
		{"the host that was called", "", "acme.okta.test:8443", "https://acme.okta.test:8443"},
		{"the public origin", "https://public.test", "internal:8080", "https://public.test"},
	} {
		o, token := newDirectory(t, Config{Origin: test.origin}, 3)
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, usersPath+"?limit=1", nil)
		r.Host = test.host
		r.Header.Set("Authorization", "Bearer "+token)
		o.ServeHTTP(w, r)
		for _, link := range w.Result().Header.Values("Link") {
			if !strings.HasPrefix(link, "<"+test.want+"/api/v1/users?") {
				t.Errorf("%s: %s", test.name, link)
			}
		}
		if n := len(w.Result().Header.Values("Link")); n != 2 {
			t.Errorf("%s: %d links", test.name, n)
		}
	}
}

func create(tb testing.TB, o *Okta, token, contentType, body string) reply {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, baseURL+usersPath+"?activate=true", strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", contentType)
	return do(tb, o, r)
}

func person(login string) string {
	return fmt.Sprintf(`{"profile":{"firstName":"Eve","lastName":"Pattern","email":"eve@example.com","login":%q,"city":"Here"}}`, login)
}

func TestCreateUser(t *testing.T) {
	now := time.Now()
	o, token := newDirectory(t, Config{Now: func() time.Time { return now }}, 3)
	got := create(t, o, token, "application/json; charset=utf-8", person("eve@example.com"))
	created := now.UTC().Format("2006-01-02T15:04:05.000Z")
	want := map[string]any{
		"id": "00u1fakeokta00000004", "status": "ACTIVE", "created": created, "activated": created,
		"statusChanged": created, "lastUpdated": created, "lastLogin": nil, "passwordChanged": nil,
		"type": map[string]any{"id": "oty1fakeokta00000001"},
		"profile": map[string]any{
			"firstName": "Eve", "lastName": "Pattern", "email": "eve@example.com", "login": "eve@example.com", "city": "Here",
		},
		"credentials": map[string]any{"provider": map[string]any{"type": "OKTA", "name": "OKTA"}},
		"_links":      map[string]any{"self": map[string]any{"href": baseURL + usersPath + "/00u1fakeokta00000004"}},
	}
	if diff := cmp.Diff(want, got.JSON); got.Status != http.StatusOK || diff != "" {
		t.Errorf("status %d, user (-want +got):\n%s", got.Status, diff)
	}
	for _, name := range []string{"00u1fakeokta00000004", "eve@example.com"} {
		if diff := cmp.Diff(want, get(t, o, usersPath+"/"+name, "Bearer "+token).JSON); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := get(t, o, usersPath+"/nobody", "Bearer "+token); got.Status != http.StatusNotFound || got.JSON["errorCode"] != "E0000007" {
		t.Errorf("nobody: status %d, %v", got.Status, got.JSON)
	}
	large := strings.Replace(person("large@example.com"), "Here", strings.Repeat("x", 1<<20), 1)
	if got := create(t, o, token, "application/json", large); got.Status != http.StatusOK {
		t.Errorf("a body of 1 MiB: status %d, %v", got.Status, got.JSON)
	}
	if n := len(logins(t, get(t, o, usersPath, "Bearer "+token))); n != 5 || o.Counters().UsersCreated != 2 {
		t.Errorf("%d users, %d created", n, o.Counters().UsersCreated)
	}
}

func TestRefusedUsers(t *testing.T) {
	o, token := newDirectory(t, Config{}, 3)
	read := exchange(t, o, good(t), usersRead).wantToken(t, usersRead)
	for _, test := range []struct {
		name, token, contentType, body string
		status                         int
		code                           string
	}{
		{"no scope", read, "application/json", person("eve@example.com"), 403, "E0000006"},
		{"no token", "", "application/json", person("eve@example.com"), 401, "E0000011"},
		{"a form", token, "application/x-www-form-urlencoded", person("eve@example.com"), 400, "E0000021"},
		{"not JSON", token, "application/json", "{", 400, "E0000003"},
		{"too large", token, "application/json", person(strings.Repeat("e", maxUser)), 400, "E0000003"},
		{"no profile", token, "application/json", "{}", 400, "E0000001"},
		{"no login", token, "application/json", person(""), 400, "E0000001"},
		{"login a number", token, "application/json", strings.Replace(person("eve"), `"eve"`, "7", 1), 400, "E0000001"},
		{"login taken", token, "application/json", person("ada.example@example.com"), 400, "E0000001"},
	} {
		got := create(t, o, test.token, test.contentType, test.body)
		if got.Status != test.status || got.JSON["errorCode"] != test.code {
			t.Errorf("%s: status %d, %v", test.name, got.Status, got.JSON)
		}
	}
	if c := o.Counters(); c.UsersCreated != 0 || c.ResourceRequests != 9 {
		t.Errorf("%d created by %d requests", c.UsersCreated, c.ResourceRequests)
	}
}

// Faults that are written on a command line work at the resource as well.
func TestFaultsAtTheResource(t *testing.T) {
	o, token := newDirectory(t, Config{}, 3)
	faults, err := ParseFaults("503,429=5s,cut,redirect=/elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	o.SetFaultAt(Users, faults...)
	call := func() int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, baseURL+usersPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		res, err := o.Transport().RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	var statuses []int
	for range 5 {
		statuses = append(statuses, call())
	}
	if diff := cmp.Diff([]int{503, 429, 200, 307, 200}, statuses); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[int]int{200: 2}, o.Counters().ResourceStatus); diff != "" {
		t.Errorf("what the resource answered (-want +got):\n%s", diff)
	}
}
