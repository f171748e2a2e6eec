package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/messages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A soak of a few seconds loses no call and leaves nothing behind.
func TestSmoke(t *testing.T) {
	o, err := soak(t.Context(), settings{length: 3 * time.Second, keys: 20_000, goroutines: 16, seed: 7})
	require.NoError(t, err)
	lines := o.verdict()
	var text strings.Builder
	table(&text, lines)
	t.Log("\n" + text.String())
	require.Empty(t, failures(lines))
	for e, n := range o.callers.ended {
		require.Positive(t, n, "none were %s", endingNames[e])
	}
	require.Positive(t, o.sides)
	require.Positive(t, o.events[messages.SettingsChanged])
	path := filepath.Join(t.TempDir(), "soak.svg")
	require.NoError(t, o.save(path))
	for _, name := range []string{path, strings.TrimSuffix(path, ".svg") + ".csv"} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.Greater(t, info.Size(), int64(500))
	}
}

// With a few keys, all the places were taken at the end of the load: the permits that are counted then shared one limit, and
// some were refused though they had come back.
func TestFewKeysLookedLikePermitsThatWereLost(t *testing.T) {
	o, err := soak(t.Context(), settings{length: 2 * time.Second, keys: 200, goroutines: 8, seed: 7})
	require.NoError(t, err)
	require.Equal(t, permits, o.free)
	require.Empty(t, o.trouble)
	require.Zero(t, o.series.Last("overflowed_rate_limit"))
}

// What was kept of every call, and was let go by nobody, was shown and not judged.
func TestResultsThatWereKeptPassed(t *testing.T) {
	o, err := soak(t.Context(), settings{length: time.Second, keys: 1000, goroutines: 4, seed: 7})
	require.NoError(t, err)
	require.Empty(t, failures(o.verdict()))
	o.memoryLeft += 16 * 3_000_000 // of ten minutes on a slow machine
	failed := failures(o.verdict())
	require.Len(t, failed, 1)
	require.Equal(t, "live heap after Shutdown", failed[0].what)
}
