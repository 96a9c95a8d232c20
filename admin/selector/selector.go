// Package selector reads the filter expressions that people type (AIP-160) into record.Selector, and
// refuses what it does not understand, pointing at the place.
//
// The grammar is AIP-160's, on the fields of record.DeviceFields or
// record.CertificateFields:
//
//	state = active AND (lot = W47 OR lot = W48) AND NOT tpm.maker = STM
//	serial:SN-10* seen < 2026-11-01
//
// OR binds more tightly than AND, and AND may be left out. Text compares with = != and,
// as a pattern in which * stands for any run of characters, with the colon. Times
// are RFC 3339 or dates in UTC; a date means its whole day.
//
// Values need no quotes unless they hold blanks, brackets or quotes: serial numbers,
// versions and dates are full of the characters that AIP-160's own lexer splits at
// ("SN-1", "7.2.1.0", "0a3f…"), so a value reaches up to the next blank or
// bracket. Where every text is quoted the two grammars are the same, which a test
// holds against go.einride.tech/aip.
package selector

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hallmark-pki/hallmark/record"
)

// Bounds of an expression; a store turns each comparison into a piece of a query.
const (
	// maxLength is in bytes.
	maxLength      = 4 << 10
	maxDepth       = 32
	maxComparisons = 200
	maxStars       = 8
)

// words are the values of fields that have only a few: a misspelt one would select
// nothing, and look like an answer.
var words = map[string][]string{
	"assurance": {record.LevelCertified + "+" + record.LevelRegistered, record.LevelCertified, record.LevelRegistered, record.LevelFirstUse, record.LevelSoftware},
	"state":     {record.StateActive, record.StateSuspended, record.StateRevoked},
	"status":    {"intended", "good", "hold", "revoked", "expired"}, // record.StatusOf
}

// Fields are what an expression may name.
type Fields = map[string]record.FieldKind

// Parse reads an expression; an empty one selects everything and gives nil. An error
// is an *Error.
func Parse(expression string, fields Fields) (*record.Selector, error) {
	p := &parser{text: expression, fields: fields}
	if len(expression) > maxLength {
		return nil, &Error{Problem: fmt.Sprintf("the expression has %d bytes; at most %d are allowed", len(expression), maxLength)}
	}
	for i, r := range expression {
		if r == utf8.RuneError || unicode.IsControl(r) && !unicode.IsSpace(r) {
			return nil, p.errorAt(i, "this character is not text")
		}
	}
	p.blanks()
	if p.end() {
		return nil, nil
	}
	s, err := p.expression(0)
	if err != nil {
		return nil, err
	}
	if !p.end() {
		return nil, p.errorAt(p.at, "this bracket closes nothing")
	}
	return s, nil
}

type parser struct {
	text        string
	at          int // byte offset of what is read next
	comparisons int
	fields      Fields
}

// expression = factor { [ "AND" ] factor }
func (p *parser) expression(depth int) (*record.Selector, error) {
	if depth > maxDepth {
		return nil, p.errorAt(p.at, "the brackets nest too deeply here")
	}
	var args []*record.Selector
	for {
		factor, err := p.factor(depth)
		if err != nil {
			return nil, err
		}
		args = append(args, factor)
		if !p.keyword("AND") && (p.end() || p.peek() == ')') {
			return combine(record.OpAnd, args), nil
		}
	}
}

// factor = term { "OR" term }
func (p *parser) factor(depth int) (*record.Selector, error) {
	var args []*record.Selector
	for {
		term, err := p.term(depth)
		if err != nil {
			return nil, err
		}
		args = append(args, term)
		if !p.keyword("OR") {
			return combine(record.OpOr, args), nil
		}
	}
}

// term = [ "NOT" | "-" ] ( "(" expression ")" | comparison )
func (p *parser) term(depth int) (*record.Selector, error) {
	not := p.keyword("NOT")
	if !not && p.peek() == '-' {
		not = true
		p.at++
	}
	inner, err := p.simple(depth)
	if err != nil || !not {
		return inner, err
	}
	return &record.Selector{Op: record.OpNot, Args: []*record.Selector{inner}}, nil
}

func (p *parser) simple(depth int) (*record.Selector, error) {
	if p.peek() != '(' {
		return p.comparison()
	}
	open := p.at
	p.at++
	p.blanks()
	inner, err := p.expression(depth + 1)
	if err != nil {
		return nil, err
	}
	if p.peek() != ')' {
		return nil, p.errorAt(open, "this bracket is never closed")
	}
	p.at++
	p.blanks()
	return inner, nil
}

// comparison = field operator value
func (p *parser) comparison() (*record.Selector, error) {
	start := p.at
	if p.end() {
		return nil, p.errorAt(start, "the expression ends where a comparison should follow")
	}
	if p.comparisons++; p.comparisons > maxComparisons {
		return nil, p.errorAt(start, fmt.Sprintf("more than %d comparisons", maxComparisons))
	}
	field := p.run(func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '.' || r == '_' || r == '-'
	})
	p.blanks()
	operatorAt := p.at
	operator := p.operator()
	if label, ok := strings.CutPrefix(field, "label."); ok {
		field = record.LabelField + label // both are AIP-160's way to name a member
	}
	kind, known := p.kind(field)
	switch {
	case operator == "" && slices.Contains([]string{"AND", "OR", "NOT"}, strings.ToUpper(field)):
		return nil, p.errorAt(start, "AND, OR and NOT are written in capitals, between comparisons")
	case operator == "" || field == "":
		return nil, p.errorAt(start, "a comparison should stand here: FIELD OPERATOR VALUE, for example "+p.example())
	case !known:
		return nil, p.errorAt(start, fmt.Sprintf("there is no field %q; %s", clip(field), p.fieldList()))
	}
	valueAt := p.at
	value, err := p.value()
	if err != nil {
		return nil, err
	}
	if kind == record.Time {
		return p.timeComparison(field, operator, operatorAt, value, valueAt)
	}
	return p.textComparison(field, operator, operatorAt, value, valueAt)
}

// kind finds a field, or a label by its key.
func (p *parser) kind(field string) (record.FieldKind, bool) {
	if key, ok := strings.CutPrefix(field, record.LabelField); ok && LabelKey.MatchString(key) {
		field = record.LabelField
	} else if ok {
		return 0, false
	}
	kind, known := p.fields[field]
	return kind, known
}

// LabelKey is what a label's key looks like.
var LabelKey = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

func (p *parser) textComparison(field, operator string, operatorAt int, value string, valueAt int) (*record.Selector, error) {
	equality := operator == record.OpEqual || operator == record.OpNotEqual
	choice := words[field]
	switch {
	case choice != nil && !equality && field != "assurance": // of which "certified*" is a choice too
		return nil, p.errorAt(operatorAt, fmt.Sprintf("%s compares with = and != only", field))
	case choice != nil && equality && !slices.Contains(choice, value):
		return nil, p.errorAt(valueAt, fmt.Sprintf("%s is one of %s", field, strings.Join(choice, ", ")))
	case equality && strings.Contains(value, "*"):
		return nil, p.errorAt(operatorAt, fmt.Sprintf("a pattern is compared with a colon: %s:%s", field, clip(value)))
	case !equality && operator != record.OpHas:
		return nil, p.errorAt(operatorAt, fmt.Sprintf("%s is text: it compares with = != and : only", field))
	case strings.Count(value, "*") > maxStars:
		return nil, p.errorAt(valueAt, fmt.Sprintf("more than %d stars in one pattern", maxStars))
	}
	if many := field == "ek.issuer" || strings.HasPrefix(field, record.LabelField); value == "*" && !many { // there is one at all
		operator, value = record.OpNotEqual, ""
	}
	return &record.Selector{Op: operator, Field: field, Value: value}, nil
}

// operator reads a comparison operator and the blanks behind it; "" if there is none.
func (p *parser) operator() string {
	for _, op := range []string{
		record.OpLessEqual, record.OpGreaterEqual, record.OpNotEqual, // before their first characters
		record.OpLess, record.OpGreater, record.OpEqual, record.OpHas,
	} {
		if strings.HasPrefix(p.text[p.at:], op) {
			p.at += len(op)
			p.blanks()
			return op
		}
	}
	return ""
}

// value reads a quoted or bare text and the blanks behind it.
func (p *parser) value() (string, error) {
	start := p.at
	switch quote := p.peek(); {
	case quote == '"' || quote == '\'':
		return p.quoted(quote)
	case quote == '(':
		return "", p.errorAt(start, "one value should stand here; for several write the comparison out again and join with OR")
	}
	bare := p.run(func(r rune) bool { return !unicode.IsSpace(r) && !strings.ContainsRune(`()"'`, r) })
	switch bare {
	case "":
		return "", p.errorAt(start, "a value should stand here; put an empty one in quotes")
	case "AND", "OR", "NOT":
		return "", p.errorAt(start, "a value should stand here; if this is one, put it in quotes")
	}
	if !p.end() && strings.ContainsRune(`("'`, rune(p.peek())) {
		return "", p.errorAt(p.at, "put a value that holds this character in quotes")
	}
	p.blanks()
	return bare, nil
}

// quoted reads a text in quotes; a backslash makes the next character stand for itself.
func (p *parser) quoted(quote byte) (string, error) {
	open := p.at
	var value strings.Builder
	for p.at++; !p.end(); p.at++ {
		switch c := p.text[p.at]; {
		case c == quote:
			p.at++
			after := p.at
			p.blanks()
			if p.at == after && !p.end() && p.peek() != ')' {
				return "", p.errorAt(after, "a blank should stand behind the closing quote")
			}
			return value.String(), nil
		case c == '\\' && p.at+1 < len(p.text):
			p.at++
			value.WriteByte(p.text[p.at])
		default:
			value.WriteByte(c)
		}
	}
	return "", p.errorAt(open, "this quote is never closed")
}

// timeComparison compares with an instant, or with the day that a bare date means.
func (p *parser) timeComparison(field, operator string, operatorAt int, value string, valueAt int) (*record.Selector, error) {
	compare := func(op string, t time.Time) *record.Selector {
		return &record.Selector{Op: op, Field: field, Value: t}
	}
	switch {
	case operator == record.OpHas && value == "*": // it has come at all
		return compare(record.OpGreaterEqual, time.Unix(0, 0).UTC()), nil
	case operator == record.OpHas:
		return nil, p.errorAt(operatorAt, fmt.Sprintf("%s is a time: it compares with = != < <= > >= and :* only", field))
	}
	if instant, err := time.Parse(time.RFC3339, value); err == nil {
		return compare(operator, instant.UTC()), nil
	}
	day, err := time.Parse(time.DateOnly, value)
	if err != nil {
		return nil, p.errorAt(valueAt, fmt.Sprintf("%s is a time: write 2026-11-22 or 2026-11-22T15:04:05Z", field))
	}
	next := day.AddDate(0, 0, 1)
	switch operator {
	case record.OpLess, record.OpGreaterEqual:
		return compare(operator, day), nil
	case record.OpLessEqual:
		return compare(record.OpLess, next), nil
	case record.OpGreater:
		return compare(record.OpGreaterEqual, next), nil
	case record.OpNotEqual:
		return combine(record.OpOr, []*record.Selector{compare(record.OpLess, day), compare(record.OpGreaterEqual, next)}), nil
	default: // record.OpEqual: the last that operator() knows
		return combine(record.OpAnd, []*record.Selector{compare(record.OpGreaterEqual, day), compare(record.OpLess, next)}), nil
	}
}

// keyword reads a whole word and the blanks behind it.
func (p *parser) keyword(word string) bool {
	rest, ok := strings.CutPrefix(p.text[p.at:], word)
	if !ok {
		return false
	}
	next, _ := utf8.DecodeRuneInString(rest)
	if rest != "" && next != '(' && !unicode.IsSpace(next) {
		return false
	}
	p.at += len(word)
	p.blanks()
	return true
}

func (p *parser) run(in func(rune) bool) string {
	rest := p.text[p.at:]
	n := strings.IndexFunc(rest, func(r rune) bool { return !in(r) })
	if n < 0 {
		n = len(rest)
	}
	p.at += n
	return rest[:n]
}

func (p *parser) blanks()   { p.run(unicode.IsSpace) }
func (p *parser) end() bool { return p.at >= len(p.text) }

// peek is the next byte, 0 at the end; everything the grammar asks for is ASCII.
func (p *parser) peek() byte {
	if p.end() {
		return 0
	}
	return p.text[p.at]
}

func (p *parser) fieldList() string {
	names := make([]string, 0, len(p.fields))
	for name := range p.fields {
		if name == record.LabelField {
			name += "KEY"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return "the fields are " + strings.Join(names, ", ")
}

func (p *parser) example() string {
	if _, devices := p.fields["lot"]; devices {
		return `state = active`
	}
	return `status = good`
}

// combine joins parts, and takes parts of the same kind apart: brackets that change
// nothing leave no trace.
func combine(op string, parts []*record.Selector) *record.Selector {
	if len(parts) == 1 {
		return parts[0]
	}
	s := &record.Selector{Op: op}
	for _, part := range parts {
		if part.Op == op {
			s.Args = append(s.Args, part.Args...)
		} else {
			s.Args = append(s.Args, part)
		}
	}
	return s
}
