package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cmd/forseti/demo"
)

// TestDemo runs the demonstration as CI would, and reads what it tells and reports.
func TestDemo(t *testing.T) {
	temp := t.TempDir()
	file := filepath.Join(t.TempDir(), "report.json")
	cmd := exec.CommandContext(t.Context(), binary(t), "demo", "--headless", "--seed", "7", "--for", "8s", "--report", file)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	begin := time.Now()
	err := cmd.Run()
	t.Logf("%.1f s\n%s%s", time.Since(begin).Seconds(), out.String(), errOut.String())
	require.NoError(t, err)
	require.Empty(t, errOut.String())

	story := out.String()
	require.NotContains(t, story, "\x1b", "escape sequences without a terminal")
	at := 0
	for _, text := range []string{
		"nats --server nats://127.0.0.1:", "== HEALTHY", "== SLOW", "== FAILING", "breaker OPEN", "== CRASH", "== WELL AGAIN", "breaker CLOSED",
		"== KILL SWITCH", "node demo acknowledged", "kill switch OFF", "resumed", "== THE END OF THE WORK", "all is worked off", "== REPLAY",
		"all resolved", "PASS  1.", "PASS  6.", "All 6 claims hold.",
	} {
		next := strings.Index(story[at:], text)
		require.GreaterOrEqual(t, next, 0, "%q does not come, or comes too early", text)
		at += next
	}
	for _, text := range []string{"fallback served", "breaker half-open", "dead letters:", "timed out", "kill switch ON", "paused charge"} {
		require.Contains(t, story, text)
	}

	b, err := os.ReadFile(file)
	require.NoError(t, err)
	var report demo.Report
	require.NoError(t, json.Unmarshal(b, &report))
	require.Equal(t, uint64(7), report.Seed)
	require.Equal(t, "8s", report.For)
	require.Len(t, report.Claims, 6)
	for _, c := range report.Claims {
		require.True(t, c.Pass, "%s: %s", c.Name, c.Measured)
	}
	require.Greater(t, report.Numbers.Published, 500)

	left, err := os.ReadDir(temp)
	require.NoError(t, err)
	require.Empty(t, left, "files left behind")
}

func TestDemoRefusesNonsense(t *testing.T) {
	bad(t, exitUsage, "--for is 3s", "demo", "--for", "3s")
	bad(t, exitUsage, "--report", "demo", "--report", filepath.Join(t.TempDir(), "no", "report.json"))
	bad(t, exitUsage, "unknown", "demo", "fast")
}
