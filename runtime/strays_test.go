package runtime_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// Tasks of a type that nobody ever took are dead letters after a while, of all lanes; those of a type that somebody takes, and young ones, wait.
func TestTasksThatNobodyHandlesAreDeadLetters(t *testing.T) {
	srv := clustertest.Server(t)
	c := clustertest.Connect(t, srv, "n1")
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	p := pipeline(t, rt, runtime.Spec{})
	require.NoError(t, runtime.Handle(rt, "taken", p, func(context.Context, runtime.Task[order]) (receipt, error) { return receipt{}, nil }))
	require.NoError(t, rt.Kill(t.Context(), messages.KillState{Scope: messages.TasksScope("taken"), On: true, Reason: "test", By: "t"}))
	for id, task := range map[string]messages.Task{
		"plain": {Type: "lost"}, "urgent": {Type: "lost", Priority: messages.HighPriority}, "keyed": {Type: "lost", Key: "k"}, "held": {Type: "taken"},
	} {
		task.ID, task.Body = id, []byte(`{}`)
		send(t, c, task)
	}
	buried, err := c.SweepUnhandled(t.Context(), time.Hour, runtime.Bury(rt))
	require.NoError(t, err)
	require.Zero(t, buried, "they are young")
	for range 2 { // the second one finds nothing
		_, err = c.SweepUnhandled(t.Context(), -time.Hour, runtime.Bury(rt))
		require.NoError(t, err)
	}
	for _, id := range []string{"plain", "urgent", "keyed"} {
		r := result(t, c, id, 0)
		require.Equal(t, messages.Failure, r.Outcome)
		require.Equal(t, messages.ReasonUnhandled, r.Reason)
		info, err := c.DeadLetter(t.Context(), r.DeadLetterID)
		require.NoError(t, err)
		require.Equal(t, messages.ReasonUnhandled, info.Letter.Reason)
		require.Contains(t, info.Letter.Error, `no node takes tasks of type "lost"`)
	}
	b, err := c.TaskBacklog(t.Context())
	require.NoError(t, err)
	require.Len(t, b, 1)
	require.Equal(t, "taken", b[0].Type)
	n, err := c.DeadLetterCounts(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, n.Stored)
}

// A consumer that was given a limit of deliveries leaves its task in the stream unseen: it becomes a dead letter, once, though two nodes watch.
func TestTaskBeyondTheServersLimitIsADeadLetter(t *testing.T) {
	srv := clustertest.Server(t)
	rt, c := nodeOf(t, srv)
	other := clustertest.Connect(t, srv, "n2")
	second, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(other), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, second.Shutdown(context.Background())) })
	p := pipeline(t, rt, runtime.Spec{})
	require.NoError(t, runtime.Handle(rt, "charge", p, func(context.Context, runtime.Task[order]) (receipt, error) {
		return receipt{}, messages.Retry(time.Millisecond, errBoom)
	}))
	nc, err := nats.Connect(srv.URL())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	consumer, err := js.Consumer(t.Context(), "FORSETI_TASKS", "task-charge")
	require.NoError(t, err)
	cfg := consumer.CachedInfo().Config
	cfg.MaxDeliver = 3
	_, err = js.UpdateConsumer(t.Context(), "FORSETI_TASKS", cfg)
	require.NoError(t, err)
	send(t, c, messages.Task{Type: "charge", ID: "poison", Body: []byte(`{"order":1}`)})
	r := result(t, c, "poison", 0)
	require.Equal(t, messages.ReasonMaxDeliveries, r.Reason)
	require.Eventually(t, func() bool { b, err := c.TaskBacklog(t.Context()); return err == nil && len(b) == 0 }, 10*time.Second, 10*time.Millisecond)
	letters, err := c.DeadLetters(t.Context(), cluster.DeadLetterFilter{})
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.Equal(t, messages.ReasonMaxDeliveries, letters[0].Letter.Reason)
}
