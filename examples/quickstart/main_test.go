package main

import (
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var rewrite = flag.Bool("rewrite", false, "write into the README what the program prints of its pipeline")

const readmePath = "../../README.md"

// The README shows what this program prints: first what its pipeline is made of, then what became of its calls.
func TestREADMEShowsWhatItPrints(t *testing.T) {
	explained, rest, found := strings.Cut(output(t), "do:")
	require.True(t, found)
	require.Equal(t, "   paid\ngo:   paid\ntask: success \"paid order 17\"\n", rest)
	readme := read(t, readmePath)
	before, after, found := strings.Cut(readme, "It prints what protects its calls:\n\n```text\n")
	require.True(t, found)
	shown, after, found := strings.Cut(after, "```")
	require.True(t, found)
	if *rewrite {
		body := strings.TrimSuffix(readme, shown+"```"+after) + explained + "```" + after
		require.NoError(t, os.WriteFile(readmePath, []byte(body), 0o644))
		return
	}
	require.Equal(t, explained, shown, "the README is behind; make golden writes it anew, after %q", before[max(len(before)-20, 0):])
}

// output is what main prints.
func output(t *testing.T) string {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	stdout := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = stdout }()
	main()
	require.NoError(t, w.Close())
	said, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(said)
}

// The README shows this very program.
func TestREADMEShowsThisProgram(t *testing.T) {
	body := read(t, "main.go")
	body = body[strings.Index(body, "func main()"):strings.Index(body, "\nfunc must")]
	require.Contains(t, strings.ReplaceAll(read(t, readmePath), "    ", "\t"), strings.ReplaceAll(strings.TrimSpace(body), "    ", "\t"))
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}
