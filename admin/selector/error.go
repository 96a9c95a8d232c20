package selector

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is an expression that was not understood.
type Error struct {
	// Expression is what was typed; empty if it was too long to repeat.
	Expression string
	// Column counts characters from 1.
	Column int
	// Problem is one sentence, with the next step where there is one.
	Problem string
}

// shown is how many characters of the expression are shown on each side of the place.
const shown = 60

// Error gives the problem and, below, the expression with a caret under the place.
func (e *Error) Error() string {
	if e.Expression == "" {
		return "filter: " + e.Problem
	}
	before := []rune(e.Expression)[:e.Column-1]
	after := []rune(e.Expression)[e.Column-1:]
	if len(before) > shown {
		before = append([]rune("…"), before[len(before)-shown:]...)
	}
	if len(after) > shown {
		after = append(after[:shown:shown], '…')
	}
	return fmt.Sprintf("filter, column %d: %s\n  %s%s\n  %s^", e.Column, e.Problem,
		oneLine(before), oneLine(after), strings.Repeat(" ", len(before)))
}

// oneLine keeps what was typed from moving the caret or the terminal.
func oneLine(rs []rune) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, string(rs))
}

// clip shortens what a sentence quotes of an expression.
func clip(s string) string {
	if rs := []rune(s); len(rs) > shown {
		return string(rs[:shown]) + "…"
	}
	return s
}

func (p *parser) errorAt(offset int, problem string) *Error {
	column := utf8.RuneCountInString(p.text[:offset]) + 1
	return &Error{Expression: p.text, Column: column, Problem: problem}
}
