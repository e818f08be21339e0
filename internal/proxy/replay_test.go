package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"okta-token-broker/internal/broker"
)

// only hides what a reader is, so that its length is not known.
type only struct{ io.Reader }

// A token that a resource does not take any more is replaced, and the request made
// again with all of its body, once.
func TestReplay(t *testing.T) {
	const kept = 64 << 10
	tests := []struct {
		name    string
		body    int
		chunked bool
		bad     int // tokens up to this one are refused
		stuck   bool
		seen    []string // tokens that the upstream saw
		status  int
	}{
		{"no body", 0, false, 0, false, []string{"0", "1"}, 200},
		{"body", 1000, false, 0, false, []string{"0", "1"}, 200},
		{"body of unknown length", 1000, true, 0, false, []string{"0", "1"}, 200},
		{"body that just fits", kept, false, 0, false, []string{"0", "1"}, 200},
		{"body of unknown length that just fits", kept, true, 0, false, []string{"0", "1"}, 200},
		{"body that does not fit", kept + 1, false, 0, false, []string{"0"}, 401},
		{"body of unknown length that does not fit", kept + 1, true, 0, false, []string{"0"}, 401},
		{"large body", 3 << 20, false, 0, false, []string{"0"}, 401},
		{"never twice", 10, false, 1, false, []string{"0", "1"}, 401},
		{"nothing better to be had", 10, false, 0, true, []string{"0"}, 401},
		{"good token", 10, false, -1, false, []string{"0"}, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stand := &standIn{stuck: tt.stuck}
			var r *rig
			r = newRig(t, stand, func(w http.ResponseWriter, req *http.Request) {
				got := r.record(req)
				var token int
				if _, err := fmt.Sscanf(got.header.Get("Authorization"), "Bearer the-token-%d", &token); err != nil {
					t.Error(err)
				}
				if token <= tt.bad {
					w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
					w.WriteHeader(http.StatusUnauthorized)
				}
				_, _ = fmt.Fprintf(w, "of token %d", token)
			})
			sent := strings.Repeat("x", tt.body)
			var body io.Reader = strings.NewReader(sent)
			if tt.chunked {
				body = only{body}
			}
			got := do(t, request(t, "POST", r.url+"/api", body))
			var tokens []string
			for _, one := range r.take() {
				tokens = append(tokens, strings.TrimPrefix(one.header.Get("Authorization"), "Bearer the-token-"))
				if one.body != sent {
					t.Errorf("an attempt had a body of %d bytes; want %d", len(one.body), len(sent))
				}
			}
			if diff := cmp.Diff(tt.seen, tokens); diff != "" {
				t.Errorf("tokens that were tried (-want +got)\n%s", diff)
			}
			if got.StatusCode != tt.status || got.body != "of token "+tt.seen[len(tt.seen)-1] {
				t.Errorf("answered %s with %q", got.Status, got.body)
			}
		})
	}
}

func TestNonce(t *testing.T) {
	const challenge = `DPoP algs="ES256", error="use_dpop_nonce", error_description="Resource server requires nonce in DPoP proof."`
	tests := []struct {
		name      string
		status    int
		challenge string
		always    bool // the nonce is refused, too
		seen      []string
		answered  int
		told      []broker.Answer
	}{
		{
			"401", 401, challenge, false,
			[]string{"proof-1 POST URL", "proof-2 POST URL n1"}, 200,
			[]broker.Answer{{Status: 401, Nonce: "n1", Challenge: []string{challenge}}, {Status: 200, Nonce: "n1", Final: true}},
		},
		{
			"400", 400, challenge, false,
			[]string{"proof-1 POST URL", "proof-2 POST URL n1"}, 200,
			[]broker.Answer{{Status: 400, Nonce: "n1", Challenge: []string{challenge}}, {Status: 200, Nonce: "n1", Final: true}},
		},
		{
			"400 that is not about the nonce", 400, "", true,
			[]string{"proof-1 POST URL"}, 400,
			[]broker.Answer{{Status: 400, Nonce: "n1"}},
		},
		{
			"loop", 401, challenge, true,
			[]string{"proof-1 POST URL", "proof-2 POST URL n1"}, 401,
			[]broker.Answer{
				{Status: 401, Nonce: "n1", Challenge: []string{challenge}},
				{Status: 401, Nonce: "n2", Challenge: []string{challenge}, Final: true},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stand := &standIn{tokenType: "DPoP"}
			nonces := 0
			var r *rig
			r = newRig(t, stand, func(w http.ResponseWriter, req *http.Request) {
				proof := r.record(req).header.Get("DPoP")
				if !strings.HasSuffix(proof, "n1") || tt.always {
					nonces++
					w.Header().Set("DPoP-Nonce", fmt.Sprintf("n%d", nonces))
					if tt.challenge != "" {
						w.Header().Set("WWW-Authenticate", tt.challenge)
					}
					w.WriteHeader(tt.status)
				}
			})
			got := do(t, request(t, "POST", r.url+"/api", strings.NewReader("body")))
			var proofs []string
			for _, one := range r.take() {
				proofs = append(proofs, strings.Replace(one.header.Get("DPoP"), "http://"+one.host+"/api", "URL", 1))
				if one.body != "body" || len(one.header["Authorization"]) != 1 || len(one.header["Dpop"]) != 1 {
					t.Errorf("the upstream saw %v", one)
				}
			}
			if diff := cmp.Diff(tt.seen, proofs); diff != "" {
				t.Errorf("proofs (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tt.told, stand.told()); diff != "" {
				t.Errorf("told the broker (-want +got)\n%s", diff)
			}
			if got.StatusCode != tt.answered || got.Header["Dpop-Nonce"] != nil {
				t.Errorf("answered %s with %v", got.Status, got.Header)
			}
		})
	}
}

// A nonce for which a call cannot be repeated is for others.
func TestNonceOfACallThatIsNotRepeated(t *testing.T) {
	const challenge = `DPoP error="use_dpop_nonce"`
	stand := &standIn{tokenType: "DPoP"}
	r := newRig(t, stand, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		w.Header().Set("DPoP-Nonce", "n1")
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
	})
	got := do(t, request(t, "POST", r.url+"/api", strings.NewReader(strings.Repeat("x", 70<<10))))
	want := []broker.Answer{
		{Status: 401, Nonce: "n1", Challenge: []string{challenge}},
		{Status: 401, Nonce: "n1", Challenge: []string{challenge}, Final: true},
	}
	if diff := cmp.Diff(want, stand.told()); diff != "" || got.StatusCode != http.StatusUnauthorized {
		t.Errorf("answered %s; told the broker (-want +got)\n%s", got.Status, diff)
	}
}

// A proof that a resource refuses for another reason is replaced as well, whichever
// status it says so with.
func TestRefusedProof(t *testing.T) {
	const challenge = `DPoP error="invalid_dpop_proof", error_description="'htu' is wrong"`
	date := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, status := range []int{http.StatusBadRequest, http.StatusUnauthorized} {
		stand := &standIn{tokenType: "DPoP"}
		r := newRig(t, stand, func(w http.ResponseWriter, req *http.Request) {
			if strings.HasPrefix(req.Header.Get("DPoP"), "proof-1 ") {
				w.Header().Set("WWW-Authenticate", challenge)
				w.Header().Set("Date", date.Format(http.TimeFormat))
				w.WriteHeader(status)
			}
		})
		if got := do(t, request(t, "POST", r.url+"/api", strings.NewReader("body"))); got.StatusCode != http.StatusOK {
			t.Errorf("after a %d: answered %s", status, got.Status)
		}
		want := []broker.Answer{{Status: status, Date: date, Challenge: []string{challenge}}}
		if diff := cmp.Diff(want, stand.answers); diff != "" {
			t.Errorf("told the broker (-want +got)\n%s", diff)
		}
	}
}

// The connection of a refusal serves the second attempt.
func TestReplayKeepsItsConnection(t *testing.T) {
	var callers []string
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
		callers = append(callers, req.RemoteAddr)
		if len(callers) == 1 {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "a refusal")
		}
	})
	if got := do(t, request(t, "GET", r.url+"/api", nil)); got.StatusCode != http.StatusOK {
		t.Error(got.Status)
	}
	if len(callers) != 2 || callers[0] != callers[1] {
		t.Errorf("the attempts came from %v; want one connection", callers)
	}
}

// From a bound token to one that is not: the proof of the first does not go along.
func TestNoProofIsLeftOver(t *testing.T) {
	stand := &standIn{tokenType: "DPoP"}
	var r *rig
	r = newRig(t, stand, func(w http.ResponseWriter, req *http.Request) {
		if r.record(req); req.Header.Get("DPoP") != "" {
			stand.mu.Lock()
			stand.tokenType = ""
			stand.mu.Unlock()
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	if got := do(t, request(t, "GET", r.url+"/api", nil)); got.StatusCode != http.StatusOK {
		t.Error(got.Status)
	}
	if seen := r.take(); len(seen) != 2 || seen[1].header["Dpop"] != nil || seen[1].header.Get("Authorization") != "Bearer the-token-1" {
		t.Errorf("the upstream saw %v", seen)
	}
}

func TestLimitedIsPassedOn(t *testing.T) {
	stand := &standIn{}
	var r *rig
	r = newRig(t, stand, func(w http.ResponseWriter, req *http.Request) {
		r.record(req)
		w.Header().Set("X-Rate-Limit-Remaining", "0")
		w.Header().Set("DPoP-Nonce", "n1")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	got := do(t, request(t, "GET", r.url+"/api", nil))
	if seen := r.take(); got.StatusCode != http.StatusTooManyRequests || got.Header.Get("X-Rate-Limit-Remaining") != "0" || len(seen) != 1 {
		t.Errorf("answered %s after %d attempts", got.Status, len(seen))
	}
	if diff := cmp.Diff([]broker.Answer{{Status: http.StatusTooManyRequests, Nonce: "n1"}}, stand.told()); diff != "" {
		t.Errorf("told the broker (-want +got)\n%s", diff)
	}
}

// A thousand callers whose token is refused at once are all answered with the next.
func TestManyRefusalsAtOnce(t *testing.T) {
	const many = 1000
	stand := &standIn{}
	var refusals atomic.Int64
	all := make(chan struct{}) // closed when all have been refused
	r := newRig(t, stand, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer the-token-0" {
			return
		}
		if refusals.Add(1) == many {
			close(all)
		}
		select {
		case <-all:
		case <-req.Context().Done():
		}
		w.WriteHeader(http.StatusUnauthorized)
	})
	c := client(t)
	var running sync.WaitGroup
	for range many {
		req := request(t, "GET", r.url+"/api", nil)
		running.Go(func() {
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Error(resp.Status)
			}
		})
	}
	running.Wait()
	if refusals.Load() != many {
		t.Errorf("%d refusals; want %d", refusals.Load(), many)
	}
}

// Of a body that nobody has asked for yet, all can be sent again, however long it
// is.
func TestExpectContinue(t *testing.T) {
	sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	var r *rig
	r = newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") == "Bearer the-token-0" {
			w.WriteHeader(http.StatusUnauthorized) // without reading: the server asks for no more
			return
		}
		if got := r.record(req); got.body != string(sent) {
			t.Errorf("a body of %d bytes arrived", len(got.body))
		}
	})
	req := request(t, "PUT", r.url+"/api", bytes.NewReader(sent), "Expect", "100-continue")
	c := client(t)
	c.Transport.(*http.Transport).ExpectContinueTimeout = c.Timeout
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if seen := r.take(); resp.StatusCode != http.StatusOK || len(seen) != 1 || seen[0].header.Get("Expect") != "100-continue" {
		t.Errorf("answered %s", resp.Status)
	}
}

// An answer that comes before the body has is the answer; the replay has what was
// read, and what follows.
func TestRefusalBeforeTheBody(t *testing.T) {
	var r *rig
	begun := make(chan struct{})
	r = newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") == "Bearer the-token-0" {
			first := make([]byte, 5)
			if _, err := io.ReadFull(req.Body, first); err != nil || string(first) != "begin" {
				t.Errorf("read %q, %v", first, err)
			}
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		first := make([]byte, 5)
		if _, err := io.ReadFull(req.Body, first); err != nil {
			t.Error(err)
		}
		close(begun) // the second attempt has what came before the caller sends more
		rest, err := io.ReadAll(req.Body)
		if err != nil || string(first)+string(rest) != "begin and end" {
			t.Errorf("read %q, %q, %v", first, rest, err)
		}
	})
	reader, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, "begin")
		<-begun
		_, _ = io.WriteString(writer, " and end")
		_ = writer.Close()
	}()
	if got := do(t, request(t, "POST", r.url+"/api", reader)); got.StatusCode != http.StatusOK {
		t.Errorf("answered %s with %s", got.Status, got.body)
	}
}
