package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A change is a statement that changed rows, in a journal's payload:
//
//	rows, length of the text, text, number of values, values
//
// Lengths and numbers are varints. A value is a byte that says its kind, then an
// integer as a signed varint, or a length and bytes.
type change struct {
	sql  string
	args []any
	rows int64
}

// Kinds of values. A nil slice and an empty one are different values to SQLite.
const (
	kindNull   = 0
	kindInt    = 1
	kindText   = 2
	kindBlob   = 3
	kindNoBlob = 4
)

// maxValues is more than any statement has parameters.
const maxValues = 1000

var errChange = errors.New("a change cannot be read")

// appendChange writes one change behind others.
func appendChange(b []byte, sql string, args []any, rows int64) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(rows))
	b = appendBytes(b, sql)
	b = binary.AppendUvarint(b, uint64(len(args)))
	for _, a := range args {
		switch v := a.(type) {
		case nil:
			b = append(b, kindNull)
		case int64:
			b = binary.AppendVarint(append(b, kindInt), v)
		case string:
			b = appendBytes(append(b, kindText), v)
		case []byte:
			if v == nil {
				b = append(b, kindNoBlob)
			} else {
				b = appendBytes(append(b, kindBlob), v)
			}
		default:
			return nil, fmt.Errorf("a %T cannot be written to the journal", v)
		}
	}
	return b, nil
}

func appendBytes[T string | []byte](b []byte, v T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// decodeChange reads the first change and returns what follows it.
func decodeChange(b []byte) (s change, rest []byte, err error) {
	r := reader{b}
	s.rows = int64(r.uvarint())
	s.sql = string(r.bytes())
	n := r.uvarint()
	if n > maxValues {
		return s, nil, errChange
	}
	for range n {
		switch r.kind() {
		case kindNull:
			s.args = append(s.args, nil)
		case kindInt:
			s.args = append(s.args, r.varint())
		case kindText:
			s.args = append(s.args, string(r.bytes()))
		case kindBlob:
			s.args = append(s.args, append([]byte{}, r.bytes()...))
		case kindNoBlob:
			s.args = append(s.args, []byte(nil))
		default:
			return s, nil, errChange
		}
	}
	if r.left == nil || s.rows < 0 {
		return s, nil, errChange
	}
	return s, r.left, nil
}

// reader takes values from the front; after the first that is not there, left is nil.
type reader struct{ left []byte }

func (r *reader) take(n int) {
	if n <= 0 {
		r.left = nil
	}
	if r.left != nil {
		r.left = r.left[n:]
	}
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.left)
	r.take(n)
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.left)
	r.take(n)
	return v
}

func (r *reader) kind() byte {
	if len(r.left) == 0 {
		r.left = nil
		return 0xff
	}
	k := r.left[0]
	r.left = r.left[1:]
	return k
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.left)) {
		r.left = nil
	}
	if r.left == nil {
		return nil
	}
	v := r.left[:n]
	r.left = r.left[n:]
	return v
}
