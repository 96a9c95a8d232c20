package collect

import (
	"errors"
	"strings"
	"syscall"
	"time"
)

const (
	// restAfter is how long an idle TPM is kept open: long enough for the steps of a renewal on a
	// good network to find their keys still loaded, short enough for another program's handshake
	// to wait for it.
	restAfter = 500 * time.Millisecond
	// longTurn is after how long a program that uses the TPM without a pause releases it for
	// betweenTurns, if only one program can have it open.
	longTurn     = 2 * time.Second
	betweenTurns = 2 * busyPoll
	// busyPoll is how often opening a TPM is retried while another program has it.
	busyPoll = 50 * time.Millisecond
)

// errClosed: the Device was used after Close.
var errClosed = errors.New("the TPM was closed")

// begin opens the TPM if it is not open, waiting for its turn: a device file without a resource
// manager, and a software TPM's socket, serve one program at a time.
func (d *Device) begin() error {
	if d.closed {
		return errClosed
	}
	if d.link != nil {
		return nil
	}
	time.Sleep(time.Until(d.notBefore))
	l, err := await(greetTimeout, func() (*link, error) { return dial(d.spec) })
	if err != nil {
		return err
	}
	d.link, d.begun = l, time.Now()
	if err := d.start(); err != nil {
		d.end()
		return explain("opening the TPM", err)
	}
	return nil
}

// alone reports whether only one program at a time can have the TPM open: there is no resource
// manager.
func (d *Device) alone() bool { return !strings.HasPrefix(d.spec, "/dev/tpmrm") }

// await retries open for as long as patience while another program has the TPM.
func await(patience time.Duration, open func() (*link, error)) (*link, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(busyPoll) {
		l, err := open()
		if !taken(err) || time.Now().After(deadline) {
			return l, err
		}
	}
}

// taken reports whether another program has the TPM. The kernel's device file says so at once, a
// software TPM's socket only if others wait for it already.
func taken(err error) bool {
	return errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EAGAIN)
}

// rest releases the TPM to others unless it is needed again soon. A broken connection is closed
// at once; the next operation opens a new one.
func (d *Device) rest() {
	if d.link.broken != nil {
		d.end()
		return
	}
	d.used = time.Now()
	if d.alone() && d.used.Sub(d.begun) > longTurn {
		d.end()
		d.notBefore = d.used.Add(betweenTurns)
		return
	}
	if d.resting != nil {
		return
	}
	d.resting = time.AfterFunc(restAfter, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		switch left := restAfter - time.Since(d.used); {
		case d.resting == nil: // the turn has ended meanwhile
		case left > 0:
			d.resting.Reset(left)
		default:
			d.end()
		}
	})
}

// end flushes every object and closes the TPM.
func (d *Device) end() error {
	if d.resting != nil {
		d.resting.Stop()
		d.resting = nil
	}
	if d.link == nil {
		return nil
	}
	d.evict(len(d.loaded))
	d.past += d.link.commands
	err := d.link.Close()
	d.link, d.loaded = nil, nil
	return err
}
