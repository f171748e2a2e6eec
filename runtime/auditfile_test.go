package runtime_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/sinks"
)

func ordered(a *runtime.AuditFile, n int) {
	for range n {
		a.Order(messages.Event{Kind: messages.KillSwitchOn, Reason: "because"})
	}
}

// Whatever is cut off the last file, wherever, the chain goes on behind the last whole line, over any number of files.
func TestAuditChainBrokeAtARestartOrATornLine(t *testing.T) {
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "")
		require.NoError(t, err)
		key := []byte("key")
		file := sinks.AppendFileConfig{Path: dir + "/audit.log", Bytes: int64(rapid.IntRange(300, 1500).Draw(t, "bytes")), Keep: 100}
		for range rapid.IntRange(1, 2).Draw(t, "runs") {
			a, err := runtime.OpenAudit(file, actors.AuditConfig{Key: key})
			require.NoError(t, err)
			ordered(a, rapid.IntRange(0, 5).Draw(t, "lines"))
			lines, why := a.Failed()
			require.Zero(t, lines, why)
			head := a.Head()
			require.NoError(t, a.Close())
			got, err := runtime.VerifyAudit(file.Path, key)
			require.NoError(t, err)
			require.Equal(t, head, got)
			text, err := os.ReadFile(file.Path)
			require.NoError(t, err)
			cut := rapid.IntRange(0, min(len(text), 100)).Draw(t, "cut")
			require.NoError(t, os.Truncate(file.Path, int64(len(text)-cut)))
			if cut > 0 && cut < len(text) {
				again, err := runtime.OpenAudit(file, actors.AuditConfig{Key: key})
				require.NoError(t, err)
				require.EqualValues(t, len(text)-cut-1-bytes.LastIndexByte(text[:len(text)-cut], '\n'), again.Torn())
				require.Equal(t, head.Seq-1, again.Head().Seq)
				require.NoError(t, again.Close())
			}
		}
	})
}

func TestAuditFileThatDoesNotHoldIsNotGoneOnWith(t *testing.T) {
	file := sinks.AppendFileConfig{Path: t.TempDir() + "/audit.log", Bytes: 700, Keep: 2}
	a, err := runtime.OpenAudit(file, actors.AuditConfig{})
	require.NoError(t, err)
	_, err = runtime.OpenAudit(file, actors.AuditConfig{})
	require.Error(t, err, "one process at a time")
	ordered(a, 40)
	require.NoError(t, a.Close())
	ordered(a, 1)
	lines, why := a.Failed()
	require.EqualValues(t, 1, lines)
	require.ErrorIs(t, why, os.ErrClosed)

	files, err := sinks.AppendedFiles(file.Path)
	require.NoError(t, err)
	require.Len(t, files, 3, "two are kept")
	head, err := runtime.VerifyAudit(file.Path, nil)
	require.NoError(t, err)
	require.EqualValues(t, 40, head.Seq)
	var wrong *actors.AuditError
	require.NoError(t, os.Rename(files[1], files[1]+".away"))
	_, err = runtime.VerifyAudit(file.Path, nil)
	require.ErrorAs(t, err, &wrong, "a file is missing")
	require.NoError(t, os.Rename(files[1]+".away", files[1]))

	text, err := os.ReadFile(file.Path)
	require.NoError(t, err)
	text[10] ^= 1
	require.NoError(t, os.WriteFile(file.Path, text, 0o600))
	_, err = runtime.OpenAudit(file, actors.AuditConfig{})
	require.ErrorAs(t, err, &wrong)
	require.ErrorContains(t, err, file.Path)
	_, err = runtime.VerifyAudit(t.TempDir()+"/none", nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}
