// Package serial reads the product's serial number from where the board keeps it.
package serial

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
	// maxLength bounds what is read from a source, in bytes; the server accepts far fewer.
	maxLength = 256
	// timeout bounds a command that prints the serial number.
	timeout = 10 * time.Second
)

// ErrSource means that a text names no source of serial numbers.
var ErrSource = errors.New("not a source of serial numbers: use dmi, devicetree, file:PATH or cmd:COMMAND")

// Read reads the product's serial number from "dmi", "devicetree", "file:PATH" or "cmd:COMMAND"
// (run by sh). NUL bytes and white space at the ends are removed; the server decides whether the
// rest is a serial number.
func Read(ctx context.Context, source string) (string, error) {
	kind, argument, _ := strings.Cut(source, ":")
	switch {
	case source == "dmi":
		return readFile("/sys/class/dmi/id/product_serial")
	case source == "devicetree":
		return readFile("/proc/device-tree/serial-number")
	case kind == "file" && argument != "":
		return readFile(argument)
	case kind == "cmd" && argument != "":
		return run(ctx, argument)
	}
	return "", fmt.Errorf("%q is %w", source, ErrSource)
}

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLength+1))
	if err != nil {
		return "", err
	}
	return trim(path, text)
}

func run(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env = program.Environment()
	text, complaint := &program.Head{Max: maxLength + 1}, &program.Head{Max: maxLength}
	cmd.Stdout, cmd.Stderr = text, complaint
	if err := program.Run(cmd, 0); err != nil {
		return "", fmt.Errorf("the command for it: %w: %s", errors.Join(err, ctx.Err()), bytes.TrimSpace(complaint.Text))
	}
	return trim("what the command printed", text.Text)
}

func trim(source string, text []byte) (string, error) {
	text = bytes.Trim(text, "\x00 \t\r\n")
	switch {
	case len(text) == 0:
		return "", fmt.Errorf("%s holds no serial number", source)
	case len(text) > maxLength:
		return "", fmt.Errorf("%s holds more than %d bytes, too many for a serial number", source, maxLength)
	}
	return string(text), nil
}
