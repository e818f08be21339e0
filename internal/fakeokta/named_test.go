package fakeokta

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func parse(tb testing.TB, line string) []Fault {
	tb.Helper()
	faults, err := ParseFaults(line)
	if err != nil {
		tb.Fatal(err)
	}
	return faults
}

// outcome is what a client sees of one token request, in a line.
func outcome(t *testing.T, o *Okta) string {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := tokenRequest(t, form(good(t), "okta.users.read okta.groups.read").Encode()).WithContext(ctx)
	res, err := o.Transport().RoundTrip(r)
	took := func() string { return " after " + time.Since(start).String() }
	if err != nil {
		return "no answer" + took()
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	line := fmt.Sprint(res.StatusCode)
	for _, name := range []string{"Content-Type", "Location", "Content-Encoding", "X-Rate-Limit-Limit", "X-Rate-Limit-Reset"} {
		if value := res.Header.Get(name); value != "" && value != "application/json" {
			line += " " + name + "=" + value
		}
	}
	random := regexp.MustCompile(`"(access_token|errorId)":"\w+"`)
	switch {
	case err != nil:
		line += " broken"
	case len(body) == 4096:
		line += " endless"
	case len(body) > 0:
		line += " " + strings.TrimSpace(random.ReplaceAllString(string(body), `"$1":"..."`))
	}
	if time.Since(start) > 0 {
		line += took()
	}
	return line
}

func TestNamedFaults(t *testing.T) {
	rsaKey()
	const (
		members = `"scope":"okta.users.read okta.groups.read","token_type":"Bearer"}`
		token   = `200 {"access_token":"...",`
		fine    = token + `"expires_in":3600,` + members
	)
	api := func(code, summary string) string {
		return fmt.Sprintf(`{"errorCauses":[],"errorCode":%q,"errorId":"...","errorLink":%[1]q,"errorSummary":%q}`, code, summary)
	}
	oauth := func(code, words string) string {
		return fmt.Sprintf(`{"error":%q,"error_description":%q}`, code, words)
	}
	page := func(title string) string {
		return " Content-Type=text/html <!DOCTYPE html><html><body><h1>" + title + "</h1></body></html>"
	}
	tooMany := api("E0000047", "API call exceeded rate limit due to too many requests.")
	want := map[string]string{
		"429":    `429 X-Rate-Limit-Limit=300 X-Rate-Limit-Reset=946684810 ` + tooMany,
		"429=1m": `429 X-Rate-Limit-Limit=300 X-Rate-Limit-Reset=946684860 ` + tooMany,
		"429_oauth": `429 X-Rate-Limit-Limit=300 X-Rate-Limit-Reset=946684810 ` +
			oauth("invalid_grant", "API call exceeded rate limit due to too many requests."),
		"429_concurrent=-5s":   `429 X-Rate-Limit-Limit=0 X-Rate-Limit-Reset=946684795 ` + tooMany,
		"500":                  `500 ` + api("E0000009", "Internal Server Error"),
		"502":                  `502` + page("Bad Gateway"),
		"503":                  `503 ` + api("E0000010", "Service is in read only mode"),
		"504":                  `504` + page("Gateway Timeout"),
		"server_error":         `500 ` + oauth("server_error", ""),
		"unavailable":          `400 ` + oauth("temporarily_unavailable", ""),
		"invalid_client":       `401 ` + oauth("invalid_client", ""),
		"delay=2s":             fine + ` after 2s`,
		"hang":                 `no answer after 1m0s`,
		"reset":                `no answer after 0s`,
		"reset_after":          `no answer after 0s`,
		"cut":                  `200 broken`,
		"drip=1ms":             fine + ` after 130ms`, // 129 bytes and the end
		"skew=2h":              `401 ` + oauth("invalid_client", wordsExpired),
		"html":                 `200` + page("OK"),
		"empty":                `200`,
		"redirect":             `307 Location=/elsewhere`,
		"redirect=https://a/b": `307 Location=https://a/b`,
		"huge":                 `200 endless`,
		"gzip_bomb":            `200 Content-Encoding=gzip endless`,
		"expires_in=0":         token + `"expires_in":0,` + members,
		"expires_in=1e400":     token + `"expires_in":1e400,` + members,
		`expires_in="3600"`:    token + `"expires_in":"3600",` + members,
		"expires_in=missing":   token + members,
		"token_type=DPoP":      token + `"expires_in":3600,"scope":"okta.users.read okta.groups.read","token_type":"DPoP"}`,
		"token_type=missing":   token + `"expires_in":3600,"scope":"okta.users.read okta.groups.read"}`,
		"scope=wider": token + `"expires_in":3600,` +
			`"scope":"okta.users.read okta.groups.read okta.users.manage","token_type":"Bearer"}`,
		"scope=narrower": token + `"expires_in":3600,"scope":"okta.users.read","token_type":"Bearer"}`,
		"scope=missing":  token + `"expires_in":3600,"token_type":"Bearer"}`,
	}
	tried := map[string]bool{}
	for entry, line := range want {
		t.Run(entry, func(t *testing.T) {
			faults := parse(t, entry) // packing a bomb takes real time
			synctest.Test(t, func(t *testing.T) {
				o := newOkta(t, Config{})
				o.SetFault(faults...)
				if got := outcome(t, o); got != line {
					t.Errorf("got  %s\nwant %s", got, line)
				}
				if issued := o.Counters().TokensIssued; entry == "reset_after" && issued != 1 || entry == "reset" && issued != 0 {
					t.Errorf("issued %d", issued)
				}
				if got := outcome(t, o); got != fine {
					t.Errorf("afterwards %s", got)
				}
			})
		})
		name, _, _ := strings.Cut(entry, "=")
		tried[name] = true
	}
	for _, name := range faultNames() {
		if !tried[name] {
			t.Errorf("%s is not tried", name)
		}
	}
}

func TestParseFaults(t *testing.T) {
	type entry struct {
		Count, Status int
		Share         float64
		Delay         time.Duration
	}
	for line, want := range map[string][]entry{
		"":                          nil,
		" ":                         nil,
		"500":                       {{Count: 1, Status: 500}},
		"500*":                      {{Count: 0, Status: 500}},
		"503*3, 500 ,delay=2s*2":    {{Count: 3, Status: 503}, {Count: 1, Status: 500}, {Count: 2, Delay: 2 * time.Second}},
		"503@20%":                   {{Share: 0.2, Status: 503}},
		"503*4@0.5%,500@25%,502*1":  {{Count: 4, Share: 0.005, Status: 503}, {Share: 0.25, Status: 500}, {Count: 1, Status: 502}},
		"500@10%,502@20%,503@70%":   {{Share: 0.1, Status: 500}, {Share: 0.2, Status: 502}, {Share: 0.7, Status: 503}},
		"redirect=https://u@h/p*2":  {{Count: 2, Status: 307}},
		"redirect=https://u@h*@50%": {{Share: 0.5, Status: 307}},
	} {
		var got []entry
		for _, f := range parse(t, line) {
			got = append(got, entry{f.Count, f.Status, f.Share, f.Delay})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}

func TestParseFaultsRefuses(t *testing.T) {
	for line, words := range map[string]string{
		"503,teapot":      "no such fault; there are: " + strings.Join(faultNames(), ", "),
		"500,":            "no such fault",
		"500=1":           "takes no value",
		"delay":           "needs a value: delay=DURATION",
		"drip=":           "needs a value: drip=DURATION",
		"delay=2":         "is a duration",
		"expires_in=soon": "is JSON",
		"scope=all":       "wider, narrower or missing",
		"redirect=%zz":    "is a URL",
		"500*0":           "a count is",
		"500*x":           "a count is",
		"500@0%":          "a share is",
		"500@101%":        "a share is",
		"500@NaN%":        "a share is",
		"500@20":          "no such fault",
		"500@60%,502@41%": "more than 100%",
	} {
		if _, err := ParseFaults(line); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: error %v, want %q", line, err, words)
		}
	}
}

func TestFaultHelp(t *testing.T) {
	help := FaultHelp()
	for _, name := range faultNames() {
		if !strings.Contains(help, "\n  "+name) {
			t.Errorf("nothing about %s", name)
		}
	}
	for line := range strings.Lines(help) {
		if len(line) > 81 {
			t.Errorf("too long: %q", line)
		}
		// The examples are the indented lines with a comma list.
		if example, is := strings.CutPrefix(line, "  503*"); is {
			parse(t, "503*"+strings.TrimSpace(example))
		}
	}
	if !slices.IsSorted(faultNames()) {
		t.Errorf("not sorted: %v", faultNames())
	}
}

// The bomb is a gigabyte to who unpacks it, and next to nothing to the server.
func TestGzipBomb(t *testing.T) {
	fault := parse(t, "gzip_bomb")[0]
	sent, err := io.Copy(io.Discard, fault.Stream())
	if err != nil || sent > 4<<20 {
		t.Fatalf("%d bytes sent, %v", sent, err)
	}
	const share = 32 // unpacking all of it takes seconds
	part := io.LimitReader(fault.Stream(), sent/share)
	unpacked, err := gzip.NewReader(part)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, unpacked)
	if !errors.Is(err, io.ErrUnexpectedEOF) || n < bombSize/share/10*9 {
		t.Errorf("%d bytes unpacked from a part in %d, %v", n, share, err)
	}
}
