package demo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// Report is how a run ended.
type Report struct {
	Version int     `json:"version"` // of this shape: 1
	Seed    uint64  `json:"seed"`
	For     string  `json:"for"`
	Claims  []Claim `json:"claims"`
	Numbers Numbers `json:"numbers"`
}

func newReport(cfg Config, n Numbers) Report {
	return Report{Version: 1, Seed: cfg.Seed, For: cfg.For.String(), Claims: Claims(n), Numbers: n}
}

// Failed is how many claims do not hold.
func (r Report) Failed() (n int) {
	for _, c := range r.Claims {
		if !c.Pass {
			n++
		}
	}
	return n
}

// print shows the claims. What was wanted is shown where it was not met.
func (r Report) print(con *console) {
	con.print(plain, "")
	con.print(heading, "What was claimed, and what NATS and the payment service have on record (%.1f s):", r.Numbers.Seconds)
	for i, c := range r.Claims {
		verdict := con.paint(good, "PASS")
		if !c.Pass {
			verdict = con.paint(bad, "FAIL")
		}
		con.print(plain, "")
		con.print(plain, "  %s  %d. %s", verdict, i+1, c.Name)
		for _, line := range wrap(c.Measured, con.width-12) {
			con.print(faint, "           %s", line)
		}
		if !c.Pass {
			for _, line := range wrap("wanted: "+c.Want, con.width-12) {
				con.print(bad, "           %s", line)
			}
		}
	}
	con.print(plain, "")
	if failed := r.Failed(); failed > 0 {
		con.print(bad, "%d of %d claims do not hold.", failed, len(r.Claims))
	} else {
		con.print(good, "All %d claims hold.", len(r.Claims))
	}
}

// write puts the report in a file, whole or not at all.
func (r Report) write(path string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".forseti-report-*")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	_, err = temp.Write(b.Bytes())
	if e := temp.Chmod(0o644); err == nil {
		err = e
	}
	if e := temp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// wrap breaks text into lines of a width, between words.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// printable makes text from elsewhere fit for a terminal.
func printable(s string) string {
	return clip(strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)), 80)
}
