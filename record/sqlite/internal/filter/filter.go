// Package filter turns a record.Selector into a condition of SQLite's SQL, values
// always as parameters.
package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// Bounds of a selector: SQLite's parser nests a thousand deep, and a pattern with
// many stars takes exponential time.
const (
	maxNodes = 500
	maxStars = 8
)

// table says how the fields of one kind of thing are read in SQL.
type table struct {
	fields  map[string]record.FieldKind
	columns map[string]string
	// special writes the comparison of a field that is no plain column.
	special map[string]func(b *builder, s *record.Selector, text string) error
}

var deviceTable = table{
	fields: record.DeviceFields,
	columns: map[string]string{
		"model": "d.model", "lot": "d.lot", "serial": "d.serial_folded", "state": "d.state",
		"assurance": `CASE WHEN d.certified AND d.registered THEN 'certified+registered' WHEN d.certified THEN 'certified'
			WHEN d.registered THEN 'registered' WHEN d.hardware THEN 'first-use' ELSE 'software' END`,
		"tpm.maker": "d.tpm_maker", "tpm.model": "d.tpm_model", "tpm.firmware": "d.tpm_firmware", "key.alg": "d.key_algorithm",
		"enrolled": "d.enrolled", "renewed": "d.renewed", "expires": "d.expires", "seen": "d.seen",
	},
	special: map[string]func(*builder, *record.Selector, string) error{"serial": bySerial, "state": byState, "ek.issuer": byEKIssuer, record.LabelField: byLabel},
}

// statusCondition is record.StatusOf in SQL, each value apart so that an index serves it.
var statusCondition = map[string]string{
	"hold":     "(c.revoked IS NOT NULL AND c.reason = 6)",
	"revoked":  "(c.revoked IS NOT NULL AND c.reason <> 6)",
	"intended": "(c.revoked IS NULL AND c.issued IS NULL)",
	"expired":  "(c.revoked IS NULL AND c.issued IS NOT NULL AND c.not_after < ?)",
	"good":     "(c.revoked IS NULL AND c.issued IS NOT NULL AND c.not_after >= ?)",
}

var certificateTable = table{
	fields: record.CertificateFields,
	columns: map[string]string{
		"issuer": "c.issuer", "serial": "c.serial", "profile": "c.profile", "subject": "c.subject", "device": "coalesce(d.id, '')", "key.alg": "c.key_algorithm",
		"issued": "c.issued", "expires": "c.not_after", "revoked": "c.revoked",
	},
	special: map[string]func(*builder, *record.Selector, string) error{"status": byStatus, "device": byDevice},
}

// builder writes one condition. Values go into args, never into the text.
type builder struct {
	table
	sql   strings.Builder
	args  []any
	now   time.Time
	nodes int
}

// Devices gives a condition over the table devices as d, and its parameters.
func Devices(s *record.Selector) (string, []any, error) {
	return condition(&builder{table: deviceTable}, s)
}

// Certificates gives a condition over certificates as c joined with devices as d,
// and its parameters; now decides what has expired.
func Certificates(s *record.Selector, now time.Time) (string, []any, error) {
	return condition(&builder{table: certificateTable, now: now}, s)
}

func condition(b *builder, s *record.Selector) (string, []any, error) {
	if s == nil {
		return "TRUE", nil, nil
	}
	if err := b.write(s); err != nil {
		return "", nil, fmt.Errorf("selector: %w", err)
	}
	return b.sql.String(), b.args, nil
}

// write adds a condition that is true or false, never NULL, so that NOT means not.
func (b *builder) write(s *record.Selector) error {
	if b.nodes++; b.nodes > maxNodes || s == nil {
		return fmt.Errorf("more than %d parts, or one missing", maxNodes)
	}
	switch s.Op {
	case record.OpAnd, record.OpOr:
		if len(s.Args) < 2 {
			return fmt.Errorf("%q needs two parts", s.Op)
		}
		for i, a := range s.Args {
			b.sql.WriteString([]string{"(", " " + s.Op + " "}[min(i, 1)])
			if err := b.write(a); err != nil {
				return err
			}
		}
		b.sql.WriteByte(')')
		return nil
	case record.OpNot:
		if len(s.Args) != 1 {
			return errors.New("\"not\" takes one part")
		}
		b.sql.WriteString("NOT ")
		return b.write(s.Args[0])
	}
	return b.compare(s)
}

func (b *builder) compare(s *record.Selector) error {
	name := s.Field
	if label, ok := strings.CutPrefix(name, record.LabelField); ok && label != "" {
		name = record.LabelField
	}
	kind, ok := b.fields[name]
	if !ok || s.Field == record.LabelField {
		return fmt.Errorf("there is no field %q", s.Field)
	}
	if kind == record.Time {
		return b.compareTime(s)
	}
	text, ok := s.Value.(string)
	if !ok {
		return fmt.Errorf("field %q compares with text", s.Field)
	}
	if special := b.special[name]; special != nil {
		return special(b, s, text)
	}
	return b.compareText(b.columns[s.Field], s.Op, text)
}

func (b *builder) compareText(column, op, text string) error {
	switch op {
	case record.OpHas:
		if strings.Count(text, "*") > maxStars {
			return fmt.Errorf("more than %d stars in one pattern", maxStars)
		}
		// GLOB also knows ? and [; in brackets they stand for themselves.
		b.add("("+column+" GLOB ?)", strings.NewReplacer("?", "[?]", "[", "[[]").Replace(text))
		return nil
	case record.OpEqual, record.OpNotEqual, record.OpLess, record.OpLessEqual, record.OpGreater, record.OpGreaterEqual:
		b.add("("+column+" "+op+" ?)", text)
		return nil
	}
	return fmt.Errorf("there is no operator %q", op)
}

// compareTime: a time that has not come equals none, precedes none and follows none.
func (b *builder) compareTime(s *record.Selector) error {
	t, ok := s.Value.(time.Time)
	if !ok || t.IsZero() {
		return fmt.Errorf("field %q compares with a time", s.Field)
	}
	column := b.columns[s.Field]
	switch s.Op {
	case record.OpNotEqual:
		b.add("("+column+" IS NOT ?)", t)
	case record.OpEqual, record.OpLess, record.OpLessEqual, record.OpGreater, record.OpGreaterEqual:
		b.add("("+column+" IS NOT NULL AND "+column+" "+s.Op+" ?)", t)
	default:
		return fmt.Errorf("operator %q does not go with a time", s.Op)
	}
	return nil
}

func (b *builder) add(sql string, arg any) {
	b.sql.WriteString(sql)
	b.args = append(b.args, arg)
}

func bySerial(b *builder, s *record.Selector, text string) error {
	return b.compareText(b.columns[s.Field], s.Op, record.Fold(text))
}

// byState says of those that are not active what the index of them says, so that it
// serves the few among the many.
func byState(b *builder, s *record.Selector, text string) error {
	if s.Op == record.OpEqual && text != record.StateActive {
		b.add("(d.state <> 'active' AND d.state = ?)", text)
		return nil
	}
	return b.compareText(b.columns[s.Field], s.Op, text)
}

// byDevice compares in a way that an index serves.
func byDevice(b *builder, s *record.Selector, text string) error {
	if s.Op == record.OpEqual && text != "" {
		b.add("(c.device IS NOT NULL AND c.device IN (SELECT seq FROM devices WHERE id = ?))", text)
		return nil
	}
	return b.compareText(b.columns[s.Field], s.Op, text)
}

// byEKIssuer: a device may have several endorsement keys, and one that fits is
// enough; "!=" is the opposite of "=".
func byEKIssuer(b *builder, s *record.Selector, text string) error {
	op := s.Op
	if op == record.OpNotEqual {
		b.sql.WriteString("NOT ")
		op = record.OpEqual
	}
	b.sql.WriteString("(d.seq IN (SELECT device FROM eks WHERE ")
	err := b.compareText("issuer", op, text)
	b.sql.WriteString("))")
	return err
}

func byStatus(b *builder, s *record.Selector, text string) error {
	condition, known := statusCondition[text]
	switch {
	case s.Op != record.OpEqual && s.Op != record.OpNotEqual:
		return fmt.Errorf("field \"status\" takes = and != alone")
	case !known:
		return fmt.Errorf("there is no status %q: it is intended, good, hold, revoked or expired", text)
	}
	if s.Op == record.OpNotEqual {
		b.sql.WriteString("NOT ")
	}
	b.sql.WriteString(condition)
	if strings.Contains(condition, "?") {
		b.args = append(b.args, b.now)
	}
	return nil
}

// Chosen marks the statements that read what somebody chose: they may read every device.
const Chosen = " /* chosen */"

// Selection gives a condition over the table devices as d, and its parameters.
func Selection(of record.Selection) (string, []any, error) {
	if of.Holding != "" {
		return `d.state <> 'revoked' AND EXISTS (SELECT 1 FROM certificates held WHERE held.device = d.seq AND held.issuer = ?
			AND (held.revoked IS NULL OR held.reason = 6))` + Chosen, []any{of.Holding}, nil
	}
	if of.Devices == nil {
		sql, args, err := Devices(of.Where)
		return sql + Chosen, args, err
	}
	ids, err := json.Marshal(of.Devices)
	return "d.id IN (SELECT value FROM json_each(?))" + Chosen, []any{string(ids)}, err
}

// byLabel: a device without the label has no value, which equals none and fits no pattern.
func byLabel(b *builder, s *record.Selector, text string) error {
	op := s.Op
	if op == record.OpNotEqual {
		b.sql.WriteString("NOT ")
		op = record.OpEqual
	}
	b.add("(d.seq IN (SELECT device FROM labels WHERE key = ? AND ", strings.TrimPrefix(s.Field, record.LabelField))
	err := b.compareText("value", op, text)
	b.sql.WriteString("))")
	return err
}
