package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Setting is one value in force. A key that came in the environment is redacted.
type Setting struct {
	// Path is where it stands, as in clients.default.issuer.
	Path string `json:"setting"`
	// Value is a string, a bool, a number or a list of strings; durations are strings.
	Value any `json:"value"`
	// Source is FILE:LINE, the name of a variable, or default.
	Source string `json:"source"`
}

// Settings returns every value in force, in the order of Config.
func (l *Loaded) Settings() []Setting {
	s := shower{loaded: l}
	s.value("", reflect.ValueOf(l.Config))
	return s.settings
}

// YAML returns the values in force as a configuration file, each with its source
// as a comment.
func (l *Loaded) YAML() ([]byte, error) {
	s := shower{loaded: l}
	text, err := yaml.Dump(s.value("", reflect.ValueOf(l.Config)), yaml.WithIndent(2))
	if err != nil {
		return nil, fmt.Errorf("writing the configuration as YAML: %w", err)
	}
	return text, nil
}

// shower walks a Config.
type shower struct {
	loaded   *Loaded
	settings []Setting
}

func (s *shower) value(path string, value reflect.Value) *yaml.Node {
	switch v := value.Interface().(type) {
	case Key:
		if !v.PEM.IsZero() {
			v.File = fmt.Sprint(v.PEM)
		}
		return s.fields(path, reflect.ValueOf(v))
	case time.Duration:
		return s.leaf(path, duration(v))
	}
	switch value.Kind() {
	case reflect.Struct:
		return s.fields(path, value)
	case reflect.Map:
		return s.entries(path, value)
	}
	return s.leaf(path, value.Interface())
}

func (s *shower) fields(path string, value reflect.Value) *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode}
	for i := range value.NumField() {
		if name := value.Type().Field(i).Tag.Get("yaml"); name != "-" {
			node.Content = append(node.Content, scalar(name), s.value(join(path, name), value.Field(i)))
		}
	}
	return node
}

func (s *shower) entries(path string, value reflect.Value) *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode}
	names := value.MapKeys()
	slices.SortFunc(names, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
	for _, name := range names {
		node.Content = append(node.Content, scalar(name.String()), s.value(join(path, name.String()), value.MapIndex(name)))
	}
	return node
}

func scalar(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
}

func (s *shower) leaf(path string, value any) *yaml.Node {
	source := s.loaded.source(path)
	if list, ok := value.([]string); ok && list == nil {
		value = []string{}
	}
	s.settings = append(s.settings, Setting{path, value, source})
	node := &yaml.Node{}
	if err := node.Encode(value); err != nil {
		panic("a setting that YAML cannot hold: " + err.Error()) // strings, bools and lists of strings can all be
	}
	if node.Kind == yaml.SequenceNode {
		node.Style = yaml.FlowStyle
	}
	node.LineComment = source
	return node
}

// duration writes 24h where time.Duration writes 24h0m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// source says where the value at a path came from.
func (l *Loaded) source(path string) string {
	switch from := l.origins[path]; {
	case from.variable != "":
		return from.variable
	case from.line > 0:
		return fmt.Sprintf("%s:%d", l.File, from.line)
	}
	return "default"
}
