//go:build linux

package rivals

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// What nodes tell one another. p50-ns and p99-ns are what the names say.

// percentiles times what once does, which gives the moment from which it counts and waits until it has arrived.
func percentiles(b *testing.B, once func(b *testing.B) time.Time) {
	b.Run("one at a time", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			began := once(b)
			took = append(took, max(time.Since(began), 0))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
		b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
	})
}

// BenchmarkKillSwitch is the time from the moment in which an order is stored until it is in force on another node.
func BenchmarkKillSwitch(b *testing.B) {
	connections := func(b *testing.B) (at *bench, other *nats.Conn) {
		b.Helper()
		s := clustertest.Server(b)
		nc, err := nats.Connect(s.URL())
		require.NoError(b, err)
		b.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		require.NoError(b, err)
		other, err = nats.Connect(s.URL())
		require.NoError(b, err)
		b.Cleanup(other.Close)
		return &bench{c: clustertest.Connect(b, s, "n2", clustertest.OnDisk), nc: nc, js: js}, other
	}
	b.Run("forseti", func(b *testing.B) {
		at, _ := connections(b)
		sys, err := actors.NewSystem(actors.Options{Logger: slog.New(slog.DiscardHandler)})
		require.NoError(b, err)
		b.Cleanup(func() { _ = sys.Close(background) })
		arrived := make(chan uint64, 1024)
		err = at.c.WatchKill(b.Context(), func(states []messages.KillState) error {
			if err := sys.Kill(background, states...); err != nil {
				return err
			}
			for _, s := range states {
				arrived <- s.Revision
			}
			return nil
		}, nil)
		require.NoError(b, err)
		kv, err := at.js.KeyValue(b.Context(), "forseti_control")
		require.NoError(b, err)
		on := false
		percentiles(b, func(b *testing.B) time.Time {
			on = !on
			order := messages.KillState{Scope: messages.Global, On: on, Mode: messages.KillBlock, Reason: "bench", By: "bench", At: time.Now().UTC()}
			body, err := json.Marshal(order)
			require.NoError(b, err)
			order.Revision, err = kv.Put(b.Context(), "kill.global", body)
			stored := time.Now()
			require.NoError(b, err)
			body, err = json.Marshal(order)
			require.NoError(b, err)
			require.NoError(b, at.nc.Publish("forseti.v1.ctl.all.kill", body))
			for revision := range arrived {
				if revision >= order.Revision {
					break
				}
			}
			return stored
		})
	})
	b.Run("core publish", func(b *testing.B) {
		at, other := connections(b)
		sub, err := other.SubscribeSync("bare")
		require.NoError(b, err)
		require.NoError(b, other.Flush())
		percentiles(b, func(b *testing.B) time.Time {
			began := time.Now()
			require.NoError(b, at.nc.Publish("bare", taskBody))
			_, err := sub.NextMsg(5 * time.Second)
			require.NoError(b, err)
			return began
		})
	})
	b.Run("key-value watch", func(b *testing.B) {
		at, other := connections(b)
		kv, err := at.js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "bare"})
		require.NoError(b, err)
		js, err := jetstream.New(other)
		require.NoError(b, err)
		theirs, err := js.KeyValue(b.Context(), "bare")
		require.NoError(b, err)
		w, err := theirs.Watch(b.Context(), "x", jetstream.UpdatesOnly())
		require.NoError(b, err)
		percentiles(b, func(b *testing.B) time.Time {
			revision, err := kv.Put(b.Context(), "x", taskBody)
			stored := time.Now()
			require.NoError(b, err)
			for e := range w.Updates() {
				if e != nil && e.Revision() >= revision {
					break
				}
			}
			return stored
		})
	})
}

// BenchmarkFleetBudget is the time from a call on one node until another node's error budget has it.
func BenchmarkFleetBudget(b *testing.B) {
	b.Run("forseti", func(b *testing.B) {
		s := clustertest.Server(b)
		node := func(name string) (*runtime.Runtime, runtime.Pipeline) {
			c := clustertest.Connect(b, s, name, func(cfg *cluster.Config) { cfg.Storage = cluster.FileStorage })
			rt, err := runtime.Start(background, runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
			require.NoError(b, err)
			b.Cleanup(func() { _ = rt.Shutdown(background) })
			require.NoError(b, rt.ErrorBudget(policy.ErrorBudget{Name: "slo", Objective: 0.999, Fleet: true}))
			p, err := rt.Pipeline("p", runtime.Spec{Guards: []actors.Guard{actors.ErrorBudget("slo")}})
			require.NoError(b, err)
			return rt, p
		}
		_, p := node("n1")
		other, _ := node("n2")
		calls := uint64(0)
		percentiles(b, func(b *testing.B) time.Time {
			began := time.Now()
			_, err := runtime.Do(background, p, func(context.Context) (int, error) { return 1, nil })
			require.NoError(b, err)
			calls++
			for {
				if st, _ := other.ErrorBudgetStatus("slo"); st.Series[0].Good >= calls {
					return began
				}
				time.Sleep(time.Millisecond)
			}
		})
	})
}
