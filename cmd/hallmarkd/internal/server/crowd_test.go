package server

import (
	"context"
	"testing"
)

// A crowd lets in as many as it has places for; one that has ended, given up or taken its
// time makes room for the next.
func TestCrowd(t *testing.T) {
	t.Parallel()
	c := make(crowd, 2)
	first, end := context.WithCancel(t.Context())
	for _, ctx := range []context.Context{first, t.Context()} {
		if err := c.enter(ctx); err != nil {
			t.Fatal(err)
		}
	}
	end()
	if err := c.enter(t.Context()); err != nil { // in the place of the first
		t.Fatal(err)
	}
	for range 4 { // the others never end, and their time does
		if err := c.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	if err := make(crowd).enter(gone); err == nil {
		t.Error("one that has hung up is let in where there is no place")
	}
}
