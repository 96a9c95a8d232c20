package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

const day = 24 * time.Hour

// Duration is a time.Duration written with its unit, days included: 90s, 5m, 12h, 30d.
type Duration time.Duration

// Std is the duration as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String writes the duration in the largest unit that divides it.
func (d Duration) String() string {
	for _, u := range units {
		if n := time.Duration(d); n >= u.length && n%u.length == 0 {
			return strconv.FormatInt(int64(n/u.length), 10) + u.name
		}
	}
	return time.Duration(d).String()
}

var units = []struct {
	name   string
	length time.Duration
}{{"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}

// ParseDuration reads one whole number and one unit: s, m, h or d.
func ParseDuration(text string) (Duration, error) {
	for _, u := range units {
		digits, found := strings.CutSuffix(text, u.name)
		if !found {
			continue
		}
		// ParseUint, unlike ParseInt, takes no sign.
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || n > uint64((1<<63-1)/u.length) {
			break
		}
		return Duration(time.Duration(n) * u.length), nil
	}
	return 0, fmt.Errorf("%q is not a duration: write a whole number and its unit, s, m, h or d, as in 30d", text)
}

// UnmarshalYAML reads the duration from a scalar.
func (d *Duration) UnmarshalYAML(node ast.Node) error {
	scalar, ok := node.(ast.ScalarNode)
	if !ok {
		return &yaml.SyntaxError{Message: "a duration is written as one word, as in 30d", Token: node.GetToken()}
	}
	parsed, err := ParseDuration(fmt.Sprint(scalar.GetValue()))
	if err != nil {
		return &yaml.SyntaxError{Message: err.Error(), Token: node.GetToken()}
	}
	*d = parsed
	return nil
}
