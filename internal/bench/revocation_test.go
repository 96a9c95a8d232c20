package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/record/sqlite/populate"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// A fleet in which every hundredth device, so in each shard, has the bad firmware.
const (
	million  = 1_000_000
	affected = 10_000
)

// BenchmarkRevocation: a million certificates, 10,000 devices with one each revoked in one
// job, from the request until all shards are published. What the CRLs say is then read by
// openssl.
func BenchmarkRevocation(b *testing.B) {
	for range b.N {
		var want []string
		s := start(b, 0, 0, func(file string) {
			var err error
			want, err = populate.Fill(context.Background(), file, populate.Fleet{Devices: million, Every: million / affected, Now: time.Now()})
			must(b, err)
		})
		operator, err := client.Load(filepath.Join(s.dir, "operator"), func(warning string) { b.Log(warning) })
		must(b, err)
		ctx := context.Background()
		selection := jobs.Selection{Where: "tpm.firmware = 7.2.1.0"}
		begun := time.Now()
		_, err = operator.Survey(ctx, selection)
		must(b, err)
		survey := time.Since(begun)
		profile := s.profile(b)
		var took time.Duration
		used := s.cpu(b, func() {
			begun := time.Now()
			j, err := operator.CreateJob(ctx, jobs.New{Kind: jobs.Revoke, Reason: "key-compromise", Why: "broken firmware", Selection: selection})
			must(b, err)
			for j.State != "done" {
				time.Sleep(50 * time.Millisecond)
				p, err := operator.Job(ctx, j.ID)
				must(b, err)
				j = p.Job
			}
			took = time.Since(begun)
			if j.Outcomes["done"] != affected {
				b.Fatalf("the job: %+v", j)
			}
		})
		profile()
		shards, listed := s.listed(b)
		slices.Sort(want)
		if !slices.Equal(listed, want) {
			b.Fatalf("the CRLs list %d certificates, want %d", len(listed), len(want))
		}
		b.ReportMetric(survey.Seconds(), "survey-s")
		b.ReportMetric(took.Seconds(), "s-until-published")
		b.ReportMetric(used.Seconds(), "server-s")
		b.ReportMetric(float64(shards), "shards")
		b.ReportMetric(0, "ns/op")
	}
}

// listed reads every shard of the operational issuer with openssl.
func (s *server) listed(b *testing.B) (shards int, serials []string) {
	b.Helper()
	_, text, _ := net.SplitHostPort(s.Address)
	port, _ := strconv.Atoi(text)
	for {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/crl/operational/%d.crl", port+2, shards+1))
		must(b, err)
		der, err := io.ReadAll(resp.Body)
		must(b, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			slices.Sort(serials)
			return shards, serials
		}
		shards++
		read := exec.Command("openssl", "crl", "-inform", "DER", "-noout", "-text")
		read.Stdin = bytes.NewReader(der)
		out, err := read.Output()
		must(b, err)
		for line := range strings.Lines(string(out)) {
			if serial, ok := strings.CutPrefix(strings.TrimSpace(line), "Serial Number: "); ok {
				serials = append(serials, strings.ToLower(serial))
			}
		}
	}
}
