package actors

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

// slowWriter waits at each write while there is something to wait for.
type slowWriter struct {
	bytes.Buffer
	wait chan struct{}
}

func (w *slowWriter) Write(p []byte) (int, error) {
	<-w.wait
	return w.Buffer.Write(p)
}

// One hook value in two pipelines tells each one's own gaps; what was missed last is told though no call follows.
func TestAuditHookOfTwoPipelinesMixedUpTheirGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &slowWriter{wait: make(chan struct{})}
		a, err := NewAudit(log, AuditHead{}, AuditConfig{})
		require.NoError(t, err)
		h := AuditHook(a)
		h.Queue = 2
		sys := newSystem(t)
		p, err := sys.Pipeline("p", Spec{Hooks: []Hook{h}})
		require.NoError(t, err)
		q, err := sys.Pipeline("q", Spec{Hooks: []Hook{h}})
		require.NoError(t, err)
		_, _ = Do(t.Context(), p, nil, fails)
		synctest.Wait() // it is in the hook's hands, and waits
		for range 10 {
			_, _ = Do(t.Context(), p, nil, fails)
		}
		require.EqualValues(t, 8, p.HookStats()[0].Dropped)
		close(log.wait)
		synctest.Wait()
		_, _ = Do(t.Context(), q, nil, fails)
		synctest.Wait()
		require.NoError(t, q.Close(t.Context()))
		require.NoError(t, p.Close(t.Context()))
		synctest.Wait()
		require.Equal(t, 1, strings.Count(log.String(), `"kind":"gap"`))
		require.Contains(t, log.String(), `"kind":"gap","pipeline":"p","missed":8`)
	})
}

func TestGapAtTheEndOfAnAuditWasNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &slowWriter{wait: make(chan struct{})}
		a, err := NewAudit(log, AuditHead{}, AuditConfig{})
		require.NoError(t, err)
		h := AuditHook(a)
		h.Queue = 2
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{h}})
		for range 2 {
			_, _ = Do(t.Context(), p, nil, fails)
		}
		synctest.Wait()
		close(log.wait)
		synctest.Wait()
		p.hooks[0].dropped.Add(3) // after the last call that it was told of
		require.NoError(t, p.Close(t.Context()))
		synctest.Wait()
		require.Contains(t, log.String(), `"missed":3`)
	})
}

// A log that was written as it should be holds, however long the texts are.
func TestAuditWroteLinesThatItCannotVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a, err := NewAudit(&log, AuditHead{}, AuditConfig{})
		require.NoError(t, err)
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{AuditHook(a)}})
		_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) {
			return 0, &messages.RejectedError{By: strings.Repeat("x", 100<<10), Reason: "no"}
		})
		synctest.Wait()
		require.Positive(t, log.Len())
		_, err = VerifyAudit(&log, nil)
		require.NoError(t, err)
	})
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = strings.Repeat("k", i)
	}
	_, err := NewAudit(&bytes.Buffer{}, AuditHead{}, AuditConfig{Extra: keys})
	require.ErrorIs(t, err, messages.ErrInvalid)
}

// A line that could not be written leaves a gap that is told.
func TestLineThatCouldNotBeWrittenLeftNoTrace(t *testing.T) {
	w := &failingOnce{}
	a, err := NewAudit(w, AuditHead{}, AuditConfig{})
	require.NoError(t, err)
	for range 2 {
		a.Order(messages.Event{Kind: messages.KillSwitchOff})
	}
	require.Contains(t, w.String(), `"kind":"gap"`)
	require.Contains(t, w.String(), `"missed":1`)
}

func TestAuditWentOnFromAHeadThatIsNone(t *testing.T) {
	for _, head := range []AuditHead{{Seq: 5}, {Hash: strings.Repeat("a", 64)}, {Seq: 5, Hash: "x"}} {
		_, err := NewAudit(&bytes.Buffer{}, head, AuditConfig{})
		require.ErrorIs(t, err, messages.ErrInvalid)
	}
}
