package embedded_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
)

// freePeers are addresses where nobody listened a moment ago.
func freePeers(t *testing.T, n int) (peers []string) {
	t.Helper()
	for len(peers) < n { // below the ports that the system gives to connections
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(10000)))
		if err != nil {
			continue
		}
		defer l.Close() //nolint:errcheck // it was only to find a port
		peers = append(peers, l.Addr().String())
	}
	return peers
}

func clustered(t *testing.T, i int, peers []string, dir string) embedded.Config {
	t.Helper()
	_, port, err := net.SplitHostPort(peers[i])
	require.NoError(t, err)
	c := &embedded.ClusterConfig{Peers: peers, User: "route", Password: "secret"}
	_, err = fmt.Sscan(port, &c.Port)
	require.NoError(t, err)
	return embedded.Config{Name: fmt.Sprintf("s%d", i), Port: -1, DataDir: dir, Cluster: c}
}

// Three servers keep copies of all streams for one another: what one stored the others have, also when the one that led is gone,
// and when it is back.
func TestThreeServersAreOneCluster(t *testing.T) {
	peers := freePeers(t, 3)
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	servers := make([]*embedded.Server, 3)
	nodes := make([]*cluster.Cluster, 3)
	for i := range servers {
		servers[i] = start(t, clustered(t, i, peers, dirs[i]))
		require.Equal(t, peers[i], servers[i].Peer())
	}
	connect := func(i int) *cluster.Cluster {
		c, err := cluster.Connect(t.Context(), cluster.Config{
			Node: fmt.Sprintf("n%d", i), URL: servers[i].URL(), Replicas: 3, ConnectTimeout: time.Minute, TaskMaxBytes: 1 << 20, EventMaxBytes: 1 << 20,
		}, cluster.WithInProcess(servers[i]))
		require.NoError(t, err)
		return c
	}
	made := make(chan int)
	for i := range nodes { // all at once: each finds the others making the same streams
		go func() { nodes[i] = connect(i); made <- i }()
	}
	for range nodes {
		<-made
	}
	require.Equal(t, 3, servers[0].Servers())
	leader := func() int {
		for i, s := range servers {
			if s.Leads("FORSETI_DLQ") {
				return i
			}
		}
		return -1
	}
	require.Eventually(t, func() bool { return leader() >= 0 }, 10*time.Second, 10*time.Millisecond)
	first := leader()
	other := (first + 1) % 3

	store := func(id string) {
		t.Helper()
		require.Eventually(t, func() bool {
			_, err := nodes[other].StoreDeadLetter(t.Context(), messages.DeadLetter{ID: id, TaskID: id, Type: "charge", Pipeline: "pay", Reason: "exhausted", Node: "n"})
			return err == nil
		}, 20*time.Second, 20*time.Millisecond)
	}
	store("one")
	require.NoError(t, nodes[first].Close(t.Context()))
	began := time.Now()
	require.NoError(t, servers[first].Shutdown(t.Context()))
	store("two")
	t.Logf("the leader handed over in %v", time.Since(began).Round(time.Millisecond))

	servers[first] = start(t, clustered(t, first, peers, dirs[first]))
	nodes[first] = connect(first)
	require.Eventually(t, func() bool {
		all, err := nodes[first].DeadLetters(t.Context(), cluster.DeadLetterFilter{})
		return err == nil && len(all) == 2
	}, 20*time.Second, 20*time.Millisecond)

	nc, err := nats.Connect(servers[other].URL())
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	count := 0
	for s := range js.ListStreams(t.Context()).Info() {
		require.Equal(t, 3, s.Config.Replicas, s.Config.Name)
		count++
	}
	require.GreaterOrEqual(t, count, 10)
	for _, n := range nodes {
		require.NoError(t, n.Close(context.Background()))
	}
}

func TestClusterSettings(t *testing.T) {
	refused(t, embedded.Config{Port: -1, Memory: true, Cluster: &embedded.ClusterConfig{
		Name: "a b", Host: "0.0.0.0", Port: 70000, Peers: []string{"h", "10.0.0.1:6222", "nats://x:1"}, User: "u",
	}}, "Cluster.Name", "Cluster.Host", "Cluster.Port", `Cluster.Peers is "h"`, `Cluster.Peers is "nats://x:1"`, "Cluster.User")
}
