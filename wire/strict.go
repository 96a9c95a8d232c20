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
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return err
	}
	if int64(len(body)) > limit {
		return ErrTooLarge
	}
	return DecodeBytes(body, v)
}

// DecodeBytes is Decode for bytes whose size is already bounded.
func DecodeBytes(body []byte, v any) error {
	if err := checkKeys(body); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("not the expected JSON: %w", err)
	}
	return nil
}

// keyLetters are those of our keys. encoding/json folds as Unicode does, where lower-case
// letters beyond ASCII fold to ours: U+017F to s.
const keyLetters = "abcdefghijklmnopqrstuvwxyz0123456789_"

// checkKeys walks the tokens once: encoding/json keeps the last of two equal keys
// and matches keys whatever their case, so a proxy or a log could have read another
// message than we do.
func checkKeys(body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	type frame struct {
		object  bool
		wantKey bool
		keys    map[string]bool
	}
	var stack []frame
	for first := true; first || len(stack) > 0; first = false {
		t, err := d.Token()
		if err != nil {
			return fmt.Errorf("not JSON: %w", err)
		}
		top := len(stack) - 1
		if key, ok := t.(string); ok && top >= 0 && stack[top].wantKey {
			if strings.Trim(key, keyLetters) != "" {
				return fmt.Errorf("key %q is not lower case", key)
			}
			if stack[top].keys[key] {
				return fmt.Errorf("key %q appears twice", key)
			}
			stack[top].keys[key] = true
			stack[top].wantKey = false
			continue
		}
		if top >= 0 && stack[top].object {
			stack[top].wantKey = true // what follows this value is a key or the end
		}
		switch t {
		case json.Delim('{'):
			stack = append(stack, frame{object: true, wantKey: true, keys: map[string]bool{}})
		case json.Delim('['):
			stack = append(stack, frame{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:top]
		}
		if len(stack) > maxDepth {
			return errors.New("nested too deeply")
		}
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("trailing bytes after the JSON value")
	}
	return nil
}

// Bytes is base64 in JSON, read strictly: encoding/json's own reading ignores line
// breaks and the unused bits of the last character, so that one proof could be sent in
// many spellings. It is for what stands outside a signed message.
type Bytes []byte

// UnmarshalJSON reads padded standard base64 and nothing else.
func (b *Bytes) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	if strings.ContainsAny(s, "\r\n") {
		return errors.New("base64 with line breaks")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return err
	}
	*b = raw
	return nil
}
