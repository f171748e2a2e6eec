package forsetihttp_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The README shows code of the Examples.
func TestREADMEShowsTheExamples(t *testing.T) {
	source, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(readme), "## HTTP and gRPC\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	shown := 0
	for part := range strings.SplitSeq(section, "```go\n") {
		code, _, isCode := strings.Cut(part, "\n```")
		if isCode && strings.Contains(code, "forsetihttp.") {
			require.Contains(t, string(source), code)
			shown++
		}
	}
	require.Equal(t, 2, shown)
}
