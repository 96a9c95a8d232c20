package collect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest/trouble"
)

const (
	// headerSize is the length of a command's and of a response's header.
	headerSize = 10
	// maxSize is the size of the largest command and response of any TPM (the kernel's TPM_BUFSIZE).
	maxSize = 4096
	// greetTimeout bounds the first exchange: a software TPM serves one client at a time and
	// silently keeps others waiting.
	greetTimeout = 10 * time.Second
	// commandTimeout bounds one command. Making an RSA key takes a slow TPM minutes.
	commandTimeout = 5 * time.Minute
	// busyTimeout bounds how long a command that the TPM is too busy for is retried.
	busyTimeout = 2 * time.Minute
)

// link sends raw commands to one TPM and retries those that it was too busy for.
type link struct {
	channel  channel
	commands int
	// broken is the channel's first error, after which nothing is sent: a late response would be
	// taken for the response to the next command.
	broken error
}

// channel carries one command and its response.
type channel interface {
	exchange(command []byte, timeout time.Duration) ([]byte, error)
	io.Closer
}

// dial opens the channel that spec names.
func dial(spec string) (*link, error) {
	var c channel
	var err error
	switch kind, address, _ := strings.Cut(spec, ":"); {
	case kind == "unix" || kind == "tcp":
		var conn net.Conn
		if conn, err = net.DialTimeout(kind, address, greetTimeout); err == nil {
			c = stream{conn}
		}
	case strings.HasPrefix(spec, "/"):
		c, err = openDevice(spec)
	default:
		return nil, &trouble.Error{Kind: ErrMissing, Detail: fmt.Sprintf("%q does not name a TPM", spec),
			Hint: "name it like /dev/tpmrm0, unix:PATH or tcp:HOST:PORT"}
	}
	if err != nil {
		return nil, explainOpen(spec, err)
	}
	return &link{channel: c}, nil
}

// Send implements go-tpm's transport.TPM. TPM_RC_RETRY, YIELDED, TESTING and NV_RATE mean "the
// same command again, later" (TPM 2.0 Part 2, 6.6.3), which is done here until busyTimeout.
func (l *link) Send(command []byte) ([]byte, error) {
	if l.broken != nil {
		return nil, l.broken
	}
	if len(command) > maxSize { // a server's challenge may be of any size
		return nil, fmt.Errorf("a command of %d bytes is too large for a TPM", len(command))
	}
	timeout := commandTimeout
	if l.commands == 0 {
		timeout = greetTimeout
	}
	for wait, waited := time.Millisecond, time.Duration(0); ; wait = min(2*wait, time.Second) {
		l.commands++
		response, err := l.channel.exchange(command, timeout)
		if err == nil {
			err = checkResponse(response)
		}
		if err != nil {
			l.broken = err
			return nil, err
		}
		switch responseCode(response) {
		case gotpm.TPMRCRetry, gotpm.TPMRCYielded, gotpm.TPMRCTesting, gotpm.TPMRCNVRate:
		default:
			return response, nil
		}
		if waited > busyTimeout {
			return response, nil
		}
		time.Sleep(wait)
		waited += wait
	}
}

// Close closes the channel.
func (l *link) Close() error { return l.channel.Close() }

// checkResponse checks a response's header: tag and size (TPM 2.0 Part 1, 18.2).
func checkResponse(r []byte) error {
	if len(r) < headerSize || int(binary.BigEndian.Uint32(r[2:6])) != len(r) {
		return &trouble.Error{Kind: ErrFailure, Detail: "the TPM gave a response of the wrong size", Hint: restartHint}
	}
	switch tag := binary.BigEndian.Uint16(r); tag {
	case uint16(gotpm.TPMSTNoSessions), uint16(gotpm.TPMSTSessions):
		return nil
	case 0x00C4: // TPM_TAG_RSP_COMMAND of TPM 1.2; a TPM 2.0 gives it to commands that it cannot read
		return &trouble.Error{Kind: ErrMissing, Detail: "this is a TPM 1.2", Hint: "a TPM 2.0 is needed; some can be switched in the firmware set-up"}
	default:
		return &trouble.Error{Kind: ErrFailure, Detail: fmt.Sprintf("the TPM gave a response with the unknown tag 0x%04X", tag), Hint: restartHint}
	}
}

// responseCode reads the code of a response that checkResponse has accepted.
func responseCode(r []byte) gotpm.TPMRC { return gotpm.TPMRC(binary.BigEndian.Uint32(r[6:])) }

// stream is a connection to a software TPM. The size in the header delimits responses.
type stream struct{ net.Conn }

func (s stream) exchange(command []byte, timeout time.Duration) ([]byte, error) {
	if err := s.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if _, err := s.Write(command); err != nil {
		return nil, err
	}
	return readResponse(s)
}

// readResponse reads exactly one response and no more than maxSize bytes.
func readResponse(r io.Reader) ([]byte, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:6])
	if size < headerSize || size > maxSize {
		return nil, fmt.Errorf("the TPM announced a response of %d bytes", size)
	}
	response := make([]byte, size)
	copy(response, header)
	_, err := io.ReadFull(r, response[headerSize:])
	return response, err
}

// charDevice is the kernel's device file. A write runs the command, one read returns the whole
// response.
type charDevice struct{ *os.File }

// openDevice opens the file in blocking mode: os.OpenFile would make it non-blocking, where the
// kernel runs the command in the background and an early read looks like the end of the file. The
// kernel's driver limits the time of each command.
func openDevice(path string) (channel, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeCharDevice == 0 {
		return nil, errNotDevice
	}
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return charDevice{os.NewFile(uintptr(fd), path)}, nil
}

var errNotDevice = errors.New("not a device file")

func (c charDevice) exchange(command []byte, _ time.Duration) ([]byte, error) {
	if _, err := c.Write(command); err != nil {
		return nil, err
	}
	response := make([]byte, maxSize)
	n, err := c.Read(response)
	if err != nil {
		return nil, err
	}
	return response[:n], nil
}
