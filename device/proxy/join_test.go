package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// half is one end of a connection in memory that cannot end one direction by itself.
type half struct{ net.Conn }

func (half) CloseWrite() error { return nil }

// ended is a program that has said all and listens.
type ended struct{ half }

func (ended) Read([]byte) (int, error) { return 0, io.EOF }

// Of a connection of which one direction has ended the other may not be silent for ever.
func TestLingering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, listening := net.Pipe()
		b, server := net.Pipe()
		begun := time.Now()
		go func() {
			for range 3 { // it goes on while something comes
				time.Sleep(lingering - time.Second)
				server.Write([]byte("x"))
			}
		}()
		program := ended{half{a}}
		go io.Copy(io.Discard, listening)
		_, received, err := join(program, half{b})
		if waited := time.Since(begun); !errors.Is(err, os.ErrDeadlineExceeded) || received != 3 || waited != 3*(lingering-time.Second)+lingering {
			t.Fatalf("%d bytes after %v: %v", received, waited, err)
		}
	})
}

// A connection that is open both ways may be silent for as long as its programs like.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, program := net.Pipe()
		b, server := net.Pipe()
		go func() {
			time.Sleep(18 * time.Hour) // the longest keep-alive of MQTT
			program.Write([]byte("x"))
			program.Close()
		}()
		go io.Copy(io.Discard, server)
		done := make(chan int64)
		go func() {
			sent, _, _ := join(half{a}, half{b})
			done <- sent
		}()
		time.Sleep(18*time.Hour + time.Minute)
		server.Close()
		if sent := <-done; sent != 1 {
			t.Fatalf("%d bytes", sent)
		}
	})
}
