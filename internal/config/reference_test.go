package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the table of settings into the README")

// The README's table of settings is what the struct's comments say.
func TestREADMEHasEverySetting(t *testing.T) {
	const readme, begin, end = "../../README.md", "<!-- settings -->\n", "<!-- end of settings -->\n"
	data, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(data), begin)
	got, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("the README has no part between %q and %q", begin, end)
	}
	want := reference(t)
	if *update {
		if err := os.WriteFile(readme, []byte(before+begin+want+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("go test ./internal/config -run README -update writes it anew:\n%s", diff)
	}
}

// reference makes the table.
func reference(t *testing.T) string {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	comments := map[string]string{} // by Type.Field
	ast.Inspect(file, func(node ast.Node) bool {
		if spec, ok := node.(*ast.TypeSpec); ok {
			if structure, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range structure.Fields.List {
					comments[spec.Name.Name+"."+field.Names[0].Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
				}
			}
		}
		return true
	})

	var table strings.Builder
	table.WriteString("\n| setting | default | |\n|---|---|---|\n")
	var walk func(path string, value reflect.Value)
	walk = func(path string, value reflect.Value) {
		for i := range value.NumField() {
			field, at := value.Type().Field(i), value.Field(i)
			name := field.Tag.Get("yaml")
			if name == "-" {
				continue
			}
			path := join(path, name)
			switch at.Interface().(type) {
			case map[string]Key:
				walk(path+".NAME", reflect.ValueOf(defaultKey()))
				continue
			case map[string]Client:
				walk(path+".NAME", reflect.ValueOf(defaultClient()))
				continue
			case Log, Signing, Rotation:
				walk(path, at)
				continue
			}
			comment := comments[value.Type().Name()+"."+field.Name]
			// A comment begins with the name that the field has in Go.
			text, ok := strings.CutPrefix(comment, field.Name+" ")
			if !ok || !strings.HasSuffix(text, ".") {
				t.Errorf("%s.%s has no comment of its own: %q", value.Type().Name(), field.Name, comment)
			}
			text = strings.TrimPrefix(strings.TrimPrefix(text, "is "), "are ")
			fmt.Fprintf(&table, "| `%s` | %s | %s |\n", path, written(at), strings.ReplaceAll(text, "|", `\|`))
		}
	}
	walk("", reflect.ValueOf(Default()))
	table.WriteString("\n")
	return table.String()
}

// written is a default as the table has it.
func written(value reflect.Value) string {
	text := fmt.Sprint(value.Interface())
	if d, ok := value.Interface().(time.Duration); ok {
		text = duration(d)
	}
	if value.IsZero() && value.Kind() != reflect.Bool && value.Type() != reflect.TypeFor[time.Duration]() {
		return ""
	}
	return "`" + text + "`"
}
