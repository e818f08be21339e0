package okta

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"okta-token-broker/internal/keys"
	"okta-token-broker/internal/oauth"
)

// theJWT and theSignature stand for the assertion that was sent and its last part,
// theProof for the DPoP proof, in what FuzzAnswer answers.
const (
	theJWT       = "{jwt}"
	theProof     = "{proof}"
	theSignature = "{signature}"
)

// FuzzAnswer holds whatever a server may answer against what a caller relies
// on: a token that is no wider and lives no longer than may be, or an error of
// the broker's own words.
func FuzzAnswer(f *testing.F) {
	add := func(status int, body string, headers ...string) {
		r := answer(status, body, append([]string{"Date", "", "X-Okta-Request-Id", "reqYxx-_.9"}, headers...)...)
		f.Add(status, r.Header.Get("Content-Type"), body, r.Header.Get("Date"), r.Header.Get("X-Okta-Request-Id"), r.Header.Get("Retry-After"), r.Header.Get("X-Rate-Limit-Reset"), r.Header.Get("DPoP-Nonce"))
	}
	for _, body := range fuzzTokens() {
		add(200, body)
		add(200, body, "Content-Type", "application/json; charset=utf-8")
		add(400, body)
	}
	for _, row := range oktaRows() {
		add(max(row.status, 401), refusing(row.code, row.words+" "+theJWT), "X-Okta-Request-Id", theJWT)
		add(max(row.status, 400), `{"errorCode":"`+row.code+`","errorSummary":"`+row.words+` signature`+theSignature+`"}`)
	}
	add(400, refusing("invalid_request", strings.Repeat("ab\r\n", 200)+theJWT))
	add(400, refusing(strings.Repeat("ab", 200), "\x00\x1b[31m\u2028"))
	add(429, "", "Retry-After", "7", "X-Rate-Limit-Reset", "946684842", "Date", "Sat, 01 Jan 2000 00:00:00 GMT")
	add(429, "", "Retry-After", "Sat, 01 Jan 2000 00:10:00 GMT", "X-Rate-Limit-Reset", "9223372036854775807")
	add(401, refusing("invalid_client", "The client_assertion token is expired."), "Date", "Sat, 01 Jan 2000 00:09:00 GMT")
	add(401, refusing("invalid_client", "The client_assertion token is expired."), "Date", "Thu, 01 Jan 1970 00:00:00 GMT")
	add(401, "<pre>client_assertion="+theJWT+"</pre>", "Content-Type", "text/html")
	for _, nonce := range []string{"nonce", `"nonce"`, "n\r\nX: y", theJWT, theProof, strings.Repeat("n", 1025)} {
		add(400, refusing("use_dpop_nonce", noNonce+theProof), "DPoP-Nonce", nonce)
		add(400, refusing("invalid_dpop_proof", noProof+theProof), "DPoP-Nonce", nonce)
		add(200, good(map[string]any{"token_type": "DPoP"}), "DPoP-Nonce", nonce)
	}
	add(400, refusing("invalid_dpop_proof", proofOfFuture), "Date", "Sat, 01 Jan 2000 00:09:00 GMT", "X-Okta-Request-Id", theProof)
	add(0, good())
	add(302, theJWT, "Content-Type", "text/plain; charset")
	add(200, "access_token="+marker+"&token_type=Bearer", "Content-Type", "application/x-www-form-urlencoded")

	key := newClient(f, nil).ring
	proofKey, err := keys.New("ES256")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status int, contentType, body, date, requestID, retryAfter, reset, nonce string) {
		headers := map[string]string{
			"Content-Type": contentType, "Date": date, "X-Okta-Request-Id": requestID, "Retry-After": retryAfter,
			"X-Rate-Limit-Reset": reset, "Location": endpoint + "?" + body, "DPoP-Nonce": nonce,
		}
		for _, dpop := range []DPoP{DPoPOff, DPoPAuto, DPoPRequired} {
			config := ClientConfig{Name: "billing", ID: clientID, Ring: key, DPoP: dpop, ProofKey: proofKey}
			synctest.Test(t, func(t *testing.T) { fuzzExchange(t, config, status, headers, body) })
		}
	})
}

// fuzzTokens are bodies around a good one.
func fuzzTokens() []string {
	bodies := []string{
		good(), "", "null", "{}", "[" + good() + "]", good() + good(), "\ufeff" + good(), good()[:len(good())-1], marker,
		strings.Replace(good(), "{", `{"Access_Token":"`+marker+`","Expires_In":1,`, 1),
		strings.Replace(good(), "}", `,"access\u005ftoken":"`+marker+`"}`, 1),
		strings.Replace(good(), "}", `,"expires_in":86400}`, 1),
		strings.Replace(good(), "}", ",\"x\":\"\xff\"}", 1),
		strings.Replace(good(), "}", `,"error":{"token":"`+theJWT+`"}}`, 1),
	}
	for _, life := range []any{nil, 1, 0, -1, 86400, 86401, 1.5, 3600.5, 4294967297, 18446744074, "3600", "3600.0", "1e3", "0x10", "NaN", true, []int{3600}, []string{marker + marker}, marker + marker} {
		bodies = append(bodies, good(map[string]any{"expires_in": life}))
	}
	for _, life := range []string{"1e400", "3.6E+3", "3600.0", "-0", "03600", `"\u0033600"`} {
		bodies = append(bodies, `{"expires_in":`+life+`,"access_token":"a","token_type":"bearer"}`)
	}
	for _, scope := range []any{nil, "", "okta.users.read", "okta.users.read okta.users.manage", `okta.users.read "` + marker, []string{"okta.users.read"}} {
		bodies = append(bodies, good(map[string]any{"scope": scope}))
	}
	for _, access := range []any{nil, "", 7, theJWT, "a b", "a\r\nX-Injected: 1", "ü", "\x00"} {
		bodies = append(bodies, good(map[string]any{"access_token": access}))
	}
	for _, kind := range []any{nil, "", "DPoP", "bEARER", "mac", 1} {
		bodies = append(bodies, good(map[string]any{"token_type": kind}))
	}
	return bodies
}

// fuzzExchange is one exchange with a server that always answers the same.
func fuzzExchange(t *testing.T, config ClientConfig, status int, headers map[string]string, body string) {
	w := &world{ring: config.Ring, log: &log{}}
	w.wire = &wire{next: roundTripper(func(r *http.Request) (*http.Response, error) {
		if err := r.ParseForm(); err != nil {
			return nil, err
		}
		jwt := r.PostForm.Get("client_assertion")
		echo := strings.NewReplacer(theJWT, jwt, theSignature, jwt[strings.LastIndex(jwt, ".")+1:], theProof, r.Header.Get("DPoP"))
		resp := answer(status, echo.Replace(body))
		for name, value := range headers {
			resp.Header.Set(name, echo.Replace(value))
		}
		return resp, nil
	})}
	logger := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	config.Server = NewServer(ServerConfig{Issuer: issuer, Transport: w.wire, Log: logger})
	w.client = NewClient(config)

	sent := time.Now()
	token, err := w.exchange(t)
	if took, posts := time.Since(sent), len(w.wire.sent()); took > 5*time.Second || posts < 1 || posts > 5 {
		t.Errorf("%d POSTs in %v", posts, took)
	}
	if err == nil {
		wantSoundToken(t, token, sent)
		proved := w.wire.sent()[len(w.wire.sent())-1].proof() != ""
		if isBound := token.Type == oauth.DPoP; isBound && !proved || isBound != (token.JKT == config.ProofKey.Thumbprint()) || !isBound && config.DPoP == DPoPRequired {
			t.Errorf("dpop %s, proof sent %t: %s token of key %q", config.DPoP, proved, token.Type, token.JKT)
		}
		if status != http.StatusOK {
			t.Errorf("a token from an answer of status %d", status)
		}
		return
	}
	e := explained(t, err)
	switch e.Class {
	case oauth.Refused, oauth.InvalidScope, oauth.BadAnswer, oauth.Unavailable:
	default:
		t.Errorf("class %d: %v", e.Class, e)
	}
	waits := e.Class == oauth.Unavailable || e.Reach == oauth.ReachServer
	if waits != (e.RetryAfter >= time.Second) || e.RetryAfter > 2*time.Minute {
		t.Errorf("class %d, retry after %v", e.Class, e.RetryAfter)
	}
	wantOneLine(t, e)
	for _, post := range w.wire.sent() {
		wantNothingOf(t, post.assertion(), w.texts(e))
		wantNoRunOf(t, post.assertion(), w.texts(e))
		if post.proof() != "" {
			wantNothingOf(t, post.proof(), w.texts(e))
			wantNoRunOf(t, post.proof(), w.texts(e))
		}
	}
	wantDistinct(t, w.wire.sent())
	if config.DPoP == DPoPOff { // else the log may have words of several answers, each as it was filtered
		wantNoRunOf(t, body, withoutUpstream(w.texts(e), e.Upstream))
	}
}

// wantSoundToken checks what a caller relies on.
func wantSoundToken(t *testing.T, token oauth.Token, sent time.Time) {
	t.Helper()
	if token.Life < time.Second || token.Life > 24*time.Hour || token.Life%time.Second != 0 {
		t.Errorf("life %v", token.Life)
	}
	if !token.Expires.Equal(sent.Add(token.Life)) {
		t.Errorf("expires at %v, sent at %v, life %v", token.Expires, sent, token.Life)
	}
	if !token.Scopes.Within(asked) {
		t.Errorf("scopes %q are wider than %q", token.Scopes, asked)
	}
	unfit := func(r rune) bool { return r <= ' ' || r > '~' }
	if access := token.Access.Reveal(); access == "" || strings.ContainsFunc(access, unfit) || token.Type != oauth.Bearer && token.Type != oauth.DPoP {
		t.Errorf("%s token %q", token.Type, access)
	}
}

// withoutUpstream takes the filtered words of a server out of a text. The short
// ones cannot make up a long run.
func withoutUpstream(shown string, up *oauth.Upstream) string {
	for _, words := range []string{up.Description, up.Code, up.RequestID} {
		if len(words) >= longRun/3 {
			shown = strings.ReplaceAll(shown, words, "\x00")
		}
	}
	return shown
}

// longRun is how many bytes of a secret, or of an answer, are no coincidence.
const longRun = 24

// wantNoRunOf looks for longRun bytes of a text in what is shown.
func wantNoRunOf(t *testing.T, text, shown string) {
	t.Helper()
	for i := 0; i+longRun <= len(text); i++ {
		if at := strings.Index(shown, text[i:i+longRun]); at >= 0 {
			t.Errorf("%q is shown behind %q", text[i:i+longRun], shown[max(0, at-80):at])
			return
		}
	}
}
