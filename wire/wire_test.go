package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestDecodeAcceptsOnlyOneReading(t *testing.T) {
	for name, text := range map[string]string{
		"unknown key":       `{"ticket":"a","colour":"red"}`,
		"duplicate key":     `{"ticket":"a","ticket":"b"}`,
		"other case":        `{"ticket":"a","Ticket":"b"}`,
		"folds to another":  `{"serial":"a","ſerial":"b"}`,
		"an escaped key":    `{"\u0074icket":"a"}`,
		"a string's end":    `{"ticket":"\\\"","ticket":"b"}`,
		"after an array":    `{"ek_certificates":["\"AQ==","Ag=="],"ticket":"a","ticket":"b"}`,
		"nested duplicate":  `{"message":{"a":1,"a":2}}`,
		"trailing value":    `{"ticket":"a"} {"ticket":"b"}`,
		"trailing garbage":  `{"ticket":"a"}x`,
		"wrong type":        `{"ticket":1}`,
		"array":             `[]`,
		"null for an array": `"x"`,
		"deep":              strings.Repeat(`[`, 1000) + strings.Repeat(`]`, 1000),
		"cut":               `{"ticket":"a"`,
		"empty":             ``,
		"bad base64":        `{"ek_public":"%%%"}`,
		"null":              ` null `,
		"numbers as bytes":  `{"key":[1,2]}`,
		"bytes that break":  `{"key":"AQ\n=="}`,
		"a certificate too": `{"ek_certificates":["AQ\n=="]}`,
		"bits without use":  `{"key":"AR=="}`,
	} {
		var e Enrol
		if err := DecodeBytes([]byte(text), &e); err == nil {
			t.Errorf("%s: %s was accepted", name, text)
		}
	}
	for text, v := range map[string]any{`{"signature":[1]}`: new(KeyRequest), `{"mac":"AQ\n=="}`: new(KeyRequest), `{"key":[1]}`: new(NewKey)} {
		if DecodeBytes([]byte(text), v) == nil {
			t.Errorf("%s was accepted", text)
		}
	}
	var e Enrol
	if err := DecodeBytes([]byte(`{"ticket":"a","serial":"S","ek_public":"AQ==","ak_public":"Ag==","key":"Aw=="}`), &e); err != nil {
		t.Fatal(err)
	}
	if e.Ticket != "a" || !bytes.Equal(e.Key, []byte{3}) {
		t.Errorf("read %+v", e)
	}
}

// Whoever writes another client has nothing but these sentences to go by.
func TestDecodeSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		``:                           "there is no JSON value",
		`null`:                       "not the expected JSON: null",
		`[]`:                         "not the expected JSON: array",
		`{"ek_certificates":"AQ=="}`: "not the expected JSON: ek_certificates is a string",
		`{"serial":1}`:               "not the expected JSON: serial is a number",
		`{"colour":1}`:               `not the expected JSON: unknown key "colour"`,
		`{"key":"AQ"}`:               "not the expected JSON: bytes are base64 with padding (RFC 4648 §4): illegal base64 data at input byte 0",
		`{"key":[1]}`:                "not the expected JSON: bytes are base64 with padding (RFC 4648 §4)",
	} {
		if err := DecodeBytes([]byte(text), new(Enrol)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestDecodeBoundsTheSize(t *testing.T) {
	var e Enrol
	body := `{"ticket":"` + strings.Repeat("a", 100) + `"}`
	if err := Decode(strings.NewReader(body), 50, &e); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	if err := Decode(strings.NewReader(body), int64(len(body)), &e); err != nil {
		t.Errorf("a body of exactly the limit: %v", err)
	}
}

// Every part of a binding must change its sum, and parts must not run into each other.
func TestBindingCoversEveryPart(t *testing.T) {
	base := Binding{Label: LabelEnrol, Exporter: []byte("e"), Nonce: []byte("n"), Client: []byte("c"), Message: []byte("m")}
	seen := map[[32]byte]string{base.Sum(): "base"}
	for name, b := range map[string]Binding{
		"label":           {LabelRenew, base.Exporter, base.Nonce, base.Client, base.Message},
		"exporter":        {base.Label, []byte("E"), base.Nonce, base.Client, base.Message},
		"nonce":           {base.Label, base.Exporter, []byte("N"), base.Client, base.Message},
		"client":          {base.Label, base.Exporter, base.Nonce, []byte("C"), base.Message},
		"no client":       {base.Label, base.Exporter, base.Nonce, nil, base.Message},
		"message":         {base.Label, base.Exporter, base.Nonce, base.Client, []byte("M")},
		"moved boundary":  {base.Label, []byte("en"), nil, base.Client, base.Message},
		"exchanged parts": {base.Label, base.Nonce, base.Exporter, base.Client, base.Message},
	} {
		sum := b.Sum()
		if other, dup := seen[sum]; dup {
			t.Errorf("%s has the sum of %s", name, other)
		}
		seen[sum] = name
	}
}

func TestPermissionRoundTrip(t *testing.T) {
	p := Permission{Kind: KindTicket, ID: "abcdefgh234567ab", Secret: bytes.Repeat([]byte{7}, 32), Server: "https://ca.example:8443", Root: [32]byte{1, 2}}
	got, err := ParsePermission(KindTicket, p.String()+"\n")
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != p.String() || !bytes.Equal(got.MAC([32]byte{9}), p.MAC([32]byte{9})) {
		t.Errorf("%+v became %+v", p, got)
	}
	if bytes.Equal(p.MAC([32]byte{9}), p.MAC([32]byte{8})) {
		t.Error("the MAC does not depend on the binding")
	}
}

func TestPermissionRefusesDamage(t *testing.T) {
	good := Permission{Kind: KindTicket, ID: "abcdefgh234567ab", Secret: make([]byte, 32), Server: "https://ca.example:8443"}.String()
	for name, text := range map[string]string{
		"empty":          "",
		"other kind":     strings.Replace(good, KindTicket, KindInvitation, 1),
		"cut":            good[:len(good)-20] + ".",
		"four parts":     strings.Join(strings.Split(good, ".")[:4], "."),
		"upper-case id":  strings.Replace(good, "abcdefgh", "ABCDEFGH", 1),
		"padding":        good + "=",
		"http":           Permission{Kind: KindTicket, ID: "abcdefgh234567ab", Secret: make([]byte, 32), Server: "http://ca.example"}.String(),
		"short secret":   Permission{Kind: KindTicket, ID: "abcdefgh234567ab", Secret: make([]byte, 8), Server: "https://ca.example"}.String(),
		"no host":        Permission{Kind: KindTicket, ID: "abcdefgh234567ab", Secret: make([]byte, 32), Server: "https://:8443"}.String(),
		"a query":        Permission{Kind: KindTicket, ID: "abcdefgh234567ab", Secret: make([]byte, 32), Server: "https://ca.example?"}.String(),
		"user in server": Permission{Kind: KindTicket, ID: "abcdefgh234567ab", Secret: make([]byte, 32), Server: "https://a:b@ca.example"}.String(),
	} {
		_, err := ParsePermission(KindTicket, text)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if name == "other kind" && !strings.Contains(err.Error(), "not a Hallmark ticket, but what hallmark operator accept takes") {
			t.Errorf("%s: %v", name, err)
		}
		if len(text) > 40 && strings.Contains(err.Error(), strings.Split(text+"...", ".")[2]) && strings.Split(text+"...", ".")[2] != "" {
			t.Errorf("%s: the error repeats the secret: %v", name, err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	body, err := json.Marshal(Envelope{Message: []byte(`{"ek_public":"` + strings.Repeat("QUJD", 1000) + `"}`), Statement: make([]byte, 150), Signature: make([]byte, 72)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var e Envelope
		if err := DecodeBytes(body, &e); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"message":{"key":"AQ=="},"statement":"AQ==","signature":"AQ=="}`))
	f.Add([]byte(`{"a":[{"b":null},1e9,"x"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Envelope
		if DecodeBytes(b, &e) == nil && !bytes.Contains(b, e.Message) {
			t.Error("the message is not a run of the body's bytes")
		}
	})
}

func FuzzParsePermission(f *testing.F) {
	f.Add(Permission{Kind: KindTicket, ID: "abcdefgh234567ab", Secret: make([]byte, 32), Server: "https://ca.example:8443"}.String())
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePermission(KindTicket, text)
		if err != nil {
			return
		}
		again, err := ParsePermission(KindTicket, p.String())
		if err != nil || again.String() != p.String() {
			t.Errorf("%q reads as %q, then %v", text, p, err)
		}
	})
}
