package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

var errBoom = errors.New("boom")

type order struct {
	Order int `json:"order"`
}

type receipt struct {
	Paid int `json:"paid"`
}

// node starts a runtime with its own connection to a server of the test's.
func node(t *testing.T) (*runtime.Runtime, *cluster.Cluster) {
	t.Helper()
	return nodeOf(t, clustertest.Server(t))
}

func nodeOf(t *testing.T, srv *embedded.Server) (*runtime.Runtime, *cluster.Cluster) {
	t.Helper()
	c := clustertest.Connect(t, srv, "n1")
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, rt.Shutdown(ctx))
	})
	return rt, c
}

func pipeline(t *testing.T, rt *runtime.Runtime, spec runtime.Spec) runtime.Pipeline {
	t.Helper()
	p, err := rt.Pipeline("charge", spec)
	require.NoError(t, err)
	return p
}

func send(t *testing.T, c *cluster.Cluster, task messages.Task) messages.Task {
	t.Helper()
	task, err := c.Send(t.Context(), task)
	require.NoError(t, err)
	return task
}

func result(t *testing.T, c *cluster.Cluster, id string, replay int) messages.TaskResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := c.AwaitResult(ctx, id, replay)
	require.NoError(t, err)
	return r
}

func TestTaskSucceeds(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}}})
	require.NoError(t, runtime.Handle(rt, "charge", p, func(_ context.Context, t runtime.Task[order]) (receipt, error) {
		return receipt{t.Value.Order}, nil
	}))
	task := send(t, c, messages.Task{Type: "charge", Body: []byte(`{"order":17}`)})
	r := result(t, c, task.ID, 0)
	require.Equal(t, messages.Success, r.Outcome)
	require.JSONEq(t, `{"paid":17}`, string(r.Value))
}

func TestFailedTaskIsReplayed(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{})
	well := make(chan struct{})
	require.NoError(t, runtime.Handle(rt, "charge", p, func(_ context.Context, t runtime.Task[order]) (receipt, error) {
		select {
		case <-well:
			return receipt{t.Value.Order}, nil
		default:
			return receipt{}, errBoom
		}
	}))
	task := send(t, c, messages.Task{Type: "charge", Body: []byte(`{"order":17}`)})
	r := result(t, c, task.ID, 0)
	require.Equal(t, messages.Failure, r.Outcome)
	require.NotEmpty(t, r.DeadLetterID)
	close(well)
	again, err := c.ReplayDeadLetter(t.Context(), r.DeadLetterID, "test")
	require.NoError(t, err)
	r = result(t, c, again.ID, 1)
	require.Equal(t, messages.Success, r.Outcome)
	require.Eventually(t, func() bool {
		n, err := c.DeadLetterCounts(t.Context())
		require.NoError(t, err)
		return n.Stored == 1 && n.Resolved == 1
	}, 5*time.Second, 10*time.Millisecond)
}

func handle(t *testing.T, rt *runtime.Runtime, p runtime.Pipeline, cfg runtime.TaskConfig, fn func(context.Context, runtime.Task[order]) (any, error)) {
	t.Helper()
	cfg.Type = "charge"
	if cfg.AckWait == 0 {
		cfg.AckWait = time.Second
	}
	require.NoError(t, runtime.HandleWith(rt, cfg, p, fn))
}

func letter(t *testing.T, c *cluster.Cluster, id string) messages.DeadLetter {
	t.Helper()
	info, err := c.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	return info.Letter
}

// What a handler's ending means for its task: each row of the table of endings.
func TestEndingsOfTasks(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{
		policy.Fallback{Func: func(context.Context, error) (any, error) { return "instead", nil }, If: func(err error) bool { return err.Error() == "fall back" }},
		policy.Timeout{Limit: time.Second},
		policy.Retry{Attempts: 2, Backoff: policy.Constant(0)},
	}})
	handle(t, rt, p, runtime.TaskConfig{}, func(ctx context.Context, t runtime.Task[order]) (any, error) {
		switch t.ID {
		case "fails":
			return nil, errBoom
		case "falls back":
			return nil, errors.New("fall back")
		case "times out":
			<-ctx.Done()
			return nil, ctx.Err()
		case "is deaf":
			time.Sleep(1200 * time.Millisecond)
			return "too late", nil
		case "panics":
			panic("at the disco")
		case "discards":
			return nil, messages.Discard(errBoom)
		case "gives up":
			return nil, messages.DeadLetterNow(errBoom)
		case "comes again":
			if t.Delivery < 3 {
				return nil, messages.Retry(10*time.Millisecond, errBoom)
			}
			return t.Delivery, nil
		case "answers a channel":
			return make(chan int), nil
		case "answers too much":
			return string(make([]byte, 2<<20)), nil
		}
		return t.Value, nil
	})
	for _, row := range []struct {
		task     messages.Task
		outcome  messages.Outcome
		reason   string
		attempts int
		value    string
		letter   bool
	}{
		{messages.Task{ID: "works"}, messages.Success, "", 1, `{"order":17}`, false},
		{messages.Task{ID: "fails"}, messages.Failure, messages.ReasonFailure, 2, "", true},
		{messages.Task{ID: "falls back"}, messages.Fallback, "", 2, `"instead"`, false},
		{messages.Task{ID: "times out"}, messages.Timeout, messages.ReasonTimeout, 1, "", true},
		{messages.Task{ID: "is deaf"}, messages.Timeout, messages.ReasonTimeout, 1, "", true},
		{messages.Task{ID: "panics"}, messages.Failure, messages.ReasonPanic, 2, "", true},
		{messages.Task{ID: "discards"}, messages.Failure, messages.ReasonDiscarded, 1, "", false},
		{messages.Task{ID: "gives up"}, messages.Failure, messages.ReasonDeadLettered, 1, "", true},
		{messages.Task{ID: "comes again"}, messages.Success, "", 1, "3", false},
		{messages.Task{ID: "answers a channel"}, messages.Failure, messages.ReasonUnserialised, 1, "", true},
		{messages.Task{ID: "answers too much"}, messages.Failure, messages.ReasonUnserialised, 1, "", true},
		{messages.Task{ID: "is not JSON", Body: []byte("{")}, messages.Failure, messages.ReasonMalformed, 0, "", true},
		{messages.Task{ID: "is XML", ContentType: "text/xml"}, messages.Failure, messages.ReasonMalformed, 0, "", true},
		{messages.Task{ID: "is expired", Deadline: time.Now().Add(-time.Minute)}, messages.Timeout, messages.ReasonExpired, 0, "", false},
		{messages.Task{ID: "expires", Deadline: time.Now().Add(time.Hour)}, messages.Success, "", 1, `{"order":17}`, false},
	} {
		t.Run(row.task.ID, func(t *testing.T) {
			row.task.Type = "charge"
			if row.task.Body == nil {
				row.task.Body = []byte(`{"order":17}`)
			}
			row.task.Context = messages.Context{OrderID: "17"}
			send(t, c, row.task)
			r := result(t, c, row.task.ID, 0)
			require.Equal(t, row.outcome, r.Outcome, "%+v", r)
			require.Equal(t, row.reason, r.Reason)
			require.Equal(t, row.attempts, r.Attempts)
			if row.value != "" {
				require.JSONEq(t, row.value, string(r.Value))
			}
			require.Equal(t, row.letter, r.DeadLetterID != "")
			if row.letter {
				d := letter(t, c, r.DeadLetterID)
				require.Equal(t, row.reason, d.Reason)
				require.Equal(t, "17", d.Context.OrderID)
				require.Equal(t, row.task.Body, d.Body)
				require.Equal(t, "forseti.v1.task.charge", d.OriginSubject)
				require.NotEmpty(t, d.Error)
			}
		})
	}
	require.EqualValues(t, 2, rt.TaskStats("charge").Malformed)
}

// A producer that knows nothing of us, and gets its headers wrong.
func TestMalformedTaskBecomesADeadLetter(t *testing.T) {
	srv := clustertest.Server(t)
	c := clustertest.Connect(t, srv, "n1")
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c))
	require.NoError(t, err)
	handle(t, rt, pipeline(t, rt, runtime.Spec{}), runtime.TaskConfig{}, func(context.Context, runtime.Task[order]) (any, error) { return 1, nil })
	nc, err := nats.Connect(srv.URL())
	require.NoError(t, err)
	defer nc.Close()
	m := nats.NewMsg("forseti.v1.task.charge")
	m.Header.Set("Forseti-Task-Id", "odd") // names are read without regard to case
	m.Header.Set("forseti-timeout-ms", "soon")
	m.Header.Set("forseti-tier", "platinum")
	_, err = nc.RequestMsg(m, time.Second)
	require.NoError(t, err)
	r := result(t, c, "odd", 0)
	require.Equal(t, messages.ReasonMalformed, r.Reason)
	require.Contains(t, r.Error, "forseti-timeout-ms")
	require.Contains(t, r.Error, "forseti-tier", "all problems at once")
	require.Equal(t, messages.ReasonMalformed, letter(t, c, r.DeadLetterID).Reason)
	require.NoError(t, rt.Shutdown(t.Context()))
	require.NoError(t, rt.Shutdown(t.Context()), "twice is once")
	require.False(t, rt.Ready().Ready)
}

// A task that an open breaker refuses has not failed: it waits in the stream.
func TestRefusedTaskWaits(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{policy.Breaker{Consecutive: 2, OpenFor: 300 * time.Millisecond, Probes: 1}}})
	var sick atomic.Bool
	sick.Store(true)
	handle(t, rt, p, runtime.TaskConfig{}, func(context.Context, runtime.Task[order]) (any, error) {
		if sick.Load() {
			return nil, errBoom
		}
		return 1, nil
	})
	events := rt.Events(64, nil)
	for _, id := range []string{"a", "b"} {
		send(t, c, messages.Task{ID: id, Type: "charge", Body: []byte("{}")})
		require.Equal(t, messages.Failure, result(t, c, id, 0).Outcome)
	}
	sick.Store(false)
	for i := range 20 {
		send(t, c, messages.Task{ID: fmt.Sprint("waits-", i), Type: "charge", Body: []byte("{}")})
	}
	for i := range 20 {
		r := result(t, c, fmt.Sprint("waits-", i), 0)
		require.Equal(t, messages.Success, r.Outcome)
		require.Equal(t, 1, r.Attempts)
	}
	s := rt.TaskStats("charge")
	require.Positive(t, s.Paused+s.Refused)
	seen := map[messages.Kind]bool{}
	for len(events.C()) > 0 {
		seen[(<-events.C()).Kind] = true
	}
	for _, k := range []messages.Kind{messages.BreakerOpened, messages.BreakerHalfOpened, messages.BreakerClosed, messages.DeadLetterStored} {
		require.True(t, seen[k], k)
	}
}

func TestRefusedTaskThatMayNotWaitIsKept(t *testing.T) {
	rt, c := node(t)
	closed := actors.GuardFunc("door", func(*messages.Context) messages.GuardResult { return messages.Reject("closed") })
	handle(t, rt, pipeline(t, rt, runtime.Spec{Guards: []actors.Guard{closed}}), runtime.TaskConfig{}, func(context.Context, runtime.Task[order]) (any, error) { return 1, nil })
	send(t, c, messages.Task{ID: "late", Type: "charge", Timeout: 500 * time.Millisecond, Body: []byte("{}")})
	r := result(t, c, "late", 0)
	// It ends as rejected when a refusal finds it late, or as expired when it is late on arrival.
	if r.Outcome == messages.Rejected {
		require.Equal(t, "rejected-by-door", r.Reason)
		require.NotEmpty(t, r.DeadLetterID)
	} else {
		require.Equal(t, messages.ReasonExpired, r.Reason)
	}
}

// A task that ended, and whose acknowledgement was lost, is not run again: neither when its result is stored, nor when
// only its dead letter is.
func TestRedeliveredTaskThatEndedIsOnlyAcknowledged(t *testing.T) {
	rt, c := node(t)
	var ran atomic.Int64
	p := pipeline(t, rt, runtime.Spec{})
	handle(t, rt, p, runtime.TaskConfig{}, func(ctx context.Context, task runtime.Task[order]) (any, error) {
		if ran.Add(1); task.ID == "done" {
			_, err := c.PublishResult(ctx, messages.TaskResult{TaskID: "done", Type: "charge", Outcome: messages.Success, Value: []byte("1")}, &task.Task)
			require.NoError(t, err)
		} else {
			d := messages.DeadLetterOf(&task.Task)
			d.Pipeline, d.Reason, d.Outcome, d.Error = "charge", messages.ReasonFailure, messages.Failure, "boom"
			_, err := c.StoreDeadLetter(ctx, d)
			require.NoError(t, err)
		}
		return nil, messages.Retry(0, errBoom) // comes again, as after a crash
	})
	for _, id := range []string{"done", "dead"} {
		send(t, c, messages.Task{ID: id, Type: "charge", Body: []byte("{}")})
	}
	r := result(t, c, "dead", 0)
	require.NotEmpty(t, r.DeadLetterID)
	require.Equal(t, messages.Failure, r.Outcome)
	require.JSONEq(t, "1", string(result(t, c, "done", 0).Value))
	require.Eventually(t, func() bool { return rt.TaskStats("charge").Received == 4 }, 5*time.Second, 5*time.Millisecond)
	require.EqualValues(t, 2, ran.Load())
}

// An id that is used again is another task: what is known of the first is not its end.
func TestTaskIDUsedAgain(t *testing.T) {
	srv := clustertest.Server(t)
	rt, c := nodeOf(t, srv)
	nc, err := nats.Connect(srv.URL())
	require.NoError(t, err)
	defer nc.Close()
	handle(t, rt, pipeline(t, rt, runtime.Spec{}), runtime.TaskConfig{}, func(_ context.Context, task runtime.Task[order]) (any, error) {
		if task.Delivery == 1 && task.Value.Order == 2 {
			return nil, messages.Retry(0, errBoom) // its second delivery looks for what is known
		}
		if task.Value.Order < 3 {
			return nil, messages.DeadLetterNow(fmt.Errorf("order %d", task.Value.Order))
		}
		return task.Value.Order, nil
	})
	var letters []string
	var last time.Time
	for n := 1; n <= 3; n++ {
		m := nats.NewMsg("forseti.v1.task.charge") // with message ids of their own: Send would keep the second one out
		m.Data = fmt.Appendf(nil, `{"order":%d}`, n)
		m.Header.Set("Nats-Msg-Id", fmt.Sprint("m", n))
		m.Header.Set(messages.HeaderTaskID, "same")
		_, err := nc.RequestMsg(m, time.Second)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		r, err := c.AwaitResultAfter(ctx, "same", 0, last)
		cancel()
		require.NoError(t, err)
		last = r.StoredAt
		if n < 3 {
			require.Contains(t, r.Error, fmt.Sprint("order ", n))
			letters = append(letters, r.DeadLetterID)
			require.JSONEq(t, string(m.Data), string(letter(t, c, r.DeadLetterID).Body))
		} else {
			require.Equal(t, messages.Success, r.Outcome)
		}
	}
	require.NotEqual(t, letters[0], letters[1], "each failure has a letter of its own")
}

func TestPoisonedTaskIsPutAside(t *testing.T) {
	rt, c := node(t)
	handle(t, rt, pipeline(t, rt, runtime.Spec{}), runtime.TaskConfig{MaxDeliveries: 3}, func(context.Context, runtime.Task[order]) (any, error) {
		return nil, messages.Retry(0, errBoom)
	})
	send(t, c, messages.Task{ID: "poison", Type: "charge", Body: []byte("{}")})
	r := result(t, c, "poison", 0)
	require.Equal(t, messages.ReasonMaxDeliveries, r.Reason)
	require.NotEmpty(t, r.DeadLetterID)
}

// What a shutdown cannot wait for is aborted and given back; the next node does it.
func TestShutdownGivesRunningTasksBack(t *testing.T) {
	srv := clustertest.Server(t)
	c := clustertest.Connect(t, srv, "n1")
	start := func(fn func(context.Context, runtime.Task[order]) (any, error)) *runtime.Runtime {
		rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c))
		require.NoError(t, err)
		handle(t, rt, pipeline(t, rt, runtime.Spec{}), runtime.TaskConfig{AckWait: time.Minute}, fn)
		return rt
	}
	running := make(chan struct{})
	rt := start(func(ctx context.Context, _ runtime.Task[order]) (any, error) {
		close(running)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	send(t, c, messages.Task{ID: "long", Type: "charge", Body: []byte("{}")})
	<-running
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.NoError(t, rt.Shutdown(ctx))
	_, err := c.Result(t.Context(), "long")
	require.ErrorIs(t, err, messages.ErrNotFound)
	rt = start(func(context.Context, runtime.Task[order]) (any, error) { return "second", nil })
	require.JSONEq(t, `"second"`, string(result(t, c, "long", 0).Value))
	require.NoError(t, rt.Shutdown(t.Context()))
}

func TestHandleRefusesWhatCannotWork(t *testing.T) {
	rt, _ := node(t)
	p := pipeline(t, rt, runtime.Spec{})
	ok := func(context.Context, runtime.Task[order]) (any, error) { return 1, nil }
	require.ErrorIs(t, runtime.Handle[order, any](rt, "charge", p, nil), messages.ErrNilFunc)
	require.ErrorIs(t, runtime.Handle(rt, "No.Good", p, ok), messages.ErrInvalid)
	require.ErrorIs(t, runtime.Handle(rt, "charge", runtime.Pipeline{}, ok), messages.ErrStopped)
	require.NoError(t, runtime.Handle(rt, "charge", p, ok))
	require.ErrorContains(t, runtime.Handle(rt, "charge", p, ok), "no handler yet")
	alone, err := runtime.Start(t.Context(), runtime.Config{})
	require.NoError(t, err)
	require.ErrorIs(t, runtime.Handle(alone, "charge", p, ok), messages.ErrUnavailable)
	require.NoError(t, alone.Shutdown(t.Context()))
}

// Without results a success leaves nothing behind but for who asked for a copy; what fails leaves its record all the same.
func TestResultsAreStoredOnlyOfWhatFailsOrIsAskedFor(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{})
	ran := make(chan string, 8)
	cfg := runtime.TaskConfig{Type: "charge", NoResults: true}
	require.NoError(t, runtime.HandleWith(rt, cfg, p, func(_ context.Context, t runtime.Task[order]) (receipt, error) {
		ran <- t.ID
		if t.Value.Order == 13 {
			return receipt{}, errBoom
		}
		return receipt{t.Value.Order}, nil
	}))
	send(t, c, messages.Task{Type: "charge", ID: "quiet", Body: []byte(`{"order":1}`)})
	send(t, c, messages.Task{Type: "charge", ID: "asked", Body: []byte(`{"order":2}`), Reply: "answers.here"})
	send(t, c, messages.Task{Type: "charge", ID: "bad", Body: []byte(`{"order":13}`)})
	require.Equal(t, messages.Success, result(t, c, "asked", 0).Outcome)
	require.NotEmpty(t, result(t, c, "bad", 0).DeadLetterID)
	for range 3 {
		<-ran
	}
	require.Eventually(t, func() bool { return rt.TaskStats("charge").Succeeded == 2 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, rt.Shutdown(t.Context())) // all that was delivered is acknowledged
	_, err := c.Result(t.Context(), "quiet")
	require.ErrorIs(t, err, messages.ErrNotFound)
	b, err := c.TaskBacklog(t.Context())
	require.NoError(t, err)
	require.Empty(t, b, "none is left")
}
