package cluster_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

// record says in which order the tasks of each key began, and sees to it that no two run at once.
type record struct {
	mu      sync.Mutex
	begun   map[string][]uint64 // sequences, at their first start
	seen    map[uint64]bool
	running map[string]string // nodes by key
	dead    map[string]bool
	over    int
	faults  []string
}

func newRecord() *record {
	return &record{begun: map[string][]uint64{}, seen: map[uint64]bool{}, running: map[string]string{}, dead: map[string]bool{}}
}

func (r *record) begin(node string, t *messages.Task) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead[node] {
		return false
	}
	if other := r.running[t.Key]; other != "" {
		r.faults = append(r.faults, fmt.Sprintf("two tasks of %s at once, on %s and %s", t.Key, other, node))
	}
	r.running[t.Key] = node
	if !r.seen[t.Sequence] {
		r.seen[t.Sequence] = true
		r.begun[t.Key] = append(r.begun[t.Key], t.Sequence)
	}
	return true
}

// end is called before the task is settled. A dead node has no end.
func (r *record) end(node string, t *messages.Task, done bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead[node] {
		return false
	}
	delete(r.running, t.Key)
	if done {
		r.over++
	}
	return true
}

func (r *record) kill(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead[node] = true
	for key, on := range r.running {
		if on == node {
			delete(r.running, key)
		}
	}
}

func (r *record) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over
}

// TestTasksOfAKeyOvertookEachOther has two nodes, tasks that are given back at random, and a node that dies in the
// middle with tasks in its hands: of each key the tasks begin in the order in which they were stored, one at a time.
func TestTasksOfAKeyOvertookEachOther(t *testing.T) {
	const tasks, keys = 1000, 20
	s := clustertest.Server(t, clustertest.NoListen())
	a, b := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
	_, js := raw(t, s)
	r := newRecord()
	start := func(c *cluster.Cluster, node string) {
		in := newSlots(8)
		work := make(chan *cluster.Delivery, 8)
		k := consume(t, c, cluster.ConsumeConfig{Type: "a", Ordered: true, AckWait: time.Second}, in, func(d *cluster.Delivery) { work <- d })
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for d := range work {
					if r.begin(node, &d.Task) {
						time.Sleep(rand.N(500 * time.Microsecond))
						retry := rand.N(10) == 0
						switch {
						case !r.end(node, &d.Task, !retry):
						case retry:
							_ = d.Nak(rand.N(20 * time.Millisecond))
						default:
							_ = d.Ack(context.Background()) // the dead node's may be lost
						}
					}
					in.Release(1)
					k.Wake()
				}
			})
		}
		t.Cleanup(func() {
			k.Stop()
			ctx, cancel := context.WithTimeout(context.Background(), soon)
			defer cancel()
			if node == "n1" {
				_ = c.Close(ctx)
			} else if err := k.Drained(ctx); err != nil {
				t.Error(err)
			}
			close(work)
			wg.Wait()
		})
	}
	for i := range tasks {
		_, err := a.Send(t.Context(), messages.Task{Type: "a", Key: fmt.Sprint("customer-", i%keys)})
		require.NoError(t, err)
	}
	start(a, "n1")
	start(b, "n2")
	require.Eventually(t, func() bool { return r.count() > tasks/3 }, patient, tick)
	gone, cut := context.WithCancel(context.Background())
	cut()
	r.kill("n1")
	_ = a.Close(gone)
	require.Eventually(t, func() bool { return tasksLeft(t, js) == 0 }, patient, tick)

	require.Empty(t, r.faults)
	require.Len(t, r.begun, keys)
	for key, sequences := range r.begun {
		require.Len(t, sequences, tasks/keys)
		require.IsIncreasing(t, sequences, key)
	}
}

// TestAPutOffTaskKeepsItsPlace runs in virtual time: what follows in its partition waits, however long it is put off.
func TestAPutOffTaskKeepsItsPlace(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		got := make(chan *cluster.Delivery, 4)
		in := newSlots(4)
		k := consume(t, c, cluster.ConsumeConfig{Type: "a", Ordered: true}, in, func(d *cluster.Delivery) { got <- d })
		for _, id := range []string{"1", "2", "3"} {
			_, err := c.Send(t.Context(), messages.Task{Type: "a", ID: id, Key: "order-17"})
			require.NoError(t, err)
		}
		_, err := c.Send(t.Context(), messages.Task{Type: "a", ID: "other", Key: "a"})
		require.NoError(t, err)
		take := func(id string, delivery int) *cluster.Delivery {
			d := <-got
			in.Release(1)
			k.Wake()
			require.Equal(t, id, d.Task.ID)
			require.Equal(t, delivery, d.Task.Delivery)
			return d
		}
		first := <-got
		other := <-got // another partition's does not wait
		if first.Task.ID == "other" {
			first, other = other, first
		}
		in.Release(2)
		require.Equal(t, "other", other.Task.ID)
		require.NoError(t, other.Ack(t.Context()))
		require.Equal(t, "1", first.Task.ID)
		at := time.Now()
		require.NoError(t, first.Nak(5*time.Minute)) // longer than AckWait, too
		first = take("1", 2)
		require.InDelta(t, 300, time.Since(at).Seconds(), 1)
		require.NoError(t, first.Nak(0))
		first = take("1", 3)
		time.Sleep(10 * time.Minute)
		require.Empty(t, got)
		require.NoError(t, first.Ack(t.Context()))
		second := take("2", 1)
		require.NoError(t, second.Nak(time.Second))
		second = take("2", 2)
		require.NoError(t, second.Ack(t.Context()))
		require.NoError(t, take("3", 1).Ack(t.Context()))
		require.Zero(t, k.Stats().Errors)
		require.Zero(t, k.Stats().Duplicates)
	})
}

// TestTasksWithAKeyWaitForANodeThatKeepsTheOrder: others must not take them.
func TestTasksWithAKeyWaitForANodeThatKeepsTheOrder(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	got := make(chan *cluster.Delivery, 4)
	deliver := func(d *cluster.Delivery) { got <- d }
	consume(t, c, cluster.ConsumeConfig{Type: "a"}, newSlots(4), deliver)
	keeps, err := c.KeepsOrder(t.Context(), "a")
	require.NoError(t, err)
	require.False(t, keeps)
	_, err = c.Send(t.Context(), messages.Task{Type: "a", ID: "keyed", Key: "x"})
	require.NoError(t, err)
	_, err = c.Send(t.Context(), messages.Task{Type: "a", ID: "plain"})
	require.NoError(t, err)
	d := <-got
	require.Equal(t, "plain", d.Task.ID)
	require.NoError(t, d.Ack(t.Context()))
	require.EqualValues(t, 1, tasksLeft(t, js))
	require.Empty(t, got)
	consume(t, c, cluster.ConsumeConfig{Type: "a", Ordered: true}, newSlots(4), deliver)
	d = <-got
	require.Equal(t, "keyed", d.Task.ID)
	require.NoError(t, d.Ack(t.Context()))
	keeps, err = c.KeepsOrder(t.Context(), "a")
	require.NoError(t, err)
	require.True(t, keeps)
}

// TestEveryLaneComesBack loses consumers, and the server, under a node that waits in all lanes.
func TestEveryLaneComesBack(t *testing.T) {
	dir := t.TempDir()
	s := clustertest.Server(t, clustertest.At(dir, -1))
	port := s.Port()
	c := clustertest.Connect(t, s, "n1", clustertest.OnDisk)
	got := make(chan *cluster.Delivery, 8)
	in := newSlots(8)
	k := consume(t, c, cluster.ConsumeConfig{Type: "a", Ordered: true}, in, func(d *cluster.Delivery) { got <- d })
	all := []messages.Task{{}, {Priority: messages.HighPriority}, {Priority: messages.LowPriority}, {Key: "order-17"}}
	each := func(what string) {
		t.Helper()
		for _, task := range all {
			task.Type = "a"
			require.Eventually(t, func() bool { _, err := c.Send(t.Context(), task); return err == nil }, patient, 50*time.Millisecond, what)
			select {
			case d := <-got:
				require.Equal(t, task.Priority, d.Task.Priority)
				require.Equal(t, task.Key, d.Task.Key)
				require.NoError(t, d.Ack(t.Context()))
				in.Release(1)
				k.Wake()
			case <-time.After(patient):
				require.Fail(t, "no task", "%s: %+v", what, task)
			}
		}
	}
	each("at first")
	_, js := raw(t, s)
	for _, name := range []string{"task-a-HI", "task-a-LO", "task-a-K46"} {
		require.NoError(t, js.DeleteConsumer(t.Context(), "FORSETI_TASKS", name))
	}
	each("after the consumers were deleted")
	clustertest.Stop(t, s)
	clustertest.Server(t, clustertest.At(dir, port))
	each("after the server came back")
}

// TestStopHandsBackWhatIsParked: a task that waits for a slot on a node that stops is another's at once.
func TestStopHandsBackWhatIsParked(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		got := make(chan *cluster.Delivery, 4)
		in := newSlots(1)
		k := consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(d *cluster.Delivery) { got <- d })
		_, err := c.Send(t.Context(), messages.Task{Type: "a"})
		require.NoError(t, err)
		d := <-got
		_, err = c.Send(t.Context(), messages.Task{Type: "a", ID: "parked", Priority: messages.HighPriority})
		require.NoError(t, err)
		time.Sleep(100 * time.Millisecond)
		at := time.Now()
		k.Stop()
		other := make(chan *cluster.Delivery, 4)
		consume(t, c, cluster.ConsumeConfig{Type: "a"}, newSlots(1), func(d *cluster.Delivery) { other <- d })
		moved := <-other
		require.Equal(t, "parked", moved.Task.ID)
		require.Equal(t, 2, moved.Task.Delivery)
		require.Less(t, time.Since(at), 10*time.Millisecond)
		require.NoError(t, moved.Ack(t.Context()))
		require.NoError(t, d.Ack(t.Context()))
		in.Release(1)
		require.NoError(t, k.Drained(t.Context()))
		require.Equal(t, 1, in.unused())
	})
}
