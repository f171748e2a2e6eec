package cluster_test

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

func TestSend(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)

	first, err := c.Send(t.Context(), messages.Task{Type: "charge", ID: "order-17", Body: []byte("x")})
	require.NoError(t, err)
	require.Equal(t, "FORSETI_TASKS", first.Stream)
	require.EqualValues(t, 1, first.Sequence)
	again, err := c.Send(t.Context(), messages.Task{Type: "charge", ID: "order-17", Body: []byte("x")})
	require.NoError(t, err)
	require.EqualValues(t, 1, again.Sequence, "the same id is the same task")
	replay, err := c.Send(t.Context(), messages.Task{Type: "charge", ID: "order-17", Replay: 1})
	require.NoError(t, err)
	require.EqualValues(t, 2, replay.Sequence, "a replay is not dropped as a copy")
	minted, err := c.Send(t.Context(), messages.Task{Type: "charge"})
	require.NoError(t, err)
	require.NotEmpty(t, minted.ID)
	require.EqualValues(t, 3, tasksLeft(t, js))
}

func TestSendRefusesWhatNobodyCouldTake(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	_, err := c.Send(t.Context(), messages.Task{
		Type: "no.dots", ID: strings.Repeat("x", 300), Reply: "a.*", Body: make([]byte, 1<<20), Context: messages.Context{Tier: "gold"},
	})
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, part := range []string{"task type", "forseti-task-id", "forseti-reply", "forseti-tier", "body is 1048576"} {
		require.ErrorContains(t, err, part)
	}
	require.Zero(t, tasksLeft(t, js))
}

// TestTheLetterOfAnAcceptedTaskHoldsItsWholeBody sends the longest body there is room for, and fails it with as long
// a story as there may be.
func TestTheLetterOfAnAcceptedTaskHoldsItsWholeBody(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	long := strings.Repeat("<", 2<<10)
	task := messages.Task{Type: "a", Context: messages.Context{OrderID: "17", Extra: map[string]any{"colour": long}}}
	task.Body = make([]byte, 1<<20)
	_, err := c.Send(t.Context(), task)
	require.ErrorIs(t, err, messages.ErrInvalid)
	room := regexp.MustCompile(`at most (\d+) bytes`).FindStringSubmatch(err.Error())
	require.Len(t, room, 2)
	n, err := strconv.Atoi(room[1])
	require.NoError(t, err)
	require.Greater(t, n, 1<<20-32<<10)
	task.Body = task.Body[:n]
	task, err = c.Send(t.Context(), task)
	require.NoError(t, err)

	d := messages.DeadLetterOf(&task)
	d.Pipeline, d.Reason, d.Node, d.Outcome = strings.Repeat("p", 64), strings.Repeat("r", 64), strings.Repeat("n", 64), messages.Failure
	d.Error, d.ErrorType, d.Policies, d.FailedAt, d.FirstFailedAt = long, long, []string{long}, time.Now(), time.Now()
	for range 8 {
		d.AttemptErrors = append(d.AttemptErrors, long)
	}
	id, err := c.StoreDeadLetter(t.Context(), d)
	require.NoError(t, err)
	info, err := c.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	require.False(t, info.Letter.Truncated)
	require.Len(t, info.Letter.Body, n)
}

func TestSendToAFullStream(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1", func(c *cluster.Config) { c.TaskMaxBytes = 1 << 20 })
	var err error
	for range 8 {
		if _, err = c.Send(t.Context(), messages.Task{Type: "a", Body: make([]byte, 300<<10)}); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.ErrorContains(t, err, "the stream of forseti.v1.task.a is full")
}

func TestTaskTypes(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	types, err := c.TaskTypes(t.Context())
	require.NoError(t, err)
	require.Empty(t, types)
	for _, typ := range []string{"refund", "charge", "a-b_c"} {
		consume(t, c, cluster.ConsumeConfig{Type: typ}, newSlots(1), func(*cluster.Delivery) {})
	}
	types, err = c.TaskTypes(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a-b_c", "charge", "refund"}, types)
}

// TestForeignProducers sends what clients in other languages send: any header case, no ids, bad values.
func TestForeignProducers(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	got := make(chan *cluster.Delivery, 16)
	in := newSlots(8)
	consume(t, c, cluster.ConsumeConfig{Type: "charge"}, in, func(d *cluster.Delivery) { got <- d })
	send := func(h nats.Header, body string) *cluster.Delivery {
		t.Helper()
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "forseti.v1.task.charge", Header: h, Data: []byte(body)})
		require.NoError(t, err)
		d := <-got
		require.NoError(t, d.Ack(t.Context()))
		in.Release(1)
		return d
	}

	d := send(nil, "{}")
	require.NoError(t, d.Err)
	require.Regexp(t, `^FORSETI_TASKS-1-[0-9a-f]+$`, d.Task.ID)
	require.Equal(t, "charge", d.Task.Type)
	require.Equal(t, 1, d.Task.Delivery)
	require.WithinDuration(t, time.Now(), d.Task.StoredAt, time.Minute)
	require.Equal(t, "forseti.v1.task.charge", d.Task.Subject)
	require.EqualValues(t, 1, d.Task.Sequence)

	d = send(nats.Header{"Nats-Msg-Id": {"m-1"}, "FORSETI-Order-Id": {"17"}, "Forseti-X-Colour": {"blue"}}, "")
	require.NoError(t, d.Err)
	require.Equal(t, "m-1", d.Task.ID)
	require.Equal(t, "17", d.Task.Context.OrderID)
	require.Equal(t, "blue", d.Task.Context.Extra["colour"])
	require.Empty(t, d.Task.Body)

	d = send(nats.Header{"forseti-task-id": {"odd id/ü.*>"}}, "x")
	require.NoError(t, d.Err)
	require.Equal(t, "odd id/ü.*>", d.Task.ID)

	d = send(nats.Header{"forseti-task-id": {"t"}, "forseti-timeout-ms": {"soon"}, "forseti-deadline": {"tomorrow"}, "Status": {"404"}}, "body")
	require.ErrorIs(t, d.Err, messages.ErrInvalid)
	require.ErrorContains(t, d.Err, "forseti-timeout-ms")
	require.ErrorContains(t, d.Err, "forseti-deadline")
	require.Equal(t, "t", d.Task.ID)
	require.Equal(t, "body", string(d.Task.Body))

	d = send(nats.Header{"Status": {"404"}, "Description": {"not one of the server's"}}, "")
	require.NoError(t, d.Err, "a task without a body that looks like the server's own message")

	d = send(nats.Header{"forseti-task-id": {strings.Repeat("x", 257)}, "forseti-x-big": {strings.Repeat("y", 40<<10)}}, "z")
	require.ErrorIs(t, d.Err, messages.ErrInvalid)
	require.NotEmpty(t, d.Task.ID)
	require.Eventually(t, func() bool { return tasksLeft(t, js) == 0 }, soon, tick)
}

// TestEachTaskOnce proves the road for many tasks: delivered once, acknowledged, and never more at a time
// than there are slots.
func TestEachTaskOnce(t *testing.T) {
	const n, size, workers = 2000, 64, 8
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	for range n {
		_, err := js.PublishAsync("forseti.v1.task.charge", nil)
		require.NoError(t, err)
	}
	<-js.PublishAsyncComplete()

	in := newSlots(size)
	work := make(chan *cluster.Delivery, size) // deliver must not block: as many as slots
	var mu sync.Mutex
	seen := map[uint64]int{}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for d := range work {
				mu.Lock()
				seen[d.Task.Sequence]++
				mu.Unlock()
				in.Release(1)
				if err := d.Ack(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	k := consume(t, c, cluster.ConsumeConfig{Type: "charge"}, in, func(d *cluster.Delivery) { work <- d })
	require.Eventually(t, func() bool { return k.Stats().Acked == n }, patient, tick)
	k.Stop()
	require.NoError(t, k.Drained(t.Context()))
	close(work)
	wg.Wait()

	require.Len(t, seen, n)
	for seq, times := range seen {
		require.Equal(t, 1, times, "sequence %d", seq)
	}
	st := k.Stats()
	require.Equal(t, cluster.ConsumerStats{Received: n, Acked: n}, st)
	require.Zero(t, tasksLeft(t, js))
	require.Equal(t, size, in.unused())
}
