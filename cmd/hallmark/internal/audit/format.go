package audit

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
)

// formats are the ways in which one event is one line, without its line break.
var formats = map[string]func(host, version string, e wire.Event) (string, error){
	"json": jsonLine, "syslog": syslogLine, "cef": cefLine,
}

func jsonLine(_, _ string, e wire.Event) (string, error) {
	text, err := json.Marshal(e)
	return string(plain.JSON(text)), err
}

// syslogLine is RFC 5424 §6, of facility 13 (log audit). The message is JSON behind the
// cookie by which collectors know it (CEE, "@cee:"): a structured-data name of our own
// would need an enterprise number.
func syslogLine(host, _ string, e wire.Event) (string, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	const facility = 13
	severity := 5 // notice
	if alarming(e.Verb) {
		severity = 4 // warning
	}
	return fmt.Sprintf("<%d>1 %s %s hallmark - %s - @cee: %s", facility*8+severity, e.Time.UTC().Format("2006-01-02T15:04:05.000000Z"),
		word(host, 255), word(e.Verb, 32), plain.JSON(text)), nil
}

// word is a header field of RFC 5424: printable ASCII without blanks, "-" for none.
func word(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, text)
	if text == "" {
		return "-"
	}
	return text[:min(len(text), most)]
}

// cefLine is ArcSight's Common Event Format, version 0: seven header fields and an
// extension of key=value pairs. A detail is a pair under its own name, as the format
// allows a producer.
func cefLine(host, version string, e wire.Event) (string, error) {
	severity := 3
	if alarming(e.Verb) {
		severity = 7
	}
	header := cef{strings.NewReplacer(`\`, `\\`, `|`, `\|`, "\n", " ", "\r", " ")}
	value := cef{strings.NewReplacer(`\`, `\\`, `=`, `\=`, "\n", `\n`, "\r", `\r`)}
	var b strings.Builder
	fmt.Fprintf(&b, "CEF:0|Hallmark|Hallmark|%s|%s|%s|%d|", header.Replace(version), header.Replace(e.Verb), header.Replace(strings.ReplaceAll(e.Verb, ".", " ")), severity)
	fmt.Fprintf(&b, "rt=%d externalId=%d dvchost=%s suser=%s", e.Time.UnixMilli(), e.Sequence, value.Replace(host), value.Replace(e.Actor))
	for _, pair := range [][2]string{{"duser", e.Object}, {"msg", e.Reason}} {
		if pair[1] != "" {
			b.WriteString(" " + pair[0] + "=" + value.Replace(pair[1]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.Detail)) {
		b.WriteString(" hallmark" + word(strings.NewReplacer("_", "", "=", "").Replace(key), 100) + "=" + value.Replace(e.Detail[key]))
	}
	return b.String(), nil
}

// cef escapes what has a meaning in the format, and what has one to a terminal.
type cef struct{ meant *strings.Replacer }

func (c cef) Replace(text string) string { return plain.Line(c.meant.Replace(text)) }

// alarming verbs are those that somebody should look at: what was refused, ended, or
// done in the way that is meant for emergencies.
func alarming(verb string) bool {
	for _, part := range []string{"refused", "revoked", "suspended", "forked", "break-glass", "recovered", "lifted", "disabled"} {
		if strings.Contains(verb, part) {
			return true
		}
	}
	return false
}
