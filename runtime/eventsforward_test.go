package runtime_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// TestEventsOfAnOutageAreForwardedAndWhatDidNotFitIsCountedAndAnnouncedOnce stops NATS, publishes events, as many as may
// wait and then more than that, starts NATS again on the same store, and reads all from the cluster.
func TestEventsOfAnOutageAreForwardedAndWhatDidNotFitIsCountedAndAnnouncedOnce(t *testing.T) {
	const fits, tooMany = 100, 1500
	data := t.TempDir()
	srv := clustertest.Server(t, clustertest.At(data, -1))
	u, err := url.Parse(srv.URL())
	require.NoError(t, err)
	port, err := strconv.Atoi(u.Port())
	require.NoError(t, err)
	c := clustertest.Connect(t, srv, "n1", clustertest.OnDisk)
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer func() { require.NoError(t, rt.Shutdown(context.Background())) }()
	bus := rt.System().Events()
	publish := func(n int) {
		for i := range n {
			bus.Publish(messages.Event{Kind: "test.happened", Data: messages.EventCount{Count: int64(i)}})
		}
	}
	// told reads the cluster's stream up to the newest event of this node: what came, and what is announced as missing.
	told := func() (came, missing uint64) {
		last, next := bus.Last(), uint64(1)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		require.NoError(t, c.Events(ctx, messages.EventFilter{From: 1}, func(e messages.Event) {
			if next > last {
				return
			}
			if gap, ok := messages.DataOf[messages.EventGap](e); ok && e.Kind == messages.EventsGap {
				require.Equal(t, next, gap.First, "in its place, and once")
				require.Equal(t, gap.Missing, gap.Last-gap.First+1)
				missing += gap.Missing
				next = gap.Last + 1
			} else {
				require.Equal(t, next, e.Sequence, "in order, and once")
				came++
				next++
			}
			if next > last {
				cancel()
			}
		}))
		require.GreaterOrEqual(t, next-1, last, fmt.Sprintf("%d came and %d are told as missing", came, missing))
		return came, missing
	}
	dropped := func() uint64 {
		points := collect(t, rt)["forseti.events.dropped"].Data.(metricdata.Sum[int64]).DataPoints
		return uint64(points[0].Value)
	}
	publish(3)
	_, missing := told()
	require.Zero(t, missing)
	for _, n := range []int{fits, tooMany} {
		clustertest.Stop(t, srv)
		require.Eventually(t, func() bool { return !c.Status().Connected }, 10*time.Second, time.Millisecond)
		publish(n)
		srv = clustertest.Server(t, clustertest.At(data, port))
		require.Eventually(t, func() bool { return c.Status().Connected }, 10*time.Second, time.Millisecond)
		_, missing = told()
		require.Equal(t, dropped(), missing)
		if n == fits {
			require.Zero(t, missing)
		}
	}
	require.Positive(t, missing)
}
