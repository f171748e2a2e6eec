package runtime_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// TestARetriedTaskWasOvertaken: a handler that puts a task off holds up what has the same key, and nothing else.
func TestARetriedTaskWasOvertaken(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{})
	var mu sync.Mutex
	var ran []string
	require.NoError(t, runtime.HandleWith(rt, runtime.TaskConfig{Type: "charge", Ordered: true}, p, func(_ context.Context, task runtime.Task[[]byte]) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		ran = append(ran, task.ID)
		if task.ID == "1" && task.Delivery < 3 {
			return "", messages.Retry(50*time.Millisecond, errBoom)
		}
		return task.Key, nil
	}))
	for _, id := range []string{"1", "2", "3"} {
		send(t, c, messages.Task{Type: "charge", ID: id, Key: "order-17", Body: []byte("{}")})
	}
	send(t, c, messages.Task{Type: "charge", ID: "other", Key: "a", Body: []byte("{}")})
	for _, id := range []string{"1", "2", "3", "other"} {
		r, err := c.AwaitResult(t.Context(), id, 0)
		require.NoError(t, err)
		require.Equal(t, messages.Success, r.Outcome)
	}
	mu.Lock()
	defer mu.Unlock()
	var keyed []string
	for _, id := range ran {
		if id != "other" {
			keyed = append(keyed, id)
		}
	}
	require.Equal(t, []string{"1", "1", "1", "2", "3"}, keyed)
	require.NotEqual(t, "other", ran[len(ran)-1], "another key waited")
}

// TestReplayOvertookWithAnotherPriority: a dead letter goes back to the lane that it came from.
func TestReplayOvertookWithAnotherPriority(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{})
	require.NoError(t, runtime.HandleWith(rt, runtime.TaskConfig{Type: "charge", Ordered: true}, p, func(_ context.Context, task runtime.Task[[]byte]) (string, error) {
		if task.Replay == 0 {
			return "", errBoom
		}
		return task.Subject, nil
	}))
	for want, task := range map[string]messages.Task{
		"forseti.v1.task.charge.lo": {ID: "low", Priority: messages.LowPriority}, "forseti.v1.task.charge.k.46": {ID: "keyed", Key: "order-17"},
	} {
		task.Type = "charge"
		send(t, c, task)
		r, err := c.AwaitResult(t.Context(), task.ID, 0)
		require.NoError(t, err)
		again, err := c.ReplayDeadLetter(t.Context(), r.DeadLetterID, "me")
		require.NoError(t, err)
		require.Equal(t, want, again.Subject)
		r, err = c.AwaitResult(t.Context(), task.ID, 1)
		require.NoError(t, err)
		require.Equal(t, `"`+want+`"`, string(r.Value))
	}
}
