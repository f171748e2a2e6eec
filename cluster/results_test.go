package cluster_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

// stored publishes a record that must be stored; dropped one that must not.
func stored(t *testing.T, c *cluster.Cluster, r messages.TaskResult) {
	t.Helper()
	is, err := c.PublishResult(t.Context(), r, nil)
	require.NoError(t, err)
	require.True(t, is)
}

func dropped(t *testing.T, c *cluster.Cluster, r messages.TaskResult) {
	t.Helper()
	is, err := c.PublishResult(t.Context(), r, nil)
	require.NoError(t, err)
	require.False(t, is)
}

func TestResults(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	ctx := t.Context()
	_, err := c.Result(ctx, "order-17")
	require.ErrorIs(t, err, messages.ErrNotFound)

	for _, id := range []string{"order-17", "odd id/ü.*>", "a.b"} {
		failed := messages.TaskResult{TaskID: id, Type: "charge", Outcome: messages.Failure, Error: "no funds", Attempts: 3, DeadLetterID: "d1"}
		stored(t, c, failed)
		copied := failed
		copied.Outcome, copied.Value = messages.Success, []byte("1")
		dropped(t, c, copied)
		r, err := c.Result(ctx, id)
		require.NoError(t, err)
		require.Equal(t, messages.Failure, r.Outcome, "the first record of a replay stays")
		require.Equal(t, "no funds", r.Error)
		require.Equal(t, id, r.TaskID)
		require.False(t, r.StoredAt.IsZero())

		stored(t, c, messages.TaskResult{TaskID: id, Replay: 1, Outcome: messages.Success, Value: []byte(`{"a":1}`)})
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
	task := messages.Task{ID: "t", Reply: "somebody.waits"}
	for _, v := range []string{"7", "8"} { // the second comes too late
		_, err = c.PublishResult(t.Context(), messages.TaskResult{TaskID: "t", Outcome: messages.Fallback, Value: []byte(v)}, &task)
		require.NoError(t, err)
	}
	require.NoError(t, nc.Flush())
	n, _, err := sub.Pending()
	require.NoError(t, err)
	require.Equal(t, 1, n, "only what was stored is told")
	m, err := sub.NextMsg(soon)
	require.NoError(t, err)
	require.Equal(t, "7", string(m.Data))
	require.Equal(t, "fallback", m.Header["forseti-outcome"][0])

	_, err = c.PublishResult(t.Context(), messages.TaskResult{TaskID: "u", Outcome: messages.Success}, &messages.Task{Reply: "forseti.v1.task.charge"})
	require.NoError(t, err)
	require.Zero(t, tasksLeft(t, js), "a reply into our own subjects makes no task")
}

func TestResultTooLarge(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	big := append(append([]byte{'"'}, make([]byte, 2<<20)...), '"')
	_, err := c.PublishResult(t.Context(), messages.TaskResult{TaskID: "t", Outcome: messages.Success, Value: big}, nil)
	require.ErrorIs(t, err, messages.ErrInvalid)
	_, err = c.PublishResult(t.Context(), messages.TaskResult{TaskID: "t"}, nil)
	require.ErrorIs(t, err, messages.ErrInvalid)
}

func TestAwaitResult(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c, d := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
	got := make(chan messages.TaskResult, 1)
	stored(t, c, messages.TaskResult{TaskID: "t", Outcome: messages.Failure})
	go func() {
		r, err := c.AwaitResult(context.Background(), "t", 1)
		if err == nil {
			got <- r
		}
	}()
	stored(t, d, messages.TaskResult{TaskID: "t", Replay: 1, Outcome: messages.Success, Value: []byte("1")})
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

func TestALateResultOfAnEarlierReplayIsDropped(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		began := time.Now()
		time.Sleep(time.Second)
		stored(t, c, messages.TaskResult{TaskID: "x", Outcome: messages.Success, Replay: 1})
		is, err := c.PublishResult(t.Context(), messages.TaskResult{TaskID: "x", Outcome: messages.Failure}, &messages.Task{ID: "x", StoredAt: began})
		require.NoError(t, err)
		require.False(t, is)
		r, err := c.Result(t.Context(), "x")
		require.NoError(t, err)
		require.Equal(t, 1, r.Replay)
	})
}

func TestTheFirstResultStaysPastTheDuplicateWindow(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		task := &messages.Task{ID: "y", StoredAt: time.Now()}
		for _, first := range []bool{true, false} {
			time.Sleep(time.Hour)
			is, err := c.PublishResult(t.Context(), messages.TaskResult{TaskID: "y", Outcome: messages.Success, Attempts: 1}, task)
			require.NoError(t, err)
			require.Equal(t, first, is)
		}
	})
}

// TestAReusedTaskIDGetsItsOwnResult sends a second task under an id whose first one was even replayed.
func TestAReusedTaskIDGetsItsOwnResult(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	stored(t, c, messages.TaskResult{TaskID: "nightly", Outcome: messages.Failure, Replay: 1})
	old, err := c.Result(t.Context(), "nightly")
	require.NoError(t, err)
	got := make(chan messages.TaskResult, 1)
	go func() {
		r, err := c.AwaitResultAfter(context.Background(), "nightly", 0, old.StoredAt)
		if err == nil {
			got <- r
		}
	}()
	again := &messages.Task{ID: "nightly", StoredAt: old.StoredAt.Add(time.Nanosecond)}
	is, err := c.PublishResult(t.Context(), messages.TaskResult{TaskID: "nightly", Outcome: messages.Success}, again)
	require.NoError(t, err)
	require.True(t, is)
	require.Equal(t, messages.Success, (<-got).Outcome)
}

func TestOneOfManyResultsAtOnceIsStored(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c, d := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
	task := &messages.Task{ID: "t", StoredAt: time.Now().Add(-time.Minute)}
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		node := []*cluster.Cluster{c, d}[i%2]
		wg.Go(func() {
			is, err := node.PublishResult(context.Background(), messages.TaskResult{TaskID: "t", Outcome: messages.Success}, task)
			if err != nil {
				t.Error(err)
			}
			if is {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, won.Load())
}

// TestAResultWhoseAnswerIsLostIsStored loses the first answer; the second try finds the record there.
func TestAResultWhoseAnswerIsLostIsStored(t *testing.T) {
	s := clustertest.Server(t)
	p := newProxy(t, s)
	c := clustertest.Connect(t, s, "n1", p.instead)
	nc, _ := raw(t, s)
	sub, err := nc.SubscribeSync("somebody.waits")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	p.mute.Store(true)
	time.AfterFunc(time.Second, func() { p.mute.Store(false) })
	is, err := c.PublishResult(t.Context(), messages.TaskResult{TaskID: "t", Outcome: messages.Success}, &messages.Task{ID: "t", StoredAt: time.Now().Add(-time.Minute), Reply: "somebody.waits"})
	require.NoError(t, err)
	require.True(t, is)
	_, err = sub.NextMsg(soon)
	require.NoError(t, err)
}

// TestAwaitResultSurvivesALostRequest swallows a request on its way to the server; the deadline is far.
func TestAwaitResultSurvivesALostRequest(t *testing.T) {
	s := clustertest.Server(t)
	p := newProxy(t, s)
	c, direct := clustertest.Connect(t, s, "n1", p.instead), clustertest.Connect(t, s, "n2")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { _, err := c.AwaitResult(ctx, "x", 0); done <- err }()
	p.swallow.Store(true)
	require.Eventually(t, func() bool { return p.swallowed.Load() > 0 }, soon, tick)
	p.cut()
	p.swallow.Store(false)
	stored(t, direct, messages.TaskResult{TaskID: "x", Outcome: messages.Success})
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(patient):
		require.Fail(t, "it waits for the answer that got lost")
	}
}
