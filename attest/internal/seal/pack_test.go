package seal

import (
	"bytes"
	"reflect"
	"testing"
)

// full has a different value in every field, whatever fields there are.
func full(t testing.TB) Facts {
	f := Facts{TPM: &TPM{}}
	next := byte(1)
	var fill func(reflect.Value)
	fill = func(v reflect.Value) {
		for i := range v.NumField() {
			field := v.Field(i)
			switch {
			case field.Kind() == reflect.Pointer:
				fill(field.Elem())
			case field.Kind() == reflect.String:
				field.SetString(string([]byte{'a' + next}))
			case field.Kind() == reflect.Bool:
				field.SetBool(true)
			case field.CanUint():
				field.SetUint(uint64(next) << 20)
			case field.Kind() == reflect.Slice:
				field.SetBytes(bytes.Repeat([]byte{next}, 200))
			case field.Kind() == reflect.Array:
				reflect.Copy(field, reflect.ValueOf(bytes.Repeat([]byte{next}, field.Len())))
			default:
				t.Fatalf("no value for a %s", field.Type())
			}
			next++
		}
	}
	fill(reflect.ValueOf(&f).Elem())
	return f
}

func packed(f Facts) []byte {
	var p packer
	f.pack(&p)
	return p.b
}

func TestPackedFactsComeBack(t *testing.T) {
	for name, f := range map[string]Facts{"all": full(t), "no chip": {Kind: "softkey", Birth: []byte("b")}, "none": {}} {
		got, err := unpack(packed(f))
		if err != nil || !reflect.DeepEqual(got, f) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestCutFactsAreRefused(t *testing.T) {
	whole := packed(full(t))
	for n := range whole {
		if _, err := unpack(whole[:n]); err == nil {
			t.Fatalf("%d of %d bytes were read", n, len(whole))
		}
	}
	if _, err := unpack(append(whole, 0)); err == nil {
		t.Error("a byte more was read")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(packed(full(f)))
	f.Add(packed(Facts{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := unpack(b)
		if err != nil {
			return
		}
		again, err := unpack(packed(got))
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%+v became %+v, %v", got, again, err)
		}
	})
}
