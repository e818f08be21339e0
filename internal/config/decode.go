package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// decoder fills structs from YAML nodes by their yaml tags. The library's own
// decoding stops early, passes duplicate keys in places and repeats wrong
// values in its errors.
type decoder struct {
	problems
	names    namePattern
	listens  namePattern       // of listeners
	origins  map[string]origin // by path
	variable string            // that is being read; empty: the file is
}

// namePattern is what a name can be, and how to say so. Any other may be a value in
// the wrong place, and is not repeated.
type namePattern struct {
	regexp *regexp.Regexp
	words  string
}

func newDecoder() *decoder {
	return &decoder{
		names: namePattern{
			regexp.MustCompile(`^[A-Za-z0-9_./-]{1,64}$`),
			"a name must be up to 64 letters, digits, dots, dashes and underscores, with a colon and a space behind it",
		},
		listens: namePattern{
			regexp.MustCompile(`^(unix:/[A-Za-z0-9_./-]{1,128}|[A-Za-z0-9.-]{0,64}:[0-9]{1,5}|\[[0-9a-fA-F:.]{2,45}\]:[0-9]{1,5})$`),
			"an address must be host:port or unix:/path, with a colon and a space behind it, and in quotes where it has brackets",
		},
		origins: map[string]origin{},
	}
}

// file reads the file into cfg, on top of what is there.
func (d *decoder) file(data []byte, cfg *Config) {
	in := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	err := in.Decode(&document)
	if errors.Is(err, io.EOF) {
		return // it is empty
	}
	if err != nil {
		d.problems.addf("", origin{}, "it is not valid YAML: %s", firstLine(err))
		return
	}
	if err := in.Decode(&second); !errors.Is(err, io.EOF) {
		d.addf("", &second, "there is a second YAML document")
	}
	if len(document.Content) == 1 {
		d.value("", document.Content[0], reflect.ValueOf(cfg).Elem())
	}
}

func (d *decoder) origin(node *yaml.Node) origin {
	if d.variable != "" {
		return origin{variable: d.variable}
	}
	return origin{line: node.Line}
}

func (d *decoder) addf(path string, node *yaml.Node, format string, args ...any) {
	d.problems.addf(path, d.origin(node), format, args...)
}

// firstLine keeps a parser's message short, and leaves out what it quotes.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return regexp.MustCompile(`'[^']*'|"[^"]*"`).ReplaceAllString(strings.TrimPrefix(line, "yaml: "), "...")
}

func (d *decoder) value(path string, node *yaml.Node, into reflect.Value) {
	switch {
	case len(d.problems) > maxProblems:
		return
	case node.Kind == yaml.AliasNode || node.Anchor != "":
		d.addf(path, node, "anchors and aliases are not supported: write the value out")
		return
	case node.Style&yaml.TaggedStyle != 0:
		d.addf(path, node, "tags are not supported: write the value alone")
		return
	}
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" {
		delete(d.origins, path)
		return // a name with nothing behind it keeps its default
	}
	if _, named := d.origins[path]; !named || d.variable != "" {
		d.origins[path] = d.origin(node)
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
			d.addf(path, node, "must be true or false")
			return
		}
		into.SetBool(strings.EqualFold(node.Value, "true"))
	case reflect.Int:
		number, err := strconv.Atoi(node.Value)
		if node.Kind != yaml.ScalarNode || err != nil {
			d.addf(path, node, "must be a whole number")
			return
		}
		into.SetInt(int64(number))
	default:
		panic("configuration field of kind " + into.Kind().String())
	}
}

func (d *decoder) is(path string, node *yaml.Node, kind yaml.Kind, what string) bool {
	if node.Kind != kind {
		d.addf(path, node, "must be %s", what)
	}
	return node.Kind == kind
}

func (d *decoder) duration(path string, node *yaml.Node, into *time.Duration) {
	parsed, err := time.ParseDuration(node.Value)
	if node.Kind != yaml.ScalarNode || err != nil {
		d.addf(path, node, "must be a duration, such as 90s, 5m or 24h")
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
	d.entries(path, node, d.names, func(name, value *yaml.Node) {
		path := join(path, name.Value)
		if field, ok := fields[name.Value]; ok {
			d.value(path, value, field)
			return
		}
		d.addf(path, name, "unknown name%s", suggestion(name.Value, slices.Sorted(maps.Keys(fields))))
	})
}

// mapping reads a map by names of the user's. An entry starts from its defaults.
func (d *decoder) mapping(path string, node *yaml.Node, into reflect.Value) {
	if into.IsNil() {
		into.Set(reflect.MakeMap(into.Type()))
	}
	names := d.names
	if path == "proxy_listen" {
		names = d.listens
	}
	d.entries(path, node, names, func(name, value *yaml.Node) {
		entry := reflect.New(into.Type().Elem()).Elem()
		switch start := entry.Addr().Interface().(type) {
		case *Key:
			*start = defaultKey()
		case *Client:
			*start = defaultClient()
		}
		d.value(join(path, name.Value), value, entry)
		into.SetMapIndex(reflect.ValueOf(name.Value), entry)
	})
}

// entries walks a mapping node.
func (d *decoder) entries(path string, node *yaml.Node, names namePattern, each func(name, value *yaml.Node)) {
	if !d.is(path, node, yaml.MappingNode, "a mapping of names to values") {
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content) && len(d.problems) <= maxProblems; i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		switch {
		case name.Value == "<<" || name.Kind == yaml.AliasNode:
			d.addf(path, name, "anchors and aliases are not supported: write the values out")
		case name.Kind != yaml.ScalarNode || !names.regexp.MatchString(name.Value):
			d.addf(path, name, "%s", names.words)
		case seen[name.Value]:
			d.addf(join(path, name.Value), name, "stands twice")
		default:
			seen[name.Value] = true
			d.origins[join(path, name.Value)] = d.origin(name)
			each(name, value)
		}
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
