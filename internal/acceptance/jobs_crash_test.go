package acceptance

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/internal/ports"
	"github.com/hallmark-pki/hallmark/record/sqlite"
	"github.com/hallmark-pki/hallmark/record/sqlite/populate"
	"github.com/hallmark-pki/hallmark/wire/issuers"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// TestJobSurvivesKills kills the server again and again in the middle of a job. In the
// end each device has one outcome and one event, and the CRLs, as openssl reads them, list
// exactly its certificates.
func TestJobSurvivesKills(t *testing.T) {
	const fleet, kills = 6000, 3
	s := newStage(t)
	port, err := ports.Free(15000, 4)
	if err != nil {
		t.Fatal(err)
	}
	s.bash(t, fmt.Sprintf("hallmarkd init --dir acme --name 'Acme Devices' --listen 127.0.0.1:%d --public-url https://localhost:%d", port, port))
	want, err := populate.Fill(t.Context(), filepath.Join(s.dir, "acme", "hallmark.db"), populate.Fleet{Devices: fleet, Every: 2, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	server := s.serve(t, port)
	operator := s.operator(t)
	made, err := operator.CreateJob(ctx, jobs.New{Kind: jobs.Suspend, Why: "a drill", Selection: jobs.Selection{Where: "tpm.firmware = 7.2.1.0"}})
	if err != nil {
		t.Fatal(err)
	}
	p, server := s.killed(t, server, port, made.ID, kills)
	if p.Outcomes["done"] != int64(len(want)) || p.Total != int64(len(want)) {
		t.Errorf("after the kills: %+v", p.Job)
	}
	server.Process.Signal(syscall.SIGTERM)
	if err := server.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	s.eventEach(t, "device.suspended", len(want))
	server = s.serve(t, port)
	listed := s.listed(t, port)
	slices.Sort(want)
	if !slices.Equal(listed, want) {
		t.Errorf("the CRLs list %d certificates, want %d", len(listed), len(want))
	}
	server.Process.Signal(syscall.SIGTERM)
	server.Wait()
}

// TestIssuerRevocationSurvivesKills is the same for the end of an issuer: all that it has
// issued ends, each device once, and the plan by which they come back is not lost.
func TestIssuerRevocationSurvivesKills(t *testing.T) {
	const fleet, kills = 1500, 2
	s := newStage(t)
	port, err := ports.Free(15000, 4)
	if err != nil {
		t.Fatal(err)
	}
	s.bash(t, fmt.Sprintf("hallmarkd init --dir acme --name 'Acme Devices' --listen 127.0.0.1:%d --public-url https://localhost:%d --root-out safe", port, port))
	want, err := populate.Fill(t.Context(), filepath.Join(s.dir, "acme", "hallmark.db"), populate.Fleet{Devices: fleet, Every: 1, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	server := s.serve(t, port)
	s.bash(t, `set -e
		export HALLMARK_CONFIG=$PWD/acme/operator
		hallmark model create gauge --assurance software > /dev/null
		hallmark lot create w47 --model gauge --quota 10 > /dev/null
		hallmark ticket create --lot w47 --serial G-1 | hallmark-device enrol - --key file --state G-1 > /dev/null
		hallmark-device renew --state G-1 > /dev/null
		hallmarkd trust add-root operational --config acme --root-out safe > /dev/null
		hallmarkd trust sign --key safe/infrastructure-root.key acme/trust/proposal.json > /dev/null
		hallmarkd trust publish --config acme > /dev/null
		hallmarkd trust activate operational-2 --config acme > /dev/null
		for i in $(seq 1200); do hallmark issuer list | grep -q 'operational-2 *issues' && break; sleep 0.05; done`)
	serial := s.bash(t, "openssl x509 -in G-1/ldevid.pem -noout -serial | cut -d= -f2")
	want = append(want, strings.ToLower(strings.TrimSpace(serial)))
	ctx, operator := t.Context(), s.operator(t)
	made, err := operator.RevokeIssuer(ctx, "operational", issuers.NewRevocation{Reason: "key-compromise", Reissue: true, Within: 1})
	if err != nil {
		t.Fatal(err)
	}
	p, server := s.killed(t, server, port, made.Job, kills)
	if p.Outcomes["done"] != fleet+1 || p.Total != fleet+1 {
		t.Errorf("after the kills: %+v", p.Job)
	}
	listed := s.listed(t, port)
	slices.Sort(want)
	if !slices.Equal(listed, want) {
		t.Errorf("the CRLs list %d certificates, want %d", len(listed), len(want))
	}
	// The one device that is more than a row comes back, and the plan waits for the others.
	s.bash(t, "set -e; hallmark-device renew --state G-1; openssl verify -CAfile acme/trust/relying-parties.pem -untrusted G-1/ldevid.pem G-1/ldevid.pem")
	plan, err := operator.RenewalPlan(ctx, made.Plan.ID)
	if err != nil || plan.State != "running" || plan.Renewed != 1 || plan.Pending != fleet {
		t.Errorf("the plan: %+v, %v", plan, err)
	}
	server.Process.Signal(syscall.SIGTERM)
	if err := server.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	s.eventEach(t, "certificate.revoked", fleet+1)
}

func (s *stage) operator(t *testing.T) *client.Client {
	t.Helper()
	operator, err := client.Load(filepath.Join(s.dir, "acme", "operator"), func(warning string) { t.Log(warning) })
	if err != nil {
		t.Fatal(err)
	}
	return operator
}

// killed kills a server so many times in the middle of a job, each time after it got on, and
// gives the job at its end with the server that brought it there.
func (s *stage) killed(t *testing.T, server *exec.Cmd, port int, job string, kills int) (jobs.Progress, *exec.Cmd) {
	t.Helper()
	operator := s.operator(t)
	// look waits until the job has done more than so much, or is over.
	look := func(more int64) jobs.Progress {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
			p, err := operator.Job(t.Context(), job)
			if err == nil && (p.State == "done" || more >= 0 && p.Outcomes["done"] > more) {
				return p
			}
			if time.Now().After(deadline) {
				t.Fatalf("job: %+v, %v", p, err)
			}
		}
	}
	var done int64
	interrupted := 0
	for range kills {
		p := look(done)
		done = p.Outcomes["done"]
		if p.State != "done" {
			interrupted++
		}
		server.Process.Kill()
		server.Wait()
		server = s.serve(t, port)
	}
	if interrupted == 0 {
		t.Error("the job was over before the first kill: make the fleet larger")
	}
	return look(-1), server
}

// eventEach fails unless so many devices have one event of a verb, and none has two.
func (s *stage) eventEach(t *testing.T, verb string, devices int) {
	t.Helper()
	store := s.store(t)
	defer store.Close()
	events := map[string]int{}
	for after := int64(0); ; {
		page, err := store.Events(t.Context(), after, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			if after = e.Sequence; e.Verb == verb {
				events[e.Object]++
			}
		}
		if len(page) == 0 {
			break
		}
	}
	if len(events) != devices {
		t.Errorf("%d devices have an event, want %d", len(events), devices)
	}
	for device, n := range events {
		if n != 1 {
			t.Errorf("%s has %d events", device, n)
		}
	}
}

func (s *stage) store(t *testing.T) *sqlite.Store {
	t.Helper()
	dir := filepath.Join(s.dir, "acme")
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "hallmark.db"), sqlite.Options{Journal: filepath.Join(dir, "journal")})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// serve starts hallmarkd and waits until it listens.
func (s *stage) serve(t *testing.T, port int) *exec.Cmd {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "hallmarkd"), "serve", "--config", "acme/hallmark.yaml")
	cmd.Dir, cmd.Env, cmd.Stderr = s.dir, s.env, t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	await(t, fmt.Sprintf("127.0.0.1:%d", port+1))
	return cmd
}

// listed are the serial numbers on all CRLs of the operational issuer, as openssl reads
// them, sorted.
func (s *stage) listed(t *testing.T, port int) (serials []string) {
	t.Helper()
	text := s.bash(t, fmt.Sprintf(`set -e
		curl -fsS -o crls.pem http://127.0.0.1:%d/crl/operational.pem
		csplit -sz -f crl- crls.pem '/BEGIN X509 CRL/' '{*}'
		for f in crl-*; do openssl crl -in $f -noout -text; done`, port+2))
	for line := range strings.Lines(text) {
		if serial, ok := strings.CutPrefix(strings.TrimSpace(line), "Serial Number: "); ok {
			serials = append(serials, strings.ToLower(serial))
		}
	}
	slices.Sort(serials)
	return serials
}
