package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// output prints a command's data to stdout, as a table or as JSON, and everything else to stderr. There is no
// colour in it, and nothing is redrawn unless a person watches.
type output struct {
	out, err io.Writer
	json     bool
	quiet    bool // only the data, and of a table only the ids
	watched  bool // stderr is a terminal
}

func newOutput(cmd *cobra.Command, format string, quiet bool) (*output, error) {
	if format != "table" && format != "json" {
		return nil, usageError("--output is %q: want table or json", format)
	}
	o := &output{out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), json: format == "json", quiet: quiet}
	o.watched = isTerminal(o.err) && !quiet
	return o, nil
}

func bindFormat(flags *pflag.FlagSet, format *string) {
	flags.StringVarP(format, "output", "o", "table", "`format`: table or json")
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (o *output) print(format string, args ...any) error {
	_, err := fmt.Fprintf(o.out, format, args...)
	return err
}

// note tells the person at the terminal something that is not data.
func (o *output) note(format string, args ...any) {
	if !o.quiet {
		_, _ = fmt.Fprintf(o.err, format+"\n", args...)
	}
}

// progress redraws one line, for those who watch; the last one ends it.
func (o *output) progress(what string, done, of int) {
	if !o.watched || of < 2 {
		return
	}
	end := ""
	if done == of {
		end = "\n"
	}
	_, _ = fmt.Fprintf(o.err, "\r%s %d/%d%s", what, done, of, end)
}

// document prints v as one JSON document.
func (o *output) document(v any) error {
	e := json.NewEncoder(o.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// record prints v as one line of JSON.
func (o *output) record(v any) error {
	e := json.NewEncoder(o.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table prints rows under a heading; with quiet only the first column.
func (o *output) table(heading []string, rows [][]string) error {
	if o.quiet {
		for _, r := range rows {
			if err := o.print("%s\n", r[0]); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0)
	for _, r := range append([][]string{heading}, rows...) {
		_, _ = fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// fields prints names and values, in pairs, leaving out what is empty.
func (o *output) fields(pairs ...string) error {
	w := tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", pairs[i], pairs[i+1])
		}
	}
	return w.Flush()
}

// cell makes text from elsewhere fit for a terminal and a table: no control characters, at most limit runes.
func cell(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-3]) + "..."
	}
	return s
}

// stamp prints an instant for people, in their zone; the zero one is empty.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// ms is a duration in milliseconds, as JSON tells it everywhere.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// count prints a number; zero is empty.
func count(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
