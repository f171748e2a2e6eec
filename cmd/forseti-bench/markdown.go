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

// markdown is the rows that have a goal, beside the rivals that the goals name, or else the best.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("| work | mode | ours | rival | rival's | ratio | goal | |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		if own := limits(row); own != "" {
			fmt.Fprintf(&b, "| %s | %s | %s | | | | %s | %s |\n", row.Work, row.Mode, cost(row.Ours, row.Unit), goals(own), row.Verdict)
		}
		for _, a := range row.Rivals {
			switch {
			case a.Goal > 0:
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %.3gx | %s | %s |\n",
					row.Work, row.Mode, cost(row.Ours, row.Unit), a.Name, cost(a.figure, row.Unit), a.Ratio, goals(fmt.Sprintf("<= %gx", a.Goal)), a.Verdict)
			case a.IsBest && row.NS > 0:
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %.3gx | | %s |\n",
					row.Work, row.Mode, cost(row.Ours, row.Unit), a.Name, cost(a.figure, row.Unit), a.Ratio, a.Verdict)
			}
		}
	}
	b.WriteString("\n")
	for _, line := range r.header() {
		b.WriteString(line + "<br>\n")
	}
	return strings.TrimSuffix(b.String(), "<br>\n") + "\n"
}

func goals(s string) string { return strings.ReplaceAll(s, "<=", "≤") }

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
