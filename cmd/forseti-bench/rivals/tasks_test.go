//go:build linux

package rivals

import (
	"context"
	"log/slog"
	"slices"
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

// Tasks that are stored: a real server in the same process, its streams on disk, 256 bytes each, 256 in flight.

const tasksOut = 256

var taskBody = []byte(`{"filler":"` + string(slices.Repeat([]byte("x"), 256-13)) + `"}`)

// taskWorker takes what is stored under a subject, and calls done for each when it is settled.
type taskWorker struct {
	name    string
	subject string
	start   func(b *testing.B, at *bench, done func())
}

// bench is a server with the streams of an installation, and a connection beside it.
type bench struct {
	c  *cluster.Cluster
	nc *nats.Conn
	js jetstream.JetStream
}

func newBench(b *testing.B) *bench {
	b.Helper()
	s := clustertest.Server(b)
	c := clustertest.Connect(b, s, "bench", func(cfg *cluster.Config) {
		cfg.Storage, cfg.TaskMaxBytes, cfg.EventMaxBytes = cluster.FileStorage, 1<<30, 1<<20
	})
	nc, err := nats.Connect(s.URL())
	require.NoError(b, err)
	b.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	require.NoError(b, err)
	_, err = js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "BARE", Subjects: []string{"bare.*"}, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxBytes: 1 << 30})
	require.NoError(b, err)
	_, err = js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "DONE", Subjects: []string{"done.*"}, MaxMsgsPerSubject: 1})
	require.NoError(b, err)
	return &bench{c, nc, js}
}

// fill stores n messages before anybody takes them.
func (at *bench) fill(b *testing.B, subject string, n int) {
	b.Helper()
	for range n {
		_, err := at.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: taskBody})
		require.NoError(b, err)
	}
	<-at.js.PublishAsyncComplete()
}

// bare consumes as the client's documentation shows, and acknowledges; with results it stores one before.
func bare(results bool) func(*testing.B, *bench, func()) {
	return func(b *testing.B, at *bench, done func()) {
		consumer, err := at.js.CreateConsumer(b.Context(), "BARE", jetstream.ConsumerConfig{
			Durable: "bare", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: tasksOut, MaxDeliver: -1,
		})
		require.NoError(b, err)
		settle := func(m jetstream.Msg) {
			if results {
				if _, err := at.js.Publish(background, "done."+nats.NewInbox()[7:], taskBody[:64]); err != nil {
					b.Error(err)
				}
			}
			if err := m.Ack(); err != nil {
				b.Error(err)
			}
			done()
		}
		running, err := consumer.Consume(func(m jetstream.Msg) {
			if results {
				go settle(m)
				return
			}
			settle(m)
		}, jetstream.PullMaxMessages(tasksOut))
		require.NoError(b, err)
		b.Cleanup(running.Stop)
	}
}

// handled runs each task through five layers and a handler that does nothing. The task that takes the consumer's last
// slot is settled after its handler, so done is called when the server has the acknowledgement: by what is left in the stream.
func handled(results bool) func(*testing.B, *bench, func()) {
	return func(b *testing.B, at *bench, done func()) {
		rt, err := runtime.Start(background, runtime.Config{}, runtime.WithLogger(slog.New(slog.DiscardHandler)), runtime.WithCluster(at.c))
		require.NoError(b, err)
		b.Cleanup(func() {
			ctx, cancel := context.WithTimeout(background, 10*time.Second)
			defer cancel()
			require.NoError(b, rt.Shutdown(ctx))
		})
		p, err := rt.Pipeline("p", runtime.Spec{Intake: tasksOut, Layers: []policy.Config{
			policy.FallbackValue(7), policy.Timeout{Limit: time.Hour}, policy.Retry{Attempts: 4}, policy.Breaker{OpenFor: time.Hour}, policy.Bulkhead{Permits: tasksOut},
		}})
		require.NoError(b, err)
		cfg := runtime.TaskConfig{Type: "bench", MaxInFlight: tasksOut, NoCalls: true, NoResults: !results}
		require.NoError(b, runtime.HandleWith(rt, cfg, p, func(context.Context, runtime.Task[[]byte]) (int, error) {
			done()
			return 1, nil
		}))
	}
}

// BenchmarkTasks is the time from one task to the next, through one node.
func BenchmarkTasks(b *testing.B) {
	for _, w := range []taskWorker{
		{"forseti", "forseti.v1.task.bench", handled(true)},
		{"forseti without results", "forseti.v1.task.bench", handled(false)},
		{"jetstream Consume", "bare.x", bare(false)},
		{"jetstream Consume and Publish", "bare.x", bare(true)},
	} {
		b.Run(w.name, func(b *testing.B) {
			b.Run("256 in flight", func(b *testing.B) {
				at := newBench(b)
				at.fill(b, w.subject, b.N)
				var left atomic.Int64
				left.Store(int64(b.N))
				all := make(chan struct{})
				b.ReportAllocs()
				b.ResetTimer()
				w.start(b, at, func() {
					if left.Add(-1) == 0 {
						close(all)
					}
				})
				<-all
				at.drained(b, w.subject)
				b.StopTimer()
			})
		})
	}
}

// drained waits until the server has forgotten the last one: it was acknowledged.
func (at *bench) drained(b *testing.B, subject string) {
	for {
		name, err := at.js.StreamNameBySubject(b.Context(), subject)
		require.NoError(b, err)
		s, err := at.js.Stream(b.Context(), name)
		require.NoError(b, err)
		if s.CachedInfo().State.Msgs == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// BenchmarkTaskLatency sends one task after the other and waits for its result: ns/op is the mean, p50-ns and p99-ns are
// what the names say.
func BenchmarkTaskLatency(b *testing.B) {
	b.Run("forseti", func(b *testing.B) {
		at := newBench(b)
		handled(true)(b, at, func() {})
		latencies(b, at, "forseti.v1.task.bench", "forseti-reply")
	})
	b.Run("jetstream Consume and Publish", func(b *testing.B) {
		at := newBench(b)
		consumer, err := at.js.CreateConsumer(b.Context(), "BARE", jetstream.ConsumerConfig{Durable: "bare", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: tasksOut})
		require.NoError(b, err)
		running, err := consumer.Consume(func(m jetstream.Msg) {
			if _, err := at.js.Publish(background, "done.x", taskBody[:64]); err != nil {
				b.Error(err)
			}
			_ = at.nc.Publish(m.Headers().Get("reply"), taskBody[:64])
			_ = m.Ack()
		}, jetstream.PullMaxMessages(tasksOut))
		require.NoError(b, err)
		b.Cleanup(running.Stop)
		latencies(b, at, "bare.x", "reply")
	})
}

func latencies(b *testing.B, at *bench, subject, header string) {
	b.Run("one at a time", func(b *testing.B) {
		inbox := at.nc.NewInbox()
		replies, err := at.nc.SubscribeSync(inbox)
		require.NoError(b, err)
		defer func() { require.NoError(b, replies.Unsubscribe()) }()
		var took []time.Duration
		for b.Loop() {
			begin := time.Now()
			_, err := at.js.PublishMsg(b.Context(), &nats.Msg{Subject: subject, Data: taskBody, Header: nats.Header{header: {inbox}}})
			require.NoError(b, err)
			_, err = replies.NextMsg(5 * time.Second)
			require.NoError(b, err)
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
		b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
	})
}
