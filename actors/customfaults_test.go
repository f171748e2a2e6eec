package actors

import (
	"context"
	goruntime "runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// A custom policy that answers hides the failure behind it from nobody, as a fallback does not.
func TestAnswerOfACustomHidTheFailure(t *testing.T) {
	swallow := own(func(ctx context.Context, _ policy.Call, next next) error { _ = next(ctx); return nil })
	for name, inner := range map[string]policy.Config{"fallback": policy.FallbackValue(0), "custom": swallow} {
		t.Run(name, func(t *testing.T) {
			p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Hour}, inner)
			require.Equal(t, messages.Fallback, Try(t.Context(), p, nil, fails).Outcome)
			require.Equal(t, policy.Open, state(p))
			p = pipelineOf(t, policy.Retry{Attempts: 3, Backoff: policy.Constant(0)}, inner)
			require.Equal(t, 3, Try(t.Context(), p, nil, fails).Attempts)
		})
	}
}

// What was behind the answer of an earlier call, on the same record, is not behind this one's.
func TestAnswerOfACustomReadAnEarlierCallsFailure(t *testing.T) {
	asked := 0
	p := pipelineOf(t, policy.Retry{Attempts: 3, Backoff: policy.Constant(0)}, own(func(ctx context.Context, c policy.Call, next next) error {
		if c.Context.OrderID == "skip" {
			asked++
			return nil
		}
		return next(ctx)
	}), policy.FallbackValue(1))
	seen := map[int]bool{}
	for i := range 200 {
		if i%2 == 0 {
			_, _ = Do(t.Context(), p, nil, fails)
		}
		asked = 0
		_, _ = Do(t.Context(), p, &messages.Context{OrderID: "skip"}, succeeds)
		seen[asked] = true
	}
	require.Len(t, seen, 1, "the same call is handled the same way: %v", seen)
}

func TestRetryWroteIntoARefusalOfACustomPolicy(t *testing.T) {
	night := &messages.RejectedError{By: "night", Reason: "closed"}
	p := pipelineOf(t, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, own(func(ctx context.Context, c policy.Call, next next) error {
		if c.Attempts == 1 || c.Context.OrderID == "other" {
			return night
		}
		return next(ctx)
	}))
	_, err := Do(t.Context(), p, nil, fails)
	require.ErrorIs(t, err, messages.ErrRejected)
	require.ErrorIs(t, err, errBoom)
	_, err = Do(t.Context(), p, &messages.Context{OrderID: "other"}, succeeds)
	require.ErrorIs(t, err, messages.ErrRejected)
	require.NotErrorIs(t, err, errBoom, "that was another call's")
	require.Nil(t, night.Last)
}

type closing struct{ closed *atomic.Int64 }

func (c closing) Close() error { c.closed.Add(1); return nil }

// A copy that lost a hedge's race is neutral, and what it returned is closed, whatever it passed on its way.
func TestHedgesLoserCountedBehindACustomOrADetour(t *testing.T) {
	for name, mid := range map[string]func(*System) policy.Config{
		"none":   func(*System) policy.Config { return policy.Shed{Limit: 100} },
		"custom": func(*System) policy.Config { return own(straight) },
		"detour": func(sys *System) policy.Config { return Via("clerk", clerkOf(t, sys, runs)) },
	} {
		for _, fault := range []error{nil, errBoom} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sys := newSystem(t)
					p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Hedge{Idempotent: true, Delay: time.Second}, policy.Breaker{Consecutive: 1, OpenFor: time.Hour}, mid(sys)}})
					var n, closed atomic.Int64
					_, err := Do0(t.Context(), p, nil, func() (closing, error) {
						if n.Add(1) == 1 {
							time.Sleep(10 * time.Second)
							return closing{&closed}, fault
						}
						return closing{new(atomic.Int64)}, nil
					})
					require.NoError(t, err)
					time.Sleep(time.Minute)
					synctest.Wait()
					require.EqualValues(t, 2, n.Load())
					require.Equal(t, policy.Closed, state(p))
					require.EqualValues(t, 1, closed.Load())
				})
			})
		}
	}
}

// An answer that never comes is not waited for beyond the call's limit, although no context ends for a bare function.
func TestDetourWaitedBeyondTheLimitOfABareCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		mute := clerkOf(t, sys, func(_ actor.Context, x *messages.Execute) { _, _ = x.Func(x.Ctx) })
		p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Second}, Detour{Name: "clerk", PID: mute, Patience: time.Hour}}})
		begin := time.Now()
		_ = Try(t.Context(), p, nil, succeeds)
		require.Equal(t, time.Second, time.Since(begin), "with a context")
		begin = time.Now()
		_, _ = Do0(t.Context(), p, nil, func() (int, error) { return 7, nil })
		require.Equal(t, time.Second, time.Since(begin))
	})
}

// withSystem refers to everything there is.
type withSystem struct {
	plain
	System *actor.ActorSystem
	Self   *withSystem
	Deep   [][][][]int
}

func (w *withSystem) WithDefaults() policy.Config { return w }

type plain struct{}

func (plain) Kind() string    { return "plain" }
func (plain) Validate() error { return nil }
func (plain) Around(ctx context.Context, _ policy.Call, next func(context.Context) error) error {
	return next(ctx)
}

// It was followed until the stack overflowed, which ends the process.
func TestSettingsWereFollowedInACircle(t *testing.T) {
	sys := newSystem(t)
	w := &withSystem{System: sys.ActorSystem(), Deep: [][][][]int{{{{1}}}}}
	w.Self = w
	p, err := sys.Pipeline("p", Spec{Layers: []policy.Config{w}})
	require.NoError(t, err)
	require.Equal(t, "system custom, self custom, deep custom", joined(p.Explain().Layers[0].Settings))
}

// busy keeps its state where everybody can see it.
type busy struct {
	plain
	Hits  atomic.Int64
	Size  int
	Nodes []*int
}

func (b *busy) WithDefaults() policy.Config { return b }
func (b *busy) Around(ctx context.Context, _ policy.Call, next func(context.Context) error) error {
	b.Hits.Add(1)
	b.Size++
	return next(ctx)
}

// An explanation does not read what calls write: this is for the race detector.
func TestExplanationRacedWithAPolicysState(t *testing.T) {
	p := pipelineOf(t, &busy{Size: 3, Nodes: []*int{nil}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 {
			_, _ = Do(context.Background(), p, nil, succeeds)
		}
	}()
	for range 1000 {
		_ = p.Explain()
	}
	<-done
	require.Equal(t, "size 3, nodes none", joined(p.Explain().Layers[0].Settings), "as it was built")
	require.NoError(t, p.Configure("plain", &busy{Size: 5}))
	require.Equal(t, "size 5", joined(p.Explain().Layers[0].Settings))
}

// derived has the defaults of what it embeds, and would have become that.
type derived struct{ policy.Bulkhead }

func (derived) Kind() string { return "derived" }
func (derived) Around(context.Context, policy.Call, func(context.Context) error) error {
	return &messages.RejectedError{Reason: "never"}
}

type forgetful struct{ plain }

func (forgetful) WithDefaults() policy.Config { return nil }

type fragile struct {
	plain
	in string
}

func (f fragile) fall(in string) {
	if f.in == in {
		panic(in)
	}
}

func (f fragile) Kind() string                { f.fall("kind"); return "plain" }
func (f fragile) Validate() error             { f.fall("validate"); return nil }
func (f fragile) WithDefaults() policy.Config { f.fall("defaults"); return f }
func (f fragile) Describe() string            { f.fall("describe"); return "fragile" }

func TestSettingsThatAreNotWhatTheySayWereTaken(t *testing.T) {
	p := pipelineOf(t, fragile{})
	for _, cfg := range []policy.Config{
		derived{policy.Bulkhead{Permits: 1}}, forgetful{}, fragile{in: "kind"}, fragile{in: "validate"}, fragile{in: "defaults"}, (*derived)(nil), struct{ *policy.Retry }{},
	} {
		spec := Spec{Layers: []policy.Config{cfg}}
		require.Len(t, Explain("q", spec).Errors, 1, "%T", cfg)
		_, err := p.sys.Pipeline("q", spec)
		require.ErrorIs(t, err, messages.ErrInvalid, "%T", cfg)
		require.ErrorIs(t, p.Configure("plain", cfg), messages.ErrInvalid, "%T", cfg)
	}
	_, err := p.sys.Pipeline("q", Spec{Layers: []policy.Config{&policy.Retry{}}})
	require.NoError(t, err, "a pointer to settings is as good as they are")
}

// The pipeline was started, and then nobody had it.
func TestDescriptionThatPanicsLostThePipeline(t *testing.T) {
	p := pipelineOf(t, fragile{in: "describe"})
	require.Equal(t, "custom", joined(p.Explain().Layers[0].Settings))
}

func TestActorPolicyWasToldNoDurationOfACallThatLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &clerk{}
		p := pipelineOf(t, ActorPolicy("clerk", k.make))
		_, _ = Go(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Second); goruntime.Goexit(); return 0, nil }).Await(t.Context())
		synctest.Wait()
		require.Equal(t, time.Second, k.ended.Load().Duration)
	})
}

func TestPropsShareTheirCallersSlice(t *testing.T) {
	as := foreign(t)
	layers := []policy.Config{policy.Bulkhead{Permits: 1}}
	props, err := Props(layers...)
	require.NoError(t, err)
	layers[0] = nil
	pid := as.Root.Spawn(props)
	require.NoError(t, answerOf(t, as.Root.RequestFuture(pid, value(7, nil), 5*time.Second)).Err)
	require.NoError(t, as.Root.StopFuture(pid).Wait())
}
