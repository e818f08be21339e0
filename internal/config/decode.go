package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// problem is one thing that is wrong. Its text holds no value that somebody
// configured, except names of keys.
type problem struct {
	path string // as in clients.default.issuer
	line int    // in the file, 0 when it is not there
	text string
}

type problems []problem

func (p *problems) addf(path string, line int, format string, args ...any) {
	*p = append(*p, problem{path, line, fmt.Sprintf(format, args...)})
}

// err puts all problems into one error, a line each.
func (p problems) err(file string) error {
	var lines []string
	slices.SortStableFunc(p, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	for _, problem := range p {
		var where string
		if problem.line > 0 {
			where = fmt.Sprintf("%s:%d: ", file, problem.line)
		} else if problem.path == "" {
			where = file + ": "
		}
		if problem.path != "" {
			where += problem.path + ": "
		}
		lines = append(lines, where+problem.text)
	}
	return errors.New("the configuration is wrong:\n  " + strings.Join(lines, "\n  "))
}

// decoder fills structs from YAML nodes by their yaml tags. The library's own
// decoding stops early, passes duplicate keys in places and repeats wrong
// values in its errors.
type decoder struct {
	problems
	lines map[string]int // by path
}

// decode reads the file into cfg, on top of what is there.
func decode(data []byte, cfg *Config) (problems, map[string]int) {
	d := decoder{lines: map[string]int{}}
	in := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	err := in.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil, nil // an empty file
	}
	if err != nil {
		d.addf("", 0, "it is not valid YAML: %s", firstLine(err))
		return d.problems, d.lines
	}
	if err := in.Decode(&second); !errors.Is(err, io.EOF) {
		d.addf("", second.Line, "there is a second YAML document")
	}
	if len(document.Content) == 1 {
		d.value("", document.Content[0], reflect.ValueOf(cfg).Elem())
	}
	return d.problems, d.lines
}

// firstLine keeps a parser's message short, and leaves out what it quotes.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return regexp.MustCompile(`'[^']*'|"[^"]*"`).ReplaceAllString(strings.TrimPrefix(line, "yaml: "), "...")
}

func (d *decoder) value(path string, node *yaml.Node, into reflect.Value) {
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" {
		return // a name with nothing behind it keeps its default
	}
	if duration, ok := into.Addr().Interface().(*time.Duration); ok {
		d.duration(path, node, duration)
		return
	}
	switch into.Kind() {
	case reflect.Struct:
		d.structure(path, node, into)
	case reflect.Map:
		d.mapping(path, node, into)
	case reflect.Slice:
		d.list(path, node, into)
	case reflect.String:
		// A number or a bool is a string here: a client_id may be all digits.
		if d.is(path, node, yaml.ScalarNode, "a string") {
			into.SetString(node.Value)
		}
	case reflect.Bool:
		if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!bool" {
			d.addf(path, node.Line, "must be true or false")
			return
		}
		into.SetBool(strings.EqualFold(node.Value, "true"))
	default:
		panic("configuration field of kind " + into.Kind().String())
	}
}

func (d *decoder) is(path string, node *yaml.Node, kind yaml.Kind, what string) bool {
	if node.Kind != kind {
		d.addf(path, node.Line, "must be %s", what)
	}
	return node.Kind == kind
}

func (d *decoder) duration(path string, node *yaml.Node, into *time.Duration) {
	parsed, err := time.ParseDuration(node.Value)
	if node.Kind != yaml.ScalarNode || err != nil {
		d.addf(path, node.Line, "must be a duration, such as 90s, 5m or 24h")
		return
	}
	*into = parsed
}

func (d *decoder) list(path string, node *yaml.Node, into reflect.Value) {
	if !d.is(path, node, yaml.SequenceNode, "a list") {
		return
	}
	list := reflect.MakeSlice(into.Type(), len(node.Content), len(node.Content))
	for i, item := range node.Content {
		d.value(fmt.Sprintf("%s[%d]", path, i), item, list.Index(i))
	}
	into.Set(list)
}

func (d *decoder) structure(path string, node *yaml.Node, into reflect.Value) {
	fields := map[string]reflect.Value{}
	for i := range into.NumField() {
		if name := into.Type().Field(i).Tag.Get("yaml"); name != "-" {
			fields[name] = into.Field(i)
		}
	}
	d.entries(path, node, func(name string, line int, value *yaml.Node) {
		field, ok := fields[name]
		if !ok {
			d.addf(join(path, name), line, "unknown name%s", suggestion(name, slices.Sorted(maps.Keys(fields))))
			return
		}
		d.value(join(path, name), value, field)
	})
}

// mapping reads a map of named structs. An entry starts from its defaults.
func (d *decoder) mapping(path string, node *yaml.Node, into reflect.Value) {
	if into.IsNil() {
		into.Set(reflect.MakeMap(into.Type()))
	}
	d.entries(path, node, func(name string, _ int, value *yaml.Node) {
		entry := reflect.New(into.Type().Elem()).Elem()
		switch start := entry.Addr().Interface().(type) {
		case *Key:
			*start = defaultKey()
		case *Client:
			*start = defaultClient()
		}
		d.value(join(path, name), value, entry)
		into.SetMapIndex(reflect.ValueOf(name), entry)
	})
}

// entries walks a mapping node.
func (d *decoder) entries(path string, node *yaml.Node, each func(name string, line int, value *yaml.Node)) {
	if !d.is(path, node, yaml.MappingNode, "a mapping of names to values") {
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		switch {
		case name.Kind != yaml.ScalarNode || !regexp.MustCompile(`^[A-Za-z0-9_./-]{1,64}$`).MatchString(name.Value):
			// It may be a value in the wrong place, and is not repeated.
			d.addf(path, name.Line, "a name must be up to 64 letters, digits, dots, dashes and underscores, with a colon and a space behind it")
		case seen[name.Value]:
			d.addf(join(path, name.Value), name.Line, "stands twice")
		default:
			seen[name.Value] = true
			d.lines[join(path, name.Value)] = name.Line
			each(name.Value, name.Line, value)
		}
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// suggestion names the known name that a mistyped one is closest to.
func suggestion(name string, known []string) string {
	best, least := "", 3 // more than two edits is another word
	for _, candidate := range known {
		if edits := distance(name, candidate); edits < least {
			best, least = candidate, edits
		}
	}
	if best == "" {
		return ": known are " + strings.Join(known, ", ")
	}
	return ": did you mean " + best + "?"
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
