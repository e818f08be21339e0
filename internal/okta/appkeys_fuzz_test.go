package okta

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/oauth"
)

// theKey stands for the listed key of the ring, in what FuzzAppKeyList answers.
const theKey = "{key}"

// FuzzAppKeyList holds whatever may be answered to the listing of an app's keys
// against what a rotation relies on: no URL is called but the API's own, a key is
// changed only if it is the ring's, and the errors are the broker's words.
func FuzzAppKeyList(f *testing.F) {
	key, other := newKey(f, ""), newKey(f, "")
	var public struct{ X string }
	if err := json.Unmarshal(key.JWK(), &public); err != nil {
		f.Fatal(err)
	}
	for _, body := range []string{
		`{"keys":[` + theKey + `]}`, `{"jwks":{"keys":[` + theKey + `]}}`, `[` + theKey + `]`, `[]`, `{}`, `null`, ``, `{"keys":null}`,
		`[` + withMembers(f, other, nil) + `]`, `[{}]`, `[null]`, `[{"kid":null,"n":null}]`, `{"keys":[],"jwks":{}}`, `[` + theKey, "\ufeff[]",
		`[` + withMembers(f, other, map[string]any{"kid": key.ID()}) + `]`,
		`[` + withMembers(f, key, map[string]any{"id": "../.."}) + `]`, `[` + withMembers(f, key, map[string]any{"status": "INACTIVE"}) + `]`,
		`[` + withMembers(f, key, map[string]any{"kid": "a\u001bb\nc"}) + `]`, `[` + withMembers(f, key, map[string]any{"kid": theirToken}) + `]`,
		`[{"kty":"RSA","n":"` + strings.Repeat("A", 4096) + `","e":"AQAB","kid":"rsa"}]`, `[{"kty":"EC","crv":"P-256","x":"","y":""}]`,
		`[{"kty":"oct","k":"AAAA"},{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]`,
	} {
		f.Add(200, body, "application/json", "", true)
		f.Add(200, body, "application/json", `<`+keysAPI+`?after=x>; rel="next"`, false)
	}
	f.Add(429, `{"errorCode":"E0000047","errorSummary":"`+theirToken+`"}`, "application/json", "", true)
	f.Add(401, theirToken, "text/html", `<https://elsewhere.test/?`+theirToken+`>;rel=next`, false)
	f.Add(404, `{"errorCode":"E0000007","errorCauses":[{"errorSummary":"x"}]}`, "", "<", false)
	f.Fuzz(func(t *testing.T, status int, body, contentType, link string, remove bool) {
		body = strings.ReplaceAll(body, theKey, withMembers(t, key, nil))
		synctest.Test(t, func(t *testing.T) {
			k := scriptedKeys(t, func(r *http.Request) (*http.Response, error) {
				target := r.URL.Scheme + "://" + r.URL.Host + r.URL.EscapedPath()
				below := strings.Split(strings.TrimPrefix(target, keysAPI), "/")
				switch {
				case !strings.HasPrefix(target, keysAPI) || len(below) > 4 || strings.Contains(target, "/.") || strings.Contains(target, "%"):
					t.Errorf("called %s %s", r.Method, r.URL)
				case r.Method == http.MethodGet:
					return answer(status, body, "Content-Type", contentType, "Link", link), nil
				case len(below) > 1 && !strings.Contains(body, public.X):
					t.Errorf("%s of a key that is not there", r.Method)
				}
				return answer(204, ""), nil
			})
			run := k.Register
			if remove {
				run = k.Remove
			}
			began := time.Now()
			err := run(t.Context(), key)
			if calls := len(k.api.sent); calls > 10 || time.Since(began) > 5*time.Second {
				t.Errorf("%d calls in %v", calls, time.Since(began))
			}
			if listed, err := k.Status(t.Context()); err == nil {
				for _, l := range listed {
					wantNoRunOf(t, theirToken, l.ID+l.Kid+l.Status+l.Thumbprint)
				}
			}
			if err == nil {
				return
			}
			e := explained(t, err)
			switch e.Class {
			case oauth.Refused, oauth.BadAnswer, oauth.Unavailable:
			default:
				t.Errorf("class %d: %v", e.Class, e)
			}
			if (e.Class == oauth.Unavailable) != (e.RetryAfter >= time.Second) || e.RetryAfter > 2*time.Minute {
				t.Errorf("class %d, retry after %v", e.Class, e.RetryAfter)
			}
			k.wantSafeWords(t, e)
		})
	})
}
