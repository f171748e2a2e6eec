//go:build linux

package actors

import (
	"context"
	"math/rand/v2"
	goruntime "runtime"
	"strconv"
	"strings"
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
		stop := processors(b)
		for b.Loop() {
			op()
		}
		stop()
		b.ReportMetric(goal, "goal-ns/op")
	})
	parallel := func(b *testing.B, each int) {
		pin()
		b.ReportAllocs()
		b.SetParallelism(each)
		stop := processors(b)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				op()
			}
		})
		stop()
		b.ReportMetric(goal, "goal-ns/op")
	}
	b.Run("parallel", func(b *testing.B) { parallel(b, 1) })
	b.Run("64goroutines", func(b *testing.B) { parallel(b, max(64/goruntime.GOMAXPROCS(0), 1)) })
}

// processors reports how many processors the process had, on the average, from now until the function it returns is
// called: a "parallel" one that had to share them measures something else.
func processors(b *testing.B) (stop func()) {
	spent := func() time.Duration {
		var u unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	cpu, begin := spent(), time.Now()
	return func() { b.ReportMetric(float64(spent()-cpu)/float64(time.Since(begin)), "cpus") }
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

// BenchmarkRetryBudgetGate is the budget alone: a call is counted, and every tenth is followed by a retry.
func BenchmarkRetryBudgetGate(b *testing.B) {
	p := pipelineOf(b, policy.Retry{Budget: policy.RetryBudget{Ratio: 0.2, MinPerSecond: 1e6}})
	budget, pool := layerOf[*retry](p).budget.current.Load(), poolOf[int](p)
	now := p.sys.now()
	gate := func(retries bool) func() {
		return func() {
			r := pool.Get().(*record[int])
			r.caller, r.now, r.deposited = context.Background(), now, nil
			budget.deposit(&r.call)
			if retries {
				budget.withdraw(&r.call)
			}
			pool.Put(r)
		}
	}
	b.Run("call", func(b *testing.B) { modes(b, 15, gate(false)) })
	b.Run("call and retry", func(b *testing.B) { modes(b, 60, gate(true)) })
}

// BenchmarkRetry is a call that fails twice and is tried again without a wait.
func BenchmarkRetry(b *testing.B) {
	ctx := context.Background()
	p := pipelineOf(b, policy.Retry{Backoff: policy.Constant(0)})
	var n atomic.Uint64
	third := func() (int, error) {
		if n.Add(1)%3 != 0 {
			return 0, errBoom
		}
		return 1, nil
	}
	modes(b, 400, func() { _, _ = Do0(ctx, p, nil, third) })
}

// BenchmarkOwn is what a policy or a guard of the user's costs, around nothing.
func BenchmarkOwn(b *testing.B) {
	ctx := context.Background()
	sys := newSystem(b)
	for name, spec := range map[string]Spec{
		"nothing":      {},
		"custom":       {Layers: []policy.Config{policy.Func("own", straight)}},
		"actor guard":  {Guards: []Guard{ActorGuard("own", quiet)}},
		"actor policy": {Layers: []policy.Config{ActorPolicy("own", quiet)}},
		"via":          {Layers: []policy.Config{Via("own", newPipelineNamed(b, sys, "inner").PID())}},
	} {
		p, err := sys.Pipeline("own-"+strings.ReplaceAll(name, " ", "-"), spec)
		require.NoError(b, err)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Do0(ctx, p, nil, noop)
			}
		})
	}
}

// BenchmarkRateLimitGate is the limit alone, with the clock passed in: a token from a bucket that is never empty, and a
// refusal.
func BenchmarkRateLimitGate(b *testing.B) {
	l := layerOf[*rateLimit](pipelineOf(b, policy.RateLimit{Limit: 1_000_000_000, Burst: 1_000_000_000}))
	b.Run("take", func(b *testing.B) {
		now := l.sys.now()
		modes(b, 25, func() {
			if l.waiting.Load() == 0 && l.take(l.view.Load(), now) != 0 {
				b.Error("refused")
			}
		})
	})
	b.Run("refuse", func(b *testing.B) {
		l := layerOf[*rateLimit](pipelineOf(b, policy.RateLimit{Limit: 1, Per: time.Hour}))
		now := l.sys.now()
		l.take(l.view.Load(), now)
		modes(b, 10, func() {
			if l.waiting.Load() == 0 && l.take(l.view.Load(), now) == 0 {
				b.Error("admitted")
			}
		})
	})
}

func BenchmarkThrottleGate(b *testing.B) {
	p := pipelineOf(b, policy.Throttle{})
	l, pool, now := layerOf[*throttle](p), poolOf[int](p), p.sys.now()
	modes(b, 30, func() {
		r := pool.Get().(*record[int])
		r.now = now
		if l.admit(&r.call) == nil {
			r.unhold()
			r.verdict = succeeded
			l.done(&r.call, r.held[r.holds], nil)
		}
		pool.Put(r)
	})
}

func BenchmarkShedGate(b *testing.B) {
	p := pipelineOf(b, policy.Shed{Limit: 1 << 20})
	l, pool := layerOf[*shed](p), poolOf[int](p)
	modes(b, 25, func() {
		r := pool.Get().(*record[int])
		if l.admit(&r.call) == nil {
			r.unhold()
			l.done(&r.call, r.held[r.holds], nil)
		}
		pool.Put(r)
	})
}

// BenchmarkCache is a pipeline of a cache alone: a hit on one key that all want, and on a thousand.
func BenchmarkCache(b *testing.B) {
	ctx := context.Background()
	for name, keys := range map[string]int{"one key": 1, "1000 keys": 1000} {
		b.Run(name, func(b *testing.B) {
			p := pipelineOf(b, policy.Cache{Key: byOrder, TTL: time.Hour, Max: 2000})
			var metas []*messages.Context
			for i := range keys {
				metas = append(metas, &messages.Context{OrderID: strconv.Itoa(i)})
			}
			modes(b, 250, func() { _, _ = Do0(ctx, p, metas[rand.IntN(keys)], noop) })
		})
	}
}

// BenchmarkIdempotency is a pipeline of that layer alone: a key whose result is kept, and keys that are new.
func BenchmarkIdempotency(b *testing.B) {
	ctx := context.Background()
	b.Run("duplicate", func(b *testing.B) {
		p := pipelineOf(b, policy.Idempotency{})
		key := &messages.Context{IdempotencyKey: "17"}
		modes(b, 250, func() { _, _ = Do0(ctx, p, key, noop) })
	})
	b.Run("new key", func(b *testing.B) {
		p := pipelineOf(b, policy.Idempotency{Keep: 10 * time.Millisecond})
		modes(b, 1000, func() {
			_, _ = Do0(ctx, p, &messages.Context{IdempotencyKey: strconv.FormatUint(rand.Uint64(), 36)}, noop)
		})
	})
}

// BenchmarkAdaptiveGate is the adaptive limit alone, with the clock passed in: admit, and count the sample.
func BenchmarkAdaptiveGate(b *testing.B) {
	p := pipelineOf(b, policy.Adaptive{Min: 1 << 16, Max: 1 << 16})
	a, pool := layerOf[*adaptive](p), poolOf[int](p)
	now, ctx := p.sys.now(), context.Background()
	modes(b, 50, func() {
		r := pool.Get().(*record[int])
		r.caller, r.now = ctx, now
		if a.admit(&r.call) == nil {
			r.unhold()
			r.verdict = succeeded
			a.done(&r.call, r.held[r.holds], nil)
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

// BenchmarkHedge is a call that ends before it is hedged, on a worker, and one while the delay is not known yet.
func BenchmarkHedge(b *testing.B) {
	ctx := context.Background()
	b.Run("quick", func(b *testing.B) {
		p := pipelineOf(b, policy.Hedge{Idempotent: true, Delay: time.Second})
		modes(b, 1500, func() { _, _ = Do(ctx, p, nil, noopContext) })
	})
	b.Run("learning", func(b *testing.B) {
		p := pipelineOf(b, policy.Hedge{Idempotent: true, MinCalls: 1 << 40})
		modes(b, 100, func() { _, _ = Do0(ctx, p, nil, noop) })
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
	alone := func(name string, cfg policy.Config) *Pipeline { return newPipelineNamed(t, p.sys, name, cfg) }
	hedged := alone("hedge", policy.Hedge{Idempotent: true, Delay: time.Hour})
	custom, asActor := alone("custom", policy.Func("own", straight)), alone("actor", ActorPolicy("own", quiet))
	guardActor, err := p.sys.Pipeline("guard-actor", Spec{Guards: []Guard{ActorGuard("own", quiet)}})
	require.NoError(t, err)
	rate, limited := alone("rate", policy.RateLimit{Limit: 1_000_000_000}), alone("limited", policy.RateLimit{Limit: 1, Per: time.Hour})
	throttled, shedding := alone("throttle", policy.Throttle{}), alone("shed", policy.Shed{Limit: 1})
	counting := alone("calls", policy.Breaker{Calls: 100})
	looking := alone("slow", policy.Breaker{SlowCall: time.Hour, Classify: func(any, error) policy.Class { return policy.Success }})
	ordered := alone("ordered", policy.Breaker{})
	require.NoError(t, ordered.Order("breaker", policy.BreakerOrder{Kind: policy.ForceClosed, Reason: "test", TTL: time.Hour}))
	adaptive := alone("adaptive", policy.Adaptive{})
	remembers := alone("cache", policy.Cache{Key: byOrder, TTL: time.Hour, Collapse: true})
	once, done := alone("once", policy.Idempotency{Keep: time.Nanosecond}), alone("done", policy.Idempotency{})
	key := &messages.Context{IdempotencyKey: "17"}
	meta := &messages.Context{OrderID: "17", Tier: messages.Critical}
	retrying := func(name string, cfg policy.Retry) *Pipeline {
		cfg.Backoff = policy.Constant(0)
		p, err := p.sys.Pipeline(name, Spec{Layers: []policy.Config{cfg}})
		require.NoError(t, err)
		return p
	}
	retry := retrying("retry", policy.Retry{})
	budgeted := retrying("budgeted", policy.Retry{Budget: policy.RetryBudget{Ratio: 10, Window: time.Hour}})
	exhausted := retrying("exhausted", policy.Retry{Budget: policy.RetryBudget{Ratio: 1e-9, MinPerSecond: 1e-9, Window: time.Hour}})
	n := 0
	third := func() (int, error) {
		if n++; n%3 != 0 {
			return 0, errBoom
		}
		return 1, nil
	}
	for _, row := range []struct {
		name string
		want float64
		op   func()
	}{
		{"five layers", 0, func() { _, _ = Do0(ctx, p, nil, noop) }},
		{"with our context", 0, func() { _, _ = Do0(ctx, p, meta, noop) }},
		{"guard and hook", 0, func() { _, _ = Do0(ctx, guarded, nil, noop) }},
		{"guard that is an actor", 0, func() { _, _ = Do0(ctx, guardActor, nil, noop) }},
		{"custom: what next runs, and next", 2, func() { _, _ = Do0(ctx, custom, nil, noop) }},
		{"actor policy: the fact, and waking its actor", 2, func() { _, _ = Do0(ctx, asActor, nil, noop) }},
		{"fn with context", 1, func() { _, _ = Do(ctx, p, nil, noopContext) }},
		{"Try", 1, func() { _ = Try(ctx, p, nil, noopContext) }},
		{"async", 1, func() { _, _ = Go(ctx, p, nil, noopContext).Await(ctx) }},
		{"hedge, not needed", 1, func() { _, _ = Do(ctx, hedged, nil, noopContext) }},
		{"retry", 0, func() { _, _ = Do0(ctx, retry, nil, noop) }},
		{"retry with a budget", 0, func() { _, _ = Do0(ctx, budgeted, nil, noop) }},
		{"two retries without a wait: no timer", 0, func() { _, _ = Do0(ctx, retry, nil, third) }},
		{"two retries that a budget allows", 0, func() { _, _ = Do0(ctx, budgeted, nil, third) }},
		{"a retry that a budget suppresses: the mark", 1, func() { _, _ = Do0(ctx, exhausted, nil, func() (int, error) { return 0, errBoom }) }},
		{"cache: a hit", 0, func() { _, _ = Do0(ctx, remembers, meta, noop) }},
		{"cache: no key", 0, func() { _, _ = Do0(ctx, remembers, nil, noop) }},
		{"idempotency: a duplicate", 0, func() { _, _ = Do0(ctx, done, key, noop) }},
		{"idempotency: no key", 0, func() { _, _ = Do0(ctx, done, nil, noop) }},
		{"idempotency: the claim, and what the call holds of it", 3, func() { _, _ = Do0(ctx, once, key, noop) }},
		{"breaker alone", 0, func() { _, _ = Do0(ctx, counting, nil, noop) }},
		{"breaker that looks twice", 0, func() { _, _ = Do0(ctx, looking, nil, noop) }}, // a small number is boxed without
		{"breaker under an order", 0, func() { _, _ = Do0(ctx, ordered, nil, noop) }},
		{"adaptive limit", 0, func() { _, _ = Do0(ctx, adaptive, nil, noop) }},
		{"refused: the error", 1, func() { _, _ = Do0(ctx, open, nil, noop) }},
		{"rate limit", 0, func() { _, _ = Do0(ctx, rate, nil, noop) }},
		{"rate limit, refused: the error", 1, func() { _, _ = Do0(ctx, limited, nil, noop) }},
		{"throttle", 0, func() { _, _ = Do0(ctx, throttled, nil, noop) }},
		{"shed", 0, func() { _, _ = Do0(ctx, shedding, meta, noop) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			for range 100 {
				row.op() // fill the pools
			}
			require.LessOrEqual(t, testing.AllocsPerRun(2000, row.op), row.want)
		})
	}
}
