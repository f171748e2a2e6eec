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

// A node that crashes after any step of moving a task leaves it to the next one, which moves it once.
func TestMoverCrashedBetweenTwoSteps(t *testing.T) {
	for steps := range 3 {
		clustertest.Bubble(t, func(t *testing.T) {
			s := clustertest.Server(t, clustertest.NoListen())
			crashed := clustertest.Connect(t, s, "n1")
			_, js := raw(t, s)
			_, err := crashed.SendAfter(t.Context(), messages.Task{ID: "a", Type: "charge"}, time.Minute)
			require.NoError(t, err)
			due, err := js.CreateOrUpdateConsumer(t.Context(), "FORSETI_SCHED", crashed.MoverConfig())
			require.NoError(t, err)
			m, err := due.Next(jetstream.FetchMaxWait(2 * time.Minute))
			require.NoError(t, err)
			if steps > 0 {
				require.NoError(t, cluster.MoveSteps(t.Context(), crashed, m, steps))
			}
			require.NoError(t, crashed.Close(context.Background()))

			got := taking(t, clustertest.Connect(t, s, "n2"), "charge")
			d := <-got
			require.Equal(t, "a", d.Task.ID)
			require.NoError(t, d.Ack(t.Context()))
			time.Sleep(2 * cluster.DefaultAckWait)
			require.Empty(t, got, "after %d steps it came twice", steps)
			require.Zero(t, waiting(t, js))
			require.Zero(t, tasksLeft(t, js))
		})
	}
}

// TestMoverLostTasksWhileTheTaskStreamWasFull: what is due waits until there is room.
func TestMoverLostTasksWhileTheTaskStreamWasFull(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1", func(c *cluster.Config) { c.TaskMaxBytes = 1 << 20 })
		_, js := raw(t, s)
		got := taking(t, c, "charge") // which starts the mover
		var err error
		for err == nil {
			_, err = c.Send(t.Context(), messages.Task{Type: "idle", Body: make([]byte, 100<<10)})
		}
		require.ErrorContains(t, err, "is full")
		for i := range 10 {
			_, err := c.SendAfter(t.Context(), messages.Task{ID: fmt.Sprint(i), Type: "charge", Body: make([]byte, 50<<10)}, time.Minute)
			require.NoError(t, err)
		}
		time.Sleep(5 * time.Minute)
		require.Empty(t, got)
		require.EqualValues(t, 10, waiting(t, js))
		stream, err := js.Stream(t.Context(), "FORSETI_TASKS")
		require.NoError(t, err)
		require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSubject("forseti.v1.task.idle")))
		seen := map[string]bool{}
		for range 10 {
			d := <-got
			seen[d.Task.ID] = true
			require.NoError(t, d.Ack(t.Context()))
		}
		require.Len(t, seen, 10)
		time.Sleep(time.Minute)
		require.Empty(t, got)
		require.Zero(t, waiting(t, js))
	})
}

// A due task that has grown too large with the headers it gets is kept as a dead letter; it must not be tried for ever.
func TestDueTaskThatFitsNowhereIsADeadLetter(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		nc, js := raw(t, s)
		taking(t, c, "charge")
		m := &nats.Msg{Subject: "forseti.v1.due.charge", Header: nats.Header{"forseti-task-id": {"big"}}}
		m.Data = make([]byte, nc.MaxPayload()-100)
		_, err := js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
		r, err := c.AwaitResult(t.Context(), "big", 0)
		require.NoError(t, err)
		require.Equal(t, messages.ReasonTooLarge, r.Reason)
		info, err := c.DeadLetter(t.Context(), r.DeadLetterID)
		require.NoError(t, err)
		require.True(t, info.Letter.Truncated)
		time.Sleep(time.Second)
		require.Zero(t, waiting(t, js))
	})
}

// Nodes share what is due; each task is moved once.
func TestDueTasksAreMovedOnceByManyNodes(t *testing.T) {
	const n = 100
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		_, js := raw(t, s)
		nodes := []*cluster.Cluster{clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2"), clustertest.Connect(t, s, "n3")}
		all := make(chan string, 2*n)
		for _, c := range nodes {
			consume(t, c, cluster.ConsumeConfig{Type: "charge"}, newSlots(2*n), func(d *cluster.Delivery) {
				all <- d.Task.ID
				go func() { _ = d.Ack(context.Background()) }()
			})
		}
		for i := range n {
			_, err := nodes[0].SendAfter(t.Context(), messages.Task{ID: fmt.Sprint(i), Type: "charge"}, time.Duration(1+i%3)*time.Minute)
			require.NoError(t, err)
		}
		time.Sleep(4 * time.Minute)
		seen := map[string]int{}
		for len(all) > 0 {
			seen[<-all]++
		}
		require.Len(t, seen, n)
		for id, times := range seen {
			require.Equal(t, 1, times, id)
		}
		require.Zero(t, waiting(t, js))
	})
}
