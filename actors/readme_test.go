package actors_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The README shows the custom policy of Example_customPolicy, which is no longer than it says.
func TestREADMEShowsTheCustomPolicy(t *testing.T) {
	source, err := os.ReadFile("example_custom_test.go")
	require.NoError(t, err)
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, code, found := strings.Cut(string(source), "// Night refuses")
	require.True(t, found)
	code, _, found = strings.Cut("// Night refuses"+code, "\n// A policy of one")
	require.True(t, found)
	code = strings.TrimSpace(code)
	require.Contains(t, string(readme), code)
	require.LessOrEqual(t, strings.Count(code, "\n")+1, 15)
}
