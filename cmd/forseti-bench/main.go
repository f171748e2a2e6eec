// Command forseti-bench measures Forseti beside other libraries on the same work, in one run, and says whether it meets
// its goals. Run it in its own directory, or by make bench.
//
// It builds two test binaries: the benchmarks of package actors, where the bare gates are, and those of package rivals.
// Ours and the rivals take turns, each run in a fresh process, so that what else the machine does meets all of them. The
// goals are ratios to a rival's figure of the same run, and figures that no machine changes, such as allocations:
// goals in nanoseconds are shown and not judged.
//
// It exits with 0 if all goals were met; 1 if one was missed, or was met only by figures of work that did not get its
// processors, in no round; and 2 if it could not measure.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	goruntime "runtime"
	"strings"
	"syscall"

	"golang.org/x/term"
)

// What it exits with.
const (
	exitMet = iota
	exitMissed
	exitFailed
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// settings is what the flags say.
type settings struct {
	only      *regexp.Regexp
	rounds    int
	benchtime string
	file      string
	markdown  bool
	list      bool
}

func flags(args []string, stderr io.Writer) (s settings, err error) {
	f := flag.NewFlagSet("forseti-bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	only := f.String("only", "", "measure only work whose \"work, mode\" matches this regular `expression`; see -list")
	f.IntVar(&s.rounds, "rounds", 5, "how often each benchmark is run; the best round counts")
	f.StringVar(&s.benchtime, "benchtime", "200ms", "how long a round lasts, or 1x for once")
	f.StringVar(&s.file, "o", "", "the JSON `file` to write (default bin/bench.json of the repository)")
	f.BoolVar(&s.markdown, "markdown", false, "write the table into the repository's README.md, too")
	f.BoolVar(&s.list, "list", false, "only list what can be measured, and the goals")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	s.only, err = regexp.Compile(*only)
	switch {
	case err != nil:
	case f.NArg() > 0:
		err = fmt.Errorf("it takes no arguments, and was given %q", f.Arg(0))
	case s.rounds < 1:
		err = fmt.Errorf("-rounds %d: at least 1", s.rounds)
	case s.markdown && *only != "":
		err = errors.New("-markdown writes the whole table: it does not go with -only")
	}
	if err != nil {
		fmt.Fprintln(stderr, "forseti-bench:", err)
	}
	return s, err
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := flags(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitMet
	}
	if err != nil {
		return exitFailed
	}
	chosen := choose(s.only)
	if s.list {
		list(stdout, chosen)
		return exitMet
	}
	r, err := measureAll(ctx, s, chosen, stderr)
	switch {
	case err == nil:
		err = r.publish(ctx, s, stdout)
	case r != nil && len(r.Rows) > 0: // what was measured until then is worth its minutes
		r.print(stdout, coloured(stdout))
	}
	if err != nil {
		fmt.Fprintln(stderr, "forseti-bench:", err)
		return exitFailed
	}
	if len(r.Missed) > 0 {
		return exitMissed
	}
	return exitMet
}

// choice is a trial in one of its modes.
type choice struct {
	trial
	mode mode
}

func choose(only *regexp.Regexp) (chosen []choice) {
	for _, t := range trials {
		for _, m := range t.modes {
			if only.MatchString(t.work + ", " + m.name) {
				chosen = append(chosen, choice{t, m})
			}
		}
	}
	return chosen
}

// list says what can be measured, against whom, and the goals.
func list(w io.Writer, chosen []choice) {
	for _, c := range chosen {
		own := judge(c.trial, c.mode, figure{}, nil)
		fmt.Fprintf(w, "%s, %s  [%s %s]\n", c.work, c.mode.name, c.ours.name, limits(own))
		for _, s := range c.rivals {
			goal := ""
			if most, ok := c.mode.ratios[s.name]; ok {
				goal = fmt.Sprintf("  <= %gx", most)
			}
			fmt.Fprintf(w, "    %s%s\n", s.name, goal)
		}
		if most, ok := c.mode.ratios[bestRival]; ok {
			fmt.Fprintf(w, "    the best of them  <= %gx\n", most)
		}
	}
}

var errNothing = errors.New("nothing that is measured matches -only; see -list")

// measureAll measures what was chosen. With an error, it returns what was measured before.
func measureAll(ctx context.Context, s settings, chosen []choice, stderr io.Writer) (*report, error) {
	if goruntime.GOOS != "linux" {
		return nil, errors.New("it pins threads and reads their processor time as Linux lets it, and runs on nothing else")
	}
	if len(chosen) == 0 {
		return nil, errNothing
	}
	dir, err := os.MkdirTemp("", "forseti-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintln(stderr, "building")
	b, err := build(ctx, dir)
	if err != nil {
		return nil, err
	}
	b.rounds, b.benchtime = s.rounds, s.benchtime
	r, err := begin(ctx, b)
	if err != nil {
		return nil, err
	}
	for i, c := range chosen {
		fmt.Fprintf(stderr, "%d of %d: %s, %s\n", i+1, len(chosen), c.work, c.mode.name)
		row, err := b.measure(ctx, c.trial, c.mode)
		if err != nil {
			return r, err
		}
		r.Rows = append(r.Rows, row)
	}
	r.Missed = append(r.Missed, misses(r.Rows)...)
	return r, nil
}

// publish prints the table, and writes the files.
func (r *report) publish(ctx context.Context, s settings, stdout io.Writer) error {
	r.print(stdout, coloured(stdout))
	root, err := output(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/forseti-go/forseti"))
	if err != nil {
		return err
	}
	root = strings.TrimSpace(root)
	file := s.file
	if file == "" {
		file = filepath.Join(root, "bin", "bench.json")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "written:", file)
	if s.markdown {
		file = filepath.Join(root, "README.md")
		if err := r.rewrite(file); err != nil {
			return err
		}
		fmt.Fprintln(stdout, "written:", file)
	}
	return nil
}

// coloured reports whether w is a terminal whose owner does not mind colours: https://no-color.org
func coloured(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}
