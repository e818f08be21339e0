package proxy_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What net/http repeats by itself, as a kept connection broke, has a proof of its own.
// Without the caller's word nothing is repeated that may have had an effect.
func TestRepeatedByTheTransport(t *testing.T) {
	tests := []struct {
		method, body string
		header       []string
		seen         []string // proofs
		status       int
	}{
		{"GET", "", nil, []string{"proof-2 GET", "proof-3 GET"}, 200},
		{"HEAD", "", nil, []string{"proof-2 HEAD", "proof-3 HEAD"}, 200},
		{"POST", "body", nil, []string{"proof-2 POST"}, 502},
		{"POST", "body", []string{"Idempotency-Key", "1"}, []string{"proof-2 POST", "proof-3 POST"}, 200},
		{"POST", "", []string{"X-Idempotency-Key", "1"}, []string{"proof-2 POST", "proof-3 POST"}, 200},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.method, tt.body, tt.header), func(t *testing.T) {
			var r *rig
			r = newRig(t, &standIn{tokenType: "DPoP"}, func(_ http.ResponseWriter, req *http.Request) {
				if got := r.record(req); strings.HasPrefix(got.header.Get("DPoP"), "proof-2 ") {
					panic(http.ErrAbortHandler)
				}
			})
			do(t, request(t, "GET", r.url+"/api", nil)) // there is a connection to keep
			r.take()
			got := do(t, request(t, tt.method, r.url+"/api", strings.NewReader(tt.body), tt.header...))
			var proofs []string
			for _, one := range r.take() {
				proofs = append(proofs, strings.Join(strings.Fields(one.header.Get("DPoP"))[:2], " "))
				if one.body != tt.body || !slices.Equal(one.header["Authorization"], []string{"DPoP the-token-0"}) {
					t.Errorf("the upstream saw %v", one)
				}
			}
			if diff := cmp.Diff(tt.seen, proofs); diff != "" || got.StatusCode != tt.status {
				t.Errorf("answered %s; proofs (-want +got)\n%s", got.Status, diff)
			}
		})
	}
}

// The repetition of a call keeps its nonce when net/http repeats it, whatever nonce other
// calls got meanwhile: some servers take each once.
func TestRepeatedWithItsNonce(t *testing.T) {
	stand := &standIn{tokenType: "DPoP"}
	var r *rig
	r = newRig(t, stand, func(w http.ResponseWriter, req *http.Request) {
		got := r.record(req)
		switch {
		case strings.HasPrefix(got.header.Get("DPoP"), "proof-1 "):
		case strings.HasPrefix(got.header.Get("DPoP"), "proof-2 "):
			w.Header().Set("DPoP-Nonce", "ours")
			w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasPrefix(got.header.Get("DPoP"), "proof-3 "):
			stand.mu.Lock()
			stand.nonce = "theirs"
			stand.mu.Unlock()
			panic(http.ErrAbortHandler)
		}
	})
	do(t, request(t, "GET", r.url+"/api", nil)) // there is a connection to keep
	r.take()
	got := do(t, request(t, "GET", r.url+"/api", nil))
	var nonces []string
	for _, one := range r.take() {
		nonces = append(nonces, strings.Join(strings.Fields(one.header.Get("DPoP"))[3:], ""))
	}
	if diff := cmp.Diff([]string{"", "ours", "ours"}, nonces); diff != "" || got.StatusCode != http.StatusOK {
		t.Errorf("answered %s; nonces (-want +got)\n%s", got.Status, diff)
	}
}

// A token alone may go out twice: it is no other call that anybody has to authorize.
func TestRepeatedWithTheSameToken(t *testing.T) {
	var broken atomic.Bool
	r := newRig(t, &standIn{}, func(_ http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/break" && broken.CompareAndSwap(false, true) {
			panic(http.ErrAbortHandler)
		}
	})
	do(t, request(t, "GET", r.url+"/api", nil)) // there is a connection to keep
	if got := do(t, request(t, "GET", r.url+"/break", nil)); got.StatusCode != http.StatusOK || !broken.Load() {
		t.Error(got.Status)
	}
	if asked := r.broker.asked(); asked != 2 {
		t.Errorf("%d calls were authorized; want 2", asked)
	}
}

// A refusal whose body does not come holds nothing up.
func TestRefusalWithoutItsBody(t *testing.T) {
	r := newRig(t, &standIn{}, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer the-token-0" {
			return
		}
		w.Header().Set("Content-Length", req.URL.Query().Get("length"))
		w.WriteHeader(http.StatusUnauthorized)
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
	})
	for _, length := range []string{"", "10", "1000000"} {
		r.broker.mu.Lock()
		r.broker.token = 0
		r.broker.mu.Unlock()
		if got := do(t, request(t, "GET", r.url+"/api?length="+length, nil)); got.StatusCode != http.StatusOK {
			t.Errorf("length %q: answered %s", length, got.Status)
		}
	}
}
