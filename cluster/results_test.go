package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

func TestResults(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	ctx := t.Context()
	_, err := c.Result(ctx, "order-17")
	require.ErrorIs(t, err, messages.ErrNotFound)

	for _, id := range []string{"order-17", "odd id/ü.*>", "a.b"} {
		failed := messages.TaskResult{TaskID: id, Type: "charge", Outcome: messages.Failure, Error: "no funds", Attempts: 3, DeadLetterID: "d1"}
		require.NoError(t, c.PublishResult(ctx, failed, ""))
		copied := failed
		copied.Outcome, copied.Value = messages.Success, []byte("1")
		require.NoError(t, c.PublishResult(ctx, copied, ""), "a copy of the same replay")
		r, err := c.Result(ctx, id)
		require.NoError(t, err)
		require.Equal(t, messages.Failure, r.Outcome, "the first record of a replay stays")
		require.Equal(t, "no funds", r.Error)
		require.Equal(t, id, r.TaskID)
		require.False(t, r.StoredAt.IsZero())

		require.NoError(t, c.PublishResult(ctx, messages.TaskResult{TaskID: id, Replay: 1, Outcome: messages.Success, Value: []byte(`{"a":1}`)}, ""))
		r, err = c.Result(ctx, id)
		require.NoError(t, err)
		require.Equal(t, 1, r.Replay)
		require.JSONEq(t, `{"a":1}`, string(r.Value))
	}
	n, err := c.ResultCount(ctx)
	require.NoError(t, err)
	require.Equal(t, 3, n, "the newest replaces")
}

func TestResultGoesToItsReply(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	nc, js := raw(t, s)
	sub, err := nc.SubscribeSync("somebody.waits")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	require.NoError(t, c.PublishResult(t.Context(), messages.TaskResult{TaskID: "t", Outcome: messages.Fallback, Value: []byte("7")}, "somebody.waits"))
	m, err := sub.NextMsg(soon)
	require.NoError(t, err)
	require.Equal(t, "7", string(m.Data))
	require.Equal(t, "fallback", m.Header["forseti-outcome"][0])

	require.NoError(t, c.PublishResult(t.Context(), messages.TaskResult{TaskID: "u", Outcome: messages.Success}, "forseti.v1.task.charge"))
	require.Zero(t, tasksLeft(t, js), "a reply into our own subjects makes no task")
}

func TestResultTooLarge(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	big := append(append([]byte{'"'}, make([]byte, 2<<20)...), '"')
	err := c.PublishResult(t.Context(), messages.TaskResult{TaskID: "t", Outcome: messages.Success, Value: big}, "")
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.ErrorIs(t, c.PublishResult(t.Context(), messages.TaskResult{TaskID: "t"}, ""), messages.ErrInvalid)
}

func TestAwaitResult(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c, d := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
	got := make(chan messages.TaskResult, 1)
	require.NoError(t, c.PublishResult(t.Context(), messages.TaskResult{TaskID: "t", Outcome: messages.Failure}, ""))
	go func() {
		r, err := c.AwaitResult(context.Background(), "t", 1)
		if err == nil {
			got <- r
		}
	}()
	require.NoError(t, d.PublishResult(t.Context(), messages.TaskResult{TaskID: "t", Replay: 1, Outcome: messages.Success, Value: []byte("1")}, ""))
	r := <-got
	require.Equal(t, 1, r.Replay)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.AwaitResult(ctx, "nobody", 0)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	nc, _ := raw(t, s)
	require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: "forseti.v1.result.bad", Data: []byte("{")}))
	require.NoError(t, nc.Flush())
	_, err = c.AwaitResult(t.Context(), "bad", 0)
	require.ErrorIs(t, err, messages.ErrInvalid)
}
