package filter

import (
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// What a person typed is never part of the SQL: with other values of the same kind the
// text is the same, to the byte.
func FuzzValuesAreParameters(f *testing.F) {
	f.Add("tpm.maker", "=", "x' OR '1'='1", int64(1))
	f.Add("ek.issuer", ":", "*?[", int64(0))
	f.Add("enrolled", "<", "", int64(-1))
	f.Add("enrolled; DROP TABLE devices", "=", "", int64(5))
	f.Fuzz(func(t *testing.T, field, op, text string, micros int64) {
		build := func(text string, at time.Time) (string, int) {
			s := &record.Selector{Op: op, Field: field, Value: text}
			if record.DeviceFields[field] == record.Time {
				s.Value = at
			}
			sql, args, err := Devices(&record.Selector{Op: record.OpNot, Args: []*record.Selector{s}})
			if err != nil {
				return "", 0
			}
			return sql, len(args)
		}
		sql, args := build(text, time.UnixMicro(micros))
		plain, plainArgs := build("x", time.UnixMicro(1))
		if sql != "" && (sql != plain || args != plainArgs || args != strings.Count(sql, "?")) {
			t.Errorf("with %q: %s (%d parameters)\nwithout: %s (%d)", text, sql, args, plain, plainArgs)
		}
	})
}
