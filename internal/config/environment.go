package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"

	"okta-token-broker/internal/secret"
)

// Prefix begins the variables that set what has no name of the user's in its
// path: Prefix, and the path in capitals with underscores. Lists go by comma.
const Prefix = "OKTA_TOKEN_BROKER_"

// environment is a process's variables, as NAME=value.
type environment []string

// get returns a variable's value. An empty one is as good as none.
func (env environment) get(name string) string {
	for _, variable := range env {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}

// unknown warns of variables with the prefix that mean nothing here.
func (env environment) unknown() (warnings []string) {
	known := append(slices.Sorted(maps.Keys(variables(&Config{}))), FileVariable)
	for _, variable := range env {
		name, _, _ := strings.Cut(variable, "=")
		rest, ours := strings.CutPrefix(name, Prefix)
		// Kubernetes describes a Service of this name so.
		ofService := rest == "PORT" || strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "SERVICE_")
		if ours && !ofService && !slices.Contains(known, name) {
			warnings = append(warnings, fmt.Sprintf("unknown variable %.64q%s", name, suggestion(name, known)))
		}
	}
	slices.Sort(warnings)
	return warnings
}

// setting is a place in a Config, and its path.
type setting struct {
	path  string
	value reflect.Value
}

// variables are the settings that a variable with the prefix can set, by its
// name: those outside maps.
func variables(cfg *Config) map[string]setting {
	found := map[string]setting{}
	var walk func(path string, value reflect.Value)
	walk = func(path string, value reflect.Value) {
		switch value.Kind() {
		case reflect.Map:
		case reflect.Struct:
			for i := range value.NumField() {
				walk(join(path, value.Type().Field(i).Tag.Get("yaml")), value.Field(i))
			}
		default:
			found[Prefix+strings.ToUpper(strings.ReplaceAll(path, ".", "_"))] = setting{path, value}
		}
	}
	walk("", reflect.ValueOf(cfg).Elem())
	return found
}

// ownVariables fills cfg from the variables with the prefix.
func (d *decoder) ownVariables(env environment, cfg *Config) {
	settings := variables(cfg)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value := env.get(name)
		if value == "" {
			continue
		}
		node := &yaml.Node{Kind: yaml.ScalarNode, Value: value}
		if settings[name].value.Kind() == reflect.Slice {
			node = &yaml.Node{Kind: yaml.SequenceNode}
			for item := range strings.SplitSeq(value, ",") {
				node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: strings.TrimSpace(item)})
			}
		}
		d.variable = name
		d.value(settings[name].path, node, settings[name].value)
	}
	d.variable = ""
}

// oktaVariables fills client and key default from the variables of Okta's SDKs.
func (d *decoder) oktaVariables(env environment, cfg *Config) {
	used := false
	use := func(name, path string, set func(value string)) {
		if value := env.get(name); value != "" {
			d.origins[path] = origin{variable: name}
			set(value)
			used = true
		}
	}
	client, configured := cfg.Clients[DefaultClient]
	if !configured {
		client = defaultClient()
	}
	use("OKTA_CLIENT_ORGURL", "clients.default.issuer", func(value string) { client.Issuer = value })
	use("OKTA_CLIENT_CLIENTID", "clients.default.client_id", func(value string) { client.ClientID = value })
	use("OKTA_CLIENT_SCOPES", "clients.default.scopes", func(value string) {
		client.Scopes = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
		if len(client.Scopes) == 0 { // and the server would decide
			d.problems.addf("clients.default.scopes", origin{variable: "OKTA_CLIENT_SCOPES"}, "names no scope")
		}
	})
	if configured || used {
		if cfg.Clients == nil {
			cfg.Clients = map[string]Client{}
		}
		cfg.Clients[DefaultClient] = client
	}

	key := cfg.Keys[DefaultKey]
	use("OKTA_CLIENT_PRIVATEKEYID", "keys.default.kid", func(value string) { key.Kid = value })
	use("OKTA_CLIENT_PRIVATEKEY", "keys.default.file", func(value string) {
		switch {
		case strings.Contains(value, "-----BEGIN"):
			// A variable often carries \n where line ends belong.
			key.PEM = secret.New(strings.ReplaceAll(value, `\n`, "\n"))
		case isFile(value), plausiblePath(value) && filepath.Ext(value) != "" && isFolder(filepath.Dir(value)):
			key.File = value
		default: // a key in another form, which no error may repeat
			d.problems.addf("", origin{variable: "OKTA_CLIENT_PRIVATEKEY"},
				"must be a PEM private key, or the path of one: a file that is there, or a new one with an extension such as .pem; what the variable holds is not shown")
		}
	})
	cfg.Keys[DefaultKey] = key
}

// plausiblePath tells a path from a key that somebody put where a path belongs,
// which no error may repeat: PEM and JWK have other characters, and base64 or
// hexadecimal of some length have no extension. A file that is there is a path.
func plausiblePath(s string) bool {
	if isFile(s) {
		return true
	}
	const base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_= " // folded lines
	return len(s) <= 1024 && !strings.Contains(s, "-----") &&
		!strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == '{' }) &&
		(len(s) < 40 || strings.Trim(s, base64) != "")
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
