package sinks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

func TestAppendFileKeepsABoundedNumberOfFilesForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "log")
	for _, sync := range []time.Duration{-1, time.Microsecond, 0} {
		f, err := OpenAppendFile(AppendFileConfig{Path: path, Bytes: 20, Keep: 2, Sync: sync})
		require.NoError(t, err)
		for range 12 {
			n, err := f.Write([]byte("123456789\n"))
			require.NoError(t, err)
			require.Equal(t, 10, n)
		}
		require.NoError(t, f.Close())
		require.NoError(t, f.Close())
		files, err := AppendedFiles(path)
		require.NoError(t, err)
		require.Len(t, files, 3)
		for _, name := range files {
			info, err := os.Stat(name)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode())
			require.LessOrEqual(t, info.Size(), int64(20))
		}
	}
	files, err := AppendedFiles(path)
	require.NoError(t, err)
	require.Equal(t, path+".000017", files[1], "no number is used twice")
	_, err = OpenAppendFile(AppendFileConfig{Bytes: -1, Keep: -1})
	for _, field := range []string{"Path", "Bytes", "Keep"} {
		require.ErrorContains(t, err, field)
	}
	require.ErrorIs(t, err, messages.ErrInvalid)
}

// What is left of a line that could not be written is not the beginning of the next one.
func TestPartOfAFailedLineWasLeftBeforeTheNext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := OpenAppendFile(AppendFileConfig{Path: path, Sync: -1})
	require.NoError(t, err)
	_, err = f.Write([]byte("one\n"))
	require.NoError(t, err)
	good := f.out
	f.out, err = os.Open(path) // to read only: neither the line nor the cut can be written
	require.NoError(t, err)
	_, err = f.Write([]byte("lost\n"))
	require.Error(t, err)
	require.NoError(t, f.out.Close())
	f.out = good
	_, err = good.WriteString("lo") // as if half of it had been
	require.NoError(t, err)
	_, err = f.Write([]byte("two\n"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "one\ntwo\n", string(text))
	_, err = f.Write([]byte("x\n"))
	require.ErrorIs(t, err, os.ErrClosed)

	require.NoError(t, os.WriteFile(path, []byte("one\n"+strings.Repeat("x", 100<<10)), 0o644))
	f, err = OpenAppendFile(AppendFileConfig{Path: path})
	require.NoError(t, err)
	require.EqualValues(t, 100<<10, f.Torn())
	require.NoError(t, f.Close())
	require.Error(t, func() error { _, err := OpenAppendFile(AppendFileConfig{Path: t.TempDir()}); return err }())
}
