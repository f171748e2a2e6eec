package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func runs(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestFlags(t *testing.T) {
	for _, row := range []struct {
		args []string
		says string
	}{
		{[]string{"-rounds", "0"}, "at least 1"},
		{[]string{"-only", "("}, "missing closing"},
		{[]string{"-only", "no such work"}, "nothing that is measured matches"},
		{[]string{"-only", "retry", "-markdown"}, "does not go with -only"},
		{[]string{"-benchmark"}, "not defined"},
		{[]string{"closed"}, "no arguments"},
	} {
		code, stdout, stderr := runs(t, row.args...)
		require.Equal(t, exitFailed, code, row.args)
		require.Contains(t, stderr, row.says)
		require.Empty(t, stdout)
	}
	code, _, stderr := runs(t, "-h")
	require.Equal(t, exitMet, code)
	require.Contains(t, stderr, "-benchtime")
}

func TestList(t *testing.T) {
	code, stdout, _ := runs(t, "-list", "-only", "bulkhead: acquire.*parallel")
	require.Equal(t, exitMet, code)
	require.Equal(t, `bulkhead: acquire and release, parallel  [forseti gate <= 0 allocs, (15 ns)]
    failsafe-go alone  <= 0.3x
    x/sync semaphore
    eapache semaphore
    buffered channel
`, stdout)
}

// Every benchmark that is measured is run once, so that none can rot; each checks by itself that it does its work. And
// none is there that is not measured.
func TestEveryBenchmarkWorks(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds two test binaries")
	}
	b, err := build(t.Context(), t.TempDir())
	require.NoError(t, err)
	require.NoError(t, b.check(t.Context()))
}

// One run from the flags to the file; the table's figures are of rounds that are too short to mean anything.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds two test binaries")
	}
	file := filepath.Join(t.TempDir(), "bench.json")
	code, stdout, stderr := runs(t, "-only", "retry: success at once, serial", "-rounds", "2", "-benchtime", "10x", "-o", file)
	require.Equal(t, exitMet, code, stderr) // it has no goal that could be missed
	require.Contains(t, stdout, "sethvargo DoValue")
	require.Contains(t, stdout, "sony/gobreaker/v2 v2.")
	require.Contains(t, stdout, file)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var r report
	require.NoError(t, json.Unmarshal(text, &r))
	require.Len(t, r.Rows, 1)
	require.Len(t, r.Rows[0].Rivals, 4)
	require.GreaterOrEqual(t, len(r.Rows[0].Ours.Rounds), 2) // more, if it was kept waiting
	require.Len(t, r.Rivals, len(rivalModules))
	require.Positive(t, r.Rows[0].Ours.Best)
}

// The README's table was made by this command, and of work that is still measured.
func TestREADMEShowsWhatIsMeasured(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, err = between(readme, "")
	require.NoError(t, err)
	_, table, _ := strings.Cut(string(readme), opens+"\n")
	table, _, _ = strings.Cut(table, closes)
	rows := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) < 3 || strings.HasPrefix(line, "| work") || strings.HasPrefix(line, "|  |") {
			continue // no row, or one more rival of the row above
		}
		rows++
		exactly := regexp.MustCompile("^" + regexp.QuoteMeta(strings.TrimPrefix(cells[0], "| ")+", "+cells[1]) + "$")
		require.Len(t, choose(exactly), 1, line)
	}
	require.Positive(t, rows)
}
