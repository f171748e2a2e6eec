package cluster_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

func TestFetchesNoMoreThanThereAreSlots(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	for range 10 {
		_, err := c.Send(t.Context(), messages.Task{Type: "a"})
		require.NoError(t, err)
	}
	in := newSlots(3)
	got := make(chan *cluster.Delivery, 10)
	k := consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(d *cluster.Delivery) { got <- d })
	require.Eventually(t, func() bool { return len(got) == 3 }, soon, tick)

	info := func() *jetstream.ConsumerInfo {
		cons, err := js.Consumer(t.Context(), "FORSETI_TASKS", "task-a")
		require.NoError(t, err)
		return cons.CachedInfo()
	}
	require.Equal(t, 3, info().NumAckPending)
	require.EqualValues(t, 7, info().NumPending)
	require.Zero(t, in.unused())
	for range 10 {
		d := <-got
		require.LessOrEqual(t, info().NumAckPending, 3)
		in.Release(1)
		require.NoError(t, d.Ack(t.Context()))
	}
	require.EqualValues(t, 10, k.Stats().Acked)
	require.Eventually(t, func() bool { return in.unused() >= 2 }, soon, tick, "an idle consumer holds one slot")
}

// oneRoom has room for one task, the first time it is asked.
type oneRoom struct{ asked, reserved atomic.Int32 }

func (r *oneRoom) Room() (int, time.Duration, string) {
	if r.asked.Add(1) == 1 {
		return 1, 0, ""
	}
	return 0, 10 * time.Millisecond, ""
}
func (r *oneRoom) Reserve(n int) int { r.reserved.Add(1); return n }
func (r *oneRoom) Release(int)       {}

// TestAnIdleConsumerAsksForRoom looks at the request that waits for the next task: it takes a slot, too.
func TestAnIdleConsumerAsksForRoom(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	in := &oneRoom{}
	consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(*cluster.Delivery) {})
	require.Eventually(t, func() bool { return in.asked.Load() > 4 }, soon, tick)
	require.EqualValues(t, 1, in.reserved.Load())
}

func TestPauseAndResumeAreToldOnce(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	in := newSlots(1)
	in.set("breaker is open")
	var paused, resumed atomic.Int32
	got := make(chan *cluster.Delivery, 1)
	k := consume(t, c, cluster.ConsumeConfig{
		Type:     "a",
		OnPause:  func(why string, _ time.Duration) { require.Equal(t, "breaker is open", why); paused.Add(1) },
		OnResume: func() { resumed.Add(1) },
	}, in, func(d *cluster.Delivery) { got <- d })
	_, err := c.Send(t.Context(), messages.Task{Type: "a"})
	require.NoError(t, err)
	require.Eventually(t, func() bool { in.mu.Lock(); defer in.mu.Unlock(); return in.rooms > 5 }, soon, tick)
	require.Empty(t, got)
	require.True(t, k.Stats().Paused)
	in.set("")
	k.Wake()
	require.NoError(t, (<-got).Ack(t.Context()))
	require.EqualValues(t, 1, paused.Load())
	require.EqualValues(t, 1, resumed.Load())
	require.False(t, k.Stats().Paused)
}

func TestSettlesOnce(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	got := make(chan *cluster.Delivery, 4)
	in := newSlots(4)
	k := consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(d *cluster.Delivery) { got <- d })
	_, err := c.Send(t.Context(), messages.Task{Type: "a"})
	require.NoError(t, err)

	d := <-got
	require.NoError(t, d.Nak(0))
	require.NoError(t, d.Nak(time.Hour))
	require.ErrorIs(t, d.Ack(t.Context()), cluster.ErrSettled)
	in.Release(1)

	d = <-got
	require.Equal(t, 2, d.Task.Delivery)
	require.NoError(t, d.Ack(t.Context()))
	require.NoError(t, d.Ack(t.Context()))
	require.ErrorIs(t, d.Nak(0), cluster.ErrSettled)
	in.Release(1)
	require.Zero(t, tasksLeft(t, js))
	st := k.Stats()
	require.EqualValues(t, 1, st.Redelivered)
	require.EqualValues(t, 1, st.Acked)
	require.EqualValues(t, 1, st.Naked)
	require.Zero(t, st.Held)
}

func TestStopWhileWaitingForATask(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	in := newSlots(4)
	k := consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(d *cluster.Delivery) { t.Error("delivered after Stop") })
	waiting := func() int {
		cons, err := js.Consumer(t.Context(), "FORSETI_TASKS", "task-a")
		require.NoError(t, err)
		return cons.CachedInfo().NumWaiting
	}
	require.Eventually(t, func() bool { return in.unused() == 3 && waiting() == 1 }, soon, tick)
	start := time.Now()
	k.Stop()
	k.Stop()
	require.NoError(t, k.Drained(t.Context()))
	require.Less(t, time.Since(start), time.Second)
	require.Equal(t, 4, in.unused())
	_, err := c.Send(t.Context(), messages.Task{Type: "a"})
	require.NoError(t, err)

	// Whoever comes next gets it at once: nothing was handed to the stopped one.
	got := make(chan *cluster.Delivery, 1)
	consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(d *cluster.Delivery) { got <- d })
	d := <-got
	require.Equal(t, 1, d.Task.Delivery)
	require.NoError(t, d.Ack(t.Context()))
}

// TestStopInTheMiddle stops while tasks pour in: whatever was under way must be given back at once and
// reach the next consumer long before AckWait.
func TestStopInTheMiddle(t *testing.T) {
	const n = 500
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	for range n {
		_, err := js.PublishAsync("forseti.v1.task.a", nil)
		require.NoError(t, err)
	}
	<-js.PublishAsyncComplete()
	var acked atomic.Int64
	start := time.Now()
	for round := 0; acked.Load() < n; round++ {
		require.Less(t, time.Since(start), patient)
		in := newSlots(32)
		work := make(chan *cluster.Delivery, 32)
		k := consume(t, c, cluster.ConsumeConfig{Type: "a", AckWait: time.Minute}, in, func(d *cluster.Delivery) { work <- d })
		for range 20 {
			select {
			case d := <-work:
				in.Release(1)
				require.NoError(t, d.Ack(t.Context()))
				acked.Add(1)
			case <-time.After(100 * time.Millisecond):
			}
		}
		k.Stop()
		go func() {
			for d := range work {
				in.Release(1)
				if d.Ack(context.Background()) == nil {
					acked.Add(1)
				}
			}
		}()
		require.NoError(t, k.Drained(t.Context()))
		close(work)
	}
	require.EqualValues(t, n, acked.Load())
	require.Zero(t, tasksLeft(t, js))
}

// TestFullFleet has all that the nodes may hold in their hands: the server then keeps silent, and the free
// slots must not be kept from others meanwhile.
func TestFullFleet(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	a, b := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
	for range 6 {
		_, err := a.Send(t.Context(), messages.Task{Type: "a"})
		require.NoError(t, err)
	}
	cfg := cluster.ConsumeConfig{Type: "a", MaxInFlight: 2}
	inA, inB := newSlots(10), newSlots(10)
	got := make(chan *cluster.Delivery, 10)
	ka := consume(t, a, cfg, inA, func(d *cluster.Delivery) { got <- d })
	require.Eventually(t, func() bool { return len(got) == 2 }, soon, tick)
	kb := consume(t, b, cfg, inB, func(d *cluster.Delivery) { got <- d })
	require.Eventually(t, func() bool { return inA.unused() == 7 && inB.unused() == 9 }, soon, tick)
	_, js := raw(t, s)
	cons, err := js.Consumer(t.Context(), "FORSETI_TASKS", "task-a")
	require.NoError(t, err)
	require.LessOrEqual(t, cons.CachedInfo().NumWaiting, 4)
	for range 6 {
		d := <-got
		require.NoError(t, d.Ack(t.Context()))
	}
	for _, k := range []*cluster.Consumer{ka, kb} {
		require.Zero(t, k.Stats().Errors)
		require.Zero(t, k.Stats().Naked)
	}
	require.EqualValues(t, 6, ka.Stats().Acked+kb.Stats().Acked)
}

func TestConsumerLimitsOnlyGrow(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	for _, cfg := range []cluster.ConsumeConfig{{AckWait: 10 * time.Second, MaxInFlight: 10}, {AckWait: 20 * time.Second, MaxInFlight: 5}, {AckWait: 5 * time.Second, MaxInFlight: 20}} {
		cfg.Type = "a"
		consume(t, c, cfg, newSlots(1), func(*cluster.Delivery) {})
	}
	cons, err := js.Consumer(t.Context(), "FORSETI_TASKS", "task-a")
	require.NoError(t, err)
	require.Equal(t, 20*time.Second, cons.CachedInfo().Config.AckWait)
	require.Equal(t, 20, cons.CachedInfo().Config.MaxAckPending)
}

func TestConsumerAndStreamAreMadeAgain(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	got := make(chan *cluster.Delivery, 4)
	in := newSlots(4)
	consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(d *cluster.Delivery) { got <- d })
	next := func() {
		t.Helper()
		require.Eventually(t, func() bool { _, err := c.Send(t.Context(), messages.Task{Type: "a"}); return err == nil }, patient, 50*time.Millisecond)
		select {
		case d := <-got:
			require.NoError(t, d.Ack(t.Context()))
			in.Release(1)
		case <-time.After(patient):
			require.Fail(t, "no task")
		}
	}
	next()
	require.NoError(t, js.DeleteConsumer(t.Context(), "FORSETI_TASKS", "task-a"))
	next()
	require.NoError(t, js.DeleteStream(t.Context(), "FORSETI_TASKS"))
	next()
}

// TestATaskOfANewStreamIsNotTakenForAnOldOne loses the stream while a task of the same sequence is held, or was
// acknowledged without an answer.
func TestATaskOfANewStreamIsNotTakenForAnOldOne(t *testing.T) {
	for _, acknowledged := range []bool{false, true} {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		_, js := raw(t, s)
		got := make(chan *cluster.Delivery, 4)
		k := consume(t, c, cluster.ConsumeConfig{Type: "a"}, newSlots(4), func(d *cluster.Delivery) { got <- d })
		_, err := c.Send(t.Context(), messages.Task{Type: "a", ID: "old"})
		require.NoError(t, err)
		old := <-got
		require.NoError(t, js.DeleteStream(t.Context(), "FORSETI_TASKS"))
		if acknowledged {
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			require.Error(t, old.Ack(ended))
		}
		require.Eventually(t, func() bool { _, err := c.Send(t.Context(), messages.Task{Type: "a", ID: "new"}); return err == nil }, patient, 50*time.Millisecond)
		select {
		case d := <-got:
			require.Equal(t, "new", d.Task.ID)
			require.Equal(t, old.Task.Sequence, d.Task.Sequence)
			require.NoError(t, d.Ack(t.Context()))
		case <-time.After(patient):
			require.Fail(t, "the new task was not delivered", "%+v", k.Stats())
		}
		if !acknowledged {
			require.NoError(t, old.Nak(0))
		}
	}
}

// TestOutageLongerThanAckWait has two tasks in hand when the server goes: one still runs, the other's
// acknowledgement finds nobody. Neither may run a second time on this node.
func TestOutageLongerThanAckWait(t *testing.T) {
	dir := t.TempDir()
	s := clustertest.Server(t, clustertest.At(dir, -1))
	port := s.Port()
	c := clustertest.Connect(t, s, "n1", clustertest.OnDisk)
	got := make(chan *cluster.Delivery, 4)
	k := consume(t, c, cluster.ConsumeConfig{Type: "a", AckWait: time.Second}, newSlots(4), func(d *cluster.Delivery) { got <- d })
	for range 2 {
		_, err := c.Send(t.Context(), messages.Task{Type: "a"})
		require.NoError(t, err)
	}
	running, over := <-got, <-got
	clustertest.Stop(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond) // more than AckWait
	defer cancel()
	require.ErrorIs(t, over.Ack(ctx), messages.ErrUnavailable)
	s = clustertest.Server(t, clustertest.At(dir, port))
	_, js := raw(t, s)
	require.Eventually(t, func() bool { return tasksLeft(t, js) == 1 }, patient, 10*time.Millisecond, "acknowledged when it came again")
	require.NoError(t, running.Ack(t.Context()))
	require.Zero(t, tasksLeft(t, js))
	require.Empty(t, got)
	require.EqualValues(t, 2, k.Stats().Received)
}

// TestHeldTasksAreKeptAlive runs in virtual time: minutes of work under an AckWait of 30 seconds.
func TestHeldTasksAreKeptAlive(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		got := make(chan *cluster.Delivery, 4)
		k := consume(t, c, cluster.ConsumeConfig{Type: "a"}, newSlots(4), func(d *cluster.Delivery) { got <- d })
		_, err := c.Send(t.Context(), messages.Task{Type: "a"})
		require.NoError(t, err)
		d := <-got
		time.Sleep(10 * time.Minute)
		require.Empty(t, got, "delivered again while held")
		require.NoError(t, d.Ack(t.Context()))
		time.Sleep(2 * time.Minute)
		require.Empty(t, got)
		require.Zero(t, k.Stats().Duplicates)
		require.Zero(t, k.Stats().Errors)
	})
}

// TestRedeliveryAfterTheNodeIsGone runs in virtual time: without signs of life the task is somebody else's
// after AckWait.
func TestRedeliveryAfterTheNodeIsGone(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		lost, c := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
		got := make(chan *cluster.Delivery, 4)
		deliver := func(d *cluster.Delivery) { got <- d }
		consume(t, lost, cluster.ConsumeConfig{Type: "a"}, newSlots(4), deliver)
		_, err := c.Send(t.Context(), messages.Task{Type: "a"})
		require.NoError(t, err)
		d := <-got
		require.NoError(t, lost.Close(t.Context()))
		at := time.Now()
		require.ErrorIs(t, d.Ack(t.Context()), messages.ErrUnavailable)

		consume(t, c, cluster.ConsumeConfig{Type: "a"}, newSlots(4), deliver)
		d = <-got
		require.InDelta(t, 30, time.Since(at).Seconds(), 2)
		require.Equal(t, 2, d.Task.Delivery)
		require.NoError(t, d.Ack(t.Context()))
	})
}

func TestNakDelay(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		got := make(chan *cluster.Delivery, 4)
		in := newSlots(4)
		consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(d *cluster.Delivery) { got <- d })
		_, err := c.Send(t.Context(), messages.Task{Type: "a"})
		require.NoError(t, err)
		require.NoError(t, (<-got).Nak(5*time.Minute))
		in.Release(1)
		at := time.Now()
		d := <-got
		require.InDelta(t, 300, time.Since(at).Seconds(), 1)
		require.NoError(t, d.Ack(t.Context()))
		in.Release(1)
	})
}
