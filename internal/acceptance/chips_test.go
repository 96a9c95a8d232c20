package acceptance

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/internal/swtpm"
)

// Chips as swtpm_setup manufactures them, with RSA-2048 and high-range P-384 endorsement
// keys: they are certified once their CA is imported as it lies there, keys and settings
// beside it, and each counts with one of its two keys.
func TestChipsOfAnotherMaker(t *testing.T) {
	s := newStage(t)
	s.found(t)
	start(t, s, "hallmarkd", "serve", "--config", "acme/hallmark.yaml")
	await(t, s.at(0))
	await(t, s.at(1))
	authority := s.dir + "/authority"
	rsa, p384 := toolsChip(t, authority), toolsChip(t, authority)
	s.env = append(s.env, "HALLMARK_CONFIG="+s.dir+"/acme/operator/hallmark.yaml", "TPM2TOOLS_TCTI="+p384.TCTI())
	s.bash(t, "hallmark model create lamp --assurance certified && hallmark lot create pilot --model lamp --quota 5")
	enrol := func(chip *swtpm.TPM, serial string) string {
		return fmt.Sprintf("export HALLMARK_TPM=%s HALLMARK_STATE=%s; hallmark ticket create --lot pilot | hallmark-device enrol - --serial %[2]s", chip.Spec(), serial)
	}
	if out, err := s.try(enrol(rsa, "A-1")); err == nil || !strings.Contains(out, "swtpm-localca") {
		t.Errorf("before the import, %v: the missing issuer is not named:\n%s", err, out)
	}
	s.bash(t, "hallmark vendorca import authority")
	s.bash(t, enrol(rsa, "A-1")+" && hallmark-device renew")
	if out := s.bash(t, "hallmark device show A-1 && hallmark tpm list"); !strings.Contains(out, "certified") || !strings.Contains(out, "RSA-2048") {
		t.Errorf("enrolled as\n%s", out)
	}
	// The P-384 key comes last of those that a chip has: it is used where there is no other.
	s.bash(t, "tpm2_nvundefine -C p 0x01C00002 && tpm2_evictcontrol -C o -c 0x81010001")
	if out, err := s.try(enrol(p384, "B-1")); err == nil || !strings.Contains(out, "[ek-type]") {
		t.Errorf("a chip of this make with another key, %v:\n%s", err, out)
	}
	s.bash(t, "hallmark tpm allow 00001014 swtpm P-384")
	s.bash(t, enrol(p384, "B-1")+" && hallmark-device renew")
	if out := s.bash(t, "hallmark device show B-1"); !strings.Contains(out, "certified") {
		t.Errorf("enrolled as\n%s", out)
	}
	again := fmt.Sprintf("rm -r B-1; hallmark-device enrol --server https://%s --roots acme/trust/infrastructure.pem --tpm %s --state B-1", strings.Replace(s.at(0), "127.0.0.1", "localhost", 1), p384.Spec())
	if out := s.bash(t, again); !strings.Contains(out, "lamp:B-1") {
		t.Errorf("came back as\n%s", out)
	}
	if out := s.bash(t, "hallmark lot show pilot --json"); !strings.Contains(out, `"used": 2`) {
		t.Errorf("a return is counted:\n%s", out)
	}
}

// A list made as docs/factory.md describes admits the chip that it was made from.
func TestListOfChips(t *testing.T) {
	page, err := os.ReadFile("../../docs/factory.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## A list of chips")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, p256 := range []bool{true, false} {
		s := newStage(t)
		if !p256 { // the chip's only certificate is for its RSA key
			rsa := toolsChip(t, s.dir+"/authority")
			s.env = append(s.env, "HALLMARK_TPM="+rsa.Spec(), "TPM2TOOLS_TCTI="+rsa.TCTI())
			section = strings.ReplaceAll(section, "--key-algorithm ecc", "--key-algorithm rsa")
		}
		s.found(t)
		start(t, s, "hallmarkd", "serve", "--config", "acme/hallmark.yaml")
		await(t, s.at(0))
		await(t, s.at(1))
		s.env = append(s.env, "HALLMARK_CONFIG="+s.dir+"/acme/operator")
		s.bash(t, "set -e\n"+strings.Join(console(section), "\n"))
		s.bash(t, "hallmark ticket create --lot 2026-w49 | hallmark-device enrol - --serial R-1 --state device")
		if out := s.bash(t, "hallmark device show R-1"); !strings.Contains(out, "registered") {
			t.Errorf("enrolled as\n%s", out)
		}
	}
}

func toolsChip(t *testing.T, authority string) *swtpm.TPM {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := swtpm.SetupWithTools(authority, dir); err != nil {
		t.Fatal(err)
	}
	chip, err := swtpm.Run(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chip.Kill)
	return chip
}
