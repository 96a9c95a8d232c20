package record

import (
	"fmt"
	"regexp"
	"strings"
)

// serialPart stands for the serial number in a subject template.
const serialPart = "{serial}"

// subjectText is what stands around it: with the longest serial number (40) it fits
// commonName's 64 characters (RFC 5280 appendix A.1).
var subjectText = regexp.MustCompile(`^[A-Za-z0-9._-]*$`)

// CheckSubject says why a text cannot be a model's subject template: letters, digits and
// . _ - around one {serial}, 24 characters at most beside it. There is no colon, which
// every other name of a device has.
func CheckSubject(template string) error {
	before, after, ok := strings.Cut(template, serialPart)
	switch {
	case !ok:
		return fmt.Errorf("subject %q: it needs %s, or all devices would have one name", template, serialPart)
	case !subjectText.MatchString(before) || !subjectText.MatchString(after):
		return fmt.Errorf("subject %q: letters, digits and . _ - around one %s", template, serialPart)
	case len(before)+len(after) > 24:
		return fmt.Errorf("subject %q: at most 24 characters beside %s", template, serialPart)
	}
	return nil
}

// SubjectsCollide reports whether two templates can give the same name to two serial
// numbers: relying parties know a device by nothing else.
func SubjectsCollide(a, b string) bool {
	a1, a2, _ := strings.Cut(Fold(a), serialPart) // relying parties may compare without case
	b1, b2, _ := strings.Cut(Fold(b), serialPart)
	return (strings.HasPrefix(a1, b1) || strings.HasPrefix(b1, a1)) && (strings.HasSuffix(a2, b2) || strings.HasSuffix(b2, a2))
}

// CommonName is the commonName of a device's working certificates: MODEL:SERIAL, unless
// the model has a template. A serial number with a colon is never put into one, since
// the result could be another device's MODEL:SERIAL.
func (m Model) CommonName(serial string) string {
	if m.Subject == "" || strings.Contains(serial, ":") {
		return m.Name + ":" + serial
	}
	return strings.Replace(m.Subject, serialPart, serial, 1)
}
