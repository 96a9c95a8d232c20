package admin

import (
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/wire"
)

// FuzzParameters holds the readers of single parameters to their bounds.
func FuzzParameters(f *testing.F) {
	f.Add("limit=10&after=5&filter=state%20%3D%20active")
	f.Add("000b" + strings.Repeat("ab", 32))
	f.Add("4F:1C:0A")
	f.Fuzz(func(t *testing.T, text string) {
		c := &gate.Call{Request: &http.Request{URL: &url.URL{RawQuery: text}}}
		if p, _, err := c.Page(); err == nil && (p.Limit < 1 || p.Limit > wire.MaxPage) {
			t.Errorf("a page of %d", p.Limit)
		}
		if name, err := ekName(text); err == nil && hex.EncodeToString(name) != strings.ToLower(text) {
			t.Errorf("EK Name %x", name)
		}
		if serial := recordedSerial(text); recordedSerial(serial) != serial && !strings.HasPrefix(serial, "0x") {
			t.Errorf("%q reads as %q, which reads as %q", text, serial, recordedSerial(serial))
		}
	})
}
