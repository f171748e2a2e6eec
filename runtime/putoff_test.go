package runtime_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// onDay runs f in virtual time, with a node whose handler is told what it is to do.
func onDay(t *testing.T, cfg runtime.TaskConfig, do func(*cluster.Cluster, runtime.Task[order]) (any, error), f func(*testing.T, *runtime.Runtime, *cluster.Cluster)) {
	t.Helper()
	clustertest.Bubble(t, func(t *testing.T) {
		c := clustertest.Connect(t, clustertest.Server(t, clustertest.NoListen()), "n1", func(c *cluster.Config) { c.ScheduleMaxBytes = 1 << 20 })
		rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		defer func() { require.NoError(t, rt.Shutdown(context.Background())) }()
		cfg.AckWait = 30 * time.Second
		handle(t, rt, pipeline(t, rt, runtime.Spec{}), cfg, func(_ context.Context, task runtime.Task[order]) (any, error) { return do(c, task) })
		f(t, rt, c)
	})
}

// await waits for a task's first end, however long that takes.
func await(t *testing.T, c *cluster.Cluster, id string) messages.TaskResult {
	t.Helper()
	r, err := c.AwaitResult(t.Context(), id, 0)
	require.NoError(t, err)
	return r
}

func TestLongRetryWaitsOnTheServer(t *testing.T) {
	do := func(_ *cluster.Cluster, task runtime.Task[order]) (any, error) {
		if task.Delivery < 3 {
			return nil, messages.Retry(2*time.Minute, errBoom)
		}
		return task.Delivery, nil
	}
	onDay(t, runtime.TaskConfig{MaxInFlight: 1}, do, func(t *testing.T, rt *runtime.Runtime, c *cluster.Cluster) {
		start := time.Now()
		send(t, c, messages.Task{ID: "waits", Type: "charge", Priority: messages.HighPriority, Body: []byte("{}"), Context: messages.Context{OrderID: "17"}})
		time.Sleep(30 * time.Second)
		send(t, c, messages.Task{ID: "meanwhile", Type: "charge", Body: []byte("{}")})
		time.Sleep(30 * time.Second)
		require.EqualValues(t, 2, rt.TaskStats("charge").Received, "what waits takes no place among those in flight")
		r := await(t, c, "waits")
		require.Equal(t, messages.Success, r.Outcome)
		require.JSONEq(t, "3", string(r.Value))
		require.Equal(t, 3, r.Attempts)
		require.InDelta(t, 4, time.Since(start).Minutes(), 0.1)
		require.Equal(t, messages.Success, await(t, c, "meanwhile").Outcome)
	})
}

// TestAttemptsWereForgottenWhenATaskWasPutOff: deliveries and attempts add up, and when it first failed is kept.
func TestAttemptsWereForgottenWhenATaskWasPutOff(t *testing.T) {
	do := func(*cluster.Cluster, runtime.Task[order]) (any, error) {
		return nil, messages.Retry(2*time.Minute, errBoom)
	}
	onDay(t, runtime.TaskConfig{MaxDeliveries: 3}, do, func(t *testing.T, rt *runtime.Runtime, c *cluster.Cluster) {
		start := time.Now()
		send(t, c, messages.Task{ID: "poison", Type: "charge", Body: []byte("{}")})
		r := await(t, c, "poison")
		require.Equal(t, messages.ReasonMaxDeliveries, r.Reason)
		require.Equal(t, 3, r.Attempts)
		require.InDelta(t, 6, time.Since(start).Minutes(), 0.1)
		d := letter(t, c, r.DeadLetterID)
		require.Equal(t, 3, d.Attempts)
		require.WithinDuration(t, start, d.FirstFailedAt, time.Second)
		require.EqualValues(t, 4, rt.TaskStats("charge").Received)
	})
}

// TestDeadlineStartedAnewWhenATaskWasPutOff: the time a task has is that from its first storing.
func TestDeadlineStartedAnewWhenATaskWasPutOff(t *testing.T) {
	do := func(*cluster.Cluster, runtime.Task[order]) (any, error) {
		return nil, messages.Retry(2*time.Minute, errBoom)
	}
	onDay(t, runtime.TaskConfig{}, do, func(t *testing.T, rt *runtime.Runtime, c *cluster.Cluster) {
		start := time.Now()
		send(t, c, messages.Task{ID: "late", Type: "charge", Timeout: 3 * time.Minute, Body: []byte("{}")})
		r := await(t, c, "late")
		require.Equal(t, messages.Timeout, r.Outcome)
		require.Equal(t, messages.ReasonExpired, r.Reason)
		require.Equal(t, 2, r.Attempts)
		require.InDelta(t, 3, time.Since(start).Minutes(), 0.1)
	})
}

// copyOf is the copy that the runtime stores of a delivery that is put off.
func copyOf(task messages.Task) *messages.Task {
	task.Origin = task.First()
	task.Origin.Number++
	task.Origin.Deliveries, task.Origin.Attempts = task.Delivery, 1
	return &task
}

// TestCrashBetweenPuttingOffAndAcknowledging: the original comes again, sees that its copy waits, and is over.
func TestCrashBetweenPuttingOffAndAcknowledging(t *testing.T) {
	var ran atomic.Int64
	do := func(c *cluster.Cluster, task runtime.Task[order]) (any, error) {
		if ran.Add(1) > 1 {
			return nil, messages.DeadLetterNow(errBoom)
		}
		if err := c.PutOff(context.Background(), copyOf(task.Task), 2*time.Minute); err != nil {
			return nil, err
		}
		return nil, messages.Retry(0, errBoom) // comes again, as after a crash
	}
	onDay(t, runtime.TaskConfig{}, do, func(t *testing.T, rt *runtime.Runtime, c *cluster.Cluster) {
		ran.Store(0)
		start := time.Now()
		send(t, c, messages.Task{ID: "once", Type: "charge", Body: []byte("{}")})
		r := await(t, c, "once")
		require.InDelta(t, 2, time.Since(start).Minutes(), 0.1)
		require.Equal(t, 2, r.Attempts)
		time.Sleep(2 * time.Minute)
		require.EqualValues(t, 2, ran.Load())
		require.EqualValues(t, 3, rt.TaskStats("charge").Received)
		require.EqualValues(t, 1, rt.TaskStats("charge").DeadLetters)
	})
}

// TestCopyAndOriginalBothEnded: when the original comes again only after the copy was due, both may run; the end is one.
func TestCopyAndOriginalBothEnded(t *testing.T) {
	for _, together := range []bool{false, true} {
		var mu sync.Mutex
		var seen []int // the deliveries in order
		do := func(c *cluster.Cluster, task runtime.Task[order]) (any, error) {
			mu.Lock()
			seen = append(seen, task.Origin.Number)
			first := len(seen) == 1
			mu.Unlock()
			if first {
				if err := c.PutOff(context.Background(), copyOf(task.Task), 20*time.Second); err != nil {
					return nil, err
				}
				return nil, messages.Retry(30*time.Second, errBoom)
			}
			if together { // still running when the original comes
				time.Sleep(time.Minute)
			}
			return nil, messages.DeadLetterNow(errBoom)
		}
		onDay(t, runtime.TaskConfig{}, do, func(t *testing.T, _ *runtime.Runtime, c *cluster.Cluster) {
			send(t, c, messages.Task{ID: "once", Type: "charge", Body: []byte("{}")})
			r := await(t, c, "once")
			time.Sleep(2 * time.Minute)
			mu.Lock()
			defer mu.Unlock()
			want := []int{0, 1}
			if together {
				want = []int{0, 1, 0}
			}
			require.Equal(t, want, seen)
			n, err := c.DeadLetterCounts(t.Context())
			require.NoError(t, err)
			require.Equal(t, 1, n.Stored)
			last := await(t, c, "once")
			require.Equal(t, r.StoredAt, last.StoredAt, "the first record stays")
		})
	}
}

// TestOrderedTaskLostItsPlaceWhenItWasPutOff: a task with a key is not put off, but asked again after AckWait.
func TestOrderedTaskLostItsPlaceWhenItWasPutOff(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	do := func(_ *cluster.Cluster, task runtime.Task[order]) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		if seen = append(seen, task.ID); task.ID == "first" && task.Delivery < 3 {
			return nil, messages.Retry(time.Hour, errBoom)
		}
		return 1, nil
	}
	onDay(t, runtime.TaskConfig{Ordered: true}, do, func(t *testing.T, _ *runtime.Runtime, c *cluster.Cluster) {
		start := time.Now()
		for _, id := range []string{"first", "second"} {
			send(t, c, messages.Task{ID: id, Type: "charge", Key: "k", Body: []byte("{}")})
		}
		await(t, c, "second")
		require.InDelta(t, 60, time.Since(start).Seconds(), 5)
		require.Equal(t, []string{"first", "first", "first", "second"}, seen)
	})
}

// TestRetryWasLostWhenItCouldNotBePutOff: without room for a copy the task itself comes again, after AckWait.
func TestRetryWasLostWhenItCouldNotBePutOff(t *testing.T) {
	do := func(_ *cluster.Cluster, task runtime.Task[order]) (any, error) {
		if task.Delivery == 1 {
			return nil, messages.Retry(time.Hour, errBoom)
		}
		return 1, nil
	}
	onDay(t, runtime.TaskConfig{}, do, func(t *testing.T, _ *runtime.Runtime, c *cluster.Cluster) {
		var err error
		for err == nil {
			_, err = c.SendAfter(t.Context(), messages.Task{Type: "idle", Body: make([]byte, 100<<10)}, time.Hour)
		}
		start := time.Now()
		send(t, c, messages.Task{ID: "a", Type: "charge", Body: []byte(`{"pad":"` + strings.Repeat("x", 100<<10) + `"}`)})
		require.Equal(t, messages.Success, await(t, c, "a").Outcome)
		require.InDelta(t, 30, time.Since(start).Seconds(), 5)
	})
}

// TestTaskCanceledWhileItWasPutOff: it is gone at once, with what is known of it.
func TestTaskCanceledWhileItWasPutOff(t *testing.T) {
	var ran atomic.Int64
	do := func(*cluster.Cluster, runtime.Task[order]) (any, error) {
		ran.Add(1)
		return nil, messages.Retry(2*time.Minute, errBoom)
	}
	onDay(t, runtime.TaskConfig{}, do, func(t *testing.T, _ *runtime.Runtime, c *cluster.Cluster) {
		ran.Store(0)
		send(t, c, messages.Task{ID: "order/17", Type: "charge", Body: []byte("{}")})
		time.Sleep(time.Minute)
		require.NoError(t, c.CancelTask(t.Context(), messages.Cancellation{TaskID: "order/17", By: "me", Reason: "no more"}))
		r := await(t, c, "order/17")
		require.Equal(t, messages.Canceled, r.Outcome)
		require.Equal(t, 1, r.Attempts)
		time.Sleep(5 * time.Minute)
		require.EqualValues(t, 1, ran.Load())
	})
}

// TestCancellationMissedWhatWasPutOffMeanwhile: an order that was stored before the copy was counts for that, too.
func TestCancellationMissedWhatWasPutOffMeanwhile(t *testing.T) {
	var ran atomic.Int64
	do := func(*cluster.Cluster, runtime.Task[order]) (any, error) {
		ran.Add(1)
		return nil, messages.Retry(2*time.Minute, errBoom)
	}
	onDay(t, runtime.TaskConfig{}, do, func(t *testing.T, rt *runtime.Runtime, c *cluster.Cluster) {
		ran.Store(0)
		send(t, c, messages.Task{ID: "a", Type: "charge", Body: []byte("{}")})
		time.Sleep(time.Minute)
		runtime.SeeCancellation(rt, messages.Cancellation{TaskID: "a", By: "me", Reason: "no more", At: time.Now()})
		r := await(t, c, "a")
		require.Equal(t, messages.Canceled, r.Outcome)
		require.Equal(t, 1, r.Attempts)
		require.EqualValues(t, 1, ran.Load())
	})
}

// TestReplayWasForgottenWhenItWasPutOff: the letter of a replay that was put off is resolved in the end.
func TestReplayWasForgottenWhenItWasPutOff(t *testing.T) {
	do := func(_ *cluster.Cluster, task runtime.Task[order]) (any, error) {
		switch {
		case task.Replay == 0:
			return nil, errBoom
		case task.Delivery == 1:
			return nil, messages.Retry(2*time.Minute, errBoom)
		}
		return task.Replay, nil
	}
	onDay(t, runtime.TaskConfig{}, do, func(t *testing.T, _ *runtime.Runtime, c *cluster.Cluster) {
		send(t, c, messages.Task{ID: "a", Type: "charge", Body: []byte("{}")})
		failed := await(t, c, "a")
		_, err := c.ReplayDeadLetter(t.Context(), failed.DeadLetterID, "me")
		require.NoError(t, err)
		r, err := c.AwaitResult(t.Context(), "a", 1)
		require.NoError(t, err)
		require.Equal(t, messages.Success, r.Outcome)
		time.Sleep(time.Second)
		info, err := c.DeadLetter(t.Context(), failed.DeadLetterID)
		require.NoError(t, err)
		require.Equal(t, messages.Resolved, info.State)
	})
}

// TestHostsDisagreedOnTheTime: deadlines are those of the server's clock, whatever a node's says.
func TestHostsDisagreedOnTheTime(t *testing.T) {
	srv := clustertest.Server(t)
	for name, ahead := range map[string]time.Duration{"early": -time.Hour, "late": time.Hour} {
		c, err := cluster.Connect(t.Context(), cluster.Config{Node: name, URL: srv.URL(), Storage: cluster.MemoryStorage},
			cluster.WithClock(func() time.Time { return time.Now().Add(ahead) }))
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), c.Now(), time.Second)
		rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c))
		require.NoError(t, err)
		handle(t, rt, pipeline(t, rt, runtime.Spec{}), runtime.TaskConfig{}, func(ctx context.Context, _ runtime.Task[order]) (any, error) {
			by, _ := ctx.Deadline()
			return time.Until(by) > 20*time.Minute && time.Until(by) < 40*time.Minute, nil
		})
		for id, row := range map[string]struct {
			task messages.Task
			want messages.Outcome
		}{
			"in time": {messages.Task{Deadline: time.Now().Add(30 * time.Minute)}, messages.Success},
			"lasts":   {messages.Task{Timeout: 30 * time.Minute}, messages.Success},
			"too old": {messages.Task{Deadline: time.Now().Add(-30 * time.Minute)}, messages.Timeout},
		} {
			row.task.Type, row.task.ID, row.task.Body = "charge", id+" on "+name, []byte("{}")
			send(t, c, row.task)
			r := result(t, c, row.task.ID, 0)
			require.Equal(t, row.want, r.Outcome, row.task.ID)
			if row.want == messages.Success {
				require.JSONEq(t, "true", string(r.Value), row.task.ID)
			}
		}
		require.NoError(t, rt.Shutdown(t.Context()))
		require.NoError(t, c.Close(t.Context()))
	}
}
