package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxMessage bounds every JSON body of the native protocol, in bytes. The largest honest one
// holds an RSA EK certificate and its intermediates: about 12 KiB.
const MaxMessage = 64 << 10

// maxDepth bounds the nesting of a message; ours nest four deep.
const maxDepth = 16

// ErrTooLarge is returned by Decode for a body over its limit.
var ErrTooLarge = errors.New("message too large")

// Decode reads one JSON value from r into v and accepts nothing that two parsers could understand
// differently: no unknown, duplicate or differently-cased keys, no trailing bytes, no deep
// nesting, and at most limit bytes (else ErrTooLarge).
func Decode(r io.Reader, limit int64, v any) error {
	body := bytes.NewBuffer(make([]byte, 0, min(limit, 4<<10)+bytes.MinRead))
	if _, err := body.ReadFrom(io.LimitReader(r, limit+1)); err != nil {
		return err
	}
	if int64(body.Len()) > limit {
		return ErrTooLarge
	}
	return DecodeBytes(body.Bytes(), v)
}

// DecodeBytes is Decode for bytes whose size is already bounded.
func DecodeBytes(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return unexpected(err)
	}
	value, rest := body[:d.InputOffset()], body[d.InputOffset():]
	if len(bytes.Trim(rest, blanks)) > 0 {
		return errors.New("trailing bytes after the JSON value")
	}
	if string(bytes.TrimLeft(value, blanks)) == "null" { // encoding/json leaves v as it is
		return errors.New("not the expected JSON: null")
	}
	return checkKeys(value)
}

// blanks may stand between the parts of a JSON text.
const blanks = " \t\r\n"

// unexpected rewords an error of encoding/json for the sender, who may not know Go.
func unexpected(err error) error {
	var kind *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("there is no JSON value")
	case errors.As(err, &kind) && kind.Field != "":
		return fmt.Errorf("not the expected JSON: %s is a %s", kind.Field, kind.Value)
	case errors.As(err, &kind):
		return fmt.Errorf("not the expected JSON: %s", kind.Value)
	}
	text := strings.Replace(strings.TrimPrefix(err.Error(), "json: "), "unknown field", "unknown key", 1)
	return errors.New("not the expected JSON: " + text)
}

// keyLetters are the letters of keys. encoding/json folds case as Unicode does, where non-ASCII
// letters fold to ASCII ones: U+017F to s.
const keyLetters = "abcdefghijklmnopqrstuvwxyz0123456789_"

// checkKeys walks one valid JSON value. encoding/json keeps the last of two equal keys and
// matches keys whatever their case, so a proxy or a log could read another message than we do.
// Keys must be written without escapes.
func checkKeys(value []byte) error {
	var open []map[string]bool // the keys of each open object; nil for an array
	key := false               // the next string is a key
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '{':
			open, key = append(open, map[string]bool{}), true
		case '[':
			open, key = append(open, nil), false
		case '}', ']':
			open = open[:len(open)-1]
		case ',':
			key = open[len(open)-1] != nil
		case ':':
			key = false
		case '"':
			text := quoted(value[i+1:])
			i += 1 + len(text)
			if !key {
				continue
			}
			name := string(text)
			if strings.Trim(name, keyLetters) != "" {
				return fmt.Errorf("key %q is not lower case", name)
			}
			if open[len(open)-1][name] {
				return fmt.Errorf("key %q appears twice", name)
			}
			open[len(open)-1][name] = true
		}
		if len(open) > maxDepth {
			return errors.New("nested too deeply")
		}
	}
	return nil
}

// quoted is the part of s before the quotation mark that ends the string.
func quoted(s []byte) []byte {
	end := bytes.IndexByte(s, '"')
	escape := bytes.IndexByte(s[:end], '\\')
	if escape < 0 {
		return s[:end] // the usual case: base64
	}
	for end = escape; s[end] != '"'; end++ {
		if s[end] == '\\' {
			end++
		}
	}
	return s[:end]
}

// Bytes is base64 in JSON, parsed strictly: encoding/json itself ignores line breaks and the
// unused bits of the last character, and accepts an array of numbers, so that one proof could be
// sent in many spellings. Servers read all bytes as Bytes.
type Bytes []byte

var errBytes = errors.New("bytes are base64 with padding (RFC 4648 §4)")

// UnmarshalJSON reads padded standard base64 and nothing else.
func (b *Bytes) UnmarshalJSON(text []byte) error {
	// The text is one valid JSON value. Base64 needs no escapes, and the decoder refuses them, so
	// the string is what is between the quotes.
	if text[0] != '"' {
		return errBytes
	}
	quoted := text[1 : len(text)-1]
	raw := make([]byte, base64.StdEncoding.DecodedLen(len(quoted)))
	n, err := base64.StdEncoding.Strict().Decode(raw, quoted)
	if err != nil {
		return fmt.Errorf("%w: %w", errBytes, err)
	}
	*b = raw[:n]
	return nil
}

// Chain is certificates (DER), each read as Bytes.
type Chain [][]byte

// UnmarshalJSON reads a list of Bytes.
func (c *Chain) UnmarshalJSON(text []byte) error {
	var each []Bytes
	if err := json.Unmarshal(text, &each); err != nil {
		return err
	}
	*c = make(Chain, len(each))
	for i := range each {
		(*c)[i] = each[i]
	}
	return nil
}
