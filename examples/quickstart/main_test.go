package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	main()
	// Output:
	// do:   paid
	// go:   paid
	// task: success "paid order 17"
}

// The README shows this very program.
func TestREADMEShowsThisProgram(t *testing.T) {
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	body := string(source)
	body = body[strings.Index(body, "func main()"):strings.Index(body, "\nfunc must")]
	require.Contains(t, strings.ReplaceAll(string(readme), "    ", "\t"), strings.ReplaceAll(strings.TrimSpace(body), "    ", "\t"))
}
