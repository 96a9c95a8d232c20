package bench

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/internal/build"
	"github.com/hallmark-pki/hallmark/internal/swtpm"
)

// mebibyte is what sizes are printed in.
const mebibyte = 1 << 20

// BenchmarkDeviceSize: the client as it goes into a 32-bit ARM image.
func BenchmarkDeviceSize(b *testing.B) {
	for range b.N {
		file := filepath.Join(b.TempDir(), "hallmark-device")
		must(b, build.Programs(file, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm", "GOARM=7"},
			[]string{"-trimpath", "-ldflags", "-s -w -R 0x1000"}, "./cmd/hallmark-device"))
		info, err := os.Stat(file)
		must(b, err)
		b.ReportMetric(float64(info.Size())/mebibyte, "MiB-armv7")
		b.ReportMetric(float64(info.Size())/(7.5*mebibyte), "of-7.5-MiB")
		run(b, "xz", "-9", "-k", file)
		info, err = os.Stat(file + ".xz")
		must(b, err)
		b.ReportMetric(float64(info.Size())/mebibyte, "MiB-xz")
		b.ReportMetric(0, "ns/op")
	}
}

// BenchmarkDeviceEnrolment: what one enrolment, one renewal and one poll cost a real client on a
// real software TPM: memory, bytes on the wire, TPM commands.
func BenchmarkDeviceEnrolment(b *testing.B) {
	for range b.N {
		meter := newMeter(b)
		s := start(b, 1, meter.port())
		meter.to = s.Address
		chip := swtpm.Start(b)
		maker, err := swtpm.NewMaker(swtpm.P256, time.Now())
		must(b, err)
		must(b, maker.Manufacture(chip, swtpm.Options{P256: true, IntermediateInNV: true}))
		folder := b.TempDir()
		client := filepath.Join(programs(b), "hallmark-device")
		ticket := s.text(b, s.tickets[0], meter.port())
		for _, step := range []struct {
			name string
			args []string
		}{
			{"enrolment", []string{"enrol", ticket, "--serial", "SN-1", "--tpm", chip.Spec()}},
			{"renewal", []string{"renew"}},
		} {
			meter.reset()
			out, peak := measured(b, client, append(step.args, "--state", folder, "--json")...)
			var r struct {
				Commands int `json:"tpm_commands"`
			}
			must(b, json.Unmarshal(out, &r))
			b.ReportMetric(float64(peak)/1024, "MiB-peak-"+step.name)
			b.ReportMetric(float64(meter.bytes.Load()), "bytes-"+step.name)
			b.ReportMetric(float64(r.Commands), "tpm-commands-"+step.name)
		}
		meter.reset()
		if _, err := device.Poll(b.Context(), device.Options{State: folder}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(meter.bytes.Load()), "bytes-poll")
		b.ReportMetric(0, "ns/op")
	}
}

// measured runs a command and gives its standard output and peak memory in KiB. GNU
// time starts it: to a child of ours Linux would count what this process had in memory
// when it was started (getrusage(2), ru_maxrss survives execve).
func measured(b *testing.B, name string, args ...string) ([]byte, int64) {
	b.Helper()
	cmd := exec.Command("/usr/bin/time", append([]string{"-f", "%M", name}, args...)...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("%v\n%s", err, said.String())
	}
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	peak, err := strconv.ParseInt(lines[len(lines)-1], 10, 64)
	must(b, err)
	return out, peak
}

// meter is a relay that counts what passes, both ways.
type meter struct {
	listener net.Listener
	to       string
	bytes    atomic.Int64
}

func newMeter(b *testing.B) *meter {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	b.Cleanup(func() { l.Close() })
	m := &meter{listener: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go m.relay(c)
		}
	}()
	return m
}

func (m *meter) relay(c net.Conn) {
	defer c.Close()
	s, err := net.Dial("tcp", m.to)
	if err != nil {
		return
	}
	defer s.Close()
	go func() {
		io.Copy(counting{s, &m.bytes}, c)
		s.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(counting{c, &m.bytes}, s)
}

func (m *meter) port() int { return m.listener.Addr().(*net.TCPAddr).Port }
func (m *meter) reset()    { m.bytes.Store(0) }

type counting struct {
	io.Writer
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.Writer.Write(p)
}

func selfSigned(key *ecdsa.PrivateKey) ([]byte, error) {
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bare"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}}
	return x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
}

// idleFor is how long an agent that has nothing to do is watched.
const idleFor = 3 * time.Minute

// BenchmarkDeviceIdle: what `hallmark-device run` with a socket for other programs costs
// while there is nothing to do: resident memory, and at how many moments it is woken.
func BenchmarkDeviceIdle(b *testing.B) {
	for range b.N {
		s := start(b, 1, 0)
		chip := swtpm.Start(b)
		maker, err := swtpm.NewMaker(swtpm.P256, time.Now())
		must(b, err)
		must(b, maker.Manufacture(chip, swtpm.Options{P256: true, IntermediateInNV: true}))
		folder := b.TempDir()
		config := filepath.Join(folder, "device.conf")
		must(b, os.WriteFile(config, []byte("state = "+folder+"/state\nserial = SN-1\ntpm = "+chip.Spec()+"\nhealth-file = "+folder+"/health\n"+
			"[proxy]\nlisten = unix:"+folder+"/mqtt\nto = localhost:8883\n"), 0o600))
		_, port, err := net.SplitHostPort(s.Address)
		must(b, err)
		number, err := strconv.Atoi(port)
		must(b, err)
		ticket := s.text(b, s.tickets[0], number)
		cmd := exec.Command(filepath.Join(programs(b), "hallmark-device"), "run", "--config", config)
		cmd.Env = append(os.Environ(), "HALLMARK_TICKET="+ticket)
		var said strings.Builder
		cmd.Stderr = &said
		must(b, cmd.Start())
		b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			if text, _ := os.ReadFile(folder + "/health"); strings.HasPrefix(string(text), "healthy") {
				break
			}
			if time.Now().After(end) {
				b.Fatalf("it does not become healthy:\n%s", said.String())
			}
		}
		time.Sleep(5 * time.Second) // to rest
		process := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status")
		woken := 0
		before := switches(b, cmd.Process.Pid)
		for end := time.Now().Add(idleFor); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if now := switches(b, cmd.Process.Pid); now != before { // several threads at one moment are one
				before, woken = now, woken+1
			}
		}
		b.ReportMetric(float64(statusField(b, process, "VmRSS"))/1024, "MiB-resident")
		b.ReportMetric(float64(statusField(b, process, "VmRSS"))/1024/12, "of-12-MiB")
		b.ReportMetric(float64(statusField(b, process, "RssAnon"))/1024, "MiB-anonymous")
		b.ReportMetric(float64(woken)/idleFor.Minutes(), "wake-ups/minute")
		b.ReportMetric(0, "ns/op")
	}
}

// switches is how often the threads of a process began to wait, which is how often they
// had been woken.
func switches(b *testing.B, pid int) (n int64) {
	b.Helper()
	threads, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "status"))
	must(b, err)
	for _, t := range threads {
		n += statusField(b, t, "voluntary_ctxt_switches")
	}
	return n
}

// statusField is a number in a file like /proc/PID/status (proc(5)).
func statusField(b *testing.B, file, name string) int64 {
	b.Helper()
	text, err := os.ReadFile(file)
	must(b, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			must(b, err)
			return n
		}
	}
	b.Fatalf("%s has no %s", file, name)
	return 0
}
