package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
)

// bench is the test binaries, and how they are run.
type bench struct {
	binaries  map[string]string // by package
	dirs      map[string]string
	rounds    int
	benchtime string
}

// build compiles both test binaries into dir.
func build(ctx context.Context, dir string) (*bench, error) {
	b := &bench{binaries: map[string]string{}, dirs: map[string]string{}}
	for _, key := range sortedKeys(packages) {
		path := packages[key]
		out, err := output(exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", path))
		if err != nil {
			return nil, fmt.Errorf("%s is not found; run it in cmd/forseti-bench of the repository: %w", path, err)
		}
		b.dirs[key] = strings.TrimSpace(out)
		b.binaries[key] = filepath.Join(dir, key+".test")
		compile := exec.CommandContext(ctx, "go", "test", "-c", "-o", b.binaries[key], ".")
		compile.Dir = b.dirs[key] // in its own module, with the versions that module has chosen
		if _, err := output(compile); err != nil {
			return nil, fmt.Errorf("building the benchmarks of %s: %w", path, err)
		}
	}
	return b, nil
}

// output runs a command; its error says what the command said.
func output(cmd *exec.Cmd) (string, error) {
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w\n%s%s", err, out, said.String())
	}
	return string(out), nil
}

// run runs the benchmarks of a package that a pattern matches, in a fresh process.
func (b *bench) run(ctx context.Context, pkg, pattern, benchtime string) (map[string]sample, error) {
	cmd := exec.CommandContext(ctx, b.binaries[pkg], "-test.run", "^$", "-test.bench", pattern, "-test.benchmem", "-test.benchtime", benchtime, "-test.timeout", "5m")
	cmd.Dir = b.dirs[pkg]
	out, err := output(cmd)
	if err != nil {
		return nil, fmt.Errorf("benchmark %s of %s: %w", pattern, pkg, err)
	}
	return parse(out)
}

// once runs one benchmark once.
func (b *bench) once(ctx context.Context, t trial, m mode, s subject) (sample, error) {
	benchtime := b.benchtime
	if m.benchtime != "" {
		benchtime = m.benchtime
	}
	name := s.bench + "/" + m.name
	got, err := b.run(ctx, s.pkg, pattern(name), benchtime)
	if err != nil {
		return nil, err
	}
	found, ok := got[known(name)]
	if _, has := found[t.measures()]; !ok || !has {
		return nil, fmt.Errorf("benchmark %s of %s gave no %s", name, s.pkg, t.measures())
	}
	return found, nil
}

// measure runs a trial in one mode.
func (b *bench) measure(ctx context.Context, t trial, m mode) (row, error) {
	entrants, rounds := append([]subject{t.ours}, t.rivals...), b.rounds
	if m.benchtime != "" {
		rounds = 1
	}
	wanted := processors(m, goruntime.GOMAXPROCS(0))
	samples, err := takeTurns(len(entrants), rounds, wanted, func(i int) (sample, error) { return b.once(ctx, t, m, entrants[i]) })
	if err != nil {
		return row{}, err
	}
	var figures []figure
	for i, s := range entrants {
		figures = append(figures, figureOf(s, t.measures(), samples[i], wanted))
	}
	return judge(t, m, figures[0], figures[1:]), nil
}

// takeTurns runs all entrants in each round, so that whatever else the machine does meets all of them; who begins changes
// from round to round. A turn that did not have the processors wanted is taken again, so long as the entrant has not had
// twice as many turns as there are rounds.
func takeTurns(entrants, rounds int, wanted float64, once func(entrant int) (sample, error)) ([][]sample, error) {
	samples := make([][]sample, entrants)
	for round := range rounds {
		for turn := range entrants {
			i := (round + turn) % entrants
			for {
				s, err := once(i)
				if err != nil {
					return nil, err
				}
				samples[i] = append(samples[i], s)
				if left := rounds - round - 1; s["cpus"] >= wanted || len(samples[i])+left >= 2*rounds {
					break
				}
			}
		}
	}
	return samples, nil
}

// processors is how many processors a round in that mode must have had to count, of those there are: nine tenths of what
// it was to use. What only counts, and takes no time, needs none.
func processors(m mode, of int) float64 {
	switch m.name {
	case serial:
		return 0.9
	case parallel, crowd:
		return 0.9 * float64(of)
	}
	return 0
}

// check runs every benchmark that the trials name once, and says which there are not, and which of package rivals no
// trial names.
func (b *bench) check(ctx context.Context) error {
	named, entrants := map[string][]string{}, map[string]bool{}
	for _, t := range trials {
		for _, s := range append([]subject{t.ours}, t.rivals...) {
			entrants[known(s.bench)] = true
			for _, m := range t.modes {
				named[s.pkg] = append(named[s.pkg], known(s.bench+"/"+m.name))
			}
		}
	}
	var errs []error
	for _, pkg := range sortedKeys(packages) {
		var tops []string
		for _, name := range named[pkg] {
			top, _, _ := strings.Cut(name, "/")
			tops = append(tops, top)
		}
		slices.Sort(tops)
		pattern := "^Benchmark(" + strings.Join(slices.Compact(tops), "|") + ")$"
		if pkg == "rivals" {
			pattern = "."
		}
		got, err := b.run(ctx, pkg, pattern, "1x")
		if err != nil {
			return err
		}
		for _, name := range named[pkg] {
			if got[name] == nil {
				errs = append(errs, fmt.Errorf("package %s has no benchmark %s", pkg, name))
			}
		}
		for _, name := range sortedKeys(got) {
			if entrant := name[:max(strings.LastIndex(name, "/"), 0)]; pkg == "rivals" && !entrants[entrant] {
				errs = append(errs, fmt.Errorf("no trial names the benchmark %s", name))
			}
		}
	}
	return errors.Join(errs...)
}
