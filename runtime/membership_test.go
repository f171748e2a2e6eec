package runtime_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

func started(t *testing.T, c *cluster.Cluster, cfg runtime.Config) *runtime.Runtime {
	t.Helper()
	rt, err := runtime.Start(t.Context(), cfg, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, rt.Shutdown(ctx))
	})
	return rt
}

func nodes(t *testing.T, c *cluster.Cluster) []cluster.NodeInfo {
	t.Helper()
	all, err := c.Nodes(t.Context())
	require.NoError(t, err)
	return all
}

func TestNodeTellsWhatItHandlesAndThatItDrains(t *testing.T) {
	srv := clustertest.Server(t)
	c, other := clustertest.Connect(t, srv, "n1"), clustertest.Connect(t, srv, "n2")
	rt := started(t, c, runtime.Config{Version: "v7", Admin: "127.0.0.1:7480"})
	p := pipeline(t, rt, runtime.Spec{})
	begun, end := make(chan struct{}), make(chan struct{})
	handle(t, rt, p, runtime.TaskConfig{}, func(context.Context, runtime.Task[order]) (any, error) {
		close(begun)
		<-end
		return nil, nil
	})
	all := nodes(t, other)
	require.Len(t, all, 1)
	require.Equal(t, "v7", all[0].Version)
	require.Equal(t, "127.0.0.1:7480", all[0].Admin)
	require.Equal(t, []string{"charge"}, all[0].Types, "it is told before a task is taken")
	require.False(t, all[0].Draining)

	send(t, c, messages.Task{Type: "charge", Body: []byte("{}")})
	<-begun
	over := make(chan error, 1)
	go func() { over <- rt.Shutdown(context.Background()) }()
	require.Eventually(t, func() bool { all = nodes(t, other); return len(all) == 1 && all[0].Draining }, 5*time.Second, 5*time.Millisecond)
	require.Equal(t, 1, all[0].Load)
	close(end)
	require.NoError(t, <-over)
	require.Empty(t, nodes(t, other), "it said goodbye")
	node, _, err := other.LeaseHolder(t.Context(), "janitor")
	require.NoError(t, err)
	require.Empty(t, node)
}

func TestNodeWhoseNameIsTakenDoesNotStart(t *testing.T) {
	srv := clustertest.Server(t)
	first := started(t, clustertest.Connect(t, srv, "n1"), runtime.Config{})
	_, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(clustertest.Connect(t, srv, "n1")), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	taken, ok := errors.AsType[*cluster.NameTakenError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "n1", taken.Name)
	require.True(t, first.Ready().Ready)
	require.False(t, first.Ready().Degraded)
	_, err = runtime.Start(t.Context(), runtime.Config{UnhandledAfter: time.Millisecond}, runtime.WithCluster(clustertest.Connect(t, srv, "n2")))
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.Len(t, nodes(t, clustertest.Connect(t, srv, "n3")), 1)
}

// A node that finds another of its name, which came while nobody could hear of it, says so wherever somebody looks.
func TestNodeSaysThatItsNameIsAnothers(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		srv := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, srv, "n1")
		rt := started(t, c, runtime.Config{})
		sub := rt.Events(64, func(e messages.Event) bool { return e.Kind == messages.NodeNameTaken })
		defer sub.Close()
		time.Sleep(time.Minute)
		require.False(t, rt.Ready().Degraded)
		// As it was while this node could not answer: the second one finds nobody.
		second := clustertest.Connect(t, srv, "n2", func(c *cluster.Config) { c.Node = "n1" })
		m, err := second.Join(t.Context(), cluster.JoinConfig{Describe: func() cluster.NodeInfo { return cluster.NodeInfo{} }})
		require.ErrorIs(t, err, messages.ErrConflict)
		require.Nil(t, m)
		rt.NameTaken(&cluster.NameTakenError{Name: "n1", Incarnation: "other"})
		require.True(t, rt.Ready().Degraded)
		require.Contains(t, rt.Ready().Details[0], "another node has the name n1")
		require.Equal(t, runtime.Degraded, rt.HealthCheckAll(t.Context()).Status)
		e := <-sub.C()
		require.Equal(t, "other", e.Data.(messages.NodeRef).Incarnation) //nolint:forcetypeassert // it is
	})
}

// Somebody limits the deliveries of our consumer: a task that comes again and again is a dead letter, once, though two nodes are there.
func TestTaskBeyondTheServersLimitIsADeadLetter(t *testing.T) {
	srv := clustertest.Server(t)
	rt, c := nodeOf(t, srv)
	other := started(t, clustertest.Connect(t, srv, "n2"), runtime.Config{})
	p := pipeline(t, rt, runtime.Spec{})
	handle(t, rt, p, runtime.TaskConfig{}, func(context.Context, runtime.Task[order]) (any, error) {
		return nil, messages.Retry(time.Millisecond, errBoom)
	})
	nc, err := nats.Connect(srv.URL())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	consumer, err := js.Consumer(t.Context(), "FORSETI_TASKS", "task-charge")
	require.NoError(t, err)
	cfg := consumer.CachedInfo().Config
	cfg.MaxDeliver = 3
	_, err = js.UpdateConsumer(t.Context(), "FORSETI_TASKS", cfg)
	require.NoError(t, err)
	send(t, c, messages.Task{Type: "charge", ID: "poison", Body: []byte(`{"order":1}`)})
	require.Equal(t, messages.ReasonMaxDeliveries, result(t, c, "poison", 0).Reason)
	require.Eventually(t, func() bool { b, err := c.TaskBacklog(t.Context()); return err == nil && len(b) == 0 }, 10*time.Second, 10*time.Millisecond)
	letters, err := c.DeadLetters(t.Context(), cluster.DeadLetterFilter{})
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.Equal(t, messages.ReasonMaxDeliveries, letters[0].Letter.Reason)
	require.False(t, other.Ready().Degraded)
}

// Who waits for a task of a type that nobody handles hears of its end.
func TestUnhandledTaskEndsWhileItIsAwaited(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		srv := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, srv, "n1")
		rt := started(t, c, runtime.Config{UnhandledAfter: time.Minute})
		sub := rt.Events(64, func(e messages.Event) bool { return e.Kind == messages.DeadLetterStored })
		defer sub.Close()
		task := send(t, c, messages.Task{Type: "nobody", Body: []byte("{}")})
		r, err := c.AwaitResult(t.Context(), task.ID, 0)
		require.NoError(t, err)
		require.Equal(t, messages.ReasonUnhandled, r.Reason)
		require.Equal(t, "nobody", (<-sub.C()).Data.(messages.DeadLetterRef).TaskType) //nolint:forcetypeassert // it is
		all := collect(t, rt)
		require.EqualValues(t, 1, sum(t, all["forseti.janitor.letters"], "reason", messages.ReasonUnhandled))
		require.Contains(t, all, "forseti.janitor.active")
	})
}
