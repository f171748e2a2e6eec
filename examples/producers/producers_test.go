// Package producers holds producers that know NATS and nothing of Forseti, in several languages; see its README.
package producers

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/strategies"
)

// node runs a server and a node that takes charges, and gives the server's URL.
func node(t *testing.T) string {
	t.Helper()
	s := clustertest.Server(t)
	c := clustertest.Connect(t, s, "n1")
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	p, err := rt.Pipeline("charge", runtime.Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Second}}})
	require.NoError(t, err)
	type order struct{ Order, Amount int }
	require.NoError(t, runtime.Handle(rt, "charge", p, func(_ context.Context, t runtime.Task[order]) (any, error) {
		if t.Value.Amount < 0 {
			return nil, errors.New("amount is negative")
		}
		return map[string]int{"paid": t.Value.Amount}, nil
	}))
	return s.URL()
}

// run runs a producer in a directory, and gives the lines that it printed.
func run(t *testing.T, url, dir, name string, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "NATS_URL="+url)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// told is what a producer prints that sent its four pieces of work.
func told(t *testing.T, who string, lines []string) {
	t.Helper()
	require.Len(t, lines, 4, "%q", lines)
	require.Equal(t, "task "+who+"-1 success  {\"paid\":12}", lines[0])
	require.Contains(t, lines[1], "task "+who+"-2 failure failure ")
	require.Contains(t, lines[1], `"error":"amount is negative"`)
	require.Contains(t, lines[1], `"dead_letter_id"`)
	require.Equal(t, "late "+who+"-3 success  {\"paid\":5}", lines[2])
	require.Equal(t, `call success {"paid":7}`, lines[3])
}

func TestGoProducer(t *testing.T) {
	told(t, "go", run(t, node(t), "go", "go", "run", "."))
}

func TestNodeProducer(t *testing.T) {
	dir := installed(t)
	told(t, "node", run(t, node(t), dir, "node", "producer.mjs"))
}

// A strategy that a process in another language serves is asked as any other; when that process has gone, the stand-in answers.
func TestNodeStrategy(t *testing.T) {
	dir, s := installed(t), clustertest.Server(t)
	c := clustertest.Connect(t, s, "n1")
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	cmd := exec.CommandContext(t.Context(), "node", "strategy.mjs")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "NATS_URL="+s.URL())
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	ratio, err := rt.Strategy("ratio", actors.StrategySpec{Make: runtime.RemoteStrategy(c, strategies.Detect, "ratio", time.Second), Deadline: 2 * time.Second})
	require.NoError(t, err)
	observe := func(v float64) actors.Judgement {
		j, err := ratio.Observe(t.Context(), "k", strategies.Sample{Value: v})
		require.NoError(t, err)
		return j
	}
	require.Eventually(t, func() bool { return !observe(10).StandIn }, time.Minute, 10*time.Millisecond)
	for range 20 {
		require.False(t, observe(10).Anomalous)
	}
	j := observe(35)
	require.True(t, j.Anomalous)
	require.Equal(t, 2.5, j.Score)
	require.Equal(t, "ratio", j.By)
	require.NoError(t, cmd.Process.Kill())
	require.Eventually(t, func() bool { return observe(10).StandIn }, time.Minute, 10*time.Millisecond)
}

// installed is a directory with the Node.js programs and what they need.
func installed(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("NOT TESTED: the Node.js programs: there is no %s", tool)
		}
	}
	dir := t.TempDir()
	for _, f := range []string{"package.json", "package-lock.json", "producer.mjs", "strategy.mjs"} {
		b, err := os.ReadFile(filepath.Join("node", f))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), b, 0o600))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: the Node.js programs: npm cannot install its packages: %v: %s", err, out)
	}
	return dir
}

func TestShellProducer(t *testing.T) {
	if _, err := exec.LookPath("nats"); err != nil {
		t.Skip("NOT TESTED: the shell producer: there is no nats command (github.com/nats-io/natscli)")
	}
	out := strings.Join(run(t, node(t), "shell", "sh", "producer.sh"), "\n")
	require.Contains(t, out, `{"paid":12}`)
	require.Contains(t, out, `{"paid":7}`)
}
