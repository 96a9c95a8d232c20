package server

import (
	"context"
	"net"
	"testing"
	"time"
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

// A listener that is full when it is closed says so at once: who waits for the connections of all
// listeners would otherwise use up the time in which those of the others ask.
func TestFullListenerCloses(t *testing.T) {
	t.Parallel()
	socket, err := listening.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	l := newLimit(door{socket.(*net.TCPListener)}, hostShare)
	for range hostShare {
		l.places <- struct{}{}
	}
	ended := make(chan error, 1)
	go func() { _, err := l.Accept(); ended <- err }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.refused:
	case <-time.After(30 * time.Second):
		t.Fatal("it still gives connections")
	}
	if err := <-ended; err == nil {
		t.Error("it gave one")
	}
}
