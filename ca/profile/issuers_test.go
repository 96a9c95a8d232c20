package profile

import "testing"

func TestLinesOfIssuers(t *testing.T) {
	for name, line := range map[string]string{
		"operational": Operational, "operational-2": Operational, "infrastructure-17": Infrastructure,
		"operational-1": "", "operational-02": "", "operational-": "", "operational-2-3": "", "operational-root": "", "-2": "", "": "", "elsewhere": "", "elsewhere-2": "",
	} {
		if got := LineOf(name); got != line {
			t.Errorf("LineOf(%q) = %q, want %q", name, got, line)
		}
	}
	if a, b := Successor(Operational), Successor(Successor(Operational)); a != "operational-2" || b != "operational-3" || LineOf(b) != Operational {
		t.Error(a, b)
	}
}
