package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
)

const (
	// FileVariable names the file where --config does not.
	FileVariable = Prefix + "CONFIG"
	// DefaultFile is read where nothing names a file and it is there.
	DefaultFile = "okta-token-broker.yaml"
	// maxFile bounds the file, in bytes.
	maxFile = 1 << 20
)

// Source says where to read the configuration.
type Source struct {
	// File is the path that the command line gives. Empty: FileVariable, else
	// DefaultFile if there, else no file.
	File string
	// Environ is the environment, as os.Environ returns it.
	Environ []string
}

// Loaded is a configuration and where it came from.
type Loaded struct {
	Config
	// File is the file that was read. Empty: none.
	File string
	// Text is what the file held.
	Text []byte
	// Warnings are about what was ignored, and about what may not work as it is meant,
	// a sentence each.
	Warnings []string

	origins map[string]origin
}

// Load reads and checks the configuration. The error lists everything that is
// wrong, a line each, and never the value of a secret.
func Load(src Source) (*Loaded, error) {
	env := environment(src.Environ)
	file, data, err := src.read(env)
	if err != nil {
		return nil, err
	}
	cfg := Default()
	d := newDecoder()
	d.file(data, &cfg)
	d.ownVariables(env, &cfg)
	d.oktaVariables(env, &cfg)
	for name, client := range cfg.Clients {
		client.Issuer = normalIssuer(client)
		for resource, base := range client.Resources {
			client.Resources[resource] = normalBase(base)
		}
		cfg.Clients[name] = client
	}
	wrong, doubtful := check(cfg, d.origins)
	if wrong = append(d.problems, wrong...); len(wrong) > 0 {
		return nil, wrong.err(file)
	}
	warnings := append(env.unknown(), doubtful.lines(file)...)
	return &Loaded{Config: cfg, File: file, Text: data, Warnings: warnings, origins: d.origins}, nil
}

// normalIssuer writes the issuer of an Okta server as Okta does, since endpoints
// and audiences are derived from it and compared byte by byte. Other servers'
// issuers stay as they are.
func normalIssuer(client Client) string {
	if client.TokenEndpoint != "" {
		return client.Issuer
	}
	return normalURL(client.Issuer, strings.TrimRight(client.Issuer, "/"))
}

// normalBase writes the base URL of a resource so that others can be compared with
// it byte by byte.
func normalBase(base string) string { return normalURL(base, strings.TrimSuffix(base, "/")) }

// normalURL writes a URL with its host in lower case, and without the port that its
// scheme has anyway. What is no URL stays as it was, and so does one with a fragment,
// also an empty one, which would not be seen any more.
func normalURL(was, trimmed string) string {
	u, err := url.Parse(trimmed)
	if err != nil || strings.Contains(was, "#") {
		return was
	}
	u.Host = strings.ToLower(u.Host)
	usual := map[string]string{"https": ":443", "http": ":80"}
	u.Host = strings.TrimSuffix(u.Host, usual[u.Scheme])
	return u.String()
}

// read finds the file, if there is one.
func (src Source) read(env environment) (path string, data []byte, err error) {
	path = src.File
	if path == "" {
		path = env.get(FileVariable)
	}
	named := path != ""
	if !named {
		path = DefaultFile
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", nil, fmt.Errorf("reading the configuration: %s is not a file", path)
	}
	if info.Size() > maxFile {
		return "", nil, fmt.Errorf("reading the configuration: %s is over 1 MiB", path)
	}
	if data, err = os.ReadFile(path); err != nil {
		return "", nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return path, data, nil
}
