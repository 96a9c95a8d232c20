package identity

import (
	"fmt"
	"strings"
)

// maxSerial is the longest serial number: MODEL:SERIAL must fit a common name
// (ub-common-name, RFC 5280 appendix A: 64).
const maxSerial = 40

// placeholders are what boards report that were never given a serial number; two such boards
// would be one device. They are compared without case and punctuation.
var placeholders = map[string]bool{
	"tobefilledbyoem": true, "systemserialnumber": true, "defaultstring": true,
	"notspecified": true, "notapplicable": true, "none": true, "na": true, "null": true,
	"unknown": true, "invalid": true, "serialnumber": true, "serial": true, "oem": true,
	"empty": true, "chassisserialnumber": true, "baseboardserialnumber": true,
	"xxxxxxxx": true, "123456789": true, "1234567890": true, "0123456789": true, "test": true,
}

// CheckSerial refuses what cannot be the serial number of one device: placeholders, blanks, NUL
// bytes, and characters with a meaning in certificates, MQTT topics or ACME identifiers. The
// error quotes what was read.
func CheckSerial(serial string) error {
	switch {
	case serial == "":
		return fmt.Errorf("the serial number is empty")
	case len(serial) > maxSerial:
		return fmt.Errorf("the serial number has %d characters; at most %d are allowed", len(serial), maxSerial)
	}
	if serial[0] == '-' { // relays pass it to commands
		return fmt.Errorf("the serial number %q begins with a hyphen, as the options of commands do", serial)
	}
	var folded strings.Builder
	for _, r := range serial {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
			folded.WriteRune(r)
		case strings.ContainsRune("._:-", r):
		default:
			return fmt.Errorf("the serial number %q holds %q; letters, digits and . _ : - are allowed", serial, r)
		}
	}
	if placeholders[strings.ToLower(folded.String())] || strings.Trim(folded.String(), "0") == "" {
		return fmt.Errorf("%q is a placeholder, not a serial number", serial)
	}
	return nil
}
