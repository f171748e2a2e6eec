package runtime_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

func TestKillSwitchHoldsTasksBack(t *testing.T) {
	rt, c := node(t)
	var ran atomic.Int64
	p := pipeline(t, rt, runtime.Spec{Guards: []actors.Guard{actors.KillSwitch()}})
	handle(t, rt, p, runtime.TaskConfig{}, func(context.Context, runtime.Task[order]) (any, error) { return ran.Add(1), nil })
	order := messages.KillState{Scope: messages.TypeScope("charge"), On: true, Reason: "fire", By: "ops"}
	_, acks, err := c.SetKillAwait(t.Context(), order, 5*time.Second, func(acks []cluster.KillAck) bool { return len(acks) == 1 })
	require.NoError(t, err)
	require.Len(t, acks, 1)
	require.Equal(t, "n1", acks[0].Node)
	send(t, c, messages.Task{ID: "held", Type: "charge", Body: []byte("{}")})
	events := rt.Events(8, func(e messages.Event) bool { return e.Kind == messages.TasksPaused || e.Kind == messages.TasksResumed })
	require.Eventually(t, func() bool { return rt.TaskStats("charge").Paused > 0 }, 5*time.Second, 5*time.Millisecond)
	require.Zero(t, ran.Load())
	order.On, order.Reason = false, "out"
	require.NoError(t, rt.Kill(t.Context(), order))
	require.Equal(t, messages.Success, result(t, c, "held", 0).Outcome)
	require.Eventually(t, func() bool { return len(events.C()) > 0 }, 5*time.Second, 5*time.Millisecond)
	require.ErrorIs(t, rt.Kill(t.Context(), messages.KillState{On: true}), messages.ErrInvalid)
	require.ErrorIs(t, rt.Kill(t.Context(), messages.KillState{Scope: "planet", On: true, Reason: "x", By: "x"}), messages.ErrInvalid)
}

// The dead letter of a replay that failed too is a new one, and the old one is resolved: every letter is counted
// once.
func TestFailedReplayLeavesANewLetter(t *testing.T) {
	rt, c := node(t)
	handle(t, rt, pipeline(t, rt, runtime.Spec{}), runtime.TaskConfig{}, func(context.Context, runtime.Task[order]) (any, error) { return nil, errBoom })
	send(t, c, messages.Task{ID: "x", Type: "charge", Body: []byte("{}")})
	first := result(t, c, "x", 0)
	_, err := c.ReplayDeadLetter(t.Context(), first.DeadLetterID, "ops")
	require.NoError(t, err)
	_, err = c.ReplayDeadLetter(t.Context(), first.DeadLetterID, "ops")
	require.ErrorIs(t, err, messages.ErrConflict, "it is leased")
	second := result(t, c, "x", 1)
	require.NotEqual(t, first.DeadLetterID, second.DeadLetterID)
	require.Equal(t, 1, letter(t, c, second.DeadLetterID).Replay)
	require.Equal(t, "ops", letter(t, c, second.DeadLetterID).ReplayedBy)
	require.Eventually(t, func() bool {
		n, err := c.DeadLetterCounts(t.Context())
		require.NoError(t, err)
		require.Equal(t, n.Stored, n.Pending+n.Leased+n.Resolved)
		return n.Stored == 2 && n.Pending == 1 && n.Resolved == 1
	}, 5*time.Second, 10*time.Millisecond)
}

// A canceled task is not run if it waits, told to stop if it runs, and ends in a result, not in a dead letter.
func TestCanceledTask(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{Guards: []actors.Guard{actors.KillSwitch()}})
	running := make(chan string, 8)
	handle(t, rt, p, runtime.TaskConfig{}, func(ctx context.Context, t runtime.Task[order]) (any, error) {
		running <- t.ID
		if t.Replay > 0 {
			return "again", nil
		}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	cancel := func(id string) {
		require.NoError(t, c.CancelTask(t.Context(), messages.Cancellation{TaskID: id, By: "ops", Reason: "not wanted"}))
	}
	send(t, c, messages.Task{ID: "runs", Type: "charge", Body: []byte("{}")})
	require.Equal(t, "runs", <-running)
	cancel("runs")
	r := result(t, c, "runs", 0)
	require.Equal(t, messages.Canceled, r.Outcome)
	require.Equal(t, messages.ReasonCanceled, r.Reason)
	require.Equal(t, 1, r.Attempts)
	require.Empty(t, r.DeadLetterID)

	on := messages.KillState{On: true, Reason: "hold", By: "ops"}
	require.NoError(t, rt.Kill(t.Context(), on))
	send(t, c, messages.Task{ID: "waits / oddly", Type: "charge", Body: []byte("{}")})
	cancel("waits / oddly")
	on.On = false
	require.NoError(t, rt.Kill(t.Context(), on))
	r = result(t, c, "waits / oddly", 0)
	require.Equal(t, messages.Canceled, r.Outcome)
	require.Zero(t, r.Attempts)

	// What is stored after the order is a new wish.
	send(t, c, messages.Task{ID: "waits / oddly", Replay: 1, Type: "charge", Body: []byte("{}")})
	require.JSONEq(t, `"again"`, string(result(t, c, "waits / oddly", 1).Value))
	require.ErrorIs(t, c.CancelTask(t.Context(), messages.Cancellation{TaskID: "x"}), messages.ErrInvalid)
}
