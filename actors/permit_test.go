package actors

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func TestPermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		sink := &memorySink{}
		p := newPipeline(t, newSystem(t), Spec{
			Layers: []policy.Config{policy.FallbackValue(1), policy.Retry{}, policy.Breaker{Consecutive: 2, OpenFor: time.Second, Probes: 1}, policy.Bulkhead{Permits: 1}},
			Hooks:  []Hook{rec.hook()}, Sinks: []FailureSink{sink},
		})
		ctx := t.Context()
		permit, err := Acquire(ctx, p, nil)
		require.NoError(t, err)
		_, err = Acquire(ctx, p, nil)
		require.ErrorIs(t, err, messages.ErrBulkheadFull)
		permit.Done(nil)
		permit.Done(errBoom) // only the first counts
		synctest.Wait()
		require.Equal(t, []string{"execute 0", "reject 0 by bulkhead: full", "execute 1", "success 1 success"}, rec.take())

		for range 2 {
			permit, err = Acquire(ctx, p, &messages.Context{OrderID: "17"})
			require.NoError(t, err)
			permit.Done(errBoom)
		}
		_, err = Acquire(ctx, p, nil)
		require.ErrorIs(t, err, messages.ErrBreakerOpen)
		synctest.Wait()
		require.Len(t, sink.letters, 2)
		require.Equal(t, "17", sink.letters[0].Context.OrderID)
		require.Equal(t, []string{"breaker", "bulkhead"}, sink.letters[0].Policies)

		time.Sleep(time.Second)
		permit, err = Acquire(ctx, p, nil)
		require.NoError(t, err, "a probe")
		_, err = Do(ctx, p, nil, succeeds)
		require.NoError(t, err, "its fallback answered")
		permit.Done(nil)
		require.Equal(t, policy.Closed, state(p))

		gone, cancel := context.WithCancel(ctx)
		permit, err = Acquire(gone, p, nil)
		require.NoError(t, err)
		cancel()
		permit.Done(context.Canceled)
		_, err = Acquire(gone, p, nil)
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
		require.Zero(t, p.inFlight())
		Permit{}.Done(nil)
	})
}

func TestPermitsComeBackUnderLoad(t *testing.T) {
	p := pipelineOf(t, policy.Breaker{Consecutive: 3, OpenFor: time.Millisecond, Probes: 2}, policy.Bulkhead{Permits: 3, Queue: 4})
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 4))
			for range 500 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(100))*time.Microsecond)
				if permit, err := Acquire(ctx, p, nil); err == nil {
					if random.IntN(3) == 0 {
						permit.Done(errBoom)
					} else {
						permit.Done(nil)
					}
					permit.Done(errBoom)
				}
				cancel()
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 3, layerOf[*bulkhead](p).count())
	require.Zero(t, layerOf[*breaker](p).probes.Load())
	require.Zero(t, p.inFlight())
}
