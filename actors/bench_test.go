//go:build linux

package actors

import (
	"context"
	"math/rand/v2"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// pin keeps the calling goroutine on a processor of its own until the function it returns is called, so that "parallel"
// really uses all of them. The thread is the goroutine's as long: one that was pinned and let go would hand its processor on
// to every thread that it starts. It is for work that does not wait for another goroutine, which would pay for that.
func pin(at *atomic.Int32) (let func()) {
	goruntime.LockOSThread()
	var all, one unix.CPUSet
	_ = unix.SchedGetaffinity(0, &all)
	one.Set(int(at.Add(1)-1) % goruntime.NumCPU())
	_ = unix.SchedSetaffinity(0, &one)
	return func() {
		_ = unix.SchedSetaffinity(0, &all)
		goruntime.UnlockOSThread()
	}
}

// modes runs op alone, on all processors at once, and from 64 goroutines, beside its goal in ns.
func modes(b *testing.B, goal float64, op func()) {
	b.Helper()
	modesOf(b, goal, false, func() func() { return op })
}

// modesOf is modes for an operation of which each goroutine has its own. pinned is for those that wait for nobody.
func modesOf(b *testing.B, goal float64, pinned bool, newOp func() func()) {
	b.Helper()
	b.Run("serial", func(b *testing.B) {
		op := newOp()
		b.ReportAllocs()
		stop := processors(b)
		for b.Loop() {
			op()
		}
		stop()
		b.ReportMetric(goal, "goal-ns/op")
	})
	parallel := func(b *testing.B, each int) {
		b.ReportAllocs()
		b.SetParallelism(each)
		var at atomic.Int32
		stop := processors(b)
		b.RunParallel(func(pb *testing.PB) {
			if pinned && each == 1 {
				defer pin(&at)()
			}
			op := newOp()
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

// passing is a gate alone: the call whose record it passes is there already, and so is the clock's reading.
func passing(b *testing.B, goal float64, p *Pipeline, gate func(*call)) {
	pool, now := poolOf[int](p), p.sys.now()
	modesOf(b, goal, true, func() func() {
		r := pool.New().(*record[int])
		r.caller, r.now = context.Background(), now
		return func() { gate(&r.call) }
	})
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
		passing(b, 15, p, func(c *call) {
			v, _ := br.enter(c)
			c.verdict = succeeded
			br.report(c, v, c.now, nil)
		})
	})
	b.Run("open", func(b *testing.B) {
		p, br := gate(policy.Breaker{Consecutive: 1, OpenFor: time.Hour})
		_, _ = Do(ctx, p, nil, fails)
		passing(b, 5, p, func(c *call) {
			if v, _ := br.enter(c); v != nil {
				b.Error("admitted")
			}
		})
	})
	b.Run("looks for slow calls", func(b *testing.B) {
		p, br := gate(policy.Breaker{SlowCall: time.Hour, OpenFor: time.Hour})
		passing(b, 20, p, func(c *call) {
			v, _ := br.enter(c)
			c.verdict = succeeded
			br.report(c, v, c.now, nil)
		})
	})
	b.Run("failure awaited", func(b *testing.B) {
		p, br := gate(policy.Breaker{FailureRate: 1, MinCalls: 1 << 40, OpenFor: time.Hour})
		passing(b, 250, p, func(c *call) {
			c.now = p.sys.now()
			v, _ := br.enter(c)
			c.verdict = failed
			br.report(c, v, c.now, errBoom)
		})
	})
}

// BenchmarkKeyedBreaker is a pipeline of a keyed breaker alone: keys that are there, one that is open, and keys that are
// new each time.
func BenchmarkKeyedBreaker(b *testing.B) {
	ctx := context.Background()
	for _, keys := range []int{1, 1000, 1_000_000} {
		b.Run(strconv.Itoa(keys)+" keys", func(b *testing.B) {
			p := pipelineOf(b, policy.Keyed{Each: policy.Breaker{}, Max: keys})
			metas := make([]*messages.Context, keys)
			for i := range metas {
				metas[i] = to("host-" + strconv.Itoa(i) + ".example.com")
				_, _ = Do0(ctx, p, metas[i], noop)
			}
			modes(b, 150, func() { _, _ = Do0(ctx, p, metas[rand.IntN(keys)], noop) })
		})
	}
	b.Run("open", func(b *testing.B) {
		p := pipelineOf(b, policy.Keyed{Each: policy.Breaker{Consecutive: 1, OpenFor: time.Hour}})
		_, _ = Do(ctx, p, to("k"), fails)
		k := to("k")
		modes(b, 200, func() { _, _ = Do0(ctx, p, k, noop) })
	})
	b.Run("failure awaited", func(b *testing.B) {
		p := pipelineOf(b, policy.Keyed{Each: policy.Breaker{FailureRate: 1, MinCalls: 1 << 40}})
		k := to("k")
		modes(b, 600, func() { _, _ = Do(ctx, p, k, fails) })
	})
	b.Run("new key", func(b *testing.B) {
		p := pipelineOf(b, policy.Keyed{Each: policy.Breaker{Window: 10 * time.Millisecond}, Max: 10_000})
		modes(b, 1000, func() { _, _ = Do0(ctx, p, to(strconv.FormatUint(rand.Uint64(), 36)), noop) })
	})
}

func BenchmarkBulkheadGate(b *testing.B) {
	p := pipelineOf(b, policy.Bulkhead{Permits: 1 << 16})
	bh := layerOf[*bulkhead](p)
	passing(b, 25, p, func(c *call) {
		if bh.try(c.lane) {
			bh.release(c.lane)
		}
	})
}

// BenchmarkRetryBudgetGate is the budget alone: a call is counted, and every tenth is followed by a retry.
func BenchmarkRetryBudgetGate(b *testing.B) {
	p := pipelineOf(b, policy.Retry{Budget: policy.RetryBudget{Ratio: 0.2, MinPerSecond: 1e6}})
	budget := layerOf[*retry](p).budget.current.Load()
	gate := func(retries bool) func(*call) {
		return func(c *call) {
			c.deposited = nil
			budget.deposit(c)
			if retries {
				budget.withdraw(c)
			}
		}
	}
	b.Run("call", func(b *testing.B) { passing(b, 15, p, gate(false)) })
	b.Run("call and retry", func(b *testing.B) { passing(b, 60, p, gate(true)) })
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

// through is the way of a success through a gatekeeper.
func through(g gatekeeper) func(*call) {
	return func(c *call) {
		if g.admit(c) == nil {
			c.unhold()
			c.verdict = succeeded
			g.done(c, &c.held[c.holds], nil)
		}
	}
}

// BenchmarkKeyedLimits is a pipeline of a limit for each key alone.
func BenchmarkKeyedLimits(b *testing.B) {
	ctx := context.Background()
	for _, each := range []policy.Config{policy.Bulkhead{Permits: 1 << 16}, policy.RateLimit{Limit: 1_000_000_000}} {
		for _, row := range []struct {
			name string
			keys int
			goal float64
		}{{"one key", 1, 100}, {"1000 keys", 1000, 120}, {"1000000 keys", 1_000_000, 400}} {
			b.Run(each.Kind()+", "+row.name, func(b *testing.B) {
				p := pipelineOf(b, policy.Keyed{Each: each, Max: 2_000_000})
				metas := make([]messages.Context, row.keys)
				for i := range metas {
					metas[i].Target = "host-" + strconv.Itoa(i)
					_, _ = Do0(ctx, p, &metas[i], noop)
				}
				modes(b, row.goal, func() { _, _ = Do0(ctx, p, &metas[rand.IntN(row.keys)], noop) })
			})
		}
		b.Run(each.Kind()+", new key", func(b *testing.B) {
			p := pipelineOf(b, policy.Keyed{Each: each, Max: 10_000, Idle: time.Second})
			var n atomic.Uint64
			modes(b, 1500, func() {
				_, _ = Do0(ctx, p, &messages.Context{Target: strconv.FormatUint(n.Add(1), 36)}, noop)
			})
		})
	}
	b.Run("refused", func(b *testing.B) {
		p := pipelineOf(b, policy.Keyed{Each: policy.RateLimit{Limit: 1, Per: time.Hour}})
		_, _ = Do0(ctx, p, nil, noop)
		modes(b, 200, func() { _, _ = Do0(ctx, p, nil, noop) })
	})
}

func BenchmarkThrottleGate(b *testing.B) {
	p := pipelineOf(b, policy.Throttle{})
	passing(b, 30, p, through(layerOf[*throttle](p)))
}

func BenchmarkShedGate(b *testing.B) {
	p := pipelineOf(b, policy.Shed{Limit: 1 << 20})
	passing(b, 25, p, through(layerOf[*shed](p)))
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
	passing(b, 50, p, through(layerOf[*adaptive](p)))
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

// BenchmarkBeside is the five-layer call without anything that stands beside layers, not even counting; with two guards and
// what is counted always; and with an attached hook as well.
func BenchmarkBeside(b *testing.B) {
	ctx := context.Background()
	allow := GuardFunc("allow", func(*messages.Context) messages.GuardResult { return messages.Allow() })
	guards := []Guard{KillSwitch(), allow}
	b.Run("bare", func(b *testing.B) {
		p := newPipeline(b, newSystem(b), Spec{Layers: fiveLayers(), Unstoppable: true})
		p.meter = nil
		modes(b, 0, func() { _, _ = Do0(ctx, p, nil, noop) })
	})
	b.Run("guards and metrics", func(b *testing.B) {
		p := newPipeline(b, newSystem(b), Spec{Layers: fiveLayers(), Guards: guards})
		modes(b, 0, func() { _, _ = Do0(ctx, p, nil, noop) })
	})
	b.Run("hook too", func(b *testing.B) {
		var n int
		p := newPipeline(b, newSystem(b), Spec{Layers: fiveLayers(), Guards: guards, Hooks: []Hook{{OnSuccess: func(Moment) { n++ }}}})
		modes(b, 0, func() { _, _ = Do0(ctx, p, nil, noop) })
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
	byTarget := alone("by-target", policy.Keyed{Each: policy.Breaker{OpenFor: time.Hour, Consecutive: 1}})
	_, _ = Do(ctx, byTarget, to("open"), fails)
	present, opened := to("present"), to("open")
	fresh, makes := 0, alone("makes", policy.Keyed{Each: policy.Breaker{}})
	remembers := alone("cache", policy.Cache{Key: byOrder, TTL: time.Hour, Collapse: true})
	once, done := alone("once", policy.Idempotency{Keep: time.Nanosecond}), alone("done", policy.Idempotency{})
	key := &messages.Context{IdempotencyKey: "17"}
	keyedRate, keyedBulkhead := alone("keyed-rate", policy.Keyed{Each: policy.RateLimit{Limit: 1_000_000_000}}), alone("keyed-bulkhead", policy.Keyed{Each: policy.Bulkhead{}})
	meta := &messages.Context{OrderID: "17", Tier: messages.Critical}
	require.NoError(t, p.sys.Kill(ctx, messages.KillState{Scope: "tenant=other", On: true}, messages.KillState{Scope: "type=other", On: true},
		messages.KillState{Scope: "pipeline=bypassed", On: true, Mode: messages.KillBypass}))
	bypassed, tenant := alone("bypassed", policy.Bulkhead{}), &messages.Context{Tenant: "acme"}
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
		{"bulkhead for each key", 0, func() { _, _ = Do0(ctx, keyedBulkhead, meta, noop) }},
		{"rate limit for each key", 0, func() { _, _ = Do0(ctx, keyedRate, meta, noop) }},
		{"while orders about others are on", 0, func() { _, _ = Do0(ctx, p, tenant, noop) }},
		{"bypassed", 0, func() { _, _ = Do0(ctx, bypassed, tenant, noop) }},
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
		{"keyed breaker, the key is there", 0, func() { _, _ = Do0(ctx, byTarget, present, noop) }},
		{"keyed breaker, open: the error", 1, func() { _, _ = Do0(ctx, byTarget, opened, noop) }},
		{"keyed breaker, a new key: the entry and its text, and here the context with its own", 4, func() {
			fresh++
			_, _ = Do0(ctx, makes, to(strconv.Itoa(1000+fresh)), noop)
		}},
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
