package stream

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/wire"
)

const change = `{"number":7,"issuer":"operational","serial":"40000000000000000000000000000001","status":"hold","reason":"certificate-hold","since":"2026-11-01T00:00:00Z","expires":"2026-12-01T00:00:00Z"}`

func TestNext(t *testing.T) {
	for text, want := range map[string]string{
		"event: change\nid: 7\ndata: " + change + "\n\n":                                                 "7 hold",
		"event: current\r\ndata: {\"number\":9}\r\n\r\n":                                                 "9",
		":\n\n:comment\n\nretry: 1000\n\nevent: news\ndata: x\n\nevent:current\ndata:{\"number\":3}\n\n": "3",
		"event: current\ndata: {\"number\":\ndata: 12}\n\n":                                              "12",
		"event: current\ndata: {\"number\":9}\n":                                                         "EOF",
		"":                                                                                               "EOF",
		"event: change\ndata: {}\n\n":                                                                    "change 0: no number",
		"event: current\ndata: {\"number\":-1}\n\n":                                                      "below 0",
		"event: current\ndata: " + strings.Repeat("x", MaxLine) + "\n\n":                                 wire.ErrTooLarge.Error(),
		"data: " + strings.Repeat("x\ndata: ", 2*MaxLine) + "\nevent: current\n\n":                       wire.ErrTooLarge.Error(),
	} {
		e, err := NewReader(strings.NewReader(text), func() {}).Next()
		got := fmt.Sprint(e.Number)
		if e.Change != nil {
			got += " " + e.Change.Status
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%.60q: %s, not %s", text, got, want)
		}
	}
}

func FuzzNext(f *testing.F) {
	f.Add([]byte("event: change\nid: 7\ndata: " + change + "\n\n"))
	f.Add([]byte(":\n\nevent: current\r\ndata: {\"number\":\r\ndata:9}\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		events := NewReader(bytes.NewReader(text), func() {})
		for n := 0; ; n++ {
			e, err := events.Next()
			if err != nil {
				return
			}
			if n > len(text) || e.Number < 0 || e.Change != nil && e.Change.Number != e.Number {
				t.Fatalf("event %d of %d bytes: %+v", n, len(text), e)
			}
		}
	})
}

// Positions alone are not kept, however many there are; changes are, in their order.
func TestAdd(t *testing.T) {
	var later []Event
	for n := range int64(1000) {
		later = Add(later, Event{Number: 1000 - n})
	}
	later = Add(later, Event{Number: 1001, Change: &wire.Change{}})
	later = Add(later, Event{Number: 1001})
	later = Add(later, Event{Number: 1002})
	if got := fmt.Sprint(len(later), later[0].Number, later[1].Change != nil, later[2].Number); got != "3 1000 true 1002" {
		t.Error(got)
	}
}
