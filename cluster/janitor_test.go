package cluster_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

// heard is what a janitor told.
type heard struct {
	pace   time.Duration // how long it takes to tell a letter: in virtual time the janitor's work would take none
	mu     sync.Mutex
	events []messages.Event
}

func (h *heard) tell(e messages.Event) {
	if e.Kind == messages.DeadLetterStored {
		time.Sleep(h.pace)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *heard) of(kind messages.Kind) (found []messages.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

func janitor(t *testing.T, c *cluster.Cluster, after time.Duration) (*cluster.Janitor, *heard) {
	t.Helper()
	h := &heard{pace: time.Millisecond}
	j, err := c.StartJanitor(cluster.JanitorConfig{UnhandledAfter: after, Tell: h.tell})
	require.NoError(t, err)
	return j, h
}

// lettersOf are all dead letters, by task id; no two are of one.
func lettersOf(t *testing.T, c *cluster.Cluster) map[string]cluster.DeadLetterInfo {
	t.Helper()
	all, err := c.DeadLetters(t.Context(), cluster.DeadLetterFilter{Limit: 1000})
	require.NoError(t, err)
	byTask := map[string]cluster.DeadLetterInfo{}
	for _, l := range all {
		require.NotContains(t, byTask, l.Letter.TaskID)
		byTask[l.Letter.TaskID] = l
	}
	return byTask
}

func TestTasksThatNoNodeHandlesAreDeadLettersAfterAWhile(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		_, js := raw(t, s)
		j, h := janitor(t, c, 5*time.Minute)
		joined(t, c, "charge") // handled, though it takes none: it is paused
		tasks := []messages.Task{
			{ID: "plain", Body: []byte(`{"order":17}`)},
			{ID: "urgent", Priority: messages.HighPriority},
			{ID: "keyed", Key: "k1"},
			{ID: "keyed too", Key: "k1"},
			{ID: "expired", Timeout: time.Minute},
			{ID: "canceled"},
		}
		for _, task := range tasks {
			task.Type = "unknown"
			_, err := c.Send(t.Context(), task)
			require.NoError(t, err)
		}
		_, err := c.Send(t.Context(), messages.Task{ID: "handled", Type: "charge"})
		require.NoError(t, err)
		_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: "forseti.v1.task.unknown", Header: nats.Header{"Nats-Msg-Id": {"malformed"}, "forseti-tier": {"gold"}}})
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.NoError(t, c.CancelTask(t.Context(), messages.Cancellation{TaskID: "canceled", Reason: "r", By: "b"}))
		time.Sleep(4 * time.Minute)
		_, err = c.Send(t.Context(), messages.Task{ID: "late", Type: "unknown"})
		require.NoError(t, err)
		require.EqualValues(t, 9, tasksLeft(t, js))
		require.Empty(t, lettersOf(t, c))

		time.Sleep(3 * time.Minute)
		letters := lettersOf(t, c)
		require.Len(t, letters, 5)
		for _, id := range []string{"plain", "urgent", "keyed", "keyed too", "malformed"} {
			l := letters[id].Letter
			require.Equal(t, messages.ReasonUnhandled, l.Reason, id)
			require.Equal(t, "unknown", l.Type, id)
			require.Contains(t, l.Error, "no node handled tasks of type unknown for 5m0s")
			r, err := c.Result(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, messages.Failure, r.Outcome)
			require.Equal(t, messages.ReasonUnhandled, r.Reason)
			require.Equal(t, l.ID, r.DeadLetterID)
		}
		require.Contains(t, letters["malformed"].Letter.Error, "forseti-tier")
		require.JSONEq(t, `{"order":17}`, string(letters["plain"].Letter.Body))
		for id, outcome := range map[string]messages.Outcome{"expired": messages.Timeout, "canceled": messages.Canceled} {
			r, err := c.Result(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, outcome, r.Outcome)
			require.Empty(t, r.DeadLetterID)
		}
		require.EqualValues(t, 2, tasksLeft(t, js), "the handled one, and the one that came late")
		require.Len(t, h.of(messages.DeadLetterStored), 5)
		require.EqualValues(t, 5, j.Stats().Letters[messages.ReasonUnhandled])
		time.Sleep(5 * time.Minute)
		require.EqualValues(t, 1, tasksLeft(t, js))
		types, err := c.TaskTypes(t.Context())
		require.NoError(t, err)
		require.Empty(t, types, "nobody ever handled it")

		// Its letter can be replayed when a node has come.
		got := taking(t, c, "unknown")
		_, err = c.ReplayDeadLetter(t.Context(), letters["plain"].Letter.ID, "op")
		require.NoError(t, err)
		d := <-got
		require.Equal(t, "plain", d.Task.ID)
		require.NoError(t, d.Ack(t.Context()))
	})
}

// The time for which no node handles a type counts from when the last one was there, through changes of the janitor.
func TestTasksOfATypeWhoseNodesRestartAreKept(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		_, js := raw(t, s)
		a, b, worker := clustertest.Connect(t, s, "a"), clustertest.Connect(t, s, "b"), clustertest.Connect(t, s, "worker")
		ja, _ := janitor(t, a, 6*time.Minute)
		jb, _ := janitor(t, b, 6*time.Minute)
		_, err := a.Send(t.Context(), messages.Task{ID: "old", Type: "charge"})
		require.NoError(t, err)
		time.Sleep(4 * time.Minute)
		m, _ := joined(t, worker, "charge") // paused
		time.Sleep(4 * time.Minute)
		require.NoError(t, m.Leave(t.Context()))
		time.Sleep(4 * time.Minute)
		require.EqualValues(t, 1, tasksLeft(t, js), "it is twelve minutes old, but its node was there meanwhile")
		first, second := ja, jb
		if jb.Stats().Active {
			first, second = jb, ja
		}
		require.True(t, first.Stats().Active)
		require.False(t, second.Stats().Active)
		require.NoError(t, first.Stop(t.Context()))
		time.Sleep(time.Minute)
		require.True(t, second.Stats().Active)
		require.EqualValues(t, 1, tasksLeft(t, js))
		time.Sleep(90 * time.Second)
		require.Zero(t, tasksLeft(t, js), "the other janitor knows since when")
		require.Contains(t, lettersOf(t, a), "old")
	})
}

// A node of an earlier version is in no register; it asks for tasks.
func TestTasksOfANodeThatIsNotRegisteredAreKept(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "a")
		janitor(t, c, time.Minute)
		got := taking(t, c, "charge")
		_, err := c.Send(t.Context(), messages.Task{ID: "held", Type: "charge"})
		require.NoError(t, err)
		d := <-got
		time.Sleep(6 * time.Minute)
		require.Empty(t, lettersOf(t, c))
		require.NoError(t, d.Ack(t.Context()))
	})
}

// A node that comes up while the janitor is at work: each task has one end, and is in the hands of one of the two.
func TestNodeComesWhileTheJanitorIsAtWork(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		const n = 300
		s := clustertest.Server(t, clustertest.NoListen())
		_, js := raw(t, s)
		c, late := clustertest.Connect(t, s, "a"), clustertest.Connect(t, s, "b")
		for i := range n {
			_, err := c.Send(t.Context(), messages.Task{ID: fmt.Sprint(i), Type: "charge"})
			require.NoError(t, err)
		}
		_, h := janitor(t, c, time.Minute)
		for len(h.of(messages.DeadLetterStored)) < 10 {
			time.Sleep(time.Millisecond)
		}
		m, _ := joined(t, late, "charge")
		mine := map[string]bool{}
		var mu sync.Mutex
		consume(t, late, cluster.ConsumeConfig{Type: "charge"}, newSlots(n), func(d *cluster.Delivery) {
			go func() {
				stored, err := late.PublishResult(context.Background(), messages.TaskResult{TaskID: d.Task.ID, Type: "charge", Outcome: messages.Success}, &d.Task)
				if err != nil || !stored {
					t.Errorf("%v %v", stored, err)
				}
				_ = d.Ack(context.Background())
				mu.Lock()
				mine[d.Task.ID] = true
				mu.Unlock()
			}()
		})
		time.Sleep(5 * time.Minute)
		require.Zero(t, tasksLeft(t, js))
		letters := lettersOf(t, c)
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, n, len(mine)+len(letters))
		require.NotEmpty(t, mine)
		require.GreaterOrEqual(t, len(letters), 10)
		for id := range mine {
			require.NotContains(t, letters, id)
		}
		require.NoError(t, m.Leave(t.Context()))
	})
}

// TestPoisonIsADeadLetter has somebody limit the deliveries of our consumer: what the server does not deliver any more is a
// dead letter, and only if it has no end. An advisory tells of it, which waits for a janitor; where it was lost the sweep finds out.
func TestPoisonIsADeadLetter(t *testing.T) {
	for _, advisory := range []string{"heard", "stored", "lost"} {
		clustertest.Bubble(t, func(t *testing.T) {
			s := clustertest.Server(t, clustertest.NoListen())
			c := clustertest.Connect(t, s, "a")
			nc, js := raw(t, s)
			var h *heard
			if advisory == "heard" {
				_, h = janitor(t, c, time.Hour)
				time.Sleep(time.Second)
			}
			joined(t, c, "charge")
			for _, id := range []string{"poison", "ended", "fine"} {
				_, err := c.Send(t.Context(), messages.Task{ID: id, Type: "charge", Body: []byte(id)})
				require.NoError(t, err)
			}
			stream, err := js.Stream(t.Context(), "FORSETI_TASKS")
			require.NoError(t, err)
			k, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{
				Durable: "task-charge", FilterSubject: "forseti.v1.task.charge", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Second, MaxDeliver: 2,
			})
			require.NoError(t, err)
			time.Sleep(time.Second)
			_, err = c.PublishResult(t.Context(), messages.TaskResult{TaskID: "ended", Type: "charge", Outcome: messages.Success}, nil)
			require.NoError(t, err)
			for range 2 {
				batch, err := k.Fetch(3, jetstream.FetchMaxWait(3*time.Second))
				require.NoError(t, err)
				for m := range batch.Messages() {
					if string(m.Data()) == "fine" {
						require.NoError(t, m.InProgress())
						go func() { time.Sleep(500 * time.Millisecond); _ = m.DoubleAck(context.Background()) }()
					}
				}
				time.Sleep(1500 * time.Millisecond)
			}
			time.Sleep(10 * time.Second)
			if advisory == "lost" {
				stream, err := js.Stream(t.Context(), "FORSETI_ADVISORIES")
				require.NoError(t, err)
				require.EqualValues(t, 2, stream.CachedInfo().State.Msgs)
				require.NoError(t, stream.Purge(t.Context()))
			}
			if advisory != "heard" {
				require.EqualValues(t, 2, tasksLeft(t, js))
				_, h = janitor(t, c, time.Hour)
				time.Sleep(20 * time.Second)
			}
			if advisory == "lost" {
				require.Empty(t, lettersOf(t, c), "it might just be on its way out")
				time.Sleep(time.Minute)
			}
			require.Zero(t, tasksLeft(t, js), advisory)
			letters := lettersOf(t, c)
			require.Len(t, letters, 1)
			l := letters["poison"].Letter
			require.Equal(t, messages.ReasonMaxDeliveries, l.Reason)
			require.Equal(t, "poison", string(l.Body))
			r, err := c.Result(t.Context(), "poison")
			require.NoError(t, err)
			require.Equal(t, l.ID, r.DeadLetterID)
			r, err = c.Result(t.Context(), "ended")
			require.NoError(t, err)
			require.Equal(t, messages.Success, r.Outcome)
			require.Len(t, h.of(messages.DeadLetterStored), 1)
			nc.Close()
		})
	}
}

// A message that another client terminates is gone; a letter says so, once.
func TestTerminatedTaskLeavesALetter(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "a")
		nc, js := raw(t, s)
		janitor(t, c, time.Hour)
		joined(t, c, "charge")
		time.Sleep(time.Second)
		taken := taking(t, c, "charge")
		_, err := c.Send(t.Context(), messages.Task{ID: "t", Type: "charge", Priority: messages.HighPriority})
		require.NoError(t, err)
		<-taken
		// A server that was killed may not have heard of acknowledgements that it had carried out: that is no end of a task.
		for seq, reason := range []string{"", "", "Message deleted by stream limits", "Unacknowledged message was deleted"} {
			if seq > 1 {
				require.NoError(t, nc.Publish("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.FORSETI_TASKS.task-charge",
					fmt.Appendf(nil, `{"consumer":"task-charge","stream_seq":%d,"deliveries":1,"reason":%q}`, seq, reason)))
			}
		}
		for range 2 { // the second says nothing new
			k, err := js.Consumer(t.Context(), "FORSETI_TASKS", "task-charge-HI")
			require.NoError(t, err)
			info := k.CachedInfo()
			require.NoError(t, nc.Publish(fmt.Sprintf("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.FORSETI_TASKS.%s", info.Name),
				fmt.Appendf(nil, `{"consumer":%q,"stream_seq":1,"deliveries":1,"reason":"no good"}`, info.Name)))
		}
		time.Sleep(time.Second)
		all, err := c.DeadLetters(t.Context(), cluster.DeadLetterFilter{})
		require.NoError(t, err)
		require.Len(t, all, 1)
		l := all[0].Letter
		require.Equal(t, messages.ReasonTerminated, l.Reason)
		require.Equal(t, "charge", l.Type)
		require.EqualValues(t, 1, l.OriginSequence)
		require.Contains(t, l.Error, "no good")
		require.ErrorIs(t, cluster.CanReplay(&all[0]), messages.ErrInvalid)
		for _, bad := range []string{"{", "{}", `{"consumer":"mine","stream_seq":1}`, `{"consumer":"task-Charge","stream_seq":1}`} {
			require.NoError(t, nc.Publish("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.FORSETI_TASKS.x", []byte(bad)))
		}
		time.Sleep(time.Minute)
		n, err := c.DeadLetterCounts(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, n.Stored)
	})
}

// The janitor's node dies, in the middle of its work, too: another goes on, and nothing is lost or ends twice.
func TestAnotherJanitorGoesOn(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		const n = 100
		s := clustertest.Server(t, clustertest.NoListen())
		_, js := raw(t, s)
		a, wire := wired(t, s, "a")
		b := clustertest.Connect(t, s, "b")
		ja, ha := janitor(t, a, time.Minute)
		joined(t, a)
		for !ja.Stats().Active {
			time.Sleep(10 * time.Millisecond)
		}
		jb, hb := janitor(t, b, time.Minute)
		joined(t, b)
		for i := range n {
			_, err := b.Send(t.Context(), messages.Task{ID: fmt.Sprint(i), Type: "unknown"})
			require.NoError(t, err)
		}
		for len(ha.of(messages.DeadLetterStored)) < n/3 {
			time.Sleep(time.Millisecond)
		}
		require.True(t, nodesOf(t, b)[0].Janitor)
		wire.broken.Store(true)
		wire.hush()
		since := time.Now()
		for !jb.Stats().Active {
			time.Sleep(100 * time.Millisecond)
			require.False(t, ja.Stats().Active && jb.Stats().Active)
		}
		require.Less(t, time.Since(since), 15*time.Second)
		time.Sleep(3 * time.Minute)
		require.False(t, ja.Stats().Active)
		require.True(t, nodesOf(t, b)[0].Janitor, "b is the only one that is there")
		require.Zero(t, tasksLeft(t, js))
		require.Len(t, lettersOf(t, b), n)
		results, err := b.ResultCount(t.Context())
		require.NoError(t, err)
		require.Equal(t, n, results)
		info, err := js.Stream(t.Context(), "FORSETI_RESULTS")
		require.NoError(t, err)
		require.EqualValues(t, n, info.CachedInfo().State.LastSeq, "a result was stored twice")
		lost := hb.of(messages.NodeLost)
		require.Len(t, lost, 1)
		require.Equal(t, "a", lost[0].Source)
		wire.broken.Store(false)
		wire.cut()
		time.Sleep(time.Minute)
		require.False(t, ja.Stats().Active, "it is back, and waits for its turn")
		require.NoError(t, jb.Stop(t.Context()))
		time.Sleep(2 * time.Second)
		require.True(t, ja.Stats().Active)
		require.EqualValues(t, 2, ja.Stats().Terms)
		require.Empty(t, ha.of(messages.NodeLost))
	})
}

func TestJanitorSettings(t *testing.T) {
	s := clustertest.Server(t)
	c := clustertest.Connect(t, s, "a")
	_, err := c.StartJanitor(cluster.JanitorConfig{UnhandledAfter: time.Millisecond})
	require.ErrorIs(t, err, messages.ErrInvalid)
	_, err = c.StartJanitor(cluster.JanitorConfig{UnhandledAfter: -1})
	require.NoError(t, err)
	require.NoError(t, c.Close(t.Context()))
	_, err = c.StartJanitor(cluster.JanitorConfig{})
	require.ErrorIs(t, err, messages.ErrStopped)
}
