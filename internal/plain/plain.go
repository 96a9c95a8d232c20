// Package plain keeps what others wrote from steering the terminal that it is printed on.
package plain

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Line keeps a text from controlling the terminal, from turning the direction of writing, from having
// several lines, and from holding what is not seen: two names that look the same are.
func Line(text string) string { return strings.ReplaceAll(Text(text), "\n", "?") }

// Text is Line for what may have several lines.
func Text(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t': // as in cobra's suggestions
			return ' '
		case r == '\n' || unicode.IsPrint(r):
			return r
		}
		return '?'
	}, text)
}

// JSON writes a JSON text anew so that it means the same and holds nothing that is not seen:
// encoding/json leaves U+009B alone, which begins an escape sequence, and what turns the
// direction of writing. Such characters stand in strings alone, and are escaped there.
func JSON(text []byte) []byte {
	var out strings.Builder
	out.Grow(len(text))
	for _, r := range string(text) {
		switch {
		case r < utf8.RuneSelf && r != unicode.MaxASCII || unicode.IsPrint(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return []byte(out.String())
}
