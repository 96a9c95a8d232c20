package denylist

import "testing"

// BenchmarkMillion: documents over a million certificates, one in a hundred denied. The
// filter must be right about every one of them.
func BenchmarkMillion(b *testing.B) {
	s := newStatus(b)
	denied, good := serials(10_000), serials(990_000)
	var data []byte
	for b.Loop() {
		var err error
		if data, err = SealFilter(s.Seal, document, made, denied, good); err != nil {
			b.Fatal(err)
		}
	}
	f, err := OpenFilter(data, s.roots, made)
	if err != nil {
		b.Fatal(err)
	}
	wrong := 0
	for verdict, all := range map[Verdict][]Serial{Denied: denied, Good: good} {
		for _, serial := range all {
			if f.Lookup(serial, made) != verdict {
				wrong++
			}
		}
	}
	b.ReportMetric(float64(len(data))/1e6, "filter-bytes/certificate")
	b.ReportMetric(float64(wrong), "wrong-answers")
	b.ReportMetric(float64(len(s.denyList(denied)))/float64(len(denied)), "list-bytes/denied")
}
