package selector

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"

	"github.com/hallmark-pki/hallmark/record"
)

// format writes a selector in a form that shows its structure, as an expression that
// both our grammar and AIP-160's own lexer read: every text is quoted.
func format(s *record.Selector) string {
	if s == nil {
		return ""
	}
	parts := make([]string, len(s.Args))
	for i, arg := range s.Args {
		parts[i] = format(arg)
	}
	switch s.Op {
	case record.OpAnd:
		return "(" + strings.Join(parts, " AND ") + ")"
	case record.OpOr:
		return "(" + strings.Join(parts, " OR ") + ")"
	case record.OpNot:
		return "NOT " + parts[0]
	}
	value, ok := s.Value.(string)
	if t, isTime := s.Value.(time.Time); isTime {
		value, ok = t.Format(time.RFC3339Nano), true
	}
	if !ok {
		panic(fmt.Sprintf("value of type %T", s.Value))
	}
	value = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value)
	return fmt.Sprintf(`%s %s "%s"`, s.Field, s.Op, value)
}

func TestParse(t *testing.T) {
	for expression, want := range map[string]string{
		"":              "",
		" \n":           "",
		"state=active":  `state = "active"`,
		"lot != W47":    `lot != "W47"`,
		"serial:SN-10*": `serial : "SN-10*"`,
		// What AIP-160's lexer would split: versions, hex, leading zeros, dashes.
		"tpm.firmware=7.2.1.0":                          `tpm.firmware = "7.2.1.0"`,
		"serial = 0a3f":                                 `serial = "0a3f"`,
		"serial = 007":                                  `serial = "007"`,
		`serial = "a b" lot='c"d'`:                      `(serial = "a b" AND lot = "c\"d")`,
		`ek.issuer:"*O=\"STM\\x\"*"`:                    `ek.issuer : "*O=\"STM\\x\"*"`,
		"model=a AND lot=b OR lot=c":                    `(model = "a" AND (lot = "b" OR lot = "c"))`,
		"model=a OR lot=b AND lot=c":                    `((model = "a" OR lot = "b") AND lot = "c")`,
		"model=a lot=b":                                 `(model = "a" AND lot = "b")`,
		"(model=a AND lot=b)OR lot=c":                   `((model = "a" AND lot = "b") OR lot = "c")`,
		"NOT model=a":                                   `NOT model = "a"`,
		"NOT(model=a OR lot=b)":                         `NOT (model = "a" OR lot = "b")`,
		"-model=a -lot=b":                               `(NOT model = "a" AND NOT lot = "b")`,
		"lot=ANDROID":                                   `lot = "ANDROID"`,
		"labels.site=x -label.red-1:y*":                 `(labels.site = "x" AND NOT labels.red-1 : "y*")`,
		"key.alg=rsa-2048 expires>2027-01-01T00:00:00Z": `(key.alg = "rsa-2048" AND expires > "2027-01-01T00:00:00Z")`,
		`lot=""`:                            `lot = ""`,
		"seen >= 2026-11-22T10:00:00+02:00": `seen >= "2026-11-22T08:00:00Z"`,
		// A star alone asks whether there is a value.
		"tpm.maker:* ek.issuer:* label.a:*": `(tpm.maker != "" AND ek.issuer : "*" AND labels.a : "*")`,
		"renewed:*":                         `renewed >= "1970-01-01T00:00:00Z"`,
		"assurance = certified+registered":  `assurance = "certified+registered"`,
		"assurance:certified*":              `assurance : "certified*"`,
		// A date is its whole day.
		"seen < 2026-11-22":  `seen < "2026-11-22T00:00:00Z"`,
		"seen <= 2026-11-22": `seen < "2026-11-23T00:00:00Z"`,
		"seen > 2026-11-30":  `seen >= "2026-12-01T00:00:00Z"`,
		"seen >= 2026-11-22": `seen >= "2026-11-22T00:00:00Z"`,
		"seen = 2026-02-28":  `(seen >= "2026-02-28T00:00:00Z" AND seen < "2026-03-01T00:00:00Z")`,
		"seen != 2026-11-22": `(seen < "2026-11-22T00:00:00Z" OR seen >= "2026-11-23T00:00:00Z")`,
	} {
		got, err := Parse(expression, record.DeviceFields)
		if err != nil {
			t.Errorf("%q: %v", expression, err)
		} else if format(got) != want {
			t.Errorf("%q\n got %s\nwant %s", expression, format(got), want)
		}
	}
}

func TestErrorsPointAtThePlace(t *testing.T) {
	for _, c := range []struct {
		expression string
		column     int
		problem    string
	}{
		{"colour=red", 1, `there is no field "colour"; the fields are assurance, ek.issuer, enrolled, expires,`},
		{"state=active AND colour=red", 18, "there is no field"},
		{"labels.=a", 1, "there is no field"},
		{"lot=a labels.Site=a", 7, "there is no field"},
		{"größe=1", 1, `there is no field "größe"`},
		{"lot=ü AND colour=red", 11, "there is no field"},
		{"state", 1, "a comparison should stand here"},
		{"SN-1", 1, "a comparison should stand here"},
		{"state=", 7, "a value should stand here"},
		{"state= AND lot=a", 8, "a value should stand here"},
		{"state=(a OR b)", 7, "one value should stand here"},
		{"state=active AND", 17, "the expression ends"},
		{"state=active OR ", 17, "the expression ends"},
		{"NOT", 4, "the expression ends"},
		{"model=a and lot=b", 9, "AND, OR and NOT are written in capitals"},
		{"OR state=a", 1, "AND, OR and NOT are written in capitals"},
		{"model=a AND OR lot=b", 13, "AND, OR and NOT are written in capitals"},
		{"(model=a", 1, "this bracket is never closed"},
		{"model=a)", 8, "this bracket closes nothing"},
		{"()", 2, "a comparison should stand here"},
		{`serial="a`, 8, "this quote is never closed"},
		{`serial="a"b`, 11, "a blank should stand behind"},
		{`serial=a"b"`, 9, "put a value that holds this character in quotes"},
		{"serial<a", 7, "serial is text"},
		{"serial=SN*", 7, "a pattern is compared with a colon: serial:SN*"},
		{"state=actve", 7, "state is one of active, suspended, revoked"},
		{"assurance=high", 11, "assurance is one of certified+registered, certified, registered, first-use, software"},
		{"state:act*", 6, "state compares with = and != only"},
		{"serial:" + strings.Repeat("*", 9), 8, "more than 8 stars"},
		{"seen:2026*", 5, "seen is a time: it compares with"},
		{"seen<yesterday", 6, "seen is a time: write 2026-11-22"},
		{"seen<2026-13-01", 6, "seen is a time: write 2026-11-22"},
		{"state=\x00", 7, "this character is not text"},
		{"state=\xff", 7, "this character is not text"},
		{strings.Repeat("(", 40) + "state=a", 34, "nest too deeply"},
		{strings.Repeat("lot=a ", 201), 1201, "more than 200 comparisons"},
	} {
		_, err := Parse(c.expression, record.DeviceFields)
		var e *Error
		if !errors.As(err, &e) || e.Column != c.column || !strings.Contains(e.Problem, c.problem) {
			t.Errorf("%q: got %v, want column %d and %q", c.expression, err, c.column, c.problem)
		}
	}
	_, err := Parse(strings.Repeat(" ", maxLength+1), record.DeviceFields)
	if err == nil || !strings.Contains(err.Error(), "at most 4096") {
		t.Errorf("too long: %v", err)
	}
	if _, err := Parse("status = good AND NOT profile = ldevid", record.CertificateFields); err != nil {
		t.Error(err)
	}
	_, err = Parse("lot = W47", record.CertificateFields)
	if err == nil || !strings.Contains(err.Error(), "issued, issuer, key.alg") {
		t.Errorf("certificates have fields of their own: %v", err)
	}
}

func TestErrorText(t *testing.T) {
	_, err := Parse("state=active\tAND colour=red", record.DeviceFields)
	want := "filter, column 18: there is no field \"colour\"; the fields are assurance, ek.issuer, enrolled, expires, key.alg, labels.KEY, lot, model, renewed, seen, serial, state, tpm.firmware, tpm.maker, tpm.model\n" +
		"  state=active AND colour=red\n" +
		"                   ^"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	long := "lot=" + strings.Repeat("a", 100) + " x=1 lot=" + strings.Repeat("b", 100)
	_, err = Parse(long, record.DeviceFields)
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[1], "  …aaa") || !strings.HasSuffix(lines[1], "bbb…") {
		t.Fatalf("a long expression is cut around the place:\n%v", err)
	}
	caret := len([]rune(lines[2])) - 1
	if got := string([]rune(lines[1])[caret : caret+3]); got != "x=1" {
		t.Errorf("the caret stands under %q:\n%v", got, err)
	}
}

// TestAgreesWithAIP160 holds our grammar against another implementation of it.
func TestAgreesWithAIP160(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		expression := randomExpression(random, 4)
		ours, err := Parse(expression, record.DeviceFields)
		if err != nil {
			t.Fatalf("%s\n%v", expression, err)
		}
		var parser filtering.Parser
		parser.Init(expression)
		theirs, err := parser.Parse()
		if err != nil {
			t.Fatalf("%s\n%v", expression, err)
		}
		if got, want := format(ours), format(translate(t, theirs.GetExpr())); got != want {
			t.Fatalf("%s\n got %s\nwant %s", expression, got, want)
		}
	}
}

func randomExpression(r *rand.Rand, depth int) string {
	var b strings.Builder
	for i := range 1 + r.IntN(4) {
		if i > 0 {
			b.WriteString([]string{" ", " AND ", " OR ", "  AND  "}[r.IntN(4)])
		}
		b.WriteString([]string{"", "", "NOT ", "-"}[r.IntN(4)])
		if depth > 0 && r.IntN(3) == 0 {
			b.WriteString("(" + randomExpression(r, depth-1) + ")")
			continue
		}
		field := []string{"model", "lot", "tpm.maker"}[r.IntN(3)]
		operator := []string{"=", "!=", ":", " = ", " : "}[r.IntN(5)]
		b.WriteString(field + operator + []string{`"a"`, `'b c'`, `"SN-1"`}[r.IntN(3)])
	}
	return b.String()
}

// translate turns AIP-160's syntax tree into ours.
func translate(t *testing.T, e *expr.Expr) *record.Selector {
	call := e.GetCallExpr()
	join := func(op string) *record.Selector {
		return combine(op, []*record.Selector{translate(t, call.GetArgs()[0]), translate(t, call.GetArgs()[1])})
	}
	switch function := call.GetFunction(); function {
	case filtering.FunctionAnd, filtering.FunctionFuzzyAnd:
		return join(record.OpAnd)
	case filtering.FunctionOr:
		return join(record.OpOr)
	case filtering.FunctionNot:
		return &record.Selector{Op: record.OpNot, Args: []*record.Selector{translate(t, call.GetArgs()[0])}}
	default:
		field := call.GetArgs()[0]
		name := field.GetIdentExpr().GetName()
		if member := field.GetSelectExpr(); member != nil {
			name = member.GetOperand().GetIdentExpr().GetName() + "." + member.GetField()
		}
		return &record.Selector{Op: function, Field: name, Value: call.GetArgs()[1].GetConstExpr().GetStringValue()}
	}
}

// An error quotes no more of an expression than fits a line, however long a word is.
func TestErrorsAreShort(t *testing.T) {
	long := strings.Repeat("c", maxLength-20)
	for _, expression := range []string{long + " = 1", "state = " + long, "seen < " + long, "model = *" + long + " AND (", "model = " + long + "*"} {
		_, err := Parse(expression, record.DeviceFields)
		if err == nil {
			continue // an equality with a long word is one
		}
		if n := len(err.Error()); n > 1000 {
			t.Errorf("%.20s…: an error of %d bytes", expression, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "state=active AND (lot = W47 OR lot = 'W 48') -tpm.maker:ST*", "seen < 2026-11-22",
		`serial="a\"b\\" enrolled>=2026-11-22T10:00:00.5+02:00`, "((((", "NOT NOT", "lot=(", "état=1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, expression string) {
		s, err := Parse(expression, record.DeviceFields)
		if err != nil {
			if text := err.Error(); len(text) > 2000 {
				t.Fatalf("an error of %d bytes", len(text))
			}
			return
		}
		again, err := Parse(format(s), record.DeviceFields)
		if len(format(s)) > maxLength {
			return
		}
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Fatalf("%q gives %s, which gives %s (%v)", expression, format(s), format(again), err)
		}
	})
}
