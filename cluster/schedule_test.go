package cluster_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

// taking consumes a type on a node, and gives what comes.
func taking(t *testing.T, c *cluster.Cluster, typ string) <-chan *cluster.Delivery {
	t.Helper()
	got := make(chan *cluster.Delivery, 64)
	consume(t, c, cluster.ConsumeConfig{Type: typ, Ordered: typ == "ordered"}, newSlots(64), func(d *cluster.Delivery) { got <- d })
	return got
}

// waiting is how many messages the stream of schedules holds.
func waiting(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	s, err := js.Stream(context.Background(), "FORSETI_SCHED")
	require.NoError(t, err)
	return s.CachedInfo().State.Msgs
}

func TestDelayedTaskComesWhenItIsDue(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		_, js := raw(t, s)
		got := taking(t, c, "ordered")
		at := time.Now()
		for _, task := range []messages.Task{
			{ID: "plain"},
			{ID: "urgent", Priority: messages.HighPriority, Timeout: time.Minute, Context: messages.Context{OrderID: "17", Extra: map[string]any{"channel": "web"}}},
			{ID: "or/dered", Key: "customer-4711", Reply: "somewhere"},
		} {
			task.Type, task.Body = "ordered", []byte("body")
			sent, err := c.SendAfter(t.Context(), task, 2*time.Minute)
			require.NoError(t, err)
			require.Equal(t, "FORSETI_SCHED", sent.Stream)
			require.Equal(t, "forseti.v1.sched.ordered."+cluster.SubjectToken(task.ID), sent.Subject)
			d := <-got
			require.NoError(t, d.Err)
			due := time.Since(at)
			require.GreaterOrEqual(t, due, 2*time.Minute)
			require.Less(t, due, 2*time.Minute+time.Second)
			task.Origin = d.Task.Origin
			require.Equal(t, task.Encode(), d.Task.Encode())
			require.Equal(t, task.Body, d.Task.Body)
			require.Equal(t, "FORSETI_TASKS", d.Task.Stream)
			require.Equal(t, "FORSETI_SCHED", d.Task.Origin.Stream)
			require.WithinDuration(t, time.Now(), d.Task.Origin.At, time.Second)
			if by, ok := d.Task.Expires(); ok {
				require.Equal(t, d.Task.Origin.At.Add(time.Minute), by, "the timeout counts from when it was due")
			}
			require.NoError(t, d.Ack(t.Context()))
			at = time.Now()
		}
		time.Sleep(time.Second)
		require.Zero(t, waiting(t, js))
	})
}

// A producer in another language: a message, three headers.
func TestProducerDelaysATaskByHand(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		_, js := raw(t, s)
		got := taking(t, c, "charge")
		at := time.Now()
		m := &nats.Msg{Subject: "forseti.v1.sched.charge.order-17", Data: []byte("{}"), Header: nats.Header{
			"Nats-Schedule":        {"@at " + at.Add(10*time.Minute).UTC().Format(time.RFC3339)},
			"Nats-Schedule-Target": {"forseti.v1.due.charge"},
			"Nats-Msg-Id":          {"order-17"},
			"forseti-priority":     {"low"},
			"x-theirs":             {"kept"},
		}}
		_, err := js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
		ack, err := js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
		require.True(t, ack.Duplicate)
		d := <-got
		require.NoError(t, d.Err)
		require.Equal(t, "order-17", d.Task.ID, "the server keeps no message id; the subject has it")
		require.Equal(t, messages.LowPriority, d.Task.Priority)
		require.InDelta(t, 600, time.Since(at).Seconds(), 2)
		stream, err := js.Stream(t.Context(), "FORSETI_TASKS")
		require.NoError(t, err)
		stored, err := stream.GetMsg(t.Context(), d.Task.Sequence)
		require.NoError(t, err)
		require.Equal(t, "kept", stored.Header.Get("x-theirs"))
		require.Empty(t, stored.Header.Get("Nats-Scheduler"))
		require.NoError(t, d.Ack(t.Context()))

		_, err = js.Publish(t.Context(), "forseti.v1.due.charge", nil) // without any header
		require.NoError(t, err)
		d = <-got
		require.NotEmpty(t, d.Task.ID)
		require.NoError(t, d.Ack(t.Context()))
	})
}

// TestDelayedTaskSentAgainIsOne: within two minutes the first one counts, later the second takes its place.
func TestDelayedTaskSentAgainIsOne(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		_, js := raw(t, s)
		for i, pause := range []time.Duration{0, time.Minute, 2 * time.Minute} {
			time.Sleep(pause)
			_, err := c.SendAfter(t.Context(), messages.Task{ID: "a", Type: "charge", Body: fmt.Append(nil, i)}, 10*time.Minute)
			require.NoError(t, err)
			require.EqualValues(t, 1, waiting(t, js))
		}
		got := taking(t, c, "charge")
		d := <-got
		require.Equal(t, "2", string(d.Task.Body))
		require.NoError(t, d.Ack(t.Context()))
		time.Sleep(15 * time.Minute)
		require.Empty(t, got)
	})
}

func TestDelaysThatAreRefused(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	_, err := c.SendAfter(t.Context(), messages.Task{Type: "no.dots", Deadline: time.Now().Add(time.Hour), Context: messages.Context{Tier: "gold"}}, 2*messages.MaxDelay)
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, part := range []string{"NotBefore", "task type", "forseti-deadline", "forseti-tier"} {
		require.ErrorContains(t, err, part)
	}
	require.Zero(t, waiting(t, js))
	sent, err := c.Send(t.Context(), messages.Task{Type: "charge", NotBefore: time.Now().Add(-time.Hour)})
	require.NoError(t, err)
	require.Equal(t, "FORSETI_TASKS", sent.Stream, "due already")
}

// TestFullStreamOfSchedulesDroppedItsOldest: a stream with schedules discards old messages when it is full, and the server
// takes no other setting. So ours has no limit on the server, and senders refuse to exceed that of their configuration.
func TestFullStreamOfSchedulesDroppedItsOldest(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1", func(c *cluster.Config) { c.ScheduleMaxBytes = 1 << 20 })
	_, js := raw(t, s)
	cfg := jetstream.StreamConfig{Name: "X", Subjects: []string{"x.>"}, Storage: jetstream.MemoryStorage, AllowMsgSchedules: true, Discard: jetstream.DiscardNew, MaxBytes: 1 << 20}
	_, err := js.CreateStream(t.Context(), cfg)
	require.ErrorContains(t, err, "cannot use discard new", "when the server takes it, we should")

	stream, err := js.Stream(t.Context(), "FORSETI_SCHED")
	require.NoError(t, err)
	require.EqualValues(t, -1, stream.CachedInfo().Config.MaxBytes)
	n := 0
	for ; err == nil; n++ {
		require.Less(t, n, 100)
		_, err = c.SendAfter(t.Context(), messages.Task{ID: fmt.Sprint("task-", n), Type: "charge", Body: make([]byte, 100<<10)}, time.Hour)
	}
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.ErrorContains(t, err, "is full")
	require.EqualValues(t, n-1, waiting(t, js), "what was accepted is there")
	_, err = stream.GetLastMsgForSubject(t.Context(), "forseti.v1.sched.charge.task-0")
	require.NoError(t, err)
	_, err = c.Send(t.Context(), messages.Task{Type: "charge"})
	require.NoError(t, err, "what is due at once is not concerned")

	changed := stream.CachedInfo().Config
	changed.MaxBytes = 8 << 20
	_, err = js.UpdateStream(t.Context(), changed)
	require.NoError(t, err)
	_, err = cluster.Connect(t.Context(), cluster.Config{Node: "n2", Storage: cluster.MemoryStorage}, cluster.WithInProcess(s))
	require.ErrorContains(t, err, "max bytes", "a limit there would drop what waits")
}

func TestTaskCanceledBeforeItWasDue(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		_, js := raw(t, s)
		got := taking(t, c, "charge")
		for _, typ := range []string{"charge", "refund"} {
			_, err := c.SendAfter(t.Context(), messages.Task{ID: "order/17", Type: typ}, 10*time.Minute)
			require.NoError(t, err)
		}
		_, err := c.SendAfter(t.Context(), messages.Task{ID: "order/18", Type: "charge"}, 10*time.Minute)
		require.NoError(t, err)
		require.NoError(t, c.CancelTask(t.Context(), messages.Cancellation{TaskID: "order/17", By: "me", Reason: "sent twice"}))
		r, err := c.Result(t.Context(), "order/17")
		require.NoError(t, err)
		require.Equal(t, messages.Canceled, r.Outcome)
		require.Equal(t, messages.ReasonCanceled, r.Reason)
		require.EqualValues(t, 1, waiting(t, js))
		d := <-got
		require.Equal(t, "order/18", d.Task.ID)
		require.NoError(t, d.Ack(t.Context()))
	})
}
