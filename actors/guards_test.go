package actors

import (
	"context"
	"fmt"
	"math"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func guardOf(name string, check func() messages.GuardResult) Guard {
	return GuardFunc(name, func(*messages.Context) messages.GuardResult { return check() })
}

func refusingGuard(name string) Guard {
	return guardOf(name, func() messages.GuardResult { return messages.Reject("no") })
}

func panicking(name string) Guard {
	return guardOf(name, func() messages.GuardResult { panic("guard") })
}

// refusalsOf asks the pipeline in every way there is, and returns who refused: nobody is "".
func refusalsOf(t *testing.T, p *Pipeline, meta *messages.Context) (by []string) {
	t.Helper()
	note := func(err error) {
		if err == nil {
			by = append(by, "")
			return
		}
		var refused *messages.RejectedError
		require.ErrorAs(t, err, &refused)
		by = append(by, refused.By+" "+refused.Reason)
	}
	_, err := Do(t.Context(), p, meta, succeeds)
	note(err)
	_, err = Go(t.Context(), p, meta, succeeds).Await(t.Context())
	note(err)
	permit, err := Acquire(t.Context(), p, meta)
	permit.Done(err)
	note(err)
	m := &messages.Execute{Func: func(context.Context) (any, error) { return 7, nil }}
	if meta != nil {
		m.Context = *meta
	}
	answer, err := p.sys.root.RequestFuture(p.pid, m, 5*time.Second).Result()
	require.NoError(t, err)
	note(answer.(*messages.Result).Err)
	return by
}

func all(s string) []string { return []string{s, s, s, s} }

func TestGuardFailsOpenOrClosed(t *testing.T) {
	for _, row := range []struct {
		name  string
		guard Guard
		want  string
	}{
		{"open by default", panicking("g"), ""},
		{"closed", FailClosed(panicking("g")), "g guard_failed"},
		{"the outer one counts", FailOpen(FailClosed(panicking("g"))), ""},
		{"and the other way round", FailClosed(FailOpen(panicking("g"))), "g guard_failed"},
		{"observed", Observed(FailClosed(panicking("g"))), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			sys := newSystem(t)
			events := sys.Events().Subscribe(64, func(e messages.Event) bool { return e.Kind == messages.GuardFailed })
			p := newPipeline(t, sys, Spec{Guards: []Guard{row.guard}})
			require.Equal(t, all(row.want), refusalsOf(t, p, nil))
			s := p.Guards()[0]
			require.EqualValues(t, 4, s.Errors)
			require.EqualValues(t, 4, sys.GuardErrors())
			if row.want != "" {
				require.Equal(t, map[string]uint64{"guard_failed": 4}, s.Reasons)
				require.EqualValues(t, 4, s.Denials)
				_, err := Do(t.Context(), p, nil, succeeds)
				require.ErrorIs(t, err, messages.ErrGuard)
			} else {
				require.Zero(t, s.Denials)
			}
			require.Len(t, events.C(), 1, "once a second")
			e := <-events.C()
			require.Equal(t, "g", e.Source)
			require.Equal(t, "guard", e.Reason)
		})
	}
}

func TestGuardThatLeavesIsCounted(t *testing.T) {
	sys := newSystem(t)
	p := newPipeline(t, sys, Spec{Guards: []Guard{FailClosed(guardOf("leaves", func() messages.GuardResult { goruntime.Goexit(); return messages.Allow() }))}})
	_, err := Go(t.Context(), p, nil, succeeds).Await(t.Context())
	require.ErrorIs(t, err, messages.ErrGoexit)
	require.EqualValues(t, 1, p.Guards()[0].Errors)
	require.Zero(t, p.inFlight())
}

func TestGuardWhoseActorIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, closed := range []bool{false, true} {
			sys := newSystem(t)
			var pid *PID
			guard := ActorGuard("sentry", func(publish func(messages.GuardResult)) actor.Actor {
				return actor.ReceiveFunc(func(c actor.Context) {
					switch m := c.Message().(type) {
					case *actor.Started:
						pid = c.Self()
					case messages.GuardResult:
						publish(m)
					}
				})
			})
			gone, early := all(""), all("")
			if closed {
				guard = FailClosed(guard)
				gone, early = all("sentry guard_failed"), all("sentry guard_failed")
			}
			p := newPipeline(t, sys, Spec{Guards: []Guard{guard}})
			synctest.Wait()
			require.Equal(t, early, refusalsOf(t, p, nil), "before the first verdict")
			before := p.Guards()[0].Errors
			require.Equal(t, closed, before > 0)
			sys.root.Send(pid, messages.Allow())
			synctest.Wait()
			require.Equal(t, all(""), refusalsOf(t, p, nil))
			require.Equal(t, before, p.Guards()[0].Errors)
			sys.root.Stop(pid)
			synctest.Wait()
			require.Equal(t, gone, refusalsOf(t, p, nil))
			require.Equal(t, before+4, p.Guards()[0].Errors)
		}
	})
}

func TestGuardsAreNumberedAndCountedApart(t *testing.T) {
	turn := 0
	second := guardOf("quota", func() messages.GuardResult { turn++; return messages.Reject(fmt.Sprint(turn % 2)) })
	p := newPipeline(t, newSystem(t), Spec{Guards: []Guard{allowing(), allowing(), Observed(refusingGuard("quota")), second}})
	for range 10 {
		_, err := Do(t.Context(), p, nil, succeeds)
		require.ErrorContains(t, err, "quota-2")
	}
	require.Equal(t, []GuardStats{
		{Name: "door", Reasons: map[string]uint64{}},
		{Name: "door-2", Reasons: map[string]uint64{}},
		{Name: "quota", Observed: true, WouldDeny: 10, Reasons: map[string]uint64{"no": 10}},
		{Name: "quota-2", Denials: 10, Reasons: map[string]uint64{"0": 5, "1": 5}},
	}, p.Guards())
	require.Equal(t, []string{"kill_switch", "door", "door-2", "quota, only observes", "quota-2"}, p.Explain().Guards)
}

func TestGuardReasonsAreBounded(t *testing.T) {
	var mu sync.Mutex
	n := 0
	p := newPipeline(t, newSystem(t), Spec{Guards: []Guard{guardOf("chatty", func() messages.GuardResult {
		mu.Lock()
		defer mu.Unlock()
		n++
		return messages.Reject(strings.Repeat("x", 100)[:min(n, 100)])
	})}})
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for range 50 {
				_, _ = Do(context.Background(), p, nil, succeeds)
			}
		})
	}
	workers.Wait()
	s := p.Guards()[0]
	require.EqualValues(t, 400, s.Denials)
	require.Len(t, s.Reasons, 17)
	sum := uint64(0)
	for reason, n := range s.Reasons {
		require.LessOrEqual(t, len(reason), 64)
		sum += n
	}
	require.EqualValues(t, 400, sum)
}

func TestGuardThatObservesRefusesNothing(t *testing.T) {
	sys := newSystem(t)
	events := sys.Events().Subscribe(64, func(e messages.Event) bool { return e.Kind == messages.PolicyObserved })
	p := newPipeline(t, sys, Spec{Guards: []Guard{Observed(refusingGuard("quota"))}})
	require.Equal(t, all(""), refusalsOf(t, p, nil))
	r := Try(t.Context(), p, nil, succeeds)
	require.Equal(t, []string{"quota"}, r.Observed())
	require.Equal(t, "would have refused: no", (<-events.C()).Reason)

	acting, err := sys.Pipeline("acting", Spec{Guards: []Guard{refusingGuard("quota")}})
	require.NoError(t, err)
	c := &poolOf[int](acting).take(t.Context(), nil).call
	c.observeGuards = true
	require.NoError(t, c.enter(), "a call whose guards all look on")
	c.reset()
	require.False(t, c.observeGuards)
	require.EqualValues(t, 1, acting.Guards()[0].WouldDeny)
}

func TestGovernance(t *testing.T) {
	no := func(name string, after time.Duration) Guard {
		return guardOf(name, func() messages.GuardResult {
			return messages.GuardResult{Reason: name + "-says-no", RetryAfter: after, Metadata: map[string]any{"left": 0}}
		})
	}
	for _, row := range []struct {
		name  string
		guard Guard
		want  string
	}{
		{"all allow", Governance("gov", allowing(), allowing()), ""},
		{"the first refusal is the verdict", Governance("gov", allowing(), no("a", 0), no("b", 0)), "gov a-says-no"},
		{"one of them is enough", AnyOf("gov", no("a", 0), allowing()), ""},
		{"none allows", AnyOf("gov", no("a", time.Minute), no("b", time.Second)), "gov a-says-no"},
		{"nested", Governance("gov", AnyOf("in", no("a", 0), allowing()), Governance("in", no("b", 0))), "gov b-says-no"},
		{"a check that looks on", Governance("gov", Observed(no("a", 0)), no("b", 0)), "gov b-says-no"},
		{"it allows nothing either", AnyOf("gov", Observed(allowing()), no("b", 0)), "gov b-says-no"},
		{"advice", Observed(Governance("gov", no("a", 0))), ""},
		{"a check breaks", Governance("gov", panicking("a"), no("b", 0)), "gov b-says-no"},
		{"a check that fails closed breaks", Governance("gov", FailClosed(panicking("a"))), "gov guard_failed"},
		{"as around", FailClosed(Governance("gov", panicking("a"))), "gov guard_failed"},
		{"its own mode first", FailClosed(Governance("gov", FailOpen(panicking("a")))), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newPipeline(t, newSystem(t), Spec{Guards: []Guard{row.guard}})
			require.Equal(t, all(row.want), refusalsOf(t, p, nil))
			s := p.Guards()[0]
			if row.want != "" {
				require.EqualValues(t, 4, s.Denials)
			} else if s.Observed {
				require.EqualValues(t, 4, s.WouldDeny)
			}
		})
	}
	p := newPipeline(t, newSystem(t), Spec{Guards: []Guard{AnyOf("gov", no("a", time.Minute), no("a", time.Second))}})
	_, err := Do(t.Context(), p, nil, succeeds)
	require.Equal(t, &messages.RejectedError{
		By: "gov", Reason: "a-says-no", RetryAfter: time.Second, Metadata: map[string]any{"check": "a", "left": 0}, Cause: messages.ErrGuard,
	}, err)
	require.Equal(t, "gov/a-2", p.Guards()[2].Name)
	require.Equal(t, "gov: any of (a; a-2)", p.Explain().Guards[1])
}

func TestGuardsAreRefusedWhenThePipelineIsBuilt(t *testing.T) {
	sys := newSystem(t)
	_, err := sys.Pipeline("p", Spec{Guards: []Guard{
		GuardFunc("none", nil), FailClosed(nil), FailClosed(KillSwitch()), guardOf("No Token", nil), Governance("gov"),
		Governance("gov", KillSwitch(), GuardFunc("none", nil)), RetryBudget("a"), RetryBudget("b"), (*guardFunc)(nil),
		Backpressure(BackpressureConfig{Marks: policy.Pressure{Standard: 0.2, NonEssential: 0.9}, Interval: time.Hour}),
	}})
	for _, part := range []string{
		"guards[0]", "guards[1]", "guards[2] is", "No Token", "guards[4]", "guards[5].checks[0]", "guards[5].checks[1]", "guards[7]", "guards[8]",
		"pressure.NonEssential", "guards[9].Interval",
	} {
		require.ErrorContains(t, err, part)
	}
	_, err = sys.Pipeline("p", Spec{Guards: make([]Guard, 33)})
	require.ErrorContains(t, err, "at most 32")
}

func TestRetryBudgetGuard(t *testing.T) {
	sys := newSystem(t)
	require.NoError(t, sys.ConfigureRetryBudget(policy.RetryBudget{Name: "psp", Ratio: 0.5, MinPerSecond: 1e-3, Window: time.Hour})) // a floor of 3.6
	p := newPipeline(t, sys, Spec{
		Guards: []Guard{RetryBudget("psp")},
		Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}},
	})
	again := &messages.Context{Retry: true}
	_, err := Do(t.Context(), p, again, succeeds)
	require.NoError(t, err)
	s := sys.RetryBudgets()
	require.Len(t, s, 1)
	require.Zero(t, s[0].Calls, "it is a retry, and no call")
	require.EqualValues(t, 1, s[0].Retries)
	require.InDelta(t, 2.6, s[0].Available, 1e-6)

	require.Equal(t, 2, Try(t.Context(), p, nil, fails).Attempts, "the layer draws on the same budget")
	s = sys.RetryBudgets()
	require.EqualValues(t, 1, s[0].Calls, "counted once, by the guard or the layer")
	require.EqualValues(t, 2, s[0].Retries)
	for range 2 { // 2.1 are left
		_, err = Do(t.Context(), p, again, succeeds)
		require.NoError(t, err)
	}
	require.Equal(t, all("retry_budget exhausted"), refusalsOf(t, p, again))
	_, err = Do(t.Context(), p, again, succeeds)
	require.ErrorIs(t, err, messages.ErrRetryBudget)
	require.Equal(t, all(""), refusalsOf(t, p, &messages.Context{OrderID: "1"}), "first calls pass")
	require.NoError(t, p.Configure("retry", policy.Retry{Attempts: 3, Backoff: policy.Constant(0)}))
	require.Equal(t, "psp", layerOf[*retry](p).inForce().(policy.Retry).Budget.Name, "new settings draw on it too")
	require.Contains(t, p.Explain().Guards, "retry_budget: budget psp")
}

func TestRetryBudgetGuardWithoutAName(t *testing.T) {
	sys := newSystem(t)
	newPipeline(t, sys, Spec{Guards: []Guard{RetryBudget("")}})
	require.Equal(t, policy.RetryBudget{Name: "default"}.Declared(), sys.RetryBudgets()[0].Settings)

	p, err := sys.Pipeline("looks-on", Spec{Guards: []Guard{Observed(RetryBudget("a"))}, Layers: []policy.Config{policy.Retry{}}})
	require.NoError(t, err)
	require.Nil(t, layerOf[*retry](p).budget.current.Load())
}

func TestNamedRetryBudgetChangesWhileTheSystemLives(t *testing.T) {
	sys := newSystem(t)
	first := policy.RetryBudget{Name: "psp", Ratio: 1, MinPerSecond: 1e-3, Window: time.Hour}
	p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0), Budget: first}}})
	for range 10 {
		require.Equal(t, 2, Try(t.Context(), p, nil, fails).Attempts)
	}
	second := first
	second.Ratio = 0.1
	require.NoError(t, sys.ConfigureRetryBudget(second))
	require.Equal(t, 1, Try(t.Context(), p, nil, fails).Attempts, "the retries of the window still count")
	require.Equal(t, second, layerOf[*retry](p).inForce().(policy.Retry).Budget)
	require.Zero(t, sys.RetryBudgets()[0].Available)
	with := func(b policy.RetryBudget) error {
		return p.Configure("retry", policy.Retry{Attempts: 2, Budget: b})
	}
	require.NoError(t, with(second))
	require.ErrorIs(t, with(first), messages.ErrInvalid, "what was declared before is not what it is now")
	require.ErrorIs(t, sys.ConfigureRetryBudget(policy.RetryBudget{Ratio: -1}), messages.ErrInvalid)
}

func TestBackpressureByTier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		g := Backpressure(BackpressureConfig{Reported: true, Marks: policy.Pressure{Limit: 100, Stale: time.Minute}})
		events := sys.Events().Subscribe(64, func(e messages.Event) bool { return e.Kind == messages.PressureChanged })
		g.Report(60)
		p := newPipeline(t, sys, Spec{Guards: []Guard{g}})
		tier := func(tier messages.Tier) []string { return refusalsOf(t, p, &messages.Context{Tier: tier}) }
		require.Equal(t, all("backpressure non_essential"), tier(messages.NonEssential), "what was reported before counts")
		require.Equal(t, all(""), refusalsOf(t, p, nil))
		g.Report(80)
		require.Equal(t, all("backpressure standard"), refusalsOf(t, p, nil))
		require.Equal(t, all(""), tier(messages.Critical))
		g.Report(100)
		require.Equal(t, all("backpressure critical"), tier(messages.Critical))
		time.Sleep(time.Second)
		g.Report(70)
		require.Equal(t, all(""), tier(messages.Critical))
		var refused *messages.RejectedError
		_, err := Do(t.Context(), p, nil, succeeds)
		require.ErrorAs(t, err, &refused, "it must fall below 64")
		require.ErrorIs(t, err, messages.ErrShed)
		require.Equal(t, 800*time.Millisecond, refused.RetryAfter.Round(time.Millisecond), "6 too many, at 7.5 a second")
		g.Report(63)
		require.Equal(t, all(""), refusalsOf(t, p, nil))
		g.Report(math.NaN())
		require.EqualValues(t, 63, g.Snapshot().Value)
		require.Equal(t, []string{"non_essential"}, (<-events.C()).Data.(messages.PressureState).Refused)
		require.Equal(t, []string{"non_essential", "standard"}, (<-events.C()).Data.(messages.PressureState).Refused)
	})
}

func TestBackpressureByAGauge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, closed := range []bool{false, true} {
			sys := newSystem(t)
			var mu sync.Mutex
			read := func() float64 { return 1 }
			measure := func(f func() float64) {
				mu.Lock()
				read = f
				mu.Unlock()
				time.Sleep(150 * time.Millisecond)
			}
			var guard Guard = Backpressure(BackpressureConfig{Gauge: func() float64 {
				mu.Lock()
				f := read
				mu.Unlock()
				return f()
			}})
			broken := all("")
			if closed {
				guard, broken = FailClosed(guard), all("backpressure guard_failed")
			}
			p := newPipeline(t, sys, Spec{Guards: []Guard{guard}})
			synctest.Wait()
			require.Equal(t, all("backpressure standard"), refusalsOf(t, p, nil))
			measure(func() float64 { return 0 })
			require.Equal(t, all(""), refusalsOf(t, p, nil))
			measure(func() float64 { panic("gauge") })
			require.Equal(t, all(""), refusalsOf(t, p, nil), "the last reading is believed")
			time.Sleep(3 * time.Second)
			require.Equal(t, broken, refusalsOf(t, p, nil), "and then no more")
			require.EqualValues(t, 4, p.Guards()[0].Errors)
			measure(func() float64 { goruntime.Goexit(); return 0 })
			measure(func() float64 { return 0 })
			require.Equal(t, all(""), refusalsOf(t, p, nil), "it is back")
			hang := make(chan struct{})
			measure(func() float64 { <-hang; return 0 })
			time.Sleep(3 * time.Second)
			require.Equal(t, broken, refusalsOf(t, p, nil))
			close(hang)
		}
	})
}

func TestBackpressureByTheQueuesOfAllPipelines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		g := Backpressure(BackpressureConfig{})
		p := newPipeline(t, sys, Spec{Guards: []Guard{g}, Intake: 10})
		q, err := sys.Pipeline("q", Spec{Guards: []Guard{g}, Layers: []policy.Config{policy.Bulkhead{Permits: 1, Queue: 4, MaxWait: time.Hour}}})
		require.NoError(t, err)
		require.Equal(t, 8, p.Reserve(8))
		time.Sleep(200 * time.Millisecond)
		_, err = Do(t.Context(), q, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrShed, "the intake of the other one")
		p.Release(8)
		time.Sleep(200 * time.Millisecond)
		free := make(chan struct{})
		var calls sync.WaitGroup
		for range 5 {
			calls.Go(func() {
				_, _ = Do(t.Context(), q, nil, func(context.Context) (int, error) { <-free; return 1, nil })
			})
		}
		time.Sleep(200 * time.Millisecond)
		require.EqualValues(t, 1, g.Snapshot().Value)
		close(free)
		calls.Wait()
		require.NoError(t, p.Close(t.Context()))
		require.NotNil(t, g.host.Load(), "the other one has it")
		require.NoError(t, q.Close(t.Context()))
		require.Nil(t, g.host.Load())
		other := newSystem(t)
		newPipeline(t, other, Spec{Guards: []Guard{g}})
		_, err = sys.Pipeline("again", Spec{Guards: []Guard{g}})
		require.ErrorIs(t, err, messages.ErrInvalid, "another system has it")
	})
}

func TestGuardsAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own pools allocate")
	}
	p := newPipeline(t, newSystem(t), Spec{Guards: []Guard{
		FailClosed(allowing()), Governance("gov", allowing(), AnyOf("any", allowing())), RetryBudget(""), Backpressure(BackpressureConfig{}),
	}})
	for range 100 {
		_, _ = Do0(t.Context(), p, nil, noop)
	}
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(2000, func() { _, _ = Do0(ctx, p, nil, noop) }))
}
