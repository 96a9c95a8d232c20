package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// allocated is how many bytes do allocates, freed or not.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A text of a few megabytes is not decoded into gigabytes.
func TestAnswersThatGrow(t *testing.T) {
	var answer string
	url, root := server(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) })
	cl, err := Load(write(t, url, root, 24*time.Hour), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	many := func(n int, head, what, tail string) string { return head + strings.Repeat(what+",", n-1) + what + tail }
	for name, text := range map[string]string{
		"devices":      many(maxObjects, `{"items":[`, `{}`, `]}`),
		"certificates": many(maxObjects, `{"items":[{"certificates":[`, `{}`, `]}]}`),
		"labels":       many(maxValues, `{"items":[{"labels":{"":"",`, `"":""`, `}}]}`),
		"lists":        many(maxValues/2, `{"items":[{"x":[`, `[]`, `]}]}`),
		"quoted":       many(maxObjects, `{"items":[{"id":"\\\"},"},`, `{}`, `]}`),
	} {
		answer = text
		spent := allocated(func() { _, err = cl.Devices(t.Context(), Query{Limit: wire.MaxPage}) })
		if err == nil || !strings.Contains(err.Error(), "holds more than") {
			t.Errorf("%s: %v", name, err)
		}
		if spent > 128<<20 {
			t.Errorf("%s: %d MiB", name, spent>>20)
		}
	}
	answer = many(wire.MaxPage, `{"items":[`, many(60, `{"id":"{,[\"","labels":{`, `"k":"{{{{,,,["`, `},"tpm":{"eks":[{},{},{}]}}`), `]}`)
	if got, err := cl.Devices(t.Context(), Query{Limit: wire.MaxPage}); err != nil || len(got.Items) != wire.MaxPage {
		t.Errorf("an honest page: %d rows, %v", len(got.Items), err)
	}
}

// A command that every relay runs in vain is no reason to show none of them.
func TestAllRelaysFail(t *testing.T) {
	failing := make([]wire.RelayFailure, wire.MaxRelayFailing)
	for i := range failing {
		failing[i] = wire.RelayFailure{Device: fmt.Sprint("lamp:SN-", 1e6+i), Change: 1e6, Since: time.Now(), Times: 1000}
	}
	all := wire.List[wire.RelyingParty]{Items: make([]wire.RelyingParty, 2500)}
	for i := range all.Items {
		all.Items[i] = wire.RelyingParty{Name: fmt.Sprint("broker-", i), State: "active", Created: time.Now(), Formats: []string{"crl", "each"}, Failing: failing}
	}
	url, root := server(t, func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(all) })
	cl, err := Load(write(t, url, root, 24*time.Hour), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := cl.RelyingParties(t.Context()); err != nil || len(got.Items) != len(all.Items) {
		t.Errorf("%d of %d, %v", len(got.Items), len(all.Items), err)
	}
}

// Whoever answers is asked for the trust bundles before it is known who that is: it gets no
// further than with a device.
func TestStrangersBundles(t *testing.T) {
	big := `{"bundle":"` + strings.Repeat("A", 16<<20) + `"}`
	for _, answer := range []string{big, `{"newest":9,"bundles":[` + big + `]}`} {
		url, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(answer, `{"newest"`) && r.URL.RawQuery == "" {
				fmt.Fprint(w, `{}`)
				return
			}
			io.WriteString(w, answer)
		})
		_, root := pair(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		cl, err := Load(write(t, url, root, 24*time.Hour), func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		spent := allocated(func() { _, err = cl.follow(t.Context()) })
		if err == nil || !strings.Contains(err.Error(), "larger than") || spent > 16<<20 {
			t.Errorf("%v, %d MiB", err, spent>>20)
		}
	}
}

// Neither headers nor what an error page says fill memory, or a terminal.
func TestLongRefusals(t *testing.T) {
	long := bytes.Repeat([]byte("a"), 1<<20)
	for name, answer := range map[string]http.HandlerFunc{
		"a header": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", string(long))
			fmt.Fprint(w, "{}")
		},
		"a problem": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", wire.ProblemType)
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"detail":"%s"}`, long)
		},
		"hints": func(w http.ResponseWriter, _ *http.Request) {
			for range 1000 {
				w.Header().Set("X", string(long[:1000]))
				w.WriteHeader(http.StatusEarlyHints)
			}
		},
	} {
		url, root := server(t, answer)
		cl, err := Load(write(t, url, root, 24*time.Hour), func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = cl.Whoami(t.Context()); err == nil || len(err.Error()) > 1000 {
			t.Errorf("%s: %.1000v", name, err)
		}
	}
}

// Whoever follows the audit is not given the same events for ever.
func TestEventsAreInOrder(t *testing.T) {
	for answer, good := range map[string]bool{`[{"sequence":6},{"sequence":9}]`: true, `[]`: true, `[{"sequence":5}]`: false, `[{"sequence":6},{"sequence":6}]`: false} {
		url, root := server(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"items":%s}`, answer) })
		cl, err := Load(write(t, url, root, 24*time.Hour), func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cl.EventsAfter(t.Context(), 5, 10); (err == nil) != good {
			t.Errorf("%s: %v", answer, err)
		}
	}
}
