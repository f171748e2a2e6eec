//go:build linux

package actors

import (
	"context"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// pin puts each of the runtime's threads on a processor of its own, so that "parallel" really uses all of them.
func pin() {
	n := int32(min(goruntime.GOMAXPROCS(0), goruntime.NumCPU()))
	var at atomic.Int32
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			goruntime.LockOSThread()
			defer goruntime.UnlockOSThread()
			var set unix.CPUSet
			set.Set(int(i))
			_ = unix.SchedSetaffinity(0, &set)
			at.Add(1)
			for begin := time.Now(); at.Load() < n && time.Since(begin) < time.Second; {
				goruntime.Gosched()
			}
		})
	}
	all.Wait()
}

// modes runs op alone, on all processors at once, and from 64 goroutines, beside its goal in ns.
func modes(b *testing.B, goal float64, op func()) {
	b.Helper()
	b.Run("serial", func(b *testing.B) {
		pin()
		b.ReportAllocs()
		for b.Loop() {
			op()
		}
		b.ReportMetric(goal, "goal-ns/op")
	})
	parallel := func(b *testing.B, each int) {
		pin()
		b.ReportAllocs()
		b.SetParallelism(each)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				op()
			}
		})
		b.ReportMetric(goal, "goal-ns/op")
	}
	b.Run("parallel", func(b *testing.B) { parallel(b, 1) })
	b.Run("64goroutines", func(b *testing.B) { parallel(b, max(64/goruntime.GOMAXPROCS(0), 1)) })
}

func noop() (int, error)                       { return 1, nil }
func noopContext(context.Context) (int, error) { return 1, nil }
func usesDone(ctx context.Context) (int, error) {
	_ = ctx.Done()
	return 1, nil
}

// BenchmarkBreakerGate is the breaker alone, with the clock passed in: admit and record.
func BenchmarkBreakerGate(b *testing.B) {
	ctx := context.Background()
	gate := func(cfg policy.Breaker) (*Pipeline, *breaker) {
		p := pipelineOf(b, cfg)
		return p, layerOf[*breaker](p)
	}
	b.Run("closed", func(b *testing.B) {
		p, br := gate(policy.Breaker{OpenFor: time.Hour})
		pool := poolOf[int](p)
		now := p.sys.now()
		modes(b, 15, func() {
			r := pool.Get().(*record[int])
			r.caller, r.now = ctx, now
			v, _ := br.enter(&r.call)
			r.verdict = succeeded
			br.report(&r.call, v, now, nil)
			pool.Put(r)
		})
	})
	b.Run("open", func(b *testing.B) {
		p, br := gate(policy.Breaker{Consecutive: 1, OpenFor: time.Hour})
		_, _ = Do(ctx, p, nil, fails)
		r := poolOf[int](p).Get().(*record[int])
		r.caller, r.now = ctx, p.sys.now()
		modes(b, 5, func() {
			if v, _ := br.enter(&r.call); v != nil {
				b.Error("admitted")
			}
		})
	})
	b.Run("looks for slow calls", func(b *testing.B) {
		p, br := gate(policy.Breaker{SlowCall: time.Hour, OpenFor: time.Hour})
		pool := poolOf[int](p)
		now := p.sys.now()
		modes(b, 20, func() {
			r := pool.Get().(*record[int])
			r.caller, r.now = ctx, now
			v, _ := br.enter(&r.call)
			r.verdict = succeeded
			br.report(&r.call, v, now, nil)
			pool.Put(r)
		})
	})
	b.Run("failure awaited", func(b *testing.B) {
		p, br := gate(policy.Breaker{FailureRate: 1, MinCalls: 1 << 40, OpenFor: time.Hour})
		pool := poolOf[int](p)
		modes(b, 250, func() {
			r := pool.Get().(*record[int])
			r.caller, r.now = ctx, p.sys.now()
			v, _ := br.enter(&r.call)
			r.verdict = failed
			br.report(&r.call, v, r.now, errBoom)
			pool.Put(r)
		})
	})
}

func BenchmarkBulkheadGate(b *testing.B) {
	p := pipelineOf(b, policy.Bulkhead{Permits: 1 << 16})
	bh, pool := layerOf[*bulkhead](p), poolOf[int](p)
	modes(b, 25, func() {
		r := pool.Get().(*record[int])
		if bh.try(r.lane) {
			bh.release(r.lane)
		}
		pool.Put(r)
	})
}

// BenchmarkPipeline is the whole call: fallback, timeout, retry, breaker, bulkhead.
func BenchmarkPipeline(b *testing.B) {
	ctx := context.Background()
	b.Run("five layers", func(b *testing.B) {
		p := pipelineOf(b, fiveLayers()...)
		modes(b, 150, func() { _, _ = Do0(ctx, p, nil, noop) })
	})
	b.Run("five layers, two guards, hook", func(b *testing.B) {
		allow := GuardFunc("allow", func(*messages.Context) messages.GuardResult { return messages.Allow() })
		var n int
		p := newPipeline(b, newSystem(b), Spec{Layers: fiveLayers(), Guards: []Guard{KillSwitch(), allow}, Hooks: []Hook{{OnSuccess: func(Moment) { n++ }}}})
		modes(b, 150, func() { _, _ = Do0(ctx, p, nil, noop) })
		b.ReportMetric(float64(p.hooks[0].dropped.Load()), "dropped")
	})
	b.Run("with context", func(b *testing.B) {
		p := pipelineOf(b, fiveLayers()...)
		modes(b, 300, func() { _, _ = Do(ctx, p, nil, noopContext) })
	})
	b.Run("with context, Done", func(b *testing.B) {
		p := pipelineOf(b, fiveLayers()...)
		modes(b, 700, func() { _, _ = Do(ctx, p, nil, usesDone) })
	})
	b.Run("async, awaited", func(b *testing.B) {
		p := pipelineOf(b, fiveLayers()...)
		modes(b, 800, func() { _, _ = Go(ctx, p, nil, noopContext).Await(ctx) })
	})
}

// What a call may allocate is a promise, and a test.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own pools allocate; the counts are asserted by the run without it (make allocs)")
	}
	ctx := context.Background()
	p := pipelineOf(t, fiveLayers()...)
	guarded, err := p.sys.Pipeline("guarded", Spec{Layers: fiveLayers(), Guards: []Guard{KillSwitch()}, Hooks: []Hook{{OnSuccess: func(Moment) {}}}})
	require.NoError(t, err)
	open, err := p.sys.Pipeline("open", Spec{Layers: []policy.Config{policy.Breaker{Consecutive: 1, OpenFor: time.Hour}}})
	require.NoError(t, err)
	_, _ = Do(ctx, open, nil, fails)
	alone, err := p.sys.Pipeline("alone", Spec{Layers: []policy.Config{policy.Breaker{Calls: 100}}})
	require.NoError(t, err)
	slow, err := p.sys.Pipeline("slow", Spec{Layers: []policy.Config{policy.Breaker{SlowCall: time.Hour, Classify: func(any, error) policy.Class { return policy.Success }}}})
	require.NoError(t, err)
	ordered, err := p.sys.Pipeline("ordered", Spec{Layers: []policy.Config{policy.Breaker{}}})
	require.NoError(t, err)
	require.NoError(t, ordered.Order("breaker", policy.BreakerOrder{Kind: policy.ForceClosed, Reason: "test", TTL: time.Hour}))
	meta := &messages.Context{OrderID: "17", Tier: messages.Critical}
	for _, row := range []struct {
		name string
		want float64
		op   func()
	}{
		{"five layers", 0, func() { _, _ = Do0(ctx, p, nil, noop) }},
		{"breaker alone", 0, func() { _, _ = Do0(ctx, alone, nil, noop) }},
		{"breaker that looks twice", 0, func() { _, _ = Do0(ctx, slow, nil, noop) }}, // a small number is boxed without
		{"breaker under an order", 0, func() { _, _ = Do0(ctx, ordered, nil, noop) }},
		{"with our context", 0, func() { _, _ = Do0(ctx, p, meta, noop) }},
		{"guard and hook", 0, func() { _, _ = Do0(ctx, guarded, nil, noop) }},
		{"fn with context", 1, func() { _, _ = Do(ctx, p, nil, noopContext) }},
		{"Try", 1, func() { _ = Try(ctx, p, nil, noopContext) }},
		{"async", 1, func() { _, _ = Go(ctx, p, nil, noopContext).Await(ctx) }},
		{"refused: the error", 1, func() { _, _ = Do0(ctx, open, nil, noop) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			for range 100 {
				row.op() // fill the pools
			}
			require.LessOrEqual(t, testing.AllocsPerRun(2000, row.op), row.want)
		})
	}
}
