package fakeokta

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A namedFault is a fault that can be written on a command line.
type namedFault struct {
	name     string
	value    string // what stands behind "=" in the help; empty where there is no value
	optional bool   // whether the value may be left out
	help     string
	make     func(value string) (Fault, error)
}

// usage is how the fault is written.
func (n namedFault) usage() string {
	switch {
	case n.value == "":
		return n.name
	case n.optional:
		return n.name + "[=" + n.value + "]"
	}
	return n.name + "=" + n.value
}

// grammar is what FaultHelp begins with; parseEntry reads it.
const grammar = `A comma list; each entry is NAME[=VALUE][*COUNT][@SHARE%].

Entries without a share are a script: one after the other, each for COUNT
requests (one without *COUNT, all of them with a bare *), then good answers.
Entries with a share meet that part of the requests at random, the same ones
with the same seed, at most COUNT times. The first entry that meets a request
is the fault that the request gets.

  503*3,reset,delay=2s*2,expires_in=0
  503@10%,reset@5%,hang*2@1%

`

// ParseFaults reads faults from a line such as "503*3,reset,delay=2s*2" or "503@10%,html@5%"; FaultHelp says how it is
// written. An empty line is no faults.
func ParseFaults(line string) ([]Fault, error) {
	if strings.TrimSpace(line) == "" {
		return nil, nil
	}
	var faults []Fault
	var shares float64
	for entry := range strings.SplitSeq(line, ",") {
		fault, err := parseEntry(strings.TrimSpace(entry))
		if err != nil {
			return nil, fmt.Errorf("fault %q: %w", entry, err)
		}
		if shares += fault.Share; shares > 1+1e-9 { // sums of decimals are not exact
			return nil, fmt.Errorf("fault %q: the shares add up to more than 100%%", entry)
		}
		faults = append(faults, fault)
	}
	return faults, nil
}

// faultNames are the names that ParseFaults knows, sorted.
func faultNames() []string {
	var names []string
	for _, n := range namedFaults() {
		names = append(names, n.name)
	}
	slices.Sort(names)
	return names
}

// FaultHelp says how faults are written and what each of them does, in lines of at most 80 characters.
func FaultHelp() string {
	var b strings.Builder
	b.WriteString(grammar)
	for _, n := range namedFaults() {
		fmt.Fprintf(&b, "  %-28s %s\n", n.usage(), n.help)
	}
	return b.String()
}

func parseEntry(entry string) (Fault, error) {
	rest, share, err := cutShare(entry)
	if err != nil {
		return Fault{}, err
	}
	rest, count, err := cutCount(rest, share)
	if err != nil {
		return Fault{}, err
	}
	name, value, given := strings.Cut(rest, "=")
	catalogue := namedFaults()
	i := slices.IndexFunc(catalogue, func(n namedFault) bool { return n.name == name })
	if i < 0 {
		return Fault{}, fmt.Errorf("no such fault; there are: %s", strings.Join(faultNames(), ", "))
	}
	n := catalogue[i]
	switch {
	case given && n.value == "":
		return Fault{}, errors.New("it takes no value")
	case value == "" && (given || (n.value != "" && !n.optional)):
		return Fault{}, fmt.Errorf("it needs a value: %s=%s", n.name, n.value)
	}
	fault, err := n.make(value)
	fault.Count, fault.Share = count, share
	return fault, err
}

// cutShare takes "@SHARE%" from the end.
func cutShare(entry string) (rest string, share float64, err error) {
	i := strings.LastIndexByte(entry, '@')
	if i < 0 || !strings.HasSuffix(entry, "%") {
		return entry, 0, nil
	}
	percent, err := strconv.ParseFloat(entry[i+1:len(entry)-1], 64)
	if err != nil || !(percent > 0 && percent <= 100) {
		return "", 0, errors.New("a share is above 0% and at most 100%")
	}
	return entry[:i], percent / 100, nil
}

// cutCount takes "*COUNT" or "*" from the end. Without it an entry of a script is for one request.
func cutCount(entry string, share float64) (rest string, count int, err error) {
	i := strings.LastIndexByte(entry, '*')
	switch {
	case i < 0 && share == 0:
		return entry, 1, nil
	case i < 0 || i == len(entry)-1:
		return strings.TrimSuffix(entry, "*"), 0, nil
	}
	count, err = strconv.Atoi(entry[i+1:])
	if err != nil || count < 1 {
		return "", 0, errors.New("a count is a number from 1 on, or a bare * for all requests")
	}
	return entry[:i], count, nil
}

// namedFaults are all of them, in the order of the help.
func namedFaults() []namedFault {
	tooMany, tooManyOAuth := apiBody("E0000047", wordsRateLimit), oauthBody("invalid_grant", wordsRateLimit)
	late := func(d time.Duration) Fault { return Fault{Delay: d} }
	slow := func(d time.Duration) Fault { return Fault{Drip: d} }
	askew := func(d time.Duration) Fault { return Fault{Skew: d} }
	return []namedFault{
		{"429", "DURATION", true, "over the rate limit, E0000047; reset in 10s", limited("300", tooMany)},
		{"429_oauth", "DURATION", true, "the same as OAuth error invalid_grant", limited("300", tooManyOAuth)},
		{"429_concurrent", "DURATION", true, "too many at once: X-Rate-Limit-Limit is 0", limited("0", tooMany)},
		{"500", "", false, "internal server error, E0000009", status(500, apiBody("E0000009", "Internal Server Error"))},
		{"502", "", false, "a gateway's page", page(502)},
		{"503", "", false, "read-only mode, E0000010", status(503, apiBody("E0000010", "Service is in read only mode"))},
		{"504", "", false, "a gateway's page", page(504)},
		{"server_error", "", false, "500 with OAuth error server_error", status(500, oauthBody("server_error", ""))},
		{"unavailable", "", false, "400 temporarily_unavailable", status(400, oauthBody("temporarily_unavailable", ""))},
		{"invalid_client", "", false, "401 invalid_client without a word why", status(401, oauthBody("invalid_client", ""))},
		{"delay", "DURATION", false, "a good answer, late", duration(late)},
		{"hang", "", false, "no answer at all", just(Fault{Hang: true})},
		{"reset", "", false, "connection reset, nothing done", just(Fault{Reset: true})},
		{"reset_after", "", false, "connection reset, the work done", just(Fault{Reset: true, After: true})},
		{"cut", "", false, "connection reset halfway through the body", just(Fault{Truncate: true})},
		{"drip", "DURATION", true, "the body byte by byte, 100ms before each", durationOr(100*time.Millisecond, slow)},
		{"skew", "DURATION", false, "the server's clock off, for one request", duration(askew)},
		{"html", "", false, "200 with a page instead of JSON", page(200)},
		{"empty", "", false, "200 with an empty body", status(200, "")},
		{"redirect", "URL", true, "307 to another place", redirect},
		{"huge", "", false, "200 with a JSON string of 1 GiB", just(Fault{Status: 200, Stream: huge})},
		{"gzip_bomb", "", false, "the same in 1 MB of gzip, asked for or not", gzipBomb},
		{"expires_in", "JSON|missing", false, "another expires_in, say 0, -1, 1e400, null", expiresIn},
		{"token_type", "TYPE|missing", false, "another token_type", tokenType},
		{"scope", "wider|narrower|missing", false, "another scope", scopeFault},
	}
}

func just(f Fault) func(string) (Fault, error) {
	return func(string) (Fault, error) { return f, nil }
}

func status(code int, body string) func(string) (Fault, error) {
	return just(Fault{Status: code, Body: body})
}

func page(code int) func(string) (Fault, error) {
	text := fmt.Sprintf("<!DOCTYPE html><html><body><h1>%s</h1></body></html>", http.StatusText(code))
	return just(Fault{Status: code, Body: text, ContentType: "text/html"})
}

func oauthBody(code, words string) string { return text(oauthError(0, code, words)) }

func apiBody(code, summary string) string { return text(apiError(0, code, summary)) }

func text(a answer) string { return string(readOwn(a)) }

func duration(use func(time.Duration) Fault) func(string) (Fault, error) {
	return func(value string) (Fault, error) {
		d, err := time.ParseDuration(value)
		if err != nil {
			return Fault{}, errors.New("its value is a duration, for example 2s or 500ms")
		}
		return use(d), nil
	}
}

func durationOr(usual time.Duration, use func(time.Duration) Fault) func(string) (Fault, error) {
	return func(value string) (Fault, error) {
		if value == "" {
			return use(usual), nil
		}
		return duration(use)(value)
	}
}

func limited(limit, body string) func(string) (Fault, error) {
	return durationOr(10*time.Second, func(d time.Duration) Fault {
		return Fault{Status: http.StatusTooManyRequests, Body: body, RetryIn: d, Header: http.Header{
			"X-Rate-Limit-Limit": {limit}, "X-Rate-Limit-Remaining": {"0"},
		}}
	})
}

func redirect(value string) (Fault, error) {
	if value == "" {
		value = "/elsewhere" // on the same host, where the counters see who follows
	}
	if _, err := url.Parse(value); err != nil {
		return Fault{}, errors.New("its value is a URL")
	}
	return Fault{Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {value}}}, nil
}

func expiresIn(value string) (Fault, error) {
	if value != "missing" && !json.Valid([]byte(value)) {
		return Fault{}, errors.New(`its value is JSON, for example 0 or "3600", or missing`)
	}
	return member("expires_in", value, json.RawMessage(value)), nil
}

func tokenType(value string) (Fault, error) {
	return member("token_type", value, value), nil
}

func scopeFault(value string) (Fault, error) {
	switch value {
	case "wider":
		return Fault{Rewrite: widenScope}, nil
	case "narrower":
		return Fault{Rewrite: narrowScope}, nil
	case "missing":
		return Fault{Rewrite: removeScope}, nil
	}
	return Fault{}, errors.New("its value is wider, narrower or missing")
}

func widenScope(answer map[string]any) {
	answer["scope"] = strings.Join(append(scopesOf(answer), "okta.users.manage"), " ")
}

func narrowScope(answer map[string]any) {
	scopes := scopesOf(answer)
	answer["scope"] = strings.Join(scopes[:max(0, len(scopes)-1)], " ")
}

func removeScope(answer map[string]any) { delete(answer, "scope") }

func scopesOf(answer map[string]any) []string {
	scope, _ := answer["scope"].(string)
	return strings.Fields(scope)
}

// member sets a member of the answer, or removes it where the value is "missing".
func member(name, value string, to any) Fault {
	return Fault{Rewrite: func(answer map[string]any) {
		if answer[name] = to; value == "missing" {
			delete(answer, name)
		}
	}}
}
