package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// A cell is text, and how it is lit up where that is wanted.
type cell struct {
	text  string
	style string // an ANSI code
}

const (
	plain = ""
	bold  = "1"
	red   = "31;1"
	green = "32"
	faint = "2"
)

var columns = []string{"work", "mode", "ours", "rival", "rival's", "ratio", "goal", "verdict"}

// lines makes the table of a row: a line of ours alone if something is asked of it, and one for each rival.
func (r row) lines() (table [][]cell) {
	work, mode, ours := cell{r.Work, plain}, cell{r.Mode, plain}, cell{cost(r.Ours, r.Unit), plain}
	line := func(cells ...cell) {
		table = append(table, append([]cell{work, mode, ours}, cells...))
		work, mode, ours = cell{}, cell{}, cell{} // said once
	}
	if goal := limits(r); goal != "" || len(r.Rivals) == 0 {
		line(cell{}, cell{}, cell{}, cell{goal, plain}, r.Verdict.cell())
	}
	for _, a := range r.Rivals {
		name := cell{"  " + a.Name, plain}
		if a.IsBest {
			name = cell{"* " + a.Name, bold}
		}
		line(name, cell{cost(a.figure, r.Unit), name.style}, cell{a.compared(), plain}, cell{a.asked(), plain}, a.Verdict.cell())
	}
	return table
}

// cost is a figure with its allocations; ~ says that no round had its processors.
func cost(f figure, unit string) string {
	said := amount(f.Best, unit)
	if n, ok := f.Metrics["allocs/op"]; ok && unit == "ns/op" {
		said += fmt.Sprintf(", %g", n)
	}
	if f.Starved {
		said = "~" + said
	}
	return said
}

func (v verdict) cell() cell {
	return cell{string(v), map[verdict]string{met: green, missed: red, unsure: red, noGoal: faint}[v]}
}

// print writes the whole report as people read it.
func (r *report) print(w io.Writer, colour bool) {
	for _, line := range r.header() {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintln(w)
	var table [][]cell
	head := make([]cell, len(columns))
	for i, name := range columns {
		head[i] = cell{name, bold}
	}
	table = append(table, head)
	for _, row := range r.Rows {
		table = append(table, row.lines()...)
	}
	align(w, table, colour)
	fmt.Fprintln(w, "\nfigures: time, and allocations, of one operation. *: the best rival that does the same work. (Goals) are not judged.")
	for _, note := range r.notes() {
		fmt.Fprintln(w, note)
	}
	for _, said := range r.Missed {
		fmt.Fprintln(w, paint(cell{"not met: " + said, red}, colour))
	}
}

// notes explain what is marked, or not to be compared.
func (r *report) notes() (notes []string) {
	starved, gates, said := false, false, map[string]bool{}
	for _, row := range r.Rows {
		gates = gates || row.Ours.Name == gateName
		starved = starved || row.Ours.Starved
		for _, a := range row.Rivals {
			starved = starved || a.Starved
			if note := a.Name + " (" + row.Work + "): " + a.Differs + "."; a.Differs != "" && !said[note] {
				said[note] = true
				notes = append(notes, note)
			}
		}
	}
	if gates {
		notes = append(notes, gateName+": bare, as it stands inside a call: it is given the time, and a record that was taken once for each goroutine and belongs to the call. Whole calls and permits take theirs each time.")
	}
	if starved {
		notes = append(notes, "~: no round had its processors, one or all: the machine is busy, or the work waits for itself. A ratio of such figures meets no goal.")
	}
	return notes
}

// align writes the cells in columns as wide as their widest.
func align(w io.Writer, table [][]cell, colour bool) {
	widths := make([]int, len(columns))
	for _, line := range table {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, line := range table {
		var b strings.Builder
		for i, c := range line {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			if i < len(line)-1 {
				pad += "  "
			}
			b.WriteString(paint(c, colour) + pad)
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

func paint(c cell, colour bool) string {
	if !colour || c.style == plain || c.text == "" {
		return c.text
	}
	return "\x1b[" + c.style + "m" + c.text + "\x1b[0m"
}
