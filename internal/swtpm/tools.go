package swtpm

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// SetupWithTools manufactures a chip in dir, which must not be running, with the
// swtpm_setup program: RSA-2048 and P-384 (high range) EKs with certificates of a CA
// that swtpm_localca keeps in authority, shared by all chips made with it. Nothing
// outside the two folders is touched. Run starts the chip afterwards.
func SetupWithTools(authority, dir string) error {
	authority, err := filepath.Abs(authority)
	if err != nil {
		return err
	}
	for _, d := range []string{authority, dir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	in := func(name string) string { return filepath.Join(authority, name) }
	localca, err := exec.LookPath("swtpm_localca")
	if err != nil {
		return fmt.Errorf("%w; scripts/setup installs it", err)
	}
	for name, text := range map[string]string{
		"localca.conf": fmt.Sprintf("statedir = %s\nsigningkey = %s\nissuercert = %s\ncertserial = %s\n",
			authority, in("signkey.pem"), in("issuercert.pem"), in("certserial")),
		"localca.options": "--platform-manufacturer Hallmark\n--platform-version 2.1\n--platform-model Test\n",
		"setup.conf": fmt.Sprintf("create_certs_tool= %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\nactive_pcr_banks = sha256\n",
			localca, in("localca.conf"), in("localca.options")),
	} {
		if err := os.WriteFile(in(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	out, err := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", dir, "--createek", "--create-ek-cert",
		"--create-platform-cert", "--lock-nvram", "--overwrite", "--config", in("setup.conf")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("swtpm_setup: %w: %s", err, out)
	}
	return nil
}

// toolsAuthorities is the CA of SetupWithTools: its root and the intermediate that
// signs, as an operator would import them.
func toolsAuthorities(authority string) (root, intermediate *x509.Certificate, err error) {
	if root, err = readCertificate(filepath.Join(authority, "swtpm-localca-rootca-cert.pem")); err != nil {
		return nil, nil, err
	}
	intermediate, err = readCertificate(filepath.Join(authority, "issuercert.pem"))
	return root, intermediate, err
}

func readCertificate(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM", path)
	}
	return x509.ParseCertificate(block.Bytes)
}
