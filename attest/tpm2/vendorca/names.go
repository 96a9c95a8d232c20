package vendorca

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// OIDs of the attributes that name a TPM (TCG EK Credential Profile §3.2.9).
const (
	oidMaker = "2.23.133.2.1"
	oidModel = "2.23.133.2.2"
)

// maxName bounds a name, in bytes; real ones have a few characters.
const maxName = 64

// readNames takes maker and model out of the subject alternative name's directoryName,
// one attribute to a relative distinguished name or several. crypto/x509 counts that extension as
// unhandled if it holds nothing else; it has been read here, so it is removed from that list.
func (e *EK) readNames() error {
	for _, x := range e.Certificate.Extensions {
		if !x.Id.Equal(oidSubjectAltName) {
			continue
		}
		if err := e.readAltName(x.Value); err != nil {
			return err
		}
		e.Certificate.UnhandledCriticalExtensions = slices.DeleteFunc(e.Certificate.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	}
	return nil
}

func (e *EK) readAltName(der []byte) error {
	malformed := errors.New("the certificate's subject alternative name is malformed")
	names, ok := elements(der)
	if !ok {
		return malformed
	}
	for _, n := range names {
		var general asn1.RawValue
		if _, err := asn1.Unmarshal(n, &general); err != nil {
			return malformed
		}
		if general.Class != asn1.ClassContextSpecific || general.Tag != 4 { // directoryName, RFC 5280 §4.2.1.6
			continue
		}
		var directory pkix.RDNSequence
		if rest, err := asn1.Unmarshal(general.Bytes, &directory); err != nil || len(rest) > 0 {
			return malformed
		}
		for _, rdn := range directory {
			for _, a := range rdn {
				if err := e.setName(a); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (e *EK) setName(a pkix.AttributeTypeAndValue) error {
	oid := a.Type.String()
	field := map[string]*string{oidMaker: &e.Maker, oidModel: &e.Model}[oid]
	if field == nil {
		return nil
	}
	text, ok := a.Value.(string)
	if !ok || text == "" || len(text) > maxName || !plain(text) {
		return fmt.Errorf("the certificate's TPM attribute %s is not a short text", oid)
	}
	if slices.Contains(e.named, oid) {
		return fmt.Errorf("the certificate has the TPM attribute %s twice", oid)
	}
	e.named = append(e.named, oid)
	if field == &e.Maker {
		text = makerName(text)
	}
	*field = text
	return nil
}

// makerName turns "id:53544D20" into "STM": the vendor ID is four ASCII characters, padded with
// NUL or blank (TCG TPM Vendor ID Registry). The result goes into names and certificates, so what
// is not a vendor ID yields an empty string, and a vendor ID that is not plain text its hex
// digits.
func makerName(text string) string {
	digits, ok := strings.CutPrefix(text, "id:")
	id, err := hex.DecodeString(digits)
	if !ok || err != nil || len(id) != 4 {
		return ""
	}
	if name := strings.TrimRight(string(id), " \x00"); name != "" && plain(name) && !strings.ContainsAny(name, ": ") {
		return name
	}
	return strings.ToUpper(hex.EncodeToString(id))
}

func plain(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Vendor IDs of TPMs that are programs: swtpm as Debian ships it, and FIDO's test value.
const (
	makerSwtpm = "00001014"
	MakerTest  = "FFFFF1D0"
)

// Simulated reports whether the certificate itself says that the TPM is a test program. Trusting
// such a maker's root admits anybody.
func (e EK) Simulated() bool { return e.Maker == makerSwtpm || e.Maker == MakerTest }
