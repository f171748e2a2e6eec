package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
)

// The README's table stands between these two lines.
const (
	opens  = "<!-- bench -->"
	closes = "<!-- /bench -->"
)

// markdown is the rows that have a goal, and those of whole calls that bare gates are a part of, beside the rivals that
// the goals name, or else the best. What is asked of ours alone stands in the first line of its row.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("| work | mode | ours | rival | rival's | ratio | goal | |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		lead := fmt.Sprintf("%s | %s | %s", row.Work, row.Mode, cost(row.Ours, row.Unit))
		own, verdict := limits(row), row.Verdict
		line := func(rival string) {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", lead, rival, strings.ReplaceAll(own, "<=", "≤"), verdict)
			lead, own, verdict = " | | ", "", noGoal // said once
		}
		for _, a := range row.named() {
			if asked := a.asked(); asked != "" {
				own = strings.TrimPrefix(own+", "+asked, ", ")
				verdict = both(verdict, a.Verdict)
			}
			line(fmt.Sprintf("%s | %s | %s", a.Name, cost(a.figure, row.Unit), a.compared()))
		}
		if own != "" { // there is no rival
			line(" | | ")
		}
	}
	b.WriteString("\n")
	for _, line := range r.header() {
		b.WriteString(line + "<br>\n")
	}
	return strings.TrimSuffix(b.String(), "<br>\n") + "\n"
}

// named is the rivals that goals name; if there are none, the best, if there is any other goal or the row is told anyway.
func (r row) named() []against {
	var named, best []against
	for _, a := range r.Rivals {
		if a.asked() != "" {
			named = append(named, a)
		} else if a.IsBest {
			best = append(best, a)
		}
	}
	if len(named) == 0 && (limits(r) != "" || r.told) {
		return best
	}
	return named
}

// both is the verdict on two goals: one that is missed counts, then one that may be, and then one that is met.
func both(a, b verdict) verdict {
	switch {
	case a == missed || b == missed:
		return missed
	case a == unsure || b == unsure:
		return unsure
	case a == met || b == met:
		return met
	}
	return noGoal
}

var errNoMarkers = errors.New("it has no line " + opens + " with a line " + closes + " below it")

// between replaces what stands between the markers of a text.
func between(text []byte, insert string) ([]byte, error) {
	before, rest, ok := bytes.Cut(text, []byte(opens+"\n"))
	if !ok {
		return nil, errNoMarkers
	}
	_, after, ok := bytes.Cut(rest, []byte(closes+"\n"))
	if !ok {
		return nil, errNoMarkers
	}
	return bytes.Join([][]byte{before, []byte(opens + "\n" + insert + closes + "\n"), after}, nil), nil
}

// rewrite puts the table into a file.
func (r *report) rewrite(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text, err = between(text, r.markdown())
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, text, 0o644)
}
