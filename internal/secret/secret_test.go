package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

const hidden = "s3cr3t-value"

func TestNothingPrintsTheValue(t *testing.T) {
	text := New(hidden)
	nested := struct {
		Text  Text
		Ptr   *Text
		Slice []Text
		Map   map[string]Text
	}{text, &text, []Text{text}, map[string]Text{"k": text}}

	printed := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T", "%10s", "%w"} {
		printed["text "+verb] = fmt.Sprintf(verb, text)
		printed["nested "+verb] = fmt.Sprintf(verb, nested)
		printed["pointer "+verb] = fmt.Sprintf(verb, &nested)
	}
	printed["error"] = errors.Join(fmt.Errorf("exchanging %v", text)).Error()
	for name, marshal := range map[string]func(any) ([]byte, error){"json": json.Marshal, "yaml": yaml.Marshal} {
		out, err := marshal(nested)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Contains(out, []byte(redacted)) {
			t.Errorf("%s does not say that it redacted: %s", name, out)
		}
		printed[name] = string(out)
	}
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"slog json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var buf bytes.Buffer
		slog.New(handler(&buf)).Info("x", "text", text, "nested", nested, slog.Group("g", "t", &text))
		printed[name] = buf.String()
	}

	for how, out := range printed {
		if strings.Contains(out, hidden) || strings.Contains(out, fmt.Sprintf("%x", hidden)) {
			t.Errorf("%s prints the secret: %s", how, out)
		}
	}
}

func TestReveal(t *testing.T) {
	if got := New(hidden).Reveal(); got != hidden {
		t.Errorf("Reveal() = %q, want %q", got, hidden)
	}
	var zero Text
	if zero.Reveal() != "" || !zero.IsZero() || New(hidden).IsZero() {
		t.Error("the zero Text is not empty, or a full one is")
	}
}
