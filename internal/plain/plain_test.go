package plain

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

func TestJSON(t *testing.T) {
	for _, said := range []string{"plain", "Zürich, 東京", "\u009b2J", "\x1b]0;x\a", "a\u202eb\u2066", "\x7f", "\U000e0041", "\\u009b \"\u00ad\"", "\xff"} {
		text, err := json.Marshal(map[string]string{"key\u0085": said})
		if err != nil {
			t.Fatal(err)
		}
		shown := JSON(text)
		if strings.ContainsFunc(string(shown), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q is printed as %q", said, shown)
		}
		var got map[string]string
		if err := json.Unmarshal(shown, &got); err != nil || got["key\u0085"] != strings.ToValidUTF8(said, "\ufffd") {
			t.Errorf("%q became %q, %v", said, got, err)
		}
	}
}
