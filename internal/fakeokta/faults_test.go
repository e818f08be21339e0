package fakeokta

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

func TestDelayTakesFakeTime(t *testing.T) {
	rsaKey() // made outside the bubble
	for _, after := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := newOkta(t, Config{})
			o.SetFault(Fault{Delay: 90 * time.Second, After: after, Count: 1})
			start := time.Now()
			exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")
			if took := time.Since(start); took != 90*time.Second {
				t.Errorf("after %t: took %v", after, took)
			}
			exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")
			if took := time.Since(start); took != 90*time.Second {
				t.Errorf("after %t: delayed once more, %v", after, took)
			}
		})
	}
}

func TestDelayEndsWithTheContext(t *testing.T) {
	rsaKey()
	for _, after := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := newOkta(t, Config{})
			o.SetFault(Fault{Delay: time.Minute, After: after})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			r := tokenRequest(t, form(good(t), "okta.users.read").Encode()).WithContext(ctx)
			for range 2 { // the second finds the context ended
				if _, err := o.Transport().RoundTrip(r); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v", err)
				}
			}
			if took := time.Since(start); took != time.Second {
				t.Errorf("took %v", took)
			}
			issued := map[bool]int{true: 1}[after]
			if c := o.Counters(); c.TokensIssued != issued || c.TokenRequests != 1 {
				t.Errorf("after %t: issued %d of %d", after, c.TokensIssued, c.TokenRequests)
			}
		})
	}
}

func TestPeakConcurrency(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		o := newOkta(t, Config{})
		o.SetFault(Fault{Delay: time.Second})
		var group sync.WaitGroup
		for range 5 {
			r := tokenRequest(t, form(good(t), "okta.users.read").Encode())
			group.Go(func() {
				if _, err := o.Transport().RoundTrip(r); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		o.ResetCounters() // those in progress still count
		group.Wait()
		exchange(t, o, good(t), "okta.users.read")
		if c := o.Counters(); c.PeakConcurrency != 5 {
			t.Errorf("peak %d", c.PeakConcurrency)
		}
	})
}

func TestStatusFault(t *testing.T) {
	o := newOkta(t, Config{})
	o.SetFault(Fault{
		Status: 429, Body: `{"errorCode":"E0000047"}`, Count: 2,
		Header: http.Header{"x-rate-limit-reset": {"1893456000"}, "Date": nil},
	})
	for range 2 {
		got := exchange(t, o, good(t), "okta.users.read")
		if got.Status != 429 || got.JSON["errorCode"] != "E0000047" {
			t.Errorf("status %d, %v", got.Status, got.JSON)
		}
		if h := got.Header; h.Get("X-Rate-Limit-Reset") != "1893456000" || h.Get("Date") != "" ||
			h.Get("Content-Type") != "application/json" || h.Get("X-Okta-Request-Id") == "" {
			t.Errorf("headers %v", h)
		}
	}
	exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")
	c := o.Counters()
	if c.TokensIssued != 1 || c.TokenRequests != 3 || c.DistinctJTI != 3 || len(c.Refused) != 0 {
		t.Errorf("counters %+v", c)
	}
}

func TestFaultsInSequence(t *testing.T) {
	o := newOkta(t, Config{})
	page := func() io.Reader { return strings.NewReader("<html>") }
	o.SetFault(
		Fault{Status: 503, Count: 2},
		Fault{Status: 200, Stream: page, ContentType: "text/html", Count: 1},
		Fault{Status: 500},
	)
	var got []string
	for range 6 {
		res, err := o.Transport().RoundTrip(tokenRequest(t, ""))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimSpace(res.Status+" "+res.Header.Get("Content-Type")+" "+string(body)))
	}
	want := []string{
		"503 Service Unavailable application/json", "503 Service Unavailable application/json",
		"200 OK text/html <html>",
		"500 Internal Server Error application/json", "500 Internal Server Error application/json",
		"500 Internal Server Error application/json",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	o.ClearFault()
	exchange(t, o, good(t), "okta.users.read").wantToken(t, "okta.users.read")
}

func TestLostAnswer(t *testing.T) {
	o := newOkta(t, Config{})
	o.SetFault(Fault{Status: 502, Body: "{}", After: true, Count: 1})
	assertion := good(t)
	if got := exchange(t, o, assertion, "okta.users.read"); got.Status != 502 {
		t.Errorf("status %d", got.Status)
	}
	if c := o.Counters(); c.TokensIssued != 1 {
		t.Errorf("issued %d", c.TokensIssued)
	}
	exchange(t, o, assertion, "okta.users.read").wantError(t, 401, "invalid_client", wordsUsed)
}

func TestRewrite(t *testing.T) {
	o := newOkta(t, Config{})
	o.SetFault(Fault{Rewrite: func(answer map[string]any) {
		delete(answer, "expires_in")
		answer["scope"] = "okta.users.read okta.users.manage"
		answer["extra"] = json.Number("1e400")
	}, Header: http.Header{"Date": {"yesterday"}}})

	res, err := o.Transport().RoundTrip(tokenRequest(t, form(good(t), "okta.users.read").Encode()))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		t.Fatal(err)
	}
	delete(members, "access_token")
	want := map[string]json.RawMessage{
		"token_type": json.RawMessage(`"Bearer"`),
		"scope":      json.RawMessage(`"okta.users.read okta.users.manage"`),
		"extra":      json.RawMessage(`1e400`),
	}
	if diff := cmp.Diff(want, members); diff != "" || res.Header.Get("Date") != "yesterday" {
		t.Errorf("Date %q, body (-want +got):\n%s", res.Header.Get("Date"), diff)
	}

	// A refusal is left alone.
	exchange(t, o, good(t), "").wantError(t, 400, "invalid_scope", "No scopes were requested.")
}

func TestResetInMemory(t *testing.T) {
	o := newOkta(t, Config{})
	o.SetFault(Fault{Reset: true, Count: 1}, Fault{Reset: true, Status: 200, Body: `{"access_tok`, Count: 1})

	_, err := o.Transport().RoundTrip(tokenRequest(t, form(good(t), "okta.users.read").Encode()))
	wantBroken(t, err)

	res, err := o.Transport().RoundTrip(tokenRequest(t, form(good(t), "okta.users.read").Encode()))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if string(body) != `{"access_tok` {
		t.Errorf("body %q", body)
	}
	wantBroken(t, err)
	if c := o.Counters(); c.TokensIssued != 0 || c.DistinctJTI != 2 {
		t.Errorf("counters %+v", c)
	}
}

func wantBroken(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("error %v", err)
	}
}

func TestTransportKnowsOneHost(t *testing.T) {
	o := newOkta(t, Config{})
	client := &http.Client{Transport: o.Transport()}
	for _, base := range []string{"http://acme.okta.test", "https://evil.test", "https://acme.okta.test:8443"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/oauth2/v1/token", strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Do(r)
		if _, is := errors.AsType[*net.DNSError](err); !is {
			t.Errorf("%s: error %v", base, err)
		}
	}
	if c := o.Counters(); c.TokenRequests != 0 {
		t.Errorf("%d requests", c.TokenRequests)
	}
}

// serve runs an org on a real server.
func serve(t *testing.T, start func(*httptest.Server)) (*Okta, *http.Client, string) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	scheme := "http://"
	if server.EnableHTTP2 = start != nil; start != nil {
		scheme = "https://"
	} else {
		start = (*httptest.Server).Start
	}
	base := scheme + server.Listener.Addr().String()
	o := newOkta(t, Config{URL: base})
	server.Config.Handler = o
	start(server)
	t.Cleanup(server.Close)
	return o, server.Client(), base + "/oauth2/v1/token"
}

func post(ctx context.Context, t *testing.T, client *http.Client, endpoint string) (*http.Response, error) {
	t.Helper()
	assertion := sign(t, jose.RS256, rsaKey(), nil, with(map[string]any{"aud": endpoint}))
	body := strings.NewReader(form(assertion, "okta.users.read").Encode())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return client.Do(r)
}

func TestRealServer(t *testing.T) {
	for name, start := range map[string]func(*httptest.Server){"HTTP/1.1": nil, "HTTP/2": (*httptest.Server).StartTLS} {
		t.Run(name, func(t *testing.T) {
			o, client, endpoint := serve(t, start)
			o.SetClockOffset(-10 * time.Second)
			res, err := post(t.Context(), t, client, endpoint)
			if err != nil {
				t.Fatal(err)
			}
			date, err := http.ParseTime(res.Header.Get("Date"))
			if behind := time.Since(date); err != nil || behind < 9*time.Second || behind > time.Minute {
				t.Errorf("Date %v behind, %v", behind, err)
			}
			decode(t, res).wantToken(t, "okta.users.read")

			o.SetFault(Fault{Reset: true, After: true, Count: 1}, Fault{Reset: true, Status: 200, Body: `{"acc`, Count: 1})
			if res, err := post(t.Context(), t, client, endpoint); err == nil {
				t.Errorf("answered %s", res.Status)
			} else if name == "HTTP/1.1" && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("error %v", err)
			}
			res, err = post(t.Context(), t, client, endpoint)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if body, err := io.ReadAll(res.Body); err == nil || string(body) != `{"acc` {
				t.Errorf("body %q, error %v", body, err)
			}
			if c := o.Counters(); c.TokensIssued != 2 || c.DistinctJTI != 3 {
				t.Errorf("counters %+v", c)
			}
		})
	}
}
