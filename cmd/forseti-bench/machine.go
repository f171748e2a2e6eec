package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	goruntime "runtime"
	"slices"
	"strings"
	"time"
)

// report is a whole run: where and when, and what came out.
type report struct {
	Date       time.Time         `json:"date"`
	Go         string            `json:"go"`
	Platform   string            `json:"platform"`
	CPU        string            `json:"cpu"`
	GOMAXPROCS int               `json:"gomaxprocs"`
	Kernel     string            `json:"kernel"`
	Load       string            `json:"load"` // of the last minute, when the run began
	Commit     string            `json:"commit,omitempty"`
	Rounds     int               `json:"rounds"`
	Benchtime  string            `json:"benchtime"`
	Rivals     map[string]string `json:"rivals"` // versions by module
	Rows       []row             `json:"rows"`
	Missed     []string          `json:"missed"`
}

// begin describes the machine and what was built.
func begin(ctx context.Context, b *bench) (*report, error) {
	r := &report{
		Date: time.Now().UTC().Truncate(time.Second), Go: goruntime.Version(), Platform: goruntime.GOOS + "/" + goruntime.GOARCH,
		CPU: cpuModel(), GOMAXPROCS: goruntime.GOMAXPROCS(0), Kernel: firstWord("/proc/sys/kernel/osrelease"), Load: firstWord("/proc/loadavg"),
		Rounds: b.rounds, Benchtime: b.benchtime, Rivals: map[string]string{}, Missed: []string{},
	}
	if out, err := output(exec.CommandContext(ctx, "git", "describe", "--always", "--dirty")); err == nil {
		r.Commit = strings.TrimSpace(out)
	}
	// Not from the binary's build information: that of a test binary leaves out what only its tests import.
	out, err := output(exec.CommandContext(ctx, "go", append([]string{"list", "-m", "-f", "{{.Path}} {{with .Replace}}{{.}}{{else}}{{.Version}}{{end}}"}, rivalModules...)...))
	if err != nil {
		return nil, fmt.Errorf("the versions of the rivals: %w", err)
	}
	for line := range strings.Lines(out) {
		module, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		r.Rivals[module] = version
	}
	return r, nil
}

// header says where and when, in a few lines.
func (r *report) header() (lines []string) {
	lines = append(lines,
		fmt.Sprintf("%s, %s, %s, GOMAXPROCS %d, kernel %s, load %s", r.Go, r.Platform, r.CPU, r.GOMAXPROCS, r.Kernel, r.Load),
		fmt.Sprintf("%s, commit %s, best of %d rounds of %s", r.Date.Format(time.RFC3339), cmp.Or(r.Commit, "unknown"), r.Rounds, r.Benchtime))
	var line string
	for _, module := range sortedKeys(r.Rivals) {
		item := strings.TrimPrefix(module, "github.com/") + " " + r.Rivals[module]
		if line != "" && len(line)+len(item) > 110 {
			lines, line = append(lines, line+","), ""
		}
		if line != "" {
			line += ", "
		}
		line += item
	}
	return append(lines, line)
}

func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown processor"
}

func firstWord(file string) string {
	text, _ := os.ReadFile(file)
	if words := strings.Fields(string(text)); len(words) > 0 {
		return words[0]
	}
	return "unknown"
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
