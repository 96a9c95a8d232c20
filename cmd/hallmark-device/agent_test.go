package main

import (
	"syscall"
	"testing"
	"time"
)

// The clock is set to the second that the server has said.
func TestSetClock(t *testing.T) {
	defer func(before func(*syscall.Timeval) error) { settimeofday = before }(settimeofday)
	var asked syscall.Timeval
	settimeofday = func(tv *syscall.Timeval) error { asked = *tv; return syscall.EPERM }
	now := time.Date(2031, 2, 3, 4, 5, 6, 7000, time.UTC)
	if err := setClock(now); err != syscall.EPERM || asked.Nano() != now.UnixNano() {
		t.Fatalf("%v, %v", err, asked)
	}
}
