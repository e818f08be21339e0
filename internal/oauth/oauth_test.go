package oauth

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewScopes(t *testing.T) {
	tests := []struct {
		name   string
		tokens []string
		want   Scopes
		bad    string
	}{
		{name: "none", want: ""},
		{name: "sorted and unique", tokens: []string{"b", "a", "b"}, want: "a b"},
		{name: "every allowed edge", tokens: []string{"!", "#", "[", "]", "~"}, want: "! # [ ] ~"},
		{name: "empty token", tokens: []string{"a", ""}, bad: "empty"},
		{name: "quote", tokens: []string{`a"b`}, bad: "character"},
		{name: "backslash", tokens: []string{`a\b`}, bad: "character"},
		{name: "space", tokens: []string{"a b"}, bad: "character"},
		{name: "newline", tokens: []string{"a\nb"}, bad: "character"},
		{name: "NUL", tokens: []string{"a\x00"}, bad: "character"},
		{name: "not ASCII", tokens: []string{"käse"}, bad: "character"},
		{name: "too many", tokens: make([]string, maxScopes+1), bad: "more than"},
		{name: "too long", tokens: []string{strings.Repeat("a", maxScopesBytes)}, bad: "over"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := NewScopes(tt.tokens...)
			if tt.bad == "" {
				if err != nil || got != tt.want {
					t.Fatalf("got %q, %v; want %q", got, err, tt.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.bad) {
				t.Fatalf("got %q, error %v; want an error with %q", got, err, tt.bad)
			}
		})
	}
}

func TestParseScopes(t *testing.T) {
	got, err := ParseScopes("  b  a b ")
	if err != nil || got != "a b" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := ParseScopes("a\tb"); err == nil {
		t.Error("a tab passes for a space")
	}
	if _, err := ParseScopes(strings.Repeat(" ", maxScopesBytes+1)); err == nil {
		t.Error("a megabyte of spaces passes")
	}
}

func TestScopesWithin(t *testing.T) {
	tests := []struct {
		s, all  Scopes
		without []string
	}{
		{"", "", nil},
		{"", "a", nil},
		{"a", "a b", nil},
		{"a b", "a b", nil},
		{"a c", "a b", []string{"c"}},
		{"a", "", []string{"a"}},
		{"ab", "a b", []string{"ab"}},
	}
	for _, tt := range tests {
		got := tt.s.Without(tt.all)
		if len(got) == 0 {
			got = nil
		}
		if diff := cmp.Diff(tt.without, got); diff != "" {
			t.Errorf("%q without %q: %s", tt.s, tt.all, diff)
		}
		if got := tt.s.Within(tt.all); got != (tt.without == nil) {
			t.Errorf("%q within %q: %v", tt.s, tt.all, got)
		}
	}
}

func TestTokenEndsByEitherClock(t *testing.T) {
	const hour = time.Hour
	tests := []struct {
		name             string
		wall, mono, want time.Duration
	}{
		{"both good", hour, hour, hour},
		{"suspended: wall ran on", -time.Second, hour, 0},
		{"clock set back: only the monotonic one knows", hour, -time.Second, 0},
		{"the smaller counts", 2 * time.Second, hour, 2 * time.Second},
		{"exactly one second", time.Second, time.Second, time.Second},
		{"under one second", time.Second - 1, hour, 0},
		{"ended", 0, 0, 0},
	}
	for _, tt := range tests {
		if got := left(tt.wall, tt.mono); got != tt.want {
			t.Errorf("%s: left(%v, %v) = %v, want %v", tt.name, tt.wall, tt.mono, got, tt.want)
		}
	}

	now := time.Now()
	token := Token{Expires: now.Add(hour)}
	if got := token.Left(now); got != hour {
		t.Errorf("Left = %v, want an hour", got)
	}
	if got := token.Left(now.Add(hour)); got != 0 {
		t.Errorf("Left at the end = %v, want 0", got)
	}
}

func TestClassOf(t *testing.T) {
	cause := errors.New("connection refused")
	err := fmt.Errorf("getting a token: %w", &Error{Class: Unavailable, Description: "the server is down", Err: cause})
	if got := ClassOf(err); got != Unavailable {
		t.Errorf("ClassOf = %v, want Unavailable", got)
	}
	if got := ClassOf(cause); got != Internal {
		t.Errorf("ClassOf(unclassified) = %v, want Internal", got)
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
	if got := err.Error(); got != "getting a token: the server is down: connection refused" {
		t.Errorf("Error() = %q", got)
	}
}
