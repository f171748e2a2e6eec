package demo

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

const patient = 30 * time.Second

// TestInterrupted ends a run at several points. Nothing may be left: no goroutine, no process, no directory.
func TestInterrupted(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	command := child(t, "serves")
	for _, text := range []string{"", "== HEALTHY", "== SLOW"} {
		ctx, cancel := context.WithCancel(t.Context())
		out := &screen{}
		ended := make(chan error, 1)
		go func() {
			_, err := Run(ctx, Config{For: MinFor, Payment: command, Out: out})
			ended <- err
		}()
		require.Eventually(t, func() bool { return strings.Contains(out.String(), text) }, patient, 5*time.Millisecond)
		cancel()
		select {
		case err := <-ended:
			require.ErrorIs(t, err, context.Canceled)
		case <-time.After(patient):
			require.Fail(t, "still running", out.String())
		}
		left, err := os.ReadDir(temp)
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

func TestConfigIsChecked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.json")
	fine := Config{Payment: []string{"x"}, Out: io.Discard, Report: file}.WithDefaults()
	require.NoError(t, fine.Validate())
	for field, change := range map[string]func(*Config){
		"--for":    func(c *Config) { c.For = time.Second },
		"--report": func(c *Config) { c.Report = filepath.Join(file, "x") },
		"Payment":  func(c *Config) { c.Payment = nil },
		"Out":      func(c *Config) { c.Out = nil },
	} {
		cfg := fine
		change(&cfg)
		err := cfg.Validate()
		require.ErrorIs(t, err, messages.ErrInvalid)
		require.ErrorContains(t, err, field)
	}
}

func TestReportIsWrittenWhole(t *testing.T) {
	dir := t.TempDir()
	r := newReport(Config{For: MinFor, Seed: 7}, healthyNumbers())
	require.NoError(t, r.write(filepath.Join(dir, "r.json")))
	require.Error(t, r.write(filepath.Join(dir, "nowhere", "r.json")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "taken"), 0o755))
	require.Error(t, r.write(filepath.Join(dir, "taken")))
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 2)
	b, err := os.ReadFile(filepath.Join(dir, "r.json"))
	require.NoError(t, err)
	require.Contains(t, string(b), `"seed": 7,`)
	require.Contains(t, string(b), `"for": "8s",`)
}

func TestReportShowsWhatFailed(t *testing.T) {
	n := healthyNumbers()
	n.Missing, n.Results = 1, 999
	con, out := testConsole()
	r := newReport(Config{}, n)
	require.Equal(t, 1, r.Failed())
	r.print(con)
	require.Contains(t, out.String(), "FAIL  1. every published task has exactly one result")
	require.Contains(t, out.String(), "wanted: as many results as tasks")
	require.Contains(t, out.String(), "1 of 6 claims do not hold.")
}

// TestProcessComesBack kills the payment service and starts it again where it was.
func TestProcessComesBack(t *testing.T) {
	p := &process{command: child(t, "serves")}
	require.NoError(t, p.start(t.Context(), "127.0.0.1:0"))
	defer func() { require.NoError(t, p.stop()) }()
	first, url := p.cmd.Process, p.url
	p.kill()
	require.ErrorIs(t, first.Signal(syscall.Signal(0)), os.ErrProcessDone)
	require.NoError(t, p.restart(t.Context()))
	require.Equal(t, url, p.url)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(p.url + "/control")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

func TestProcessThatDoesNotStart(t *testing.T) {
	p := &process{command: child(t, "dies")}
	require.ErrorContains(t, p.start(t.Context(), "127.0.0.1:0"), "no such ledger")
	require.NoError(t, p.stop())

	p = &process{command: child(t, "mute")}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.start(ctx, "127.0.0.1:0"), context.DeadlineExceeded)
	require.NoError(t, p.stop())

	p = &process{command: []string{filepath.Join(t.TempDir(), "nothing")}}
	require.Error(t, p.start(t.Context(), "127.0.0.1:0"))
	require.NoError(t, p.stop())
}
