package cluster_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

// self is what a node of a test tells of itself.
type self struct {
	mu    sync.Mutex
	info  cluster.NodeInfo
	taken []*cluster.NameTakenError
}

func (s *self) config() cluster.JoinConfig {
	return cluster.JoinConfig{
		Describe: func() cluster.NodeInfo {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.info
		},
		NameTaken: func(e *cluster.NameTakenError) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.taken = append(s.taken, e)
		},
	}
}

func (s *self) set(f func(*cluster.NodeInfo)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.info)
}

func (s *self) doubles() []*cluster.NameTakenError {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}

func joined(t *testing.T, c *cluster.Cluster, types ...string) (*cluster.Membership, *self) {
	t.Helper()
	s := &self{info: cluster.NodeInfo{Version: "v1", Types: types}}
	m, err := c.Join(t.Context(), s.config())
	require.NoError(t, err)
	return m, s
}

func nodesOf(t *testing.T, c *cluster.Cluster) []cluster.NodeInfo {
	t.Helper()
	nodes, err := c.Nodes(t.Context())
	require.NoError(t, err)
	return nodes
}

func TestNodesAreListed(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		a, b := clustertest.Connect(t, s, "a"), clustertest.Connect(t, s, "b")
		require.Empty(t, nodesOf(t, a))
		mb, sb := joined(t, b, "refund", "charge")
		began := time.Now()
		time.Sleep(time.Second)
		ma, _ := joined(t, a)
		time.Sleep(time.Minute)
		nodes := nodesOf(t, a)
		require.Len(t, nodes, 2)
		require.Equal(t, "a", nodes[0].Name)
		require.Equal(t, "b", nodes[1].Name)
		n := nodes[1]
		require.Equal(t, "v1", n.Version)
		require.Equal(t, []string{"charge", "refund"}, n.Types)
		require.Equal(t, mb.Incarnation(), n.Incarnation)
		require.NotEqual(t, ma.Incarnation(), n.Incarnation)
		require.WithinDuration(t, began, n.Started, time.Second, "it stays")
		require.WithinDuration(t, time.Now(), n.SeenAt, 6*time.Second)

		sb.set(func(n *cluster.NodeInfo) { n.Draining, n.Load, n.Admin = true, 3, "127.0.0.1:7480" })
		require.NoError(t, mb.Announce(t.Context()))
		n = nodesOf(t, a)[1]
		require.True(t, n.Draining)
		require.Equal(t, 3, n.Load)
		require.Equal(t, "127.0.0.1:7480", n.Admin)
		require.NoError(t, mb.Leave(t.Context()))
		require.Len(t, nodesOf(t, a), 1)
		require.NoError(t, mb.Leave(t.Context()), "again")
		require.NoError(t, a.Close(t.Context()), "without a goodbye of its own")
		require.Empty(t, nodesOf(t, b))
		time.Sleep(time.Minute)
		require.Empty(t, nodesOf(t, b))
	})
}

// What somebody else wrote into the bucket is passed over.
func TestMalformedNodesArePassedOver(t *testing.T) {
	s := clustertest.Server(t)
	c := clustertest.Connect(t, s, "a")
	_, js := raw(t, s)
	joined(t, c)
	for key, value := range map[string]string{"node.b": "{}", "node.b.c": "{", "node.d.e.f": "{}", "other": "{}"} {
		_, err := js.Publish(t.Context(), "$KV.forseti_nodes."+key, []byte(value))
		require.NoError(t, err)
	}
	nodes := nodesOf(t, c)
	require.Equal(t, "a", nodes[0].Name)
	for _, n := range nodes[1:] {
		require.Equal(t, "d", n.Name)
	}
	_, err := c.Join(t.Context(), cluster.JoinConfig{})
	require.ErrorIs(t, err, messages.ErrInvalid)
}

// A node that is there keeps its name: the second one is refused. One that left or crashed does not, and its successor does not
// have to wait.
func TestTwoNodesOfOneName(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		a, wire := wired(t, s, "n1")
		b := clustertest.Connect(t, s, "n1")
		first, told := joined(t, a, "charge")
		time.Sleep(time.Minute)
		_, err := b.Join(t.Context(), (&self{}).config())
		other, ok := errors.AsType[*cluster.NameTakenError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, "n1", other.Name)
		require.Equal(t, first.Incarnation(), other.Incarnation)
		require.ErrorIs(t, err, messages.ErrConflict)
		require.ErrorContains(t, err, "another node is named n1")
		require.Len(t, nodesOf(t, b), 1, "the second one is not listed")
		time.Sleep(time.Minute)
		require.Empty(t, told.doubles(), "it was there for a moment only")

		wire.broken.Store(true) // as if it had crashed
		wire.cut()
		since := time.Now()
		second, err := b.Join(t.Context(), (&self{}).config())
		require.NoError(t, err)
		require.Less(t, time.Since(since), 2*time.Second)
		require.Len(t, nodesOf(t, b), 2, "told apart")
		wire.broken.Store(false) // it was only away
		time.Sleep(time.Minute)
		require.Len(t, told.doubles(), 1, "it is told once that its name is another's now")
		require.Equal(t, second.Incarnation(), told.doubles()[0].Incarnation)
		require.Len(t, nodesOf(t, b), 2)
		require.NoError(t, first.Leave(t.Context()))
		require.Len(t, nodesOf(t, b), 1)
	})
}

// Of many that start together one gets the name.
func TestOneOfManyGetsTheName(t *testing.T) {
	s := clustertest.Server(t)
	const n = 8
	var all sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range n {
		c := clustertest.Connect(t, s, "n1")
		all.Go(func() {
			_, err := c.Join(context.Background(), (&self{}).config())
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.Is(err, messages.ErrConflict) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.Equal(t, 1, won)
	require.Len(t, nodesOf(t, clustertest.Connect(t, s, "other")), 1)
}

// The register is made again when somebody deleted it, and nodes come back after the server was away.
func TestNodesComeBack(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		s := clustertest.Server(t, clustertest.At(dir, 0), clustertest.NoListen())
		c, wire := wired(t, s, "a")
		joined(t, c)
		s = restarted(t, s, dir, time.Minute)
		wire.server.Store(s)
		time.Sleep(10 * time.Second)
		require.Len(t, nodesOf(t, c), 1)
		_, js := raw(t, s)
		require.NoError(t, js.DeleteStream(t.Context(), "KV_forseti_nodes"))
		time.Sleep(20 * time.Second)
		require.Len(t, nodesOf(t, c), 1)
		stream, err := js.Stream(t.Context(), "KV_forseti_nodes")
		require.NoError(t, err)
		require.NotErrorIs(t, err, jetstream.ErrStreamNotFound)
		require.True(t, stream.CachedInfo().Config.AllowMsgTTL)
	})
}
