package cluster_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
)

func TestConnectUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())

	start := time.Now()
	_, err = cluster.Connect(t.Context(), cluster.Config{Node: "n1", URL: "nats://bob:hush@" + addr, ConnectTimeout: time.Second})
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.ErrorContains(t, err, "nats://"+addr)
	require.ErrorContains(t, err, "is nats-server running")
	require.NotContains(t, err.Error(), "hush")
	require.Less(t, time.Since(start), 2*time.Second)
}

func TestConnectToSomethingSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = cluster.Connect(ctx, cluster.Config{Node: "n1", URL: "nats://" + l.Addr().String(), ConnectTimeout: 500 * time.Millisecond})
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.Less(t, time.Since(start), 2*time.Second)
}

func TestConnectCredentials(t *testing.T) {
	s, err := embedded.Start(t.Context(), embedded.Config{Port: -1, Memory: true, User: "bob", Password: "hush"})
	require.NoError(t, err)
	t.Cleanup(func() { clustertest.Stop(t, s) })
	_, err = cluster.Connect(t.Context(), cluster.Config{Node: "n1", URL: s.URL(), User: "bob", Password: "wrong-hush"})
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.ErrorContains(t, err, "not authorized")
	require.NotContains(t, err.Error(), "hush")

	c := clustertest.Connect(t, s, "n1", func(c *cluster.Config) { c.URL = strings.Replace(s.URL(), "://", "://bob:hush@", 1) })
	st := c.Status()
	require.True(t, st.Connected)
	require.Equal(t, s.URL(), st.URL)
	require.NotEmpty(t, st.ServerVersion)
}

func TestManifestIsIdempotentAndPrefixesShareAServer(t *testing.T) {
	s := clustertest.Server(t)
	_, js := raw(t, s)
	prefixes := []string{"forseti.v1", "acme.prod.forseti.v1", "acme.Prod.x"}
	var nodes []*cluster.Cluster
	for range 2 {
		for _, p := range prefixes {
			nodes = append(nodes, clustertest.Connect(t, s, "n1", clustertest.OnDisk, func(c *cluster.Config) { c.Prefix = p }))
		}
	}
	names := js.StreamNames(t.Context())
	count := 0
	for range names.Name() {
		count++
	}
	require.NoError(t, names.Err())
	require.Equal(t, 12*len(prefixes), count)

	tasks, err := js.Stream(t.Context(), "ACME_PROD_FORSETI_TASKS")
	require.NoError(t, err)
	cfg := tasks.CachedInfo().Config
	require.Len(t, cfg.Subjects, 67)
	for _, subject := range []string{"task.*", "task.*.hi", "task.*.lo", "task.*.k.0", "task.*.k.63"} {
		require.Contains(t, cfg.Subjects, "acme.prod.forseti.v1."+subject)
	}
	require.Equal(t, jetstream.WorkQueuePolicy, cfg.Retention)
	require.Equal(t, jetstream.DiscardNew, cfg.Discard)

	_, err = nodes[0].Send(t.Context(), messages.Task{Type: "a"})
	require.NoError(t, err)
	require.EqualValues(t, 1, tasksLeft(t, js))
	info, err := tasks.Info(t.Context())
	require.NoError(t, err)
	require.Zero(t, info.State.Msgs, "the other prefix got it")
}

func TestControlBucketDeniesDirectReadsAndIsAKeyValueStore(t *testing.T) {
	s := clustertest.Server(t)
	clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	stream, err := js.Stream(t.Context(), "KV_forseti_control")
	require.NoError(t, err)
	require.False(t, stream.CachedInfo().Config.AllowDirect)

	kv, err := js.KeyValue(t.Context(), "forseti_control")
	require.NoError(t, err)
	rev, err := kv.Create(t.Context(), "kill.x", []byte("1"))
	require.NoError(t, err)
	_, err = kv.Update(t.Context(), "kill.x", []byte("2"), rev+7)
	require.Error(t, err)
	rev, err = kv.Update(t.Context(), "kill.x", []byte("2"), rev)
	require.NoError(t, err)
	e, err := kv.Get(t.Context(), "kill.x")
	require.NoError(t, err)
	require.Equal(t, "2", string(e.Value()))
	require.Equal(t, rev, e.Revision())
	w, err := kv.Watch(t.Context(), "kill.>")
	require.NoError(t, err)
	require.Equal(t, "2", string((<-w.Updates()).Value()))
	require.Nil(t, <-w.Updates())
	require.NoError(t, kv.Delete(t.Context(), "kill.x"))
	require.Equal(t, jetstream.KeyValueDelete, (<-w.Updates()).Operation())
	require.NoError(t, w.Stop())
	_, err = kv.Create(t.Context(), "kill.x", []byte("3"))
	require.NoError(t, err, "after a delete")
}

func TestConnectRefusesAForeignStream(t *testing.T) {
	s := clustertest.Server(t)
	_, js := raw(t, s)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FORSETI_TASKS", Subjects: []string{"forseti.v1.task.*"}, Storage: jetstream.MemoryStorage})
	require.NoError(t, err)
	_, err = cluster.Connect(t.Context(), cluster.Config{Node: "n1", URL: s.URL(), Storage: cluster.MemoryStorage})
	require.ErrorIs(t, err, messages.ErrConflict)
	require.ErrorContains(t, err, "stream FORSETI_TASKS exists with retention Limits, want WorkQueue")
}

func TestConnectWithTooLittleSpace(t *testing.T) {
	s, err := embedded.Start(t.Context(), embedded.Config{Port: -1, Memory: true, MaxStore: 1 << 20, MaxMemory: 1 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { clustertest.Stop(t, s) })
	_, err = cluster.Connect(t.Context(), cluster.Config{Node: "n1", URL: s.URL()})
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.ErrorContains(t, err, "JetStream limit")
}

// TestCloseCutsTheConnectionWhileACallbackIsStuck has a callback that does not keep to the rules.
func TestCloseCutsTheConnectionWhileACallbackIsStuck(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	for name, stick := range map[string]func(c *cluster.Cluster, stuck func()) error{
		"deliver": func(c *cluster.Cluster, stuck func()) error {
			_, err := c.Consume(t.Context(), cluster.ConsumeConfig{Type: "a"}, newSlots(2), func(d *cluster.Delivery) { stuck(); _ = d.Ack(context.Background()) })
			if err == nil {
				_, err = c.Send(t.Context(), messages.Task{Type: "a"})
			}
			return err
		},
		"apply": func(c *cluster.Cluster, stuck func()) error {
			err := c.WatchKill(t.Context(), func([]messages.KillState) error { stuck(); return nil }, nil)
			if err == nil {
				_, err = c.SetKill(t.Context(), kill(messages.Global, true))
			}
			return err
		},
	} {
		c := clustertest.Connect(t, s, "n-"+name)
		in, gate := make(chan struct{}, 1), make(chan struct{})
		require.NoError(t, stick(c, func() { signal(in); <-gate }), name)
		<-in
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		require.ErrorIs(t, c.Close(ctx), context.DeadlineExceeded, name)
		cancel()
		connected := c.Status().Connected
		close(gate)
		require.False(t, connected, name)
		require.NoError(t, c.Close(t.Context()), name)
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func TestCloseIsIdempotent(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	require.Equal(t, "n1", c.Node())
	require.Equal(t, "forseti.v1", c.Prefix())
	require.NoError(t, c.WatchKill(t.Context(), func([]messages.KillState) error { return nil }, nil))
	k, err := c.Consume(t.Context(), cluster.ConsumeConfig{Type: "a"}, newSlots(1), func(*cluster.Delivery) {})
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { require.NoError(t, c.Close(context.Background())) })
	}
	wg.Wait()
	require.NoError(t, k.Drained(t.Context()))
	require.False(t, c.Status().Connected)
	_, err = c.Send(t.Context(), messages.Task{Type: "a"})
	require.ErrorIs(t, err, messages.ErrUnavailable)
	_, err = c.Consume(t.Context(), cluster.ConsumeConfig{Type: "a"}, newSlots(1), nil)
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.Error(t, c.WatchKill(t.Context(), nil, nil))
	require.Error(t, c.PublishEvent(t.Context(), messages.Event{Kind: messages.NodeStopped}))
}
