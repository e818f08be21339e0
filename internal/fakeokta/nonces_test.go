package fakeokta

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A nonce is the newest for a period, and works for three.
func TestNoncesRotate(t *testing.T) {
	start := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	n := nonces{period: day}
	first := n.newest("org", start)
	if again := n.newest("org", start.Add(day-time.Second)); again != first {
		t.Error("a new nonce before the period has passed")
	}
	second, good := n.check("org", first, start.Add(day))
	if second == first || !good {
		t.Errorf("after a day: new %t, the old one good %t", second != first, good)
	}
	for _, test := range []struct {
		age   time.Duration
		value string
		good  bool
	}{
		{3*day - time.Second, first, true},
		{3 * day, first, false},
		{3 * day, second, true},
		{4 * day, second, false},
		{4 * day, "", false},
		{4 * day, "made up", false},
	} {
		if _, good := n.check("org", test.value, start.Add(test.age)); good != test.good {
			t.Errorf("%q after %v: good %t", test.value, test.age, good)
		}
	}
}

func TestNoncePeriod(t *testing.T) {
	now := time.Now()
	o := newDPoP(t, Config{Now: func() time.Time { return now }, NoncePeriod: 10 * time.Second})
	send := func(nonce string) reply {
		return exchangeDPoP(t, o, prove(t, "POST", endpoint, map[string]any{"nonce": nonce}))
	}
	first := nonceOf(t, o)
	now = now.Add(10 * time.Second)
	got := send(first) // good, and the answer brings the next
	got.wantBound(t)
	second := got.Header.Get("DPoP-Nonce")
	if second == "" || second == first {
		t.Errorf("DPoP-Nonce %q after %q", second, first)
	}
	now = now.Add(20 * time.Second)
	send(first).wantError(t, 400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof.")
	send(second).wantBound(t)
}

func TestExpireNonces(t *testing.T) {
	o := newDPoP(t, Config{})
	o.SetResourceNonce(true)
	token := boundToken(t, o)
	nonce := nonceOf(t, o)
	o.ExpireNonces()
	got := exchangeDPoP(t, o, prove(t, "POST", endpoint, map[string]any{"nonce": nonce}))
	got.wantError(t, 400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof.")
	next := got.Header.Get("DPoP-Nonce")
	exchangeDPoP(t, o, prove(t, "POST", endpoint, map[string]any{"nonce": next})).wantBound(t)

	resource := callUsers(t, o, token, nil).Header.Get("DPoP-Nonce")
	o.ExpireNonces()
	wantChallenge(t, callUsers(t, o, token, map[string]any{"nonce": resource}), 401, "use_dpop_nonce", wordsRSNonce)
}

// Every third is refused, in a row with nothing refused twice running, and each refusal brings a nonce of its own.
func TestNonceRefusal(t *testing.T) {
	o := newDPoP(t, Config{})
	nonce := nonceOf(t, o)
	o.SetNonceRefusal(3)
	var statuses []int
	for range 9 {
		got := exchangeDPoP(t, o, prove(t, "POST", endpoint, map[string]any{"nonce": nonce}))
		statuses = append(statuses, got.Status)
		if got.Status == 200 {
			continue
		}
		got.wantError(t, 400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof.")
		if next := got.Header.Get("DPoP-Nonce"); next == nonce || next == "" {
			t.Errorf("DPoP-Nonce %q after %q", next, nonce)
		} else {
			nonce = next
		}
	}
	if diff := cmp.Diff([]int{200, 200, 400, 200, 200, 400, 200, 200, 400}, statuses); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
	if n := o.Counters().NonceRefusals[Token]; n != 4 { // with the first, without a nonce
		t.Errorf("%d refusals", n)
	}

	for _, off := range []int{0, 1} {
		o.SetNonceRefusal(off)
		for range 3 {
			exchangeDPoP(t, o, prove(t, "POST", endpoint, map[string]any{"nonce": nonce})).wantBound(t)
		}
	}
}

func TestNonceRefusalAtTheResource(t *testing.T) {
	o := newDPoP(t, Config{})
	token := boundToken(t, o)
	o.SetResourceNonce(true)
	o.SetNonceRefusal(2)
	nonce := callUsers(t, o, token, nil).Header.Get("DPoP-Nonce")
	for i, want := range []int{200, 401, 200, 401, 200} {
		got := callUsers(t, o, token, map[string]any{"nonce": nonce})
		if got.Status != want {
			t.Errorf("call %d: status %d, want %d", i, got.Status, want)
		}
		nonce = got.Header.Get("DPoP-Nonce")
	}
}
