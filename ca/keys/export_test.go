package keys

import "testing"

// Age makes every token one that was opened long ago.
func Age(t *testing.T) {
	t.Helper()
	tokens.mu.Lock()
	defer tokens.mu.Unlock()
	for _, k := range tokens.known {
		k.soon.Store(0)
	}
}
