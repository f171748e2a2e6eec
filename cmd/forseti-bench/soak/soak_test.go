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
