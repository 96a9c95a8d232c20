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

// MaxMessage bounds every JSON body of the native protocol, in bytes. The largest
// honest one carries an RSA EK certificate and its intermediates: about 12 KiB.
const MaxMessage = 64 << 10

// maxDepth bounds the nesting of a message; ours nest four deep.
const maxDepth = 16

// ErrTooLarge is returned by Decode for a body over its limit.
var ErrTooLarge = errors.New("message too large")

// Decode reads one JSON value from r into v and accepts nothing that two readers
// could understand differently: no unknown, duplicate or differently-cased keys, no
// trailing bytes, no deep nesting, at most limit bytes (ErrTooLarge beyond it).
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
		return fmt.Errorf("not the expected JSON: %w", err)
	}
	value, rest := body[:d.InputOffset()], body[d.InputOffset():]
	if len(bytes.Trim(rest, " \t\r\n")) > 0 {
		return errors.New("trailing bytes after the JSON value")
	}
	return checkKeys(value)
}

// keyLetters are those of our keys. encoding/json folds as Unicode does, where lower-case
// letters beyond ASCII fold to ours: U+017F to s.
const keyLetters = "abcdefghijklmnopqrstuvwxyz0123456789_"

// checkKeys walks one JSON value, which must be valid: encoding/json has read it, but
// keeps the last of two equal keys and matches keys whatever their case, so a proxy or a
// log could have read another message than we did. A key is spelled plainly, without escapes.
func checkKeys(value []byte) error {
	var open []map[string]bool // the keys of each open object; nil for an array
	key := false               // a string that comes now is a key
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

// quoted is what stands before the quotation mark that ends a string.
func quoted(s []byte) []byte {
	end := bytes.IndexByte(s, '"')
	escape := bytes.IndexByte(s[:end], '\\')
	if escape < 0 {
		return s[:end] // base64, nearly always
	}
	for end = escape; s[end] != '"'; end++ {
		if s[end] == '\\' {
			end++
		}
	}
	return s[:end]
}

// Bytes is base64 in JSON, read strictly: encoding/json's own reading ignores line
// breaks and the unused bits of the last character, so that one proof could be sent in
// many spellings. It is for what stands outside a signed message.
type Bytes []byte

// UnmarshalJSON reads padded standard base64 and nothing else.
func (b *Bytes) UnmarshalJSON(text []byte) error {
	// The text is one valid JSON value. Base64 needs no escapes, and without them, which
	// the decoder refuses, a string is what stands between its quotes.
	if text[0] != '"' {
		return errors.New("base64 is a string")
	}
	quoted := text[1 : len(text)-1]
	raw := make([]byte, base64.StdEncoding.DecodedLen(len(quoted)))
	n, err := base64.StdEncoding.Strict().Decode(raw, quoted)
	if err != nil {
		return err
	}
	*b = raw[:n]
	return nil
}
