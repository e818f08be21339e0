package okta

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"okta-token-broker/internal/oauth"
)

const defaultTokenLife = 5 * time.Minute

func TestLifetimeOfAnAnswer(t *testing.T) {
	tests := []struct {
		name string
		json string // the value of expires_in, "" for none
		want time.Duration
	}{
		{"missing", "", defaultTokenLife},
		{"null", "null", defaultTokenLife},
		{"integer", "3600", time.Hour},
		{"least", "1", time.Second},
		{"most", "86400", 24 * time.Hour},
		{"string", `"3600"`, time.Hour},
		{"float", "3600.0", time.Hour},
		{"float in a string", `"3600.0"`, time.Hour},
		{"exponent", "1e3", 1000 * time.Second},
		{"exponent in a string", `"3.6E+3"`, time.Hour},
		{"zero", "0", 0},
		{"minus zero", "-0", 0},
		{"zero in a string", `"0"`, 0},
		{"negative", "-1", 0},
		{"fraction", "1.5", 0},
		{"fraction in a string", `"1.5"`, 0},
		{"less than one", "0.9", 0},
		{"over a day", "86401", 0},
		{"over a day by a fraction", "86400.5", 0},
		{"wraps 32 bits", "4294967297", 0},
		{"wraps 64 bits of nanoseconds", "18446744074", 0},
		{"over every float", "1e400", 0},
		{"over every float, in a string", `"1e400"`, 0},
		{"true", "true", 0},
		{"object", "{}", 0},
		{"list", "[3600]", 0},
		{"empty string", `""`, 0},
		{"a word", `"abc"`, 0},
		{"hexadecimal", `"0x10"`, 0},
		{"NaN", `"NaN"`, 0},
		{"Inf", `"Inf"`, 0},
		{"infinity", `"+infinity"`, 0},
		{"space", `" 3600"`, 0},
		{"newline", `"3600\n"`, 0},
		{"underscore", `"3_600"`, 0},
		{"two numbers", `"3600 3600"`, 0},
		{"full-width digits", `"３６００"`, 0},
		{"hexadecimal number", "0x10", 0},
		{"NaN as a number", "NaN", 0},
		{"leading zero", "03600", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := good(map[string]any{"expires_in": nil})
			if tt.json != "" {
				body = `{"expires_in":` + tt.json + "," + body[1:]
			}
			w := always(t, http.StatusOK, body)
			if tt.want == 0 {
				wantBadAnswer(t, w)
				return
			}
			before := time.Now()
			token := w.works(t)
			if token.Life != tt.want {
				t.Errorf("life %v, want %v", token.Life, tt.want)
			}
			if token.Expires.Before(before.Add(tt.want)) || token.Expires.After(time.Now().Add(tt.want)) {
				t.Errorf("expires at %v, want %v from %v", token.Expires, tt.want, before)
			}
		})
	}
}

// wantBadAnswer is an exchange that finds the only answer unusable, says so in
// words of its own, and asks no second time.
func wantBadAnswer(t *testing.T, w *world) {
	t.Helper()
	e := w.fails(t)
	if e.Class != oauth.BadAnswer {
		t.Errorf("class %d, want BadAnswer: %v", e.Class, e)
	}
	if !strings.HasPrefix(e.Description, issuer+" gave an answer that is not usable: ") {
		t.Errorf("description %q", e.Description)
	}
	if e.Upstream == nil || e.Upstream.Status < 200 || e.Upstream.Status > 399 {
		t.Errorf("upstream %+v, want the status of a good answer or of a redirect", e.Upstream)
	}
	if all := w.texts(e); strings.Contains(all, marker) {
		t.Errorf("the answer's own bytes are in %q", all)
	}
	w.wantPosts(t, 1)
}

// marker stands for bytes of an answer that nobody may see.
const marker = "Zq7-from-the-answer"

func TestGoodAnswers(t *testing.T) {
	long := strings.Repeat("a", 32<<10)
	tests := []struct {
		name        string
		body        string
		contentType string
		access      string
		scopes      oauth.Scopes
	}{
		{name: "as Okta gives it", body: good()},
		{name: "a charset", body: good(), contentType: "application/json; charset=utf-8"},
		{name: "upper case media type", body: good(), contentType: "Application/JSON;charset=UTF-8"},
		{name: "bearer", body: good(map[string]any{"token_type": "bearer"})},
		{name: "BEARER", body: good(map[string]any{"token_type": "BEARER"})},
		{name: "space around", body: "\r\n " + good() + "\n"},
		{name: "members nobody knows", body: good(map[string]any{"id_token": marker, "refresh_token": marker, "x": []int{1}})},
		{name: "scope missing", body: good(map[string]any{"scope": nil})},
		{name: "scope null", body: strings.Replace(good(map[string]any{"scope": nil}), "{", `{"scope":null,`, 1)},
		{name: "scope in another order", body: good(map[string]any{"scope": "okta.users.read  okta.groups.read okta.users.read"})},
		{name: "narrower scope", body: good(map[string]any{"scope": "okta.users.read"}), scopes: "okta.users.read"},
		{name: "every character a token can have", body: good(map[string]any{"access_token": "!#$%&'()*+,-./0:;<=>?@AZ[]^_`az{|}~"}), access: "!#$%&'()*+,-./0:;<=>?@AZ[]^_`az{|}~"},
		{name: "the longest token", body: good(map[string]any{"access_token": long}), access: long},
		{name: "Access_Token in front", body: strings.Replace(good(), "{", `{"Access_Token":"`+marker+`",`, 1)},
		{name: "Access_Token behind", body: strings.Replace(good(), "}", `,"Access_Token":"`+marker+`"}`, 1)},
		{name: "Expires_In behind", body: strings.Replace(good(), "}", `,"Expires_In":1}`, 1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.contentType == "" {
				tt.contentType = "application/json"
			}
			if tt.access == "" {
				tt.access = "good"
			}
			if tt.scopes == "" {
				tt.scopes = asked
			}
			w := always(t, http.StatusOK, tt.body, "Content-Type", tt.contentType)
			token := w.works(t)
			if got := token.Access.Reveal(); got != tt.access {
				t.Errorf("access token %q, want %q", got, tt.access)
			}
			if token.Type != "Bearer" || token.Life != time.Hour || token.Scopes != tt.scopes {
				t.Errorf("type %q, life %v, scopes %q; want Bearer, 1h, %q", token.Type, token.Life, token.Scopes, tt.scopes)
			}
		})
	}
	t.Run("no scope granted", func(t *testing.T) {
		if token := always(t, http.StatusOK, good(map[string]any{"scope": ""})).works(t); token.Scopes != "" {
			t.Errorf("scopes %q, want none, as the server said", token.Scopes)
		}
	})
}

func TestBadAnswers(t *testing.T) {
	with := func(name string, value any) string { return good(map[string]any{name: value}) }
	tests := []struct {
		name    string
		status  int
		body    string
		headers []string
	}{
		{name: "no token_type", body: with("token_type", nil)},
		{name: "empty token_type", body: with("token_type", "")},
		{name: "DPoP", body: with("token_type", "DPoP")},
		{name: "mac", body: with("token_type", "mac")},
		{name: "N_A", body: with("token_type", "N_A")},
		{name: "Bearer with a space", body: with("token_type", "Bearer ")},
		{name: "token_type is a number", body: with("token_type", 1)},
		{name: "wider scope", body: with("scope", "okta.groups.read okta.users.manage okta.users.read")},
		{name: "another scope", body: with("scope", "okta.users.manage")},
		{name: "scope is a list", body: with("scope", []string{"okta.users.read"})},
		{name: "scope with a quote", body: with("scope", `okta.users.read "`+marker)},
		{name: "scope with a newline", body: with("scope", "okta.users.read\n"+marker)},
		{name: "endless scope", body: with("scope", strings.Repeat("a ", 8<<10))},
		{name: "no access_token", body: with("access_token", nil)},
		{name: "null access_token", body: strings.Replace(with("access_token", nil), "{", `{"access_token":null,`, 1)},
		{name: "empty access_token", body: with("access_token", "")},
		{name: "access_token is a number", body: with("access_token", 7)},
		{name: "newline in the token", body: with("access_token", marker+"\r\nX-Injected: 1")},
		{name: "newline behind the token", body: with("access_token", marker+"\n")},
		{name: "space in the token", body: with("access_token", marker+" b")},
		{name: "NUL in the token", body: with("access_token", marker+"\x00")},
		{name: "DEL in the token", body: with("access_token", marker+"\x7f")},
		{name: "not ASCII in the token", body: with("access_token", marker+"ü")},
		{name: "over 32 KiB of token", body: with("access_token", strings.Repeat("a", 32<<10+1))},
		{name: "only Access_Token", body: strings.Replace(good(), "access_token", "Access_Token", 1)},
		{name: "access_token twice", body: strings.Replace(good(), "}", `,"access_token":"`+marker+`"}`, 1)},
		{name: "expires_in twice", body: strings.Replace(good(), "}", `,"expires_in":86400}`, 1)},
		{name: "an escaped name twice", body: strings.Replace(good(), "}", `,"access\u005ftoken":"`+marker+`"}`, 1)},
		{name: "a nobody twice", body: strings.Replace(good(), "}", `,"x":1,"x":2}`, 1)},
		{name: "200 with an error", body: with("error", marker)},
		{name: "200 with nothing but an error", body: refusing("invalid_client", marker)},
		{name: "invalid UTF-8", body: strings.Replace(good(), "}", ",\"x\":\"\xff\"}", 1)},
		{name: "invalid UTF-8 in the token", body: strings.Replace(good(), `"good"`, "\"good\xff\"", 1)},
		{name: "half a surrogate", body: strings.Replace(good(), `"good"`, `"good\ud800"`, 1)},
		{name: "trailing data", body: good() + marker},
		{name: "a second object", body: good() + good()},
		{name: "byte order mark", body: "\ufeff" + good()},
		{name: "cut", body: good()[:len(good())-1]},
		{name: "comment", body: "/* " + marker + " */" + good()},
		{name: "list", body: "[" + good() + "]"},
		{name: "null", body: "null"},
		{name: "string", body: `"` + marker + `"`},
		{name: "empty", body: ""},
		{name: "empty object", body: "{}"},
		{name: "deep", body: strings.Repeat("[", 200_000)},
		{name: "HTML", body: "<html>" + marker, headers: []string{"Content-Type", "text/html"}},
		{name: "HTML that says JSON", body: "<html>" + marker},
		{name: "JSON that says HTML", body: good(), headers: []string{"Content-Type", "text/html"}},
		{name: "form", body: "access_token=" + marker + "&token_type=Bearer", headers: []string{"Content-Type", "text/plain"}},
		{name: "form, said so", body: "access_token=" + marker + "&token_type=Bearer", headers: []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{name: "JSON as plain text", body: good(), headers: []string{"Content-Type", "text/plain"}},
		{name: "no content type", body: good(), headers: []string{"Content-Type", ""}},
		{name: "bad content type", body: good(), headers: []string{"Content-Type", "application/json; charset"}},
		{name: "1 MB", body: strings.Replace(good(), "}", `,"x":"`+strings.Repeat("a", 1<<20)+`"}`, 1)},
		{name: "1 MB of space behind", body: good() + strings.Repeat(" ", 1<<20)},
		{name: "201", status: http.StatusCreated, body: good()},
		{name: "202", status: http.StatusAccepted, body: good()},
		{name: "204", status: http.StatusNoContent},
		{name: "206", status: http.StatusPartialContent, body: good()},
		{name: "300", status: http.StatusMultipleChoices, body: marker},
		{name: "304", status: http.StatusNotModified},
		{name: "302 without a Location", status: http.StatusFound, body: marker},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.status == 0 {
				tt.status = http.StatusOK
			}
			wantBadAnswer(t, always(t, tt.status, tt.body, tt.headers...))
		})
	}
}

// An answer just within the bound is read whole.
func TestLargeAnswer(t *testing.T) {
	const bound = 64 << 10
	body := good()
	for _, size := range []int{bound, bound + 1} {
		w := always(t, http.StatusOK, body+strings.Repeat(" ", size-len(body)))
		if size <= bound {
			w.works(t)
		} else {
			wantBadAnswer(t, w)
		}
	}
}
