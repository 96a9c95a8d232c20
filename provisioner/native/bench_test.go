package native_test

import (
	"fmt"
	"testing"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
)

// BenchmarkEnrolment is for profiles: device and server in one process. The figure that
// is promised is measured by internal/bench, with the server in a process of its own.
func BenchmarkEnrolment(b *testing.B) {
	i := install(b, settings{})
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		u, ticket := i.unit(b, simtpm.Options{}), i.ticket(b, nil)
		b.StartTimer()
		if _, err := u.Enrol(ticket, fmt.Sprintf("SN-%d", n)); err != nil {
			b.Fatal(err)
		}
	}
}
