package runtime_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// A paused type's tasks stay in the stream, also the one that was asked for before the order; other types, and calls in
// the same pipeline, go on. Resumed, all run.
func TestPausedTypeStaysInTheStream(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{})
	var charged atomic.Int32
	require.NoError(t, runtime.Handle(rt, "charge", p, func(context.Context, runtime.Task[order]) (receipt, error) {
		charged.Add(1)
		return receipt{1}, nil
	}))
	require.NoError(t, runtime.Handle(rt, "refund", p, func(context.Context, runtime.Task[order]) (receipt, error) {
		return receipt{2}, nil
	}))
	require.Eventually(t, func() bool { n, _ := p.InFlight(); return n == 2 }, 5*time.Second, time.Millisecond) // both wait for the next one
	pause := messages.KillState{Scope: messages.TasksScope("charge"), On: true, Reason: "ledger is being moved", By: "ann"}
	require.NoError(t, rt.Kill(t.Context(), pause))

	var waiting []messages.Task
	for range 5 {
		waiting = append(waiting, send(t, c, messages.Task{Type: "charge", Body: []byte("{}")}))
	}
	other := send(t, c, messages.Task{Type: "refund", Body: []byte("{}")})
	require.Equal(t, messages.Success, result(t, c, other.ID, 0).Outcome)
	v, err := runtime.Do(t.Context(), p, func(context.Context) (int, error) { return 1, nil })
	require.NoError(t, err)
	require.Equal(t, 1, v)
	require.Eventually(t, func() bool { return rt.TaskStats("charge").Refused > 0 }, 5*time.Second, time.Millisecond)
	require.Zero(t, charged.Load())

	pause.On = false
	require.NoError(t, rt.Kill(t.Context(), pause))
	for _, task := range waiting {
		require.Equal(t, messages.Success, result(t, c, task.ID, 0).Outcome)
	}
	require.EqualValues(t, 5, charged.Load())
}

func TestPauseKnowsOneMode(t *testing.T) {
	for _, mode := range []messages.KillMode{messages.KillBypass, messages.KillObserve} {
		_, err := messages.KillState{Scope: messages.TasksScope("charge"), On: true, Mode: mode, Reason: "r", By: "b"}.Order()
		require.ErrorContains(t, err, "block, for the taking of tasks")
	}
}
