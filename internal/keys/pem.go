package keys

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

const (
	// maxRing bounds a ring's file, in bytes.
	maxRing = 64 << 10
	// maxKeys bounds the keys that one ring keeps.
	maxKeys = 8
	// metadataName starts the line of explanatory text (RFC 7468 section 2)
	// that carries what PEM cannot.
	metadataName   = "Okta-Token-Broker"
	metadataPrefix = metadataName + ":"
	beginMark      = "-----BEGIN"
	endMark        = "-----END"
	publicBlock    = "PUBLIC KEY"
)

// parseRing reads a ring, active key first. It is strict: Go's pem.Decode
// skips a damaged block, and skipping the first would let a retired key sign.
// kid names the first key if that one carries no metadata. open gives the signer
// of a public key whose private half is elsewhere; nil: none is.
func parseRing(data []byte, kid string, open opener) ([]*Key, error) {
	if len(data) > maxRing {
		return nil, fmt.Errorf("it is over %d KiB", maxRing>>10)
	}
	sections, tail := splitBlocks(data)
	if bytes.Contains(tail, []byte(metadataName)) {
		return nil, errors.New("a metadata line stands behind the last PEM block: a key is missing")
	}
	if bytes.Count(data, []byte(endMark)) != len(sections) {
		return nil, errors.New("a PEM block is damaged: BEGIN and END lines do not match")
	}
	if len(sections) == 0 {
		return nil, errors.New("it holds no PEM block")
	}

	var ring []*Key
	for _, s := range sections {
		k, err := s.key(len(ring) == 0, kid, open)
		if err != nil {
			return nil, fmt.Errorf("the PEM block at line %d: %w", s.line, err)
		}
		if k == nil {
			continue
		}
		for _, other := range ring {
			if other.thumbprint == k.thumbprint {
				return nil, fmt.Errorf("the PEM block at line %d: the key stands twice", s.line)
			}
		}
		ring = append(ring, k)
	}
	if len(ring) == 0 {
		return nil, errors.New("it holds no private key")
	}
	if len(ring) > maxKeys {
		return nil, fmt.Errorf("it holds %d keys: %d at most", len(ring), maxKeys)
	}
	return ring, nil
}

// opener finds the signer of a public key.
type opener func(crypto.PublicKey) (crypto.Signer, error)

// section is a PEM block with the explanatory text in front of it.
type section struct {
	text  []byte
	block []byte // from its BEGIN line to the text of the next block
	line  int    // of the BEGIN line
}

// splitBlocks cuts the data at its END lines. The tail is the text behind the
// last block.
func splitBlocks(data []byte) (sections []section, tail []byte) {
	text, line := data, 1
	begin := bytes.Index(data, []byte(beginMark))
	for begin >= 0 {
		s := section{text: text[:begin], line: line + bytes.Count(text[:begin], []byte("\n"))}
		rest := text[begin:]
		// The block ends where its END line does; what follows is the next
		// one's text.
		end := len(rest)
		if i := bytes.Index(rest, []byte(endMark)); i >= 0 {
			end = i + len(rest[i:])
			if j := bytes.IndexByte(rest[i:], '\n'); j >= 0 {
				end = i + j + 1
			}
		}
		s.block = rest[:end]
		sections = append(sections, s)
		line = s.line + bytes.Count(s.block, []byte("\n"))
		text = rest[end:]
		begin = bytes.Index(text, []byte(beginMark))
	}
	return sections, text
}

// key reads the section. It returns nil for a block that openssl puts in front
// of an EC key.
func (s section) key(first bool, kid string, open opener) (*Key, error) {
	meta, err := readMetadata(s.text)
	if err != nil {
		return nil, err
	}
	if bytes.Count(s.block, []byte(beginMark)) != 1 {
		return nil, errors.New("the block is damaged")
	}
	block, rest := pem.Decode(s.block)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("the block is damaged")
	}
	switch {
	case block.Type == "EC PARAMETERS" && meta == nil:
		return nil, nil
	case block.Type == "ENCRYPTED PRIVATE KEY", block.Headers["DEK-Info"] != "", block.Headers["Proc-Type"] != "":
		return nil, errors.New("the key is encrypted: decrypt it with openssl pkey -in OLD -out NEW")
	}
	signer, err := parseSigner(block.Type, block.Bytes, open)
	if err != nil {
		return nil, err
	}

	if meta == nil {
		return plainKey(signer, first, kid)
	}
	k, err := newKey(signer, meta.alg, meta.kid)
	if err != nil {
		return nil, err
	}
	if meta.thumbprint != k.thumbprint {
		return nil, errors.New("the metadata line describes another key: its thumbprint does not match")
	}
	if first != (meta.state == Active) {
		return nil, fmt.Errorf("state %q does not fit the position: the first key, and no other, is active", meta.state)
	}
	k.state, k.created, k.activated, k.proven = meta.state, meta.created, meta.activated, meta.proven
	return k, nil
}

// parseSigner reads the DER of a PEM block by its type.
func parseSigner(blockType string, der []byte, open opener) (crypto.Signer, error) {
	var private any
	var err error
	switch blockType {
	case "PRIVATE KEY":
		private, err = x509.ParsePKCS8PrivateKey(der)
	case "RSA PRIVATE KEY":
		private, err = x509.ParsePKCS1PrivateKey(der)
	case "EC PRIVATE KEY":
		private, err = x509.ParseECPrivateKey(der)
	case publicBlock:
		if open == nil {
			return nil, errors.New("it is a public key: the private one is needed")
		}
		public, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return nil, err
		}
		return open(public)
	default:
		return nil, fmt.Errorf("a block of type %q is not a private key", blockType)
	}
	if err != nil {
		return nil, err
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil, errors.New("neither an RSA nor an EC key: Okta takes no other for private_key_jwt")
	}
	return signer, nil
}

// plainKey takes a block without metadata, as openssl or the Flask server
// wrote it.
func plainKey(signer crypto.Signer, first bool, kid string) (*Key, error) {
	if !first {
		kid = ""
	}
	k, err := newKey(signer, "", kid)
	if err != nil {
		return nil, err
	}
	k.state = Retired
	if first {
		k.state = Active
	}
	return k, nil
}

type metadata struct {
	state                      State
	kid, thumbprint, alg       string
	created, activated, proven time.Time
}

// readMetadata finds the metadata line in explanatory text; nil when there is
// none.
func readMetadata(text []byte) (*metadata, error) {
	var meta *metadata
	for line := range strings.Lines(string(text)) {
		fields, found := strings.CutPrefix(strings.TrimSpace(line), metadataPrefix)
		if !found && strings.Contains(line, metadataName) {
			return nil, errors.New("its metadata line is damaged")
		}
		if !found {
			continue
		}
		if meta != nil {
			return nil, errors.New("two metadata lines stand before it")
		}
		meta = &metadata{}
		if err := meta.read(fields); err != nil {
			return nil, fmt.Errorf("its metadata line: %w", err)
		}
	}
	return meta, nil
}

func (m *metadata) read(line string) error {
	seen := map[string]bool{}
	for _, field := range strings.Fields(line) {
		name, value, _ := strings.Cut(field, "=")
		if seen[name] {
			return fmt.Errorf("%q stands twice", name)
		}
		seen[name] = true
		var err error
		switch name {
		case "state":
			m.state = State(value)
		case "kid":
			m.kid, err = url.QueryUnescape(value)
		case "thumbprint":
			m.thumbprint = value
		case "alg":
			m.alg = value
		case "created":
			m.created, err = readTime(value)
		case "activated":
			m.activated, err = readTime(value)
		case "proven":
			m.proven, err = readTime(value)
		default:
			return fmt.Errorf("unknown field %q", name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for name, value := range map[string]string{"state": string(m.state), "kid": m.kid, "thumbprint": m.thumbprint, "alg": m.alg} {
		if !seen[name] {
			return fmt.Errorf("%s is missing", name)
		}
		if value == "" {
			return fmt.Errorf("%s is empty", name)
		}
	}
	switch m.state {
	case Next, Active, Retired:
		return nil
	}
	return fmt.Errorf("unknown state %q", m.state)
}

func readTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, err
	}
	t = t.UTC()
	if t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, errors.New("the year is not within 1 to 9999")
	}
	return t.Truncate(time.Second), nil
}

func writeTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// escapeKid keeps a kid in one field of its line. No caller's kid may look like
// the mark of a PEM block.
func escapeKid(kid string) string {
	return strings.ReplaceAll(url.QueryEscape(kid), "--", "%2D%2D")
}

// formatRing writes what parseRing reads, and makes sure of it: a ring that
// could not be read again would be a lost one.
func formatRing(ring []*Key) ([]byte, error) {
	var out bytes.Buffer
	for _, k := range ring {
		blockType, der, err := k.der()
		if err != nil {
			return nil, fmt.Errorf("encoding key %q: %w", k.kid, err)
		}
		fmt.Fprintf(&out, "%s state=%s kid=%s thumbprint=%s alg=%s created=%s activated=%s proven=%s\n",
			metadataPrefix, k.state, escapeKid(k.kid), k.thumbprint, k.Algorithm(),
			writeTime(k.created), writeTime(k.activated), writeTime(k.proven))
		if err := pem.Encode(&out, &pem.Block{Type: blockType, Bytes: der}); err != nil {
			return nil, fmt.Errorf("encoding key %q: %w", k.kid, err)
		}
	}
	inHand := func(public crypto.PublicKey) (crypto.Signer, error) {
		for _, k := range ring {
			if same, ok := k.signer.Public().(interface{ Equal(crypto.PublicKey) bool }); ok && same.Equal(public) {
				return k.signer, nil
			}
		}
		return nil, errors.New("another public key than was written")
	}
	if _, err := parseRing(out.Bytes(), "", inHand); err != nil {
		return nil, fmt.Errorf("the ring could not be read again: %w", err)
	}
	return out.Bytes(), nil
}

// der returns what is stored of the key: its private half, unless that is
// elsewhere.
func (k *Key) der() (blockType string, der []byte, err error) {
	if _, elsewhere := k.signer.(*held); elsewhere {
		der, err = x509.MarshalPKIXPublicKey(k.signer.Public())
		return publicBlock, der, err
	}
	der, err = x509.MarshalPKCS8PrivateKey(k.signer)
	return "PRIVATE KEY", der, err
}
