package actors

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// quick is a budget that a few calls are enough for.
func quick(action policy.BudgetAction) policy.ErrorBudget {
	return policy.ErrorBudget{
		Name: "checkout", Objective: 0.9, MinEvents: 10, Exhausted: policy.BudgetAction{TellOnly: true},
		Burn: []policy.BurnRule{{Rate: 2, Long: 10 * time.Minute, Short: time.Minute, Action: action}},
	}
}

func budgeted(t testing.TB, sys *System, cfg policy.ErrorBudget, layers ...policy.Config) *Pipeline {
	t.Helper()
	require.NoError(t, sys.DeclareErrorBudget(cfg))
	return newPipeline(t, sys, Spec{Guards: []Guard{ErrorBudget(cfg.Name)}, Layers: layers})
}

func counted(t testing.TB, sys *System) [2]uint64 {
	t.Helper()
	st, ok := sys.ErrorBudgetStatus("checkout")
	require.True(t, ok)
	return [2]uint64{st.Series[0].Good, st.Series[0].Bad}
}

func as(tier messages.Tier) *messages.Context { return &messages.Context{Tier: tier} }

func calls(t testing.TB, p *Pipeline, n int, meta *messages.Context, fn func(context.Context) (int, error)) {
	t.Helper()
	for range n {
		_, _ = Do(t.Context(), p, meta, fn)
	}
}

// Each tier is refused from its level on, and all come back when the short window is clean.
func TestErrorBudgetGateShedsByTier(t *testing.T) {
	tiers := []*messages.Context{as(messages.Critical), as(messages.Standard), nil, as("unheard-of"), as(messages.NonEssential)}
	for refuse, passes := range map[messages.Tier]int{"": 5, messages.NonEssential: 4, messages.Standard: 1, messages.Critical: 0} {
		synctest.Test(t, func(t *testing.T) {
			sys := bare(t)
			p := budgeted(t, sys, quick(policy.BudgetAction{Refuse: refuse}))
			calls(t, p, 20, nil, fails)
			time.Sleep(1100 * time.Millisecond)
			got := 0
			for _, meta := range tiers {
				r := Try(t.Context(), p, meta, succeeds)
				if r.Success() {
					got++
					continue
				}
				require.Equal(t, messages.Rejected, r.Outcome)
				require.ErrorIs(t, r.Err, messages.ErrErrorBudget)
				e := new(messages.RejectedError)
				require.ErrorAs(t, r.Err, &e)
				require.Equal(t, "error_budget", e.By)
				require.Equal(t, "burn_2", e.Reason)
				require.Equal(t, "checkout", e.Metadata["budget"])
				require.Equal(t, "all", e.Metadata["series"])
				require.Equal(t, "10m0s", e.Metadata["window"])
				require.Greater(t, e.Metadata["burn"], 2.0)
				require.Contains(t, e.Metadata, "remaining")
				require.InDelta(t, time.Minute, e.RetryAfter, float64(3*time.Second))
			}
			require.Equal(t, passes, got, "%q", refuse)
			time.Sleep(65 * time.Second)
			for _, meta := range tiers {
				require.True(t, Try(t.Context(), p, meta, succeeds).Success())
			}
			require.NoError(t, sys.Close(t.Context()))
		})
	}
}

// A burst of failures takes effect with the next sweep, and a budget that nobody uses has no timer.
func TestErrorBudgetTakesEffectWithinASweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		p := budgeted(t, sys, quick(policy.BudgetAction{Refuse: messages.Critical}))
		b := sys.errorBudgets.find("checkout")
		require.True(t, b.asleep.Load())
		calls(t, p, 20, nil, fails)
		require.False(t, b.asleep.Load())
		require.True(t, Try(t.Context(), p, nil, succeeds).Success(), "not yet")
		time.Sleep(time.Second + time.Millisecond)
		require.True(t, Try(t.Context(), p, nil, succeeds).Rejected())
		time.Sleep(time.Hour)
		require.True(t, b.asleep.Load())
		require.True(t, Try(t.Context(), p, nil, succeeds).Success())
		at := b.view.Load().At
		time.Sleep(24 * time.Hour)
		require.Less(t, b.view.Load().At.Sub(at), 5*time.Second)
		require.NoError(t, sys.Close(t.Context()))
	})
}

// A call that counts just as the budget falls asleep is seen by the one or the other.
func TestCallWasCountedWhileTheErrorBudgetFellAsleep(t *testing.T) {
	sys := newSystem(t)
	require.NoError(t, sys.DeclareErrorBudget(quick(policy.BudgetAction{})))
	b := sys.errorBudgets.find("checkout")
	core := policy.NewErrorBudget(b.first, nil, &policy.BudgetEvidence{}, b.fact(1))
	require.False(t, b.sleep(core))
	b.all.add(0, false) // after the reading, before the flag
	require.True(t, b.sleep(core))
	require.False(t, b.asleep.Load())
}

// However a call ends, it counts once.
func TestErrorBudgetCountsEachCallOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		cfg := quick(policy.BudgetAction{})
		p := budgeted(t, sys, cfg)
		full := func(name string, layers ...policy.Config) *Pipeline {
			p, err := sys.Pipeline(name, Spec{Guards: []Guard{ErrorBudget("checkout")}, Layers: layers, Intake: 1})
			require.NoError(t, err)
			return p
		}
		refuses, err := sys.Pipeline("guarded", Spec{Guards: []Guard{ErrorBudget("checkout"), GuardFunc("no", func(*messages.Context) messages.GuardResult { return messages.Reject("no") })}})
		require.NoError(t, err)
		answers, limited := full("answers", policy.FallbackValue(1)), full("limited", policy.Timeout{Limit: time.Second})
		retried := full("retried", policy.Retry{Attempts: 3, Backoff: policy.Constant(0)})
		hedged := full("hedged", policy.Hedge{Idempotent: true, Delay: time.Second})
		open := full("open", policy.Breaker{Consecutive: 1, OpenFor: time.Hour})
		crowded := full("crowded")
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		slow := func(context.Context) (int, error) { time.Sleep(10 * time.Second); return 1, nil }
		await := func(f Future[int]) { _, _ = f.Await(t.Context()) }
		for _, row := range []struct {
			name      string
			good, bad uint64
			run       func()
		}{
			{"success", 1, 0, func() { calls(t, p, 1, nil, succeeds) }},
			{"failure", 0, 1, func() { calls(t, p, 1, nil, fails) }},
			{"panic", 0, 1, func() { calls(t, p, 1, nil, func(context.Context) (int, error) { panic(1) }) }},
			{"nil function", 0, 1, func() { calls(t, p, 1, nil, nil) }},
			{"goexit", 0, 1, func() {
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = Do(context.Background(), p, nil, func(context.Context) (int, error) { goruntime.Goexit(); return 0, nil })
				}()
				<-done
			}},
			{"canceled", 0, 0, func() { _, _ = Do(gone, p, nil, succeeds) }},
			{"fallback", 1, 0, func() { calls(t, answers, 1, nil, fails) }},
			{"timeout", 0, 1, func() { calls(t, limited, 1, nil, slow) }},
			{"asynchronous", 1, 0, func() { await(Go(t.Context(), p, nil, succeeds)) }},
			{"answered at the limit", 0, 1, func() { await(Go(t.Context(), limited, nil, slow)); time.Sleep(time.Minute) }},
			{"retries", 0, 1, func() { calls(t, retried, 1, nil, fails) }},
			{"hedge", 1, 0, func() { calls(t, hedged, 1, nil, slow); time.Sleep(time.Minute) }},
			{"refused by a later guard", 0, 1, func() { calls(t, refuses, 1, nil, succeeds) }},
			{"refused by a layer", 0, 2, func() { calls(t, open, 2, nil, fails) }},
			{"full intake", 1, 1, func() {
				f := Go(t.Context(), crowded, nil, slow)
				await(Go(t.Context(), crowded, nil, succeeds))
				await(f)
			}},
			{"permit", 1, 1, func() {
				for _, err := range []error{nil, errBoom} {
					permit, e := Acquire(t.Context(), p, nil)
					require.NoError(t, e)
					permit.Done(err)
					permit.Done(err)
				}
			}},
			{"permit that was refused", 0, 1, func() { _, err := Acquire(t.Context(), open, nil); require.Error(t, err) }},
			{"task", 1, 0, func() {
				done := make(chan struct{})
				RunTask(t.Context(), p, &messages.Task{Type: "x"}, func(context.Context) (any, error) { return 1, nil }, func(Result[any]) {}, func() { close(done) })
				<-done
			}},
			{"killed", 0, 0, func() {
				require.NoError(t, sys.Kill(t.Context(), messages.KillState{Scope: messages.Global, On: true, Reason: "x", By: "x"}))
				calls(t, p, 1, nil, succeeds)
				require.NoError(t, sys.Kill(t.Context(), messages.KillState{Scope: messages.Global, Reason: "x", By: "x"}))
			}},
		} {
			before := counted(t, sys)
			row.run()
			after := counted(t, sys)
			require.Equal(t, [2]uint64{row.good, row.bad}, [2]uint64{after[0] - before[0], after[1] - before[1]}, row.name)
		}
		require.NoError(t, sys.Close(t.Context()))
	})
}

// What a budget refuses must not keep it burning, nor set another one on fire.
func TestShedCallsKeptTheBudgetBurning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		require.NoError(t, sys.DeclareErrorBudget(quick(policy.BudgetAction{Refuse: messages.Critical})))
		other := quick(policy.BudgetAction{Refuse: messages.Critical})
		other.Name = "other"
		require.NoError(t, sys.DeclareErrorBudget(other))
		p, err := sys.Pipeline("a", Spec{Guards: []Guard{ErrorBudget("checkout")}})
		require.NoError(t, err)
		both := newPipeline(t, sys, Spec{Guards: []Guard{ErrorBudget("checkout"), ErrorBudget("other")}})
		calls(t, p, 20, nil, fails)
		time.Sleep(2 * time.Second)
		for range 70 {
			calls(t, both, 10, nil, succeeds)
			time.Sleep(time.Second)
		}
		require.True(t, Try(t.Context(), both, nil, succeeds).Success())
		st, _ := sys.ErrorBudgetStatus("other")
		require.Zero(t, st.Series[0].Bad)
		require.NoError(t, sys.Close(t.Context()))
	})
}

func TestErrorBudgetStopsRetriesAndHedges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		events := sys.Events().Subscribe(64, func(e messages.Event) bool { return e.Kind == messages.RetrySuppressed })
		p := budgeted(t, sys, quick(policy.BudgetAction{StopRetries: true}), policy.Retry{Attempts: 3, Backoff: policy.Constant(0)})
		hedged, err := sys.Pipeline("hedged", Spec{Guards: []Guard{ErrorBudget("checkout")}, Layers: []policy.Config{policy.Hedge{Idempotent: true, Delay: time.Second}}})
		require.NoError(t, err)
		require.Equal(t, 3, Try(t.Context(), p, nil, fails).Attempts)
		calls(t, p, 20, nil, fails)
		time.Sleep(2 * time.Second)
		r := Try(t.Context(), p, nil, fails)
		require.Equal(t, 1, r.Attempts)
		require.Equal(t, messages.Failure, r.Outcome)
		require.ErrorIs(t, r.Err, errBoom, "it is the last real error")
		require.ErrorIs(t, r.Err, messages.ErrErrorBudget)
		require.NotErrorIs(t, r.Err, messages.ErrRetryBudget)
		require.NotErrorIs(t, r.Err, messages.ErrRejected)
		var ran atomic.Int32
		slow := func(context.Context) (int, error) { ran.Add(1); time.Sleep(5 * time.Second); return 1, nil }
		calls(t, hedged, 1, nil, slow)
		require.EqualValues(t, 1, ran.Load())
		e := <-events.C()
		require.Equal(t, "checkout", e.Data.(messages.RetriesSuppressed).Budget)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 3, Try(t.Context(), p, nil, fails).Attempts)
		ran.Store(0)
		calls(t, hedged, 1, nil, slow)
		require.Greater(t, ran.Load(), int32(1))
		require.NoError(t, sys.Close(t.Context()))
	})
}

// Latency was judged as if more of it were better.
func TestLatencyWasJudgedHigherIsBetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		cfg := quick(policy.BudgetAction{})
		cfg.Latency = time.Second
		p := budgeted(t, sys, cfg)
		takes := func(d time.Duration) func(context.Context) (int, error) {
			return func(context.Context) (int, error) { time.Sleep(d); return 1, nil }
		}
		calls(t, p, 3, nil, takes(time.Second))
		calls(t, p, 2, nil, takes(time.Second+1))
		calls(t, p, 1, nil, fails)
		require.Equal(t, [2]uint64{3, 3}, counted(t, sys))
		require.NoError(t, sys.Close(t.Context()))
	})
}

func TestErrorBudgetKeepsSeriesApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		cfg := quick(policy.BudgetAction{Refuse: messages.Critical})
		cfg.By, cfg.MaxSeries = []policy.Dimension{policy.ByTier, policy.ByRegion, policy.ByDomain}, 3
		events := sys.Events().Subscribe(64, nil)
		p := budgeted(t, sys, cfg)
		of := func(tier messages.Tier, region, domain string) *messages.Context {
			return &messages.Context{Tier: tier, Region: region, Domain: domain}
		}
		bad, good := of(messages.Critical, "eu", "pay"), of(messages.Critical, "us", "pay")
		calls(t, p, 20, bad, fails)
		calls(t, p, 100, good, succeeds)
		time.Sleep(2 * time.Second)
		require.True(t, Try(t.Context(), p, bad, succeeds).Rejected())
		require.True(t, Try(t.Context(), p, of("", "eu", "pay"), succeeds).Success(), "another tier: another series")
		require.True(t, Try(t.Context(), p, good, succeeds).Success())
		require.True(t, Try(t.Context(), p, nil, succeeds).Success(), "without a context all calls decide: 20 of 121 are bad, a rate of 1.7")
		for i := range 20 { // no place for these: they share one
			calls(t, p, 1, of("", fmt.Sprint(i), ""), fails)
		}
		calls(t, p, 1, of("", strings.Repeat("x", 1000), ""), fails)
		time.Sleep(2 * time.Second)
		require.True(t, Try(t.Context(), p, of("", "new", ""), succeeds).Rejected())
		require.True(t, Try(t.Context(), p, nil, succeeds).Rejected(), "and now all calls together burn")
		st, _ := sys.ErrorBudgetStatus("checkout")
		require.Len(t, st.Series, 5, "all, other, and three")
		require.Equal(t, "all", st.Series[0].Series.String())
		require.Equal(t, "other", st.Series[1].Series.String())
		require.EqualValues(t, 21, st.Series[1].Bad)
		require.Equal(t, "tier=critical,region=eu,domain=pay", st.Series[2].Series.String())
		require.NotZero(t, st.Overflowed)
		overflow, levels := false, map[any]bool{}
		for len(events.C()) > 0 {
			e := <-events.C()
			overflow = overflow || e.Kind == messages.KeyedOverflow
			if e.Kind == messages.ErrorBudgetLevel {
				data := e.Data.(messages.BudgetChange)
				levels[data.Series] = true
				require.Equal(t, "checkout", e.Source)
				require.Equal(t, "none", data.From)
				require.Equal(t, "burn_2", data.To)
			}
		}
		require.True(t, overflow)
		require.Equal(t, map[any]bool{"all": true, "other": true, "tier=critical,region=eu,domain=pay": true}, levels)
		require.NoError(t, sys.Close(t.Context()))
	})
}

func TestErrorBudgetTellsItsLevelsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		cfg := quick(policy.BudgetAction{})
		cfg.Window, cfg.Exhausted = 20*time.Minute, policy.BudgetAction{Refuse: messages.NonEssential}
		events := sys.Events().Subscribe(64, func(e messages.Event) bool { return strings.HasPrefix(string(e.Kind), "errorbudget.") })
		p := budgeted(t, sys, cfg)
		for range 20 * 60 {
			calls(t, p, 2, nil, succeeds)
			time.Sleep(time.Second)
		}
		calls(t, p, 400, nil, fails)
		time.Sleep(2 * time.Second)
		require.Equal(t, "burn_2", must(sys.ErrorBudgetStatus("checkout")).Series[0].Level)
		for range 30 * 60 {
			calls(t, p, 2, nil, succeeds)
			time.Sleep(time.Second)
		}
		var kinds []string
		for len(events.C()) > 0 {
			e := <-events.C()
			kinds = append(kinds, fmt.Sprint(e.Kind, " ", e.Data.(messages.BudgetChange).From, " ", e.Data.(messages.BudgetChange).To))
		}
		require.Equal(t, []string{
			"errorbudget.level none burn_2", "errorbudget.exhausted  ", "errorbudget.level burn_2 exhausted", "errorbudget.level exhausted none", "errorbudget.recovered  ",
		}, kinds)
		require.NoError(t, sys.Close(t.Context()))
	})
}

func must[T any](v T, ok bool) T {
	if !ok {
		panic("not found")
	}
	return v
}

func TestErrorBudgetIsDeclaredBeforeItIsNamed(t *testing.T) {
	sys := newSystem(t)
	_, err := sys.Pipeline("p", Spec{Guards: []Guard{ErrorBudget("checkout")}})
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.ErrorContains(t, err, `guards[0] is "checkout": want an error budget that was declared before`)
	require.Error(t, sys.DeclareErrorBudget(policy.ErrorBudget{Name: "checkout", Objective: 99.9}))
	cfg := quick(policy.BudgetAction{})
	require.NoError(t, sys.DeclareErrorBudget(cfg))
	require.NoError(t, sys.DeclareErrorBudget(cfg), "the same settings")
	other := cfg
	other.Objective = 0.5
	require.ErrorIs(t, sys.DeclareErrorBudget(other), messages.ErrInvalid)
	_, err = sys.Pipeline("p", Spec{Guards: []Guard{ErrorBudget("checkout"), ErrorBudget("checkout")}})
	require.ErrorContains(t, err, "each error budget once")
	p := newPipeline(t, sys, Spec{Guards: []Guard{ErrorBudget("checkout")}})
	require.Equal(t, []string{"kill_switch", "error_budget: checkout"}, p.Explain().Guards)
	require.Len(t, sys.ErrorBudgets(), 1)
	_, ok := sys.ErrorBudgetStatus("nobody")
	require.False(t, ok)
	require.ErrorIs(t, sys.ConfigureErrorBudget(t.Context(), policy.ErrorBudget{Name: "nobody", Objective: 0.5}), messages.ErrNotFound)
	other.By = []policy.Dimension{policy.ByTier}
	require.ErrorIs(t, sys.ConfigureErrorBudget(t.Context(), other), messages.ErrInvalid)
}

func TestConfigureErrorBudgetKeepsItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		cfg := quick(policy.BudgetAction{Refuse: messages.Critical})
		p := budgeted(t, sys, cfg)
		calls(t, p, 20, nil, fails)
		time.Sleep(2 * time.Second)
		require.True(t, Try(t.Context(), p, nil, succeeds).Rejected())
		cfg.Burn[0].Action = policy.BudgetAction{}
		require.NoError(t, sys.ConfigureErrorBudget(t.Context(), cfg))
		require.True(t, Try(t.Context(), p, nil, succeeds).Success(), "at once")
		require.Equal(t, [2]uint64{1, 20}, counted(t, sys))
		require.NoError(t, sys.Close(t.Context()))
	})
}

// brokenBudget panics once, when it is told to.
type brokenBudget struct {
	errorBudgetCore
	broken *atomic.Bool
}

func (c brokenBudget) Apply(f policy.ErrorBudgetFact) bool {
	if c.broken.Swap(false) {
		panic("broken")
	}
	return c.errorBudgetCore.Apply(f)
}

func TestErrorBudgetLostItsWindowWhenItsActorRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		b := newErrorBudget(sys, quick(policy.BudgetAction{Refuse: messages.Critical}).WithDefaults())
		var broken atomic.Bool
		revive := b.revive
		b.revive = func(cfg policy.ErrorBudget, last *policy.ErrorBudgetSnapshot, kept *policy.BudgetEvidence, f policy.ErrorBudgetFact) errorBudgetCore {
			return brokenBudget{revive(cfg, last, kept, f), &broken}
		}
		require.NoError(t, sys.within(func(c actor.SpawnerContext) error { return b.start(c) }))
		sys.errorBudgets.named = map[string]*errorBudget{"checkout": b}
		p := newPipeline(t, sys, Spec{Guards: []Guard{ErrorBudget("checkout")}})
		calls(t, p, 20, nil, fails)
		time.Sleep(2 * time.Second)
		events := sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Kind == messages.ActorRestarted })
		broken.Store(true)
		_ = counted(t, sys)
		time.Sleep(10 * time.Second)
		require.Len(t, events.C(), 1)
		require.True(t, Try(t.Context(), p, nil, succeeds).Rejected(), "it still decides the same")
		require.Equal(t, [2]uint64{0, 20}, counted(t, sys))
		require.NoError(t, sys.Close(t.Context()))
	})
}

// Another process goes on with what this one has counted.
func TestErrorBudgetStateOutlivesItsProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := quick(policy.BudgetAction{Refuse: messages.Critical})
		cfg.By = []policy.Dimension{policy.ByRegion}
		one, two := bare(t), bare(t)
		p := budgeted(t, one, cfg)
		q := budgeted(t, two, cfg)
		calls(t, p, 20, &messages.Context{Region: "eu"}, fails)
		state, err := one.ErrorBudgetState(t.Context(), "checkout")
		require.NoError(t, err)
		for i := range state[:9] {
			require.Error(t, two.RestoreErrorBudget(t.Context(), "checkout", state[:i]))
		}
		require.ErrorIs(t, two.RestoreErrorBudget(t.Context(), "nobody", state), messages.ErrNotFound)
		require.NoError(t, two.RestoreErrorBudget(t.Context(), "checkout", state))
		require.Equal(t, [2]uint64{0, 20}, counted(t, two))
		require.True(t, Try(t.Context(), q, &messages.Context{Region: "eu"}, succeeds).Rejected())
		require.True(t, Try(t.Context(), q, &messages.Context{Region: "us"}, succeeds).Success())
		time.Sleep(3 * time.Minute)
		require.NoError(t, two.RestoreErrorBudget(t.Context(), "checkout", state))
		require.True(t, Try(t.Context(), q, &messages.Context{Region: "eu"}, succeeds).Success(), "it is three minutes old")
		require.NoError(t, one.Close(t.Context()))
		require.NoError(t, two.Close(t.Context()))
	})
}

func TestErrorBudgetClassifyThatPanicsHurtsNobody(t *testing.T) {
	sys := newSystem(t)
	cfg := quick(policy.BudgetAction{})
	cfg.Classify = func(o messages.Outcome, err error) policy.EventClass {
		switch {
		case o == messages.Success:
			panic("classify")
		case o == messages.Fallback:
			goruntime.Goexit()
		case err != nil && err.Error() == "boom":
			return policy.GoodEvent
		case errors.Is(err, messages.ErrGoexit):
			return policy.BadEvent // the call that left was counted already: it is not asked about again
		}
		return policy.IgnoredEvent
	}
	p := budgeted(t, sys, cfg)
	answers, err := sys.Pipeline("answers", Spec{Guards: []Guard{ErrorBudget("checkout")}, Layers: []policy.Config{policy.FallbackValue(1)}})
	require.NoError(t, err)
	v, err := Do(t.Context(), p, nil, succeeds)
	require.NoError(t, err)
	require.Equal(t, 7, v)
	calls(t, p, 1, nil, fails)
	calls(t, p, 1, nil, ctxFails(context.DeadlineExceeded))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = Do(context.Background(), answers, nil, fails)
	}()
	<-done
	require.Equal(t, [2]uint64{3, 0}, counted(t, sys))
	require.EqualValues(t, 2, must(sys.ErrorBudgetStatus("checkout")).ClassifyErrors)
}
