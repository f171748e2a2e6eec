package runtime_test

import (
	"context"
	"log/slog"
	"os"
	goruntime "runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/runtime"
)

// FORSETI_SOAK_TASKS tasks, a million in make soak, go through one node: each is handled once, and what is live in memory is no more at the
// end than after the first tenth. Results of successes are not stored: the server, which is in this process, keeps an
// index entry for each.
func TestSoakTasks(t *testing.T) {
	total, err := strconv.Atoi(os.Getenv("FORSETI_SOAK_TASKS"))
	if err != nil {
		t.Skip("FORSETI_SOAK_TASKS says how many; make soak")
	}
	srv := clustertest.Server(t)
	c := clustertest.Connect(t, srv, "n1", func(cfg *cluster.Config) { cfg.Storage, cfg.TaskMaxBytes = cluster.FileStorage, 1<<30 })
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{
		policy.FallbackValue(7), policy.Timeout{Limit: time.Minute}, policy.Retry{Attempts: 3}, policy.Breaker{}, policy.Bulkhead{Permits: 256},
	}})
	var handled atomic.Int64
	require.NoError(t, runtime.HandleWith(rt, runtime.TaskConfig{Type: "soak", NoResults: true}, p, func(context.Context, runtime.Task[[]byte]) (int, error) {
		handled.Add(1)
		return 1, nil
	}))
	nc, err := nats.Connect(srv.URL())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1024))
	require.NoError(t, err)
	var live []uint64
	body := make([]byte, 256)
	for tenth := range 10 {
		for range total / 10 {
			_, err := js.PublishMsgAsync(&nats.Msg{Subject: "forseti.v1.task.soak", Data: body})
			require.NoError(t, err)
		}
		<-js.PublishAsyncComplete()
		want := int64(tenth+1) * int64(total/10)
		require.Eventually(t, func() bool {
			b, err := c.TaskBacklog(t.Context())
			return handled.Load() >= want && err == nil && len(b) == 0
		}, 10*time.Minute, 50*time.Millisecond)
		require.Equal(t, want, handled.Load(), "each once")
		var m goruntime.MemStats
		goruntime.GC()
		goruntime.GC()
		goruntime.ReadMemStats(&m)
		live = append(live, m.HeapAlloc>>10)
		t.Logf("%d tasks: %d KiB live, %d goroutines", want, live[tenth], goruntime.NumGoroutine())
	}
	require.Less(t, live[9], live[0]+live[0]/4+8<<10, "KiB live: %v", live)
}
