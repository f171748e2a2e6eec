package runtime_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// The consumer of a type that has no tasks waits for the next one with a reserved slot, which looked like a call on its
// way to the limits.
func TestIdleTaskTypeStarvedTheOthers(t *testing.T) {
	for name, l := range map[string]policy.Config{
		"bulkhead": policy.Bulkhead{Permits: 1}, "shed": policy.Shed{Limit: 1}, "adaptive": policy.Adaptive{Initial: 1, Max: 1},
		"rate_limit": policy.RateLimit{Limit: 100, Smooth: true},
	} {
		t.Run(name, func(t *testing.T) {
			rt, c := node(t)
			p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{l}})
			fn := func(context.Context, runtime.Task[order]) (receipt, error) { return receipt{1}, nil }
			require.NoError(t, runtime.Handle(rt, "idle", p, fn))
			require.Eventually(t, func() bool { n, _ := p.InFlight(); return n == 1 }, 5*time.Second, time.Millisecond)
			require.NoError(t, runtime.Handle(rt, "busy", p, fn))
			for range 5 {
				task := send(t, c, messages.Task{Type: "busy", Body: []byte(`{"order":17}`)})
				require.Equal(t, messages.Success, result(t, c, task.ID, 0).Outcome)
			}
		})
	}
}

type slowResult struct{ settle <-chan struct{} }

func (r slowResult) MarshalJSON() ([]byte, error) { <-r.settle; return []byte("1"), nil }

// A task whose function has returned needs nothing of the limits any more, however long its end takes to be stored.
func TestTasksBeingSettledKeptTokensBack(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{policy.RateLimit{Limit: 100, Smooth: true}}})
	settle, ran := make(chan struct{}), make(chan struct{}, 5)
	require.NoError(t, runtime.Handle(rt, "charge", p, func(context.Context, runtime.Task[order]) (slowResult, error) {
		ran <- struct{}{}
		return slowResult{settle}, nil
	}))
	for range 5 {
		task := send(t, c, messages.Task{Type: "charge", Body: []byte("{}")})
		select {
		case <-ran:
		case <-time.After(5 * time.Second):
			close(settle)
			t.Fatal("a token was kept for a task that is being settled")
		}
		defer result(t, c, task.ID, 0)
	}
	close(settle)
}

// A limit that paces its tasks told of a pause after each of them.
func TestPacingWasToldAsPauses(t *testing.T) {
	for limit, told := range map[int]bool{100: false, 4: true} { // a token each 10 ms, and each 250 ms
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			rt, c := node(t)
			p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{policy.RateLimit{Limit: limit, Smooth: true}}})
			require.NoError(t, runtime.Handle(rt, "charge", p, func(context.Context, runtime.Task[order]) (int, error) { return 1, nil }))
			var sent []string
			for range 5 {
				sent = append(sent, send(t, c, messages.Task{Type: "charge", Body: []byte("{}")}).ID)
			}
			for _, id := range sent {
				require.Equal(t, messages.Success, result(t, c, id, 0).Outcome)
			}
			require.Equal(t, told, rt.TaskStats("charge").Paused > 0)
		})
	}
}

// Two types share a pipeline; the one that is bounded leaves the rest of it to the other.
func TestConcurrencyBoundsOneType(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{})
	var now, most atomic.Int32
	hold := make(chan struct{})
	slow := func(context.Context, runtime.Task[order]) (receipt, error) {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-hold
		now.Add(-1)
		return receipt{1}, nil
	}
	require.NoError(t, runtime.HandleWith(rt, runtime.TaskConfig{Type: "slow", Concurrency: 2}, p, slow))
	require.NoError(t, runtime.Handle(rt, "quick", p, func(context.Context, runtime.Task[order]) (receipt, error) { return receipt{2}, nil }))
	var tasks []messages.Task
	for range 20 {
		tasks = append(tasks, send(t, c, messages.Task{Type: "slow", Body: []byte("{}")}))
	}
	require.Eventually(t, func() bool { return now.Load() == 2 }, 5*time.Second, time.Millisecond)
	quick := send(t, c, messages.Task{Type: "quick", Body: []byte("{}")})
	require.Equal(t, messages.Success, result(t, c, quick.ID, 0).Outcome)
	close(hold)
	for _, task := range tasks {
		require.Equal(t, messages.Success, result(t, c, task.ID, 0).Outcome)
	}
	require.EqualValues(t, 2, most.Load())
}

func TestConcurrencyIsNotNegative(t *testing.T) {
	rt, _ := node(t)
	err := runtime.HandleWith(rt, runtime.TaskConfig{Type: "t", Concurrency: -1}, pipeline(t, rt, runtime.Spec{}),
		func(context.Context, runtime.Task[order]) (receipt, error) { return receipt{}, nil })
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.ErrorContains(t, err, "Concurrency")
}
