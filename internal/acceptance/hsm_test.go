package acceptance

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/internal/swtpm"
)

// withPKCS11 has the server speak PKCS #11.
func (s *stage) withPKCS11(t *testing.T) {
	t.Helper()
	dir, err := serverWithPKCS11()
	if err != nil {
		t.Fatal(err)
	}
	for n, v := range s.env {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			s.env[n] = "PATH=" + dir + ":" + path
		}
	}
}

// While the HSM is away nothing is lost: a device is told to come again, a suspension is
// recorded. When it is back nobody needs to do anything.
func TestHSMIsAway(t *testing.T) {
	s := newStage(t)
	s.withPKCS11(t)
	port, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, "SOFTHSM2_CONF="+s.dir+"/softhsm.conf", "HALLMARK_CONFIG="+s.dir+"/acme/operator/hallmark.yaml")
	s.bash(t, fmt.Sprintf(`set -e; umask 077; mkdir tokens; echo "directories.tokendir = $PWD/tokens" > softhsm.conf; echo 1234 > pin
		softhsm2-util --init-token --free --label issuers --pin 1234 --so-pin 5678
		hallmarkd init --dir acme --name "Acme Devices" --root-out roots --listen 127.0.0.1:%d --public-url https://localhost:%[1]d \
			--issuer-keys "pkcs11:module-path=/usr/lib/softhsm/libsofthsm2.so;token=issuers;object={name}?pin-source=$PWD/pin"
		hallmarkd serve --config acme/hallmark.yaml > log 2>&1 & echo $! > pid`, port))
	t.Cleanup(func() { s.try("kill $(cat pid)") })
	await(t, fmt.Sprintf("127.0.0.1:%d", port))
	out, err := s.try(`softhsm2-util --init-token --free --label other --pin 1234 --so-pin 5678
		K="pkcs11:module-path=/usr/lib/softhsm/libsofthsm2.so;token=other;object={name}?pin-source=$PWD/pin"
		hallmarkd trust new-key x --key "${K/\{name\}/infrastructure}" && hallmarkd init --dir other --name Other --root-out other-roots --issuer-keys "$K"`)
	if err == nil || !strings.Contains(out, "these keys were made and stay in their token: manufacturing, operational;") {
		t.Errorf("of an attempt that failed: %v, %s", err, out)
	}
	s.bash(t, "hallmark ticket create --serial SN-1 > ticket && hallmark-device enrol - --state device < ticket && hallmark-device renew --state device")
	s.bash(t, "hallmark operator invite bo > invitation; mv tokens gone")
	if out, err := s.try("hallmark-device renew --state device"); err == nil || !strings.Contains(out, "the CA cannot sign now") {
		t.Errorf("renewed without the CA's key: %v, %s", err, out)
	}
	if out, err := s.try("hallmark operator accept - --config bo < invitation"); err == nil || !strings.Contains(out, "the CA cannot sign now") {
		t.Errorf("an operator without the CA's key: %v, %s", err, out)
	}
	if out, err := s.try("hallmark device suspend SN-1"); err == nil || !strings.Contains(out, "it is recorded and OCSP says so") {
		t.Errorf("%v: %s", err, out)
	}
	s.bash(t, "mv gone tokens")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		out, err := s.try("hallmark device restore SN-1 --why tested && hallmark-device renew --state device")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v: %s\n%s", err, out, s.bash(t, "tail -5 log"))
		}
	}
	// The unit does not try a wrong PIN until the token locks itself.
	s.bash(t, "kill $(cat pid); echo 4321 > pin")
	if out, err := s.try("hallmarkd serve --config acme/hallmark.yaml; test $? = 4"); err != nil || strings.Contains(out, "4321") {
		t.Errorf("%v: %s", err, out)
	}
	if unit := string(read(t, "../..", "docs/administrator.md")); !strings.Contains(unit, "\nRestartPreventExitStatus=4\n") {
		t.Error("it does")
	}
}

// The server's own TPM keeps the issuing CAs' keys, by tpm2-pkcs11.
func TestKeysInTheServersTPM(t *testing.T) {
	s := newStage(t)
	s.withPKCS11(t)
	port, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "tpm") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	chip, err := swtpm.Run(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chip.Kill(); os.RemoveAll(dir) })
	const tcti = "tabrmd:bus_type=session"
	s.env = append(s.env, "TPM2_PKCS11_STORE="+s.dir+"/store", "TPM2_PKCS11_TCTI="+tcti, "TPM2TOOLS_TCTI="+tcti,
		"HALLMARK_CONFIG="+s.dir+"/acme/operator/hallmark.yaml", fmt.Sprint("PORT=", port))
	if out, err := s.beside(t, chip, `set -e; umask 077; mkdir store; echo 1234 > pin; trap 'kill $server; wait' EXIT
		tpm2_ptool init --path store
		tpm2_ptool addtoken --pid 1 --label issuers --userpin 1234 --sopin 5678 --path store
		hallmarkd init --dir acme --name "Acme Devices" --root-out roots --listen 127.0.0.1:$PORT --public-url https://localhost:$PORT \
			--issuer-keys "pkcs11:module-path=$(ls /usr/lib/*/libtpm2_pkcs11.so.1);token=issuers;object={name}?pin-source=$PWD/pin"
		hallmarkd serve --config acme/hallmark.yaml > log 2>&1 & server=$!
		for i in $(seq 1200); do (exec 3<>/dev/tcp/127.0.0.1/$PORT) 2>/dev/null && break; sleep 0.05; done
		hallmark ticket create --serial SN-1 > ticket
		hallmark-device enrol - --state device < ticket
		hallmark-device renew --state device
		test -z "$(find acme/keys -name '*operational*')"
`); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
