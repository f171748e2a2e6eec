package forsetigrpc_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The README shows code of an Example.
func TestREADMEShowsTheInterceptors(t *testing.T) {
	source, err := os.ReadFile("example_interceptors_test.go")
	require.NoError(t, err)
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, code, found := strings.Cut(string(readme), "```go\n\tcc := ")
	require.True(t, found)
	code, _, _ = strings.Cut(code, "\n```")
	require.Contains(t, string(source), "\tcc := "+code)
}
