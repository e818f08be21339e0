package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"okta-token-broker/internal/secret"
)

const (
	// FileVariable names the file where --config does not.
	FileVariable = "OKTA_TOKEN_BROKER_CONFIG"
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
	// Getenv looks up an environment variable.
	Getenv func(string) string
}

// Load reads and checks the configuration. The error lists everything that is
// wrong, a line each, and never the value of a secret.
func Load(src Source) (Config, error) {
	cfg := Default()
	path, data, err := src.read()
	if err != nil {
		return Config{}, err
	}
	found, lines := decode(data, &cfg)
	found = append(found, fromEnvironment(&cfg, src.Getenv)...)
	found = append(found, check(cfg, lines)...)
	if len(found) > 0 {
		return Config{}, found.err(path)
	}
	return cfg, nil
}

// read finds the file, if there is one.
func (src Source) read() (path string, data []byte, err error) {
	path = src.File
	if path == "" {
		path = src.Getenv(FileVariable)
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
	if info.Size() > maxFile {
		return "", nil, fmt.Errorf("reading the configuration: %s is over 1 MiB", path)
	}
	if data, err = os.ReadFile(path); err != nil {
		return "", nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return path, data, nil
}

// fromEnvironment fills client and key default from the variables of Okta's
// SDKs.
func fromEnvironment(cfg *Config, getenv func(string) string) (found problems) {
	orgURL, clientID, scopes := getenv("OKTA_CLIENT_ORGURL"), getenv("OKTA_CLIENT_CLIENTID"), getenv("OKTA_CLIENT_SCOPES")
	if orgURL != "" || clientID != "" || scopes != "" {
		client, ok := cfg.Clients[DefaultClient]
		if !ok {
			client = defaultClient()
		}
		if orgURL != "" {
			client.Issuer = strings.TrimRight(orgURL, "/")
		}
		if clientID != "" {
			client.ClientID = clientID
		}
		if scopes != "" {
			client.Scopes = strings.FieldsFunc(scopes, func(r rune) bool { return r == ',' || r == ' ' })
		}
		if cfg.Clients == nil {
			cfg.Clients = map[string]Client{}
		}
		cfg.Clients[DefaultClient] = client
	}

	private, kid := getenv("OKTA_CLIENT_PRIVATEKEY"), getenv("OKTA_CLIENT_PRIVATEKEYID")
	if private == "" && kid == "" {
		return nil
	}
	key, ok := cfg.Keys[DefaultKey]
	if !ok {
		key = defaultKey()
	}
	if kid != "" {
		key.Kid = kid
	}
	switch {
	case strings.Contains(private, "-----BEGIN"):
		// A variable often carries \n where line ends belong.
		key.PEM = secret.New(strings.ReplaceAll(private, `\n`, "\n"))
	case private == "":
	case isFile(private), plausiblePath(private) && filepath.Ext(private) != "" && isFolder(filepath.Dir(private)):
		key.File = private
	default: // a key in another form, which no error may repeat
		found.addf("OKTA_CLIENT_PRIVATEKEY", 0, "must be a PEM private key, or the path of one: a file that is there, or a new one with an extension such as .pem; what the variable holds is not shown")
	}
	if cfg.Keys == nil {
		cfg.Keys = map[string]Key{}
	}
	cfg.Keys[DefaultKey] = key
	return found
}

// plausiblePath tells a path from a key that somebody put where a path belongs,
// which no error may repeat: PEM and JWK have other characters, and base64 or
// hexadecimal of some length have no extension. A file that is there is a path.
func plausiblePath(s string) bool {
	if isFile(s) {
		return true
	}
	const base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="
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
