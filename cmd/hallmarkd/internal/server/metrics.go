package server

import (
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hallmark-pki/hallmark/ca/status"
)

// metrics is what Prometheus and profilers read on loopback. No label holds anything that a
// stranger can choose, so their number is bounded.
type metrics struct {
	registry                  *prometheus.Registry
	requests, issued, refused *prometheus.CounterVec
	unsigned                  prometheus.Counter
	seconds                   *prometheus.HistogramVec
}

func newMetrics(version string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		issued: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hallmark_certificates_total", Help: "Certificates signed, by profile."}, []string{"profile"}),
		unsigned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hallmark_certificates_void_total", Help: "Requests whose certificates were begun and could not be signed or recorded."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hallmark_refusals_total", Help: "Devices' requests that were refused, or failed, by the code that they were told."}, []string{"code"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hallmark_requests_total", Help: "Requests answered, by listener and HTTP status."}, []string{"listener", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "hallmark_request_seconds", Help: "Time to answer a request, by listener.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 5, 30}}, []string{"listener"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "hallmark_build_info", Help: "1, with the version as a label.", ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.issued, m.unsigned, m.refused, m.seconds, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watch adds the age of the oldest CRL to the metrics.
func (m *metrics) watch(s *status.Service) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hallmark_crl_age_seconds", Help: "Age of the oldest CRL that is served; 0 before the first. They are signed anew every hour."},
		func() float64 { return s.Age().Seconds() }))
}

func (m *metrics) handler(health http.HandlerFunc) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", health)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	return mux
}

// count observes each request of a listener.
func (m *metrics) count(listener string, next http.Handler) http.Handler {
	seconds := m.seconds.WithLabelValues(listener)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		c := &counted{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(c, r)
		seconds.Observe(time.Since(begin).Seconds())
		m.requests.WithLabelValues(listener, strconv.Itoa(c.code)).Inc()
	})
}

// counted remembers the status of an answer.
type counted struct {
	http.ResponseWriter
	code int
}

func (c *counted) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the connection.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }
