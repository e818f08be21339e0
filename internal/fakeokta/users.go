package fakeokta

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	usersRead   = "okta.users.read"
	usersManage = "okta.users.manage"

	defaultUsers = 4
	pageLimit    = 200        // users on a page at most, and where the client does not say
	usersLimit   = 10_000_000 // calls a minute, unless SetRateLimit says less: for the headers, not to be met
)

// SetUsers gives the org that many users, in place of those it has.
func (o *Okta) SetUsers(count int) {
	created := time.Date(2024, 1, 15, 9, 30, 0, 0, time.UTC)
	var users []user
	for i := range count {
		users = append(users, user{id: userID(i), created: created, profile: profileOf(i)})
	}
	o.people.mu.Lock()
	defer o.people.mu.Unlock()
	o.people.users = users
}

// profileOf is that of a made-up person. No two have the same login.
func profileOf(i int) map[string]any {
	names := [][2]string{{"Ada", "Example"}, {"Ben", "Sample"}, {"Cleo", "Specimen"}, {"Dan", "Template"}}
	name := names[i%len(names)]
	login := strings.ToLower(name[0] + "." + name[1])
	if i >= len(names) {
		login += strconv.Itoa(i + 1)
	}
	login += "@example.com"
	return map[string]any{
		"firstName": name[0], "lastName": name[1], "mobilePhone": nil, "secondEmail": nil, "login": login, "email": login,
	}
}

func userID(i int) string { return fmt.Sprintf("00u1fakeokta%08d", i+1) }

// directory keeps the users, oldest first. None is ever removed alone, so their number makes the next id.
type directory struct {
	mu    sync.Mutex
	users []user
}

type user struct {
	id      string
	created time.Time
	profile map[string]any // never changed
}

// find is the user of that id or login.
func (d *directory) find(name string) (user, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.users, func(u user) bool { return u.id == name || u.profile["login"] == name })
	if i < 0 {
		return user{}, false
	}
	return d.users[i], true
}

// page is the users behind the one with the id after, which is empty for the first page, and whether there are more. It
// does not exist where after is nobody's id.
func (d *directory) page(after string, limit int) (users []user, more, there bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rest := d.users
	if after != "" {
		i := slices.IndexFunc(rest, func(u user) bool { return u.id == after })
		if i < 0 {
			return nil, false, false
		}
		rest = rest[i+1:]
	}
	n := min(limit, len(rest))
	return slices.Clone(rest[:n]), n < len(rest), true
}

// add makes a user, unless the login is taken.
func (d *directory) add(profile map[string]any, now time.Time) (user, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.ContainsFunc(d.users, func(u user) bool { return u.profile["login"] == profile["login"] }) {
		return user{}, false
	}
	u := user{id: userID(len(d.users)), created: now, profile: profile}
	d.users = append(d.users, u)
	return u, true
}

// serveUsers is the protected resource, for those who hold a token with that scope.
func (o *Okta) serveUsers(c *call, scope string, work func(*call) answer) answer {
	var a answer
	if _, refused := o.admit(c, scope); refused != nil {
		a = *refused
	} else {
		a = work(c)
	}
	o.tally.note(func(n *Counters) { n.ResourceStatus[a.status]++ })
	return a
}

// listUsers answers a page, and says in Link headers where the next one is (RFC 8288).
func (o *Okta) listUsers(c *call) answer {
	query := c.URL.Query()
	limit := pageLimit
	if query.Has("limit") {
		n, err := strconv.Atoi(query.Get("limit"))
		if err != nil || n < 1 {
			return apiError(http.StatusBadRequest, "E0000001", "Api validation failed: limit", "limit: must be a positive number")
		}
		limit = min(n, pageLimit)
	}
	users, more, there := o.people.page(query.Get("after"), limit)
	if !there {
		return apiError(http.StatusBadRequest, "E0000031", "Invalid search criteria.")
	}

	list := []any{}
	for _, u := range users {
		list = append(list, u.view(o.url))
	}
	a := jsonAnswer(http.StatusOK, list)
	query.Set("limit", strconv.Itoa(limit))
	a.header.Add("Link", o.link(c, query, "self"))
	if more {
		query.Set("after", users[len(users)-1].id)
		a.header.Add("Link", o.link(c, query, "next"))
	}
	return a
}

func (o *Okta) link(c *call, query url.Values, rel string) string {
	return fmt.Sprintf(`<%s%s?%s>; rel="%s"`, o.originOf(c), usersPath, query.Encode(), rel)
}

func (o *Okta) getUser(c *call) answer {
	u, there := o.people.find(c.user)
	if !there {
		return notFound(c.user, "User")
	}
	return jsonAnswer(http.StatusOK, u.view(o.url))
}

func (o *Okta) createUser(c *call) answer {
	mediaType, _, err := mime.ParseMediaType(c.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return apiError(http.StatusBadRequest, "E0000021",
			"Bad request. Accept and/or Content-Type headers likely do not match supported values.")
	}
	var body struct {
		Profile map[string]any `json:"profile"`
	}
	if c.bodyErr != nil || len(c.body) > maxUser || json.Unmarshal(c.body, &body) != nil {
		return apiError(http.StatusBadRequest, "E0000003", "The request body was not well-formed.")
	}
	for _, name := range []string{"firstName", "lastName", "email", "login"} {
		if text, _ := body.Profile[name].(string); text == "" {
			return invalidUser(name + ": The field cannot be left blank")
		}
	}
	u, added := o.people.add(body.Profile, c.now)
	if !added {
		return invalidUser("login: An object with this field already exists in the current organization")
	}
	o.tally.note(func(n *Counters) { n.UsersCreated++ })
	return jsonAnswer(http.StatusOK, u.view(o.url))
}

func invalidUser(cause string) answer {
	field, _, _ := strings.Cut(cause, ":")
	return apiError(http.StatusBadRequest, "E0000001", "Api validation failed: "+field, cause)
}

// view is the user in the shape of Okta's Users API.
func (u user) view(org string) map[string]any {
	created := u.created.UTC().Format(instant)
	return map[string]any{
		"id":              u.id,
		"status":          "ACTIVE",
		"created":         created,
		"activated":       created,
		"statusChanged":   created,
		"lastLogin":       nil,
		"lastUpdated":     created,
		"passwordChanged": nil,
		"type":            map[string]any{"id": "oty1fakeokta00000001"},
		"profile":         u.profile,
		"credentials":     map[string]any{"provider": map[string]any{"type": "OKTA", "name": "OKTA"}},
		"_links":          map[string]any{"self": map[string]any{"href": org + usersPath + "/" + u.id}},
	}
}
