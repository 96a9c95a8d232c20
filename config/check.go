package config

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// check checks every value against what Config says about it and makes paths absolute.
func check(c *Config, p *problems) {
	c.Anchored = c.anchored()
	checkName(c.Name, p)
	checkListen(c.Listen, p)
	checkPublic(c.Public, p)
	checkURI("database", &c.Database, c.Dir, p)
	for _, i := range c.issuers() {
		if checkSet(i.key+".certificate", i.Certificate, p) {
			i.Certificate = c.abs(i.Certificate)
		}
		checkURI(i.key+".key", &i.Key, c.Dir, p)
		checkSet(i.key+".signer", i.Signer, p)
	}
	checkURI("time_key", &c.TimeKey, c.Dir, p)
	if scheme, place, _ := strings.Cut(c.IssuerKeys, ":"); scheme == "" || !strings.Contains(place, NamePart) {
		p.add("issuer_keys", "this is not a key URI with %s in it: two issuers would share a key", NamePart)
	}
	for key, path := range map[string]*string{"journal": &c.Journal, "server_secret": &c.ServerSecret, "trust.bundle": &c.Trust.Bundle, "trust.roots": &c.Trust.Roots} {
		if checkSet(key, *path, p) {
			*path = c.abs(*path)
		}
	}
	checkRange("ldevid_lifetime", c.LDevIDLifetime, time.Minute, 398*day, p)
	// RFC 9334 §10: what is fresh is the verifier's policy; the design allows five minutes.
	checkRange("session_lifetime", c.SessionLifetime, 10*time.Second, 5*time.Minute, p)
	if n := c.CRLShardCapacity; n < 1 || n > 1<<16 {
		p.add("crl_shard_capacity", "%d is outside 1 to 65536", n)
	}
	checkChoice("channel_binding", c.ChannelBinding, p, BindingExporter, BindingNonce)
	checkChoice("log.level", c.Log.Level, p, "debug", "info", "warn", "error")
	checkChoice("log.format", c.Log.Format, p, "text", "json")
}

// anchored finds what Config.Anchored lists, before paths are made absolute.
func (c *Config) anchored() (keys []string) {
	paths := map[string]string{"database": c.Database, "issuer_keys": c.IssuerKeys, "trust.bundle": c.Trust.Bundle, "trust.roots": c.Trust.Roots,
		"time_key": c.TimeKey, "server_secret": c.ServerSecret}
	for _, i := range c.issuers() {
		paths[i.key+".certificate"], paths[i.key+".key"] = i.Certificate, i.Key
	}
	for key, path := range paths {
		for _, scheme := range append([]string{"sqlite:"}, fileSchemes...) {
			path = strings.TrimPrefix(path, scheme)
		}
		if _, inside := c.Inside(path); inside && filepath.IsAbs(path) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// checkFiles checks that the files named in the configuration exist. Their users check the
// contents.
func checkFiles(c *Config, p *problems) {
	exists := func(key, path string) {
		if _, err := os.Stat(path); err != nil {
			p.add(key, "%v", err)
		}
	}
	exists("trust.bundle", c.Trust.Bundle)
	exists("trust.roots", c.Trust.Roots)
	exists("server_secret", c.ServerSecret)
	for _, i := range c.issuers() {
		exists(i.key+".certificate", i.Certificate)
		if path, ok := c.KeyFile(i.Key); ok {
			exists(i.key+".key", path)
		}
	}
	if path, ok := c.KeyFile(c.TimeKey); ok {
		exists("time_key", path)
	}
	if path, ok := strings.CutPrefix(c.Database, "sqlite:"); ok {
		exists("database", path)
	}
}

type namedIssuer struct {
	*Issuer
	key string
}

func (c *Config) issuers() []namedIssuer {
	return []namedIssuer{
		{&c.Issuers.Manufacturing, "issuers.manufacturing"},
		{&c.Issuers.Operational, "issuers.operational"},
		{&c.Issuers.Infrastructure, "issuers.infrastructure"},
	}
}

func (c *Config) abs(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(c.Dir, path)
}

func checkSet(key, value string, p *problems) bool {
	if value == "" {
		p.add(key, "missing")
	}
	return value != ""
}

// checkName refuses names that certificates cannot hold: organizationName has at most 64
// characters (RFC 5280 appendix A.1, ub-organization-name).
func checkName(name string, p *problems) {
	if !checkSet("name", name, p) {
		return
	}
	if !utf8.ValidString(name) || utf8.RuneCountInString(name) > 64 || strings.TrimSpace(name) != name || strings.ContainsFunc(name, unicode.IsControl) {
		p.add("name", "%q is not 1 to 64 characters without blanks at its ends", name)
	}
}

func checkListen(l Listen, p *problems) {
	seen := map[string]string{}
	for _, a := range []struct{ key, address string }{
		{"listen.devices", l.Devices}, {"listen.operators", l.Operators}, {"listen.status", l.Status}, {"listen.metrics", l.Metrics},
	} {
		host, port, err := net.SplitHostPort(a.address)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 {
			p.add(a.key, "%q is not HOST:PORT, as in :8443", a.address)
			continue
		}
		if other, taken := seen[a.address]; taken {
			p.add(a.key, "%s is taken by %s", a.address, other)
		}
		seen[a.address] = a.key
		if ip := net.ParseIP(host); a.key == "listen.metrics" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			p.add(a.key, "%q is not a loopback address: write 127.0.0.1:%s and let the collector run on this host", a.address, port)
		}
	}
}

func checkPublic(public Public, p *problems) {
	if len(public.Devices) == 0 {
		p.add("public.devices", "missing: name at least one https URL under which devices reach this server")
	}
	for i, u := range public.Devices {
		checkURL("public.devices["+strconv.Itoa(i)+"]", u, "https", p)
	}
	checkURL("public.operators", public.Operators, "https", p)
	checkURL("public.status", public.Status, "http", p)
}

func checkURL(key, text, scheme string, p *problems) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != scheme || u.Hostname() == "" || text != scheme+"://"+u.Host {
		p.add(key, "%q is not of the form %s://HOST:PORT, without a path", text, scheme)
	}
}

// checkURI requires SCHEME:REST and makes the paths of file and sqlite absolute.
func checkURI(key string, uri *string, dir string, p *problems) {
	scheme, rest, found := strings.Cut(*uri, ":")
	if !found || scheme == "" || rest == "" {
		p.add(key, "%q is not SCHEME:PLACE, as in file:keys/time.key or sqlite:hallmark.db", *uri)
		return
	}
	if (scheme == "file" || scheme == "sqlite") && !filepath.IsAbs(rest) {
		*uri = scheme + ":" + filepath.Join(dir, rest)
	}
}

func checkRange(key string, d Duration, least, most time.Duration, p *problems) {
	if d.Std() < least || d.Std() > most {
		p.add(key, "%v is outside %v to %v", d, Duration(least), Duration(most))
	}
}

func checkChoice(key, value string, p *problems, choices ...string) {
	if !slices.Contains(choices, value) {
		p.add(key, "%q is not one of %s", value, strings.Join(choices, ", "))
	}
}
