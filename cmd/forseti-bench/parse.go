package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// sample is what one run of a benchmark reported, by unit: ns/op, B/op, allocs/op, cpus, and what else it says.
type sample map[string]float64

// procs is the suffix by which a benchmark tells on how many processors it ran; on one it has none.
var procs = regexp.MustCompile(`-[0-9]+$`)

// parse reads the output of a test binary that ran benchmarks: samples by name, without "Benchmark" and the number of
// processors. Lines that are no results are passed over; a line that begins as one and is none is an error.
func parse(out string) (map[string]sample, error) {
	found := map[string]sample{}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		if _, err := strconv.ParseUint(fields[1], 10, 64); err != nil {
			continue // a name alone, or what the benchmark printed behind it
		}
		if len(fields)%2 != 0 {
			return nil, fmt.Errorf("a result with a value too many or too few: %q", line)
		}
		s := sample{}
		for i := 2; i < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("a result whose value is no number: %q", line)
			}
			s[fields[i+1]] = v
		}
		found[procs.ReplaceAllString(strings.TrimPrefix(fields[0], "Benchmark"), "")] = s
	}
	return found, nil
}

// known is the name by which a test binary knows a benchmark: the testing package rewrites spaces.
func known(name string) string { return strings.ReplaceAll(name, " ", "_") }

// pattern is the -test.bench that runs that benchmark and no other.
func pattern(name string) string {
	var parts []string
	for i, part := range strings.Split(known(name), "/") {
		if i == 0 {
			part = "Benchmark" + part
		}
		parts = append(parts, "^"+regexp.QuoteMeta(part)+"$")
	}
	return strings.Join(parts, "/")
}
