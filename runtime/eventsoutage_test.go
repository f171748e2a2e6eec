package runtime_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// What happens while NATS is away is published when it is back, in order. More than may wait is not: but all of it is
// accounted for, by a gap that says how many are missing.
func TestEventsOfAnOutage(t *testing.T) {
	for name, sent := range map[string]int{"that fit": 50, "too many": 1300} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := clustertest.Server(t, clustertest.At(dir, -1))
			port := s.Port()
			c := clustertest.Connect(t, s, "n1", func(cfg *cluster.Config) { cfg.Storage = cluster.FileStorage })
			rt, err := runtime.Start(t.Context(), runtime.Config{Node: "n1"}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
			p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Second}}})
			clustertest.Stop(t, s)
			for range sent {
				require.NoError(t, p.Configure("timeout", policy.Timeout{Limit: time.Second}))
			}
			clustertest.Server(t, clustertest.At(dir, port))
			require.Eventually(t, func() bool { return c.Status().Connected }, 20*time.Second, 10*time.Millisecond)

			// The last one is told apart by its pipeline, and comes after all the others.
			last := pipelineNamed(t, rt, "end", runtime.Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Second}}})
			var got, missing int
			var before uint64
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			told := make(chan struct{})
			go func() { // until it is seen: what waits in the node's queue goes first
				for ctx.Err() == nil {
					_ = last.Configure("timeout", policy.Timeout{Limit: time.Second})
					select {
					case <-told:
						return
					case <-time.After(100 * time.Millisecond):
					}
				}
			}()
			err = c.Events(ctx, messages.EventFilter{Since: time.Now().Add(-time.Hour)}, func(e messages.Event) {
				if e.Node == "n1" && e.Sequence > 0 {
					require.Greater(t, e.Sequence, before, "in order, and once")
					before = e.Sequence
				}
				switch {
				case e.Kind == messages.EventsGap:
					missing += int(e.Data.(messages.EventGap).Missing)
				case e.Kind == messages.SettingsChanged && e.Pipeline == "charge":
					got++
				case e.Kind == messages.SettingsChanged && e.Pipeline == "end":
					cancel()
				}
			})
			require.NoError(t, err)
			close(told)
			if name == "that fit" {
				require.Equal(t, sent, got)
				require.Zero(t, missing)
			} else {
				require.Less(t, got, sent)
				require.GreaterOrEqual(t, got+missing, sent)
			}
		})
	}
}
