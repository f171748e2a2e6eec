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

var priorities = []messages.Priority{messages.HighPriority, messages.NormalPriority, messages.LowPriority}

// TestConsumersOfAllLanesAreAccepted holds what is declared against a real server, which refuses consumers of a work
// queue whose filters meet.
func TestConsumersOfAllLanesAreAccepted(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	for _, typ := range []string{"a", "a-hi", "hi", "k"} {
		consume(t, c, cluster.ConsumeConfig{Type: typ, Ordered: true, MaxInFlight: 7, AckWait: 9 * time.Second}, newSlots(1), func(*cluster.Delivery) {})
	}
	types, err := c.TaskTypes(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a", "a-hi", "hi", "k"}, types, "each type once")
	filters := map[string]string{"task-a": "task.a", "task-a-HI": "task.a.hi", "task-a-LO": "task.a.lo"}
	for i := range messages.Partitions {
		filters[fmt.Sprintf("task-a-K%02d", i)] = fmt.Sprintf("task.a.k.%d", i)
	}
	for name, filter := range filters {
		cons, err := js.Consumer(t.Context(), "FORSETI_TASKS", name)
		require.NoError(t, err, name)
		is := cons.CachedInfo().Config
		require.Equal(t, "forseti.v1."+filter, is.FilterSubject)
		require.Equal(t, 9*time.Second, is.AckWait)
		require.Equal(t, -1, is.MaxDeliver)
		inFlight := 7
		if len(name) == len("task-a-K00") {
			inFlight = 1
		}
		require.Equal(t, inFlight, is.MaxAckPending, name)
	}
	for _, odd := range []string{"a.k.64", "a.k.00", "a.k", "a.k.x", "a.high", "a.hi.hi"} {
		_, err := js.Publish(t.Context(), "forseti.v1.task."+odd, nil, jetstream.WithRetryAttempts(0))
		require.ErrorIs(t, err, jetstream.ErrNoStreamResponse, "a producer is told that nobody takes %s", odd)
	}
}

func TestSendPutsATaskIntoItsLane(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	for subject, task := range map[string]messages.Task{
		"task.a": {}, "task.a.hi": {Priority: messages.HighPriority}, "task.a.lo": {Priority: messages.LowPriority}, "task.a.k.46": {Key: "order-17"},
		"task.a.k.7": {Key: "order-17", Replay: 1, Subject: "forseti.v1.task.a.k.7"}, // by a producer who hashes in another way
		"task.a.k.8": {Replay: 1, Subject: "forseti.v1.task.a.k.8"},
	} {
		task.Type = "a"
		sent, err := c.Send(t.Context(), task)
		require.NoError(t, err)
		require.Equal(t, "forseti.v1."+subject, sent.Subject)
	}
	_, err := c.Send(t.Context(), messages.Task{Type: "a", Priority: "urgent", Key: " odd\n"})
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, part := range []string{"high or low", "none beside an ordering key", "without control characters"} {
		require.ErrorContains(t, err, part)
	}
}

// TestTheSubjectSaysThePriority takes tasks of producers whose headers say something else, or nothing.
func TestTheSubjectSaysThePriority(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	got := make(chan *cluster.Delivery, 1)
	consume(t, c, cluster.ConsumeConfig{Type: "a", Ordered: true}, newSlots(100), func(d *cluster.Delivery) { got <- d })
	h := nats.Header{"forseti-priority": {"low"}, "Forseti-Key": {"order-17"}}
	for subject, want := range map[string]messages.Task{"a": {}, "a.hi": {Priority: "high"}, "a.lo": {Priority: "low"}, "a.k.46": {Key: "order-17"}, "a.k.1": {Key: "order-17"}} {
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "forseti.v1.task." + subject, Header: h})
		require.NoError(t, err)
		d := <-got
		require.NoError(t, d.Err)
		require.Equal(t, "a", d.Task.Type)
		require.Equal(t, want.Priority, d.Task.Priority, subject)
		require.Equal(t, want.Key, d.Task.Key, subject)
		require.NoError(t, d.Ack(t.Context()))
	}
}

// TestPrioritiesAreTaken8To4To1 has backlogs of all three, and hardly any slots.
func TestPrioritiesAreTaken8To4To1(t *testing.T) {
	for _, size := range []int{1, 5, 32} {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		_, js := raw(t, s)
		const each = 400
		for range each {
			for _, tokens := range []string{"", ".hi", ".lo"} {
				_, err := js.PublishAsync("forseti.v1.task.a"+tokens, nil)
				require.NoError(t, err)
			}
		}
		<-js.PublishAsyncComplete()
		in := newSlots(size)
		work := make(chan *cluster.Delivery, size)
		k := consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(d *cluster.Delivery) { work <- d })
		had := map[messages.Priority]int{}
		for n := range 3 * each {
			d := <-work
			had[d.Task.Priority]++
			in.Release(1)
			k.Wake()
			require.NoError(t, d.Ack(t.Context()))
			if n+1 == 390 { // of 13 times 30
				require.InDelta(t, 240, had[messages.HighPriority], 2*float64(size)+4, "%d slots: %v", size, had)
				require.InDelta(t, 120, had[messages.NormalPriority], 2*float64(size)+4, "%d slots: %v", size, had)
				require.InDelta(t, 30, had[messages.LowPriority], float64(size)+4, "%d slots: %v", size, had)
			}
		}
		require.Equal(t, map[messages.Priority]int{"": each, "high": each, "low": each}, had, "none is left out")
		require.Zero(t, k.Stats().Naked)
	}
}

// TestALoneTaskOfAnyPriorityStartsAtOnce runs in virtual time: an idle lane must not be looked at only now and then.
func TestALoneTaskOfAnyPriorityStartsAtOnce(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		got := make(chan *cluster.Delivery, 4)
		in := newSlots(4)
		k := consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(d *cluster.Delivery) { got <- d })
		for round := range 30 {
			time.Sleep(time.Duration(round) * 777 * time.Millisecond)
			at := time.Now()
			_, err := c.Send(t.Context(), messages.Task{Type: "a", Priority: priorities[round%3]})
			require.NoError(t, err)
			d := <-got
			require.Less(t, time.Since(at), 10*time.Millisecond)
			require.Equal(t, priorities[round%3], d.Task.Priority)
			in.Release(1)
			require.NoError(t, d.Ack(t.Context()))
			k.Wake()
		}
		require.Zero(t, k.Stats().Errors)
		require.Zero(t, k.Stats().Naked)
	})
}

// TestAHighTaskGetsTheNextSlot: all slots are taken, and normal tasks wait in numbers.
func TestAHighTaskGetsTheNextSlot(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	for range 50 {
		_, err := c.Send(t.Context(), messages.Task{Type: "a"})
		require.NoError(t, err)
	}
	in := newSlots(2)
	got := make(chan *cluster.Delivery, 2)
	k := consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(d *cluster.Delivery) { got <- d })
	next := func() *cluster.Delivery {
		d := <-got
		in.Release(1)
		k.Wake()
		require.NoError(t, d.Ack(t.Context()))
		return d
	}
	for range 10 {
		next()
	}
	require.Eventually(t, func() bool { return len(got) == 2 }, soon, tick)
	_, err := c.Send(t.Context(), messages.Task{Type: "a", Priority: messages.HighPriority})
	require.NoError(t, err)
	for n := 0; ; n++ {
		require.Less(t, n, 5, "normal tasks were taken before it")
		if next().Task.Priority == messages.HighPriority {
			break
		}
	}
}

// TestATaskWithoutASlotCameAgainAndAgain runs in virtual time: all slots are taken for minutes. A task that finds none
// must not be delivered and given back all the while, since its deliveries are counted; and it comes when there is one.
func TestATaskWithoutASlotCameAgainAndAgain(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		got := make(chan *cluster.Delivery, 4)
		in := newSlots(1)
		k := consume(t, c, cluster.ConsumeConfig{Type: "a", Ordered: true}, in, func(d *cluster.Delivery) { got <- d })
		_, err := c.Send(t.Context(), messages.Task{Type: "a"})
		require.NoError(t, err)
		long := <-got
		waiting := []messages.Task{{Priority: messages.HighPriority}, {}, {Priority: messages.LowPriority}, {Key: "a"}, {Key: "order-17"}}
		for _, task := range waiting {
			task.Type = "a"
			_, err := c.Send(t.Context(), task)
			require.NoError(t, err)
		}
		time.Sleep(10 * time.Minute)
		require.Empty(t, got)
		in.Release(1)
		k.Wake()
		require.NoError(t, long.Ack(t.Context()))
		at := time.Now()
		for range waiting {
			d := <-got
			require.LessOrEqual(t, d.Task.Delivery, 3, d.Task.Subject)
			time.Sleep(100 * time.Millisecond)
			in.Release(1)
			k.Wake()
			require.NoError(t, d.Ack(t.Context()))
		}
		require.Less(t, time.Since(at), 3*time.Second)
		require.Zero(t, k.Stats().Errors)
	})
}

// TestEmptyLanesWerePolled counts the requests: while normal tasks pour in, the other lanes are not asked each time.
func TestEmptyLanesWerePolled(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	nc, js := raw(t, s)
	requests := make(chan *nats.Msg, 10000)
	_, err := nc.ChanSubscribe("$JS.API.CONSUMER.MSG.NEXT.FORSETI_TASKS.*", requests)
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	in := newSlots(8)
	work := make(chan *cluster.Delivery, 8)
	k := consume(t, c, cluster.ConsumeConfig{Type: "a", Ordered: true}, in, func(d *cluster.Delivery) { work <- d })
	go func() {
		for range 1000 {
			_, _ = js.PublishAsync("forseti.v1.task.a", nil)
		}
	}()
	for range 1000 {
		d := <-work
		in.Release(1)
		k.Wake()
		require.NoError(t, d.Ack(context.Background()))
	}
	require.NoError(t, nc.Flush())
	of := map[string]int{}
	for len(requests) > 0 {
		m := <-requests
		of[m.Subject]++
	}
	require.Greater(t, of["$JS.API.CONSUMER.MSG.NEXT.FORSETI_TASKS.task-a"], 20)
	delete(of, "$JS.API.CONSUMER.MSG.NEXT.FORSETI_TASKS.task-a")
	require.Len(t, of, 2+messages.Partitions, "each waits for its next task")
	for subject, n := range of {
		require.LessOrEqual(t, n, 8, subject) // one in 5 s, and those of the start
	}
}
