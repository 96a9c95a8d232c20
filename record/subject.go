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
	case strings.HasPrefix(template, "-"): // as the options of commands do, which relays give it to
		return fmt.Errorf("subject %q begins with a hyphen", template)
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

// Bounds of Model.ServeNames: with the longest serial number (40) a label fits its 63
// characters (RFC 1035 §2.3.4).
const (
	maxServeNames = 4
	maxServeName  = 120
	maxServeLabel = 20
)

var (
	// serveLabel is what stands around the serial number, serveDomain what follows.
	serveLabel  = regexp.MustCompile(`^[a-z0-9-]*$`)
	serveDomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	// hostSerial is a serial number that can stand in a label.
	hostSerial = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
)

// CheckServeNames says why a text cannot be Model.ServeNames: one to four DNS names, lower
// case, separated by commas, the first label of each with one {serial} in it.
func CheckServeNames(templates string) error {
	list := strings.Split(templates, ",")
	if len(list) > maxServeNames {
		return fmt.Errorf("%d names: at most %d", len(list), maxServeNames)
	}
	for _, template := range list {
		label, domain, _ := strings.Cut(template, ".")
		before, after, ok := strings.Cut(label, serialPart)
		switch {
		case !ok:
			return fmt.Errorf("name %q: its first label needs %s, or all devices would have one name", template, serialPart)
		case !serveLabel.MatchString(before) || !serveLabel.MatchString(after) || strings.HasPrefix(before, "-") || strings.HasSuffix(after, "-") ||
			!serveDomain.MatchString(domain):
			return fmt.Errorf("name %q: a DNS name of lower-case letters, digits and hyphens, with one %s and a domain", template, serialPart)
		case len(before)+len(after) > maxServeLabel || len(template) > maxServeName:
			return fmt.Errorf("name %q is too long", template)
		}
	}
	return nil
}

// ServeNamesCollide reports whether two models' templates can give the same name to two
// devices.
func ServeNamesCollide(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	for one := range strings.SplitSeq(a, ",") {
		for two := range strings.SplitSeq(b, ",") {
			label1, domain1, _ := strings.Cut(one, ".")
			label2, domain2, _ := strings.Cut(two, ".")
			if domain1 == domain2 && SubjectsCollide(label1, label2) {
				return true
			}
		}
	}
	return false
}

// ServerNames are the DNS names of a device's own web page; none if its model gives none,
// or if its serial number cannot stand in a DNS name. It is never changed to fit: two
// devices could come to bear one name.
func (m Model) ServerNames(serial string) []string {
	serial = Fold(serial)
	if m.ServeNames == "" || !hostSerial.MatchString(serial) {
		return nil
	}
	return strings.Split(strings.ReplaceAll(m.ServeNames, serialPart, serial), ",")
}
