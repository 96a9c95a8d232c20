package collect

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/internal/program"
)

const (
	// signerTimeout bounds one run of the signer: long enough for a slow chip.
	signerTimeout = 20 * time.Second
	// maxAnswer bounds its answer, in bytes; an honest one has about 150.
	maxAnswer = 4 << 10
	// maxComplaint bounds how much of its standard error is repeated.
	maxComplaint = 200
)

// External is the single key behind an external signer: a command that sh runs for each request,
// which it reads as a line of JSON from standard input and answers with a line on standard output
// (docs/external-signer.md). It is safe for concurrent use; only one run of the signer happens at
// a time.
type External struct {
	command string
	timeout time.Duration
	public  *ecdsa.PublicKey
	spki    []byte

	mu   sync.Mutex
	runs int
}

// signerRequest is what the signer reads. Its keys stand in this order, for the sake of shell
// scripts.
type signerRequest struct {
	Version int    `json:"version"`
	Do      string `json:"do"`
	Digest  []byte `json:"digest,omitempty"`
}

type signerAnswer struct {
	Public    []byte `json:"public"`
	Signature []byte `json:"signature"`
	Error     string `json:"error"`
}

// OpenExternal asks a signer for its public key.
func OpenExternal(command string) (*External, error) {
	return openExternal(command, signerTimeout)
}

func openExternal(command string, timeout time.Duration) (*External, error) {
	k := &External{command: command, timeout: timeout}
	answer, err := k.ask(signerRequest{Do: "public"})
	if err != nil {
		return nil, err
	}
	any, err := x509.ParsePKIXPublicKey(answer.Public)
	key, ok := any.(*ecdsa.PublicKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, &trouble.Error{Kind: ErrMalformed, Detail: "the external signer's key is not the SubjectPublicKeyInfo of a P-256 key",
			Hint: "make an ECDSA key on P-256 in the secure element", Cause: err}
	}
	// Encoded again, so that it is DER whatever the chip returned.
	k.public = key
	k.spki, err = x509.MarshalPKIXPublicKey(key)
	return k, err
}

// Public is the signer's key.
func (k *External) Public() crypto.PublicKey { return k.public }

// Wire is the key's SubjectPublicKeyInfo.
func (k *External) Wire() []byte { return bytes.Clone(k.spki) }

// Stored is nil: the command is all that is needed to find the key again.
func (k *External) Stored() []byte { return nil }

// Runs is how many times the signer has run.
func (k *External) Runs() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.runs
}

// Sign has a digest of at least 32 bytes signed, and verifies the signature: further on nobody
// could tell whose mistake a wrong one was.
func (k *External) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	const size = 32 // ECDSA takes the leftmost bits, as many as the curve's order has (FIPS 186-5 §6.4.1)
	if len(digest) < size {
		return nil, fmt.Errorf("a digest of %d bytes is too short", len(digest))
	}
	answer, err := k.ask(signerRequest{Do: "sign", Digest: digest[:size]})
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(k.public, digest[:size], answer.Signature) {
		return nil, &trouble.Error{Kind: ErrLie, Detail: "the external signer's signature is not its key's over what it was given",
			Hint: "the digest is signed as it is, not hashed again, and the signature is ASN.1; see docs/external-signer.md"}
	}
	return answer.Signature, nil
}

// ask runs the signer once.
func (k *External) ask(request signerRequest) (signerAnswer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.runs++
	request.Version = 1
	line, err := json.Marshal(request)
	if err != nil {
		return signerAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), k.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", k.command)
	cmd.Env = program.Environment()
	out, complaint := &program.Head{Max: maxAnswer, Full: cancel}, &program.Head{Max: maxComplaint}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(append(line, '\n')), out, complaint
	err = program.Run(cmd, 0)
	program.End(cmd) // no run may leave processes behind
	switch {
	case out.Over:
		return signerAnswer{}, k.failed(ErrSigner, fmt.Sprintf("answered with more than %d bytes", maxAnswer), nil)
	case ctx.Err() != nil:
		return signerAnswer{}, k.failed(ErrTimeout, fmt.Sprintf("did not answer within %v", k.timeout), nil)
	}
	answer, malformed := parseAnswer(out.Text)
	switch {
	case malformed == nil && answer.Error != "":
		return answer, k.failed(ErrSigner, "says: "+plain(answer.Error), nil)
	case err != nil: // a good answer counts even if the signer did not read all its input
		if said := plain(string(complaint.Text)); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return answer, k.failed(ErrSigner, "failed", err)
	case malformed != nil:
		return answer, k.failed(ErrSigner, "gave an answer that cannot be used", malformed)
	}
	return answer, nil
}

func (k *External) failed(kind error, what string, cause error) error {
	// The hint leaves out the command, which may hold a PIN: hints are logged.
	return &trouble.Error{Kind: kind, Detail: "the external signer " + what, Cause: cause,
		Hint: `try by hand what stands after "external:": echo '{"version":1,"do":"public"}' | COMMAND`}
}

// parseAnswer reads exactly one JSON object with exactly one field.
func parseAnswer(text []byte) (signerAnswer, error) {
	var a signerAnswer
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return signerAnswer{}, fmt.Errorf("not the JSON that was expected: %w", err)
	}
	if len(bytes.TrimSpace(text[d.InputOffset():])) > 0 {
		return signerAnswer{}, errors.New("there is more after the JSON object")
	}
	said := 0
	for _, has := range []bool{len(a.Public) > 0, len(a.Signature) > 0, a.Error != ""} {
		if has {
			said++
		}
	}
	if said != 1 {
		return signerAnswer{}, errors.New("it holds none, or more than one, of public, signature and error")
	}
	return a, nil
}

// plain is a foreign program's text, fit for one line.
func plain(text string) string {
	text = text[:min(len(text), maxComplaint)]
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, "?")))
}
