package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/internal/program"
)

const (
	// maxSerial bounds what is read from a source; the server takes far fewer bytes.
	maxSerial = 256
	// serialTimeout bounds a command that prints the serial number.
	serialTimeout = 10 * time.Second
)

// ErrSource means that a text names no source of serial numbers.
var ErrSource = errors.New("not a source of serial numbers: use dmi, devicetree, file:PATH or cmd:COMMAND")

// ReadSerial reads the product's serial number from "dmi", "devicetree", "file:PATH"
// or "cmd:COMMAND" (run by sh). NUL bytes and blanks at the ends are cut; whether the
// rest is a serial number is the server's to judge.
func ReadSerial(ctx context.Context, source string) (string, error) {
	kind, argument, _ := strings.Cut(source, ":")
	switch {
	case source == "dmi":
		return serialFile("/sys/class/dmi/id/product_serial")
	case source == "devicetree":
		return serialFile("/proc/device-tree/serial-number")
	case kind == "file" && argument != "":
		return serialFile(argument)
	case kind == "cmd" && argument != "":
		return serialCommand(ctx, argument)
	}
	return "", fmt.Errorf("%q is %w", source, ErrSource)
}

func serialFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSerial+1))
	if err != nil {
		return "", err
	}
	return trimSerial(path, text)
}

func serialCommand(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, serialTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env = program.Environment()
	var text, complaint limited
	cmd.Stdout, cmd.Stderr = &text, &complaint
	if err := program.Run(cmd, 0); err != nil {
		return "", fmt.Errorf("the command for it: %w: %s", errors.Join(err, ctx.Err()), bytes.TrimSpace(complaint))
	}
	return trimSerial("what the command printed", text)
}

// limited keeps the first bytes of what is written to it, one more than a serial number has.
type limited []byte

func (l *limited) Write(b []byte) (int, error) {
	*l = append(*l, b[:min(len(b), maxSerial+1-len(*l))]...)
	return len(b), nil
}

func trimSerial(source string, text []byte) (string, error) {
	text = bytes.Trim(text, "\x00 \t\r\n")
	switch {
	case len(text) == 0:
		return "", fmt.Errorf("%s holds no serial number", source)
	case len(text) > maxSerial:
		return "", fmt.Errorf("%s holds more than %d bytes, which is no serial number", source, maxSerial)
	}
	return string(text), nil
}
