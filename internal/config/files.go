package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// notAKeyFile says why a path cannot be that of a key file, whatever is there. Empty:
// it can be.
func notAKeyFile(path string) string {
	switch {
	case !plausiblePath(path):
		return "must be the path of a PEM file, not a key"
	case strings.TrimSpace(path) == "" || slices.Contains([]string{"", ".", ".."}, path[strings.LastIndexByte(path, '/')+1:]):
		return "must be the path of a file, not of a folder"
	}
	return ""
}

// keyFiles checks that each ring and each DPoP key has a file of its own. A ring's key
// would be published and rotated as well, and one of two clients would bind the tokens
// of both.
func (c *checker) keyFiles(cfg Config) {
	taken := keyFiles{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Keys)) {
		if key := cfg.Keys[name]; key.PEM.IsZero() {
			c.keyFile(taken, "keys."+name+".file", key.File, "two rings cannot share one")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Clients)) {
		c.keyFile(taken, "clients."+name+".dpop_key_file", cfg.Clients[name].DPoPKeyFile, "a DPoP key is of one client, and signs nothing else")
	}
}

func (c *checker) keyFile(taken keyFiles, setting, path, why string) {
	if path == "" || notAKeyFile(path) != "" {
		return
	}
	switch other, beside := taken.add(setting, place(path)); {
	case beside:
		c.addf(setting, "is taken: of this file and that of %s one is the other's lock or unfinished copy (.lock, .tmp)", other)
	case other != "":
		c.addf(setting, "is the file of %s, too: %s", other, why)
	}
}

// keyFiles are the files of keys so far, and those that the broker itself keeps beside
// them, each with its setting.
type keyFiles map[string]keyFile

type keyFile struct {
	setting string
	beside  bool
}

// add takes one more. It returns the setting that has the file already, and whether
// one of both is just beside the other's. Empty: none has.
func (f keyFiles) add(setting, path string) (other string, beside bool) {
	if have, taken := f[path]; taken {
		return have.setting, have.beside
	}
	endings := []string{".tmp", ".lock"} // what package keys writes there
	for _, ending := range endings {
		if have, taken := f[path+ending]; taken {
			return have.setting, true
		}
	}
	f[path] = keyFile{setting: setting}
	for _, ending := range endings {
		f[path+ending] = keyFile{setting, true}
	}
	return "", false
}

// place returns where a path leads: the same for all spellings of one file, through
// links and without. What is not there is taken as it is spelled.
func place(path string) string {
	if !filepath.IsAbs(path) {
		folder, err := os.Getwd()
		if err != nil {
			return path
		}
		path = folder + "/" + path // not cleaned: behind a link, .. is elsewhere
	}
	if there, err := filepath.EvalSymlinks(path); err == nil {
		return there
	}
	switch folder, name := filepath.Split(strings.TrimRight(path, "/")); name {
	case "":
		return path
	case "..":
		return place(filepath.Clean(path))
	default:
		return filepath.Join(place(folder), name)
	}
}
