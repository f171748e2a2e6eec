package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

// watchedResults collects what a watcher is told, until the test ends.
func watchedResults(t *testing.T, c *cluster.Cluster, f cluster.ResultFilter) <-chan messages.TaskResult {
	t.Helper()
	seen := make(chan messages.TaskResult, 16)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.WatchResults(ctx, f, func(r messages.TaskResult) { seen <- r }) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return seen
}

func next(t *testing.T, seen <-chan messages.TaskResult) messages.TaskResult {
	t.Helper()
	select {
	case r := <-seen:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("no result came")
		return messages.TaskResult{}
	}
}

func TestWatchResults(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	done := func(id, typ string) messages.TaskResult {
		return messages.TaskResult{TaskID: id, Type: typ, Outcome: messages.Success, Value: []byte("1")}
	}
	stored(t, c, done("a", "charge"))
	stored(t, c, done("b", "refund"))

	charges := watchedResults(t, c, cluster.ResultFilter{Type: "charge", Since: time.Now().Add(-time.Hour)})
	a := next(t, charges)
	require.Equal(t, "a", a.TaskID)
	require.False(t, a.StoredAt.IsZero())

	stored(t, c, done("c", "refund"))
	stored(t, c, done("d", "charge"))
	d := next(t, charges)
	require.Equal(t, "d", d.TaskID, "refunds are not told")

	rest := watchedResults(t, c, cluster.ResultFilter{From: a.StreamSequence + 1})
	for _, id := range []string{"b", "c", "d"} {
		require.Equal(t, id, next(t, rest).TaskID, "From goes on where somebody stopped")
	}

	err := c.WatchResults(t.Context(), cluster.ResultFilter{Type: "No.Type"}, nil)
	require.ErrorIs(t, err, messages.ErrInvalid)
}

// A watcher that lost the server goes on where it was.
func TestWatchResultsGoesOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	s := clustertest.Server(t, clustertest.At(dir, -1))
	port := s.Port()
	c := clustertest.Connect(t, s, "n1", func(cfg *cluster.Config) { cfg.Storage = cluster.FileStorage })
	seen := watchedResults(t, c, cluster.ResultFilter{Since: time.Now().Add(-time.Hour)})
	stored(t, c, messages.TaskResult{TaskID: "before", Type: "charge", Outcome: messages.Success, Value: []byte("1")})
	require.Equal(t, "before", next(t, seen).TaskID)
	clustertest.Stop(t, s)
	clustertest.Server(t, clustertest.At(dir, port))
	require.Eventually(t, func() bool {
		_, err := c.PublishResult(t.Context(), messages.TaskResult{TaskID: "after", Type: "charge", Outcome: messages.Success, Value: []byte("1")}, nil)
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)
	require.Equal(t, "after", next(t, seen).TaskID)
}
