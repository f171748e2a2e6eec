package runtime_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

var errBoom = errors.New("boom")

type order struct {
	Order int `json:"order"`
}

type receipt struct {
	Paid int `json:"paid"`
}

// node starts a runtime with its own connection to a server of the test's.
func node(t *testing.T) (*runtime.Runtime, *cluster.Cluster) {
	t.Helper()
	c := clustertest.Connect(t, clustertest.Server(t), "n1")
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, rt.Shutdown(ctx))
	})
	return rt, c
}

func pipeline(t *testing.T, rt *runtime.Runtime, spec runtime.Spec) runtime.Pipeline {
	t.Helper()
	p, err := rt.Pipeline("charge", spec)
	require.NoError(t, err)
	return p
}

func send(t *testing.T, c *cluster.Cluster, task messages.Task) messages.Task {
	t.Helper()
	task, err := c.Send(t.Context(), task)
	require.NoError(t, err)
	return task
}

func result(t *testing.T, c *cluster.Cluster, id string, replay int) messages.TaskResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := c.AwaitResult(ctx, id, replay)
	require.NoError(t, err)
	return r
}

func TestTaskSucceeds(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}}})
	require.NoError(t, runtime.Handle(rt, "charge", p, func(_ context.Context, t runtime.Task[order]) (receipt, error) {
		return receipt{t.Value.Order}, nil
	}))
	task := send(t, c, messages.Task{Type: "charge", Body: []byte(`{"order":17}`)})
	r := result(t, c, task.ID, 0)
	require.Equal(t, messages.Success, r.Outcome)
	require.JSONEq(t, `{"paid":17}`, string(r.Value))
}

func TestFailedTaskIsReplayed(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{})
	well := make(chan struct{})
	require.NoError(t, runtime.Handle(rt, "charge", p, func(_ context.Context, t runtime.Task[order]) (receipt, error) {
		select {
		case <-well:
			return receipt{t.Value.Order}, nil
		default:
			return receipt{}, errBoom
		}
	}))
	task := send(t, c, messages.Task{Type: "charge", Body: []byte(`{"order":17}`)})
	r := result(t, c, task.ID, 0)
	require.Equal(t, messages.Failure, r.Outcome)
	require.NotEmpty(t, r.DeadLetterID)
	close(well)
	again, err := c.ReplayDeadLetter(t.Context(), r.DeadLetterID, "test")
	require.NoError(t, err)
	r = result(t, c, again.ID, 1)
	require.Equal(t, messages.Success, r.Outcome)
	require.Eventually(t, func() bool {
		n, err := c.DeadLetterCounts(t.Context())
		require.NoError(t, err)
		return n.Stored == 1 && n.Resolved == 1
	}, 5*time.Second, 10*time.Millisecond)
}
