package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// moving is what differs from run to run in `-o json`.
var moving = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)"`), `"<time>"`},
	{regexp.MustCompile(`"(duration_ms|delay_ms)": ?[0-9.e-]+`), `"$1": 0`},
	{regexp.MustCompile(`"[a-z2-7]{26}"`), `"<id>"`},
	{regexp.MustCompile(`"(go|platform|version)": "[^"]*"`), `"$1": "<$1>"`},
}

// golden compares JSON, as a user gets it, with the file of that name. The shapes are promised: a change that is not
// an addition breaks scripts.
func golden(t *testing.T, name, got string) {
	t.Helper()
	for _, m := range moving {
		got = m.what.ReplaceAllString(got, m.with)
	}
	path := filepath.Join("testdata", name)
	if *rewrite {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}
