package runtime_test

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// Each test here is named after a fault that was once there.

func TestTasksBehindASmallBulkheadUsedUpTheirDeliveries(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{policy.Bulkhead{Permits: 2}}})
	handle(t, rt, p, runtime.TaskConfig{MaxDeliveries: 2}, func(context.Context, runtime.Task[order]) (any, error) {
		time.Sleep(20 * time.Millisecond)
		return 1, nil
	})
	for i := range 60 {
		send(t, c, messages.Task{ID: fmt.Sprint(i), Type: "charge", Body: []byte("{}")})
	}
	for i := range 60 {
		require.Equal(t, messages.Success, result(t, c, fmt.Sprint(i), 0).Outcome)
	}
	require.Less(t, rt.TaskStats("charge").Refused, uint64(60))
}

// A function that is told to stop may return any error: the task is given back all the same.
func TestAbortedTaskBecameADeadLetter(t *testing.T) {
	c := clustertest.Connect(t, clustertest.Server(t), "n1")
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c))
	require.NoError(t, err)
	began := make(chan struct{})
	handle(t, rt, pipeline(t, rt, runtime.Spec{}), runtime.TaskConfig{}, func(ctx context.Context, _ runtime.Task[order]) (any, error) {
		close(began)
		<-ctx.Done()
		return nil, errors.New("rpc error: code = Canceled")
	})
	send(t, c, messages.Task{ID: "x", Type: "charge", Body: []byte("{}")})
	<-began
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.NoError(t, rt.Shutdown(ctx))
	letters, err := c.DeadLetters(t.Context(), cluster.DeadLetterFilter{})
	require.NoError(t, err)
	require.Empty(t, letters)
	_, err = c.Result(t.Context(), "x")
	require.ErrorIs(t, err, messages.ErrNotFound)
}

type unprintable struct{}

func (unprintable) MarshalJSON() ([]byte, error) { panic("marshal") }
func (*unprintable) UnmarshalJSON([]byte) error  { panic("unmarshal") }

func TestValueWhoseJSONPanicsRanTheTaskAgain(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{})
	var ran atomic.Int64
	require.NoError(t, runtime.Handle(rt, "out", p, func(context.Context, runtime.Task[order]) (unprintable, error) {
		ran.Add(1)
		return unprintable{}, nil
	}))
	require.NoError(t, runtime.Handle(rt, "in", p, func(context.Context, runtime.Task[unprintable]) (int, error) {
		ran.Add(1)
		return 1, nil
	}))
	send(t, c, messages.Task{ID: "a", Type: "out", Body: []byte("{}")})
	send(t, c, messages.Task{ID: "b", Type: "in", Body: []byte("{}")})
	require.Equal(t, messages.ReasonUnserialised, result(t, c, "a", 0).Reason)
	require.Equal(t, messages.ReasonMalformed, result(t, c, "b", 0).Reason)
	require.EqualValues(t, 1, ran.Load())
}

func TestErrorTextWithTheReplacementCharacterHidTheResult(t *testing.T) {
	rt, c := node(t)
	handle(t, rt, pipeline(t, rt, runtime.Spec{}), runtime.TaskConfig{}, func(context.Context, runtime.Task[order]) (any, error) {
		return nil, errors.New("downstream said \ufffd\x00\xff")
	})
	send(t, c, messages.Task{ID: "x", Type: "charge", Body: []byte("{}")})
	r := result(t, c, "x", 0)
	require.Equal(t, messages.Failure, r.Outcome)
	require.Contains(t, letter(t, c, r.DeadLetterID).Error, "downstream said \ufffd")
}

func TestDrainingTaskCouldNotCallAnotherPipeline(t *testing.T) {
	c := clustertest.Connect(t, clustertest.Server(t), "n1")
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c))
	require.NoError(t, err)
	inner, err := rt.Pipeline("inner", runtime.Spec{})
	require.NoError(t, err)
	began, release := make(chan struct{}), make(chan struct{})
	handle(t, rt, pipeline(t, rt, runtime.Spec{}), runtime.TaskConfig{}, func(ctx context.Context, _ runtime.Task[order]) (any, error) {
		close(began)
		<-release
		return runtime.Do(ctx, inner, func(context.Context) (any, error) { return 1, nil })
	})
	send(t, c, messages.Task{ID: "x", Type: "charge", Body: []byte("{}")})
	<-began
	ended := make(chan error)
	go func() { ended <- rt.Shutdown(context.Background()) }()
	require.Eventually(t, func() bool { return !rt.Ready().Ready }, 5*time.Second, time.Millisecond)
	close(release)
	require.NoError(t, <-ended)
	require.Equal(t, messages.Success, result(t, c, "x", 0).Outcome, "what was accepted was done")
	_, err = runtime.Do(t.Context(), inner, func(context.Context) (int, error) { return 1, nil })
	require.ErrorIs(t, err, messages.ErrStopped)
}

// An order that is seen again, as after a reconnect, is still as old as it was.
func TestOldCancellationStoppedANewTask(t *testing.T) {
	rt, c := node(t)
	began, release := make(chan struct{}), make(chan struct{})
	handle(t, rt, pipeline(t, rt, runtime.Spec{}), runtime.TaskConfig{}, func(ctx context.Context, _ runtime.Task[order]) (any, error) {
		close(began)
		select {
		case <-release:
			return 1, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	old := messages.Cancellation{TaskID: "x", By: "ops", Reason: "r", At: time.Now().Add(-time.Hour)}
	send(t, c, messages.Task{ID: "x", Type: "charge", Body: []byte("{}")})
	<-began
	runtime.SeeCancellation(rt, old)
	close(release)
	require.Equal(t, messages.Success, result(t, c, "x", 0).Outcome)
}

func TestFallbackThatLeavesByGoexitKeptTheTask(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{Intake: 1, Layers: []policy.Config{
		policy.Fallback{Func: func(context.Context, error) (any, error) { goruntime.Goexit(); return nil, nil }},
		policy.Timeout{Limit: 20 * time.Millisecond},
	}})
	handle(t, rt, p, runtime.TaskConfig{}, func(context.Context, runtime.Task[order]) (any, error) {
		time.Sleep(50 * time.Millisecond)
		return 1, nil
	})
	for _, id := range []string{"x", "y"} { // the second one needs the slot of the first
		send(t, c, messages.Task{ID: id, Type: "charge", Body: []byte("{}")})
		require.Equal(t, messages.Failure, result(t, c, id, 0).Outcome)
	}
	require.Eventually(t, func() bool { _, abandoned := p.InFlight(); return abandoned == 0 }, 5*time.Second, time.Millisecond)
}

// What a handler puts off for long takes no place among the tasks in flight, so that it cannot stop the rest.
func TestLongDelaysStoppedTheType(t *testing.T) {
	rt, c := node(t)
	handle(t, rt, pipeline(t, rt, runtime.Spec{}), runtime.TaskConfig{MaxInFlight: 2}, func(_ context.Context, task runtime.Task[order]) (any, error) {
		if task.ID != "other" && task.Delivery == 1 {
			return nil, messages.Retry(time.Hour, errBoom)
		}
		return 1, nil
	})
	events := rt.Events(8, func(e messages.Event) bool { return e.Kind == messages.TaskDeferred })
	for _, id := range []string{"a", "b", "other"} {
		send(t, c, messages.Task{ID: id, Type: "charge", Body: []byte("{}")})
	}
	require.Equal(t, messages.Success, result(t, c, "other", 0).Outcome)
	require.Eventually(t, func() bool { return len(events.C()) == 2 }, 5*time.Second, time.Millisecond)
}

func TestOldTaskWhoseWorkWasBeingDoneBecameADeadLetter(t *testing.T) {
	rt, c := node(t)
	began := make(chan struct{})
	p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{policy.Idempotency{Hold: 500 * time.Millisecond}}})
	handle(t, rt, p, runtime.TaskConfig{MaxAge: time.Nanosecond}, func(context.Context, runtime.Task[order]) (any, error) {
		close(began)
		time.Sleep(100 * time.Millisecond)
		return 1, nil
	})
	send(t, c, messages.Task{ID: "first", Type: "charge", IdempotencyKey: "k", Body: []byte("{}")})
	<-began
	send(t, c, messages.Task{ID: "again", Type: "charge", IdempotencyKey: "k", Body: []byte("{}")})
	r := result(t, c, "again", 0)
	require.Equal(t, messages.Success, r.Outcome, r.Error)
}
