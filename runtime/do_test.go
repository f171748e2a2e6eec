package runtime_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/sinks"
)

// alone starts a runtime without a cluster.
func alone(t testing.TB) *runtime.Runtime {
	t.Helper()
	rt, err := runtime.Start(t.Context(), runtime.Config{Node: "n1"}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	return rt
}

func TestFacesOfOnePipeline(t *testing.T) {
	rt := alone(t)
	p, err := rt.Pipeline("p", runtime.Spec{Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}}})
	require.NoError(t, err)
	ctx := t.Context()
	fn := func(context.Context) (string, error) { return "v", nil }
	v, err := runtime.Do(ctx, p, fn)
	require.NoError(t, err)
	require.Equal(t, "v", v)
	v, err = runtime.Do0(ctx, p, func() (string, error) { return "v0", nil })
	require.NoError(t, err)
	require.Equal(t, "v0", v)
	r := runtime.Try(ctx, p, fn)
	require.True(t, r.Success() && r.Executed() && !r.Rejected())
	require.Equal(t, []string{"retry"}, r.Policies())
	v, err = runtime.Go(ctx, p, fn).Await(ctx)
	require.NoError(t, err)
	require.Equal(t, "v", v)
	require.Equal(t, "p", p.Name())
	require.True(t, rt.Ready().Ready)
}

func TestZeroPipelineRefuses(t *testing.T) {
	var p runtime.Pipeline
	fn := func(context.Context) (int, error) { return 1, nil }
	_, err := runtime.Do(t.Context(), p, fn)
	require.ErrorIs(t, err, messages.ErrStopped)
	_, err = runtime.Do0(t.Context(), p, func() (int, error) { return 1, nil })
	require.ErrorIs(t, err, messages.ErrRejected)
	require.Equal(t, messages.Rejected, runtime.Try(t.Context(), p, fn).Outcome)
	_, err = runtime.Go(t.Context(), p, fn).Await(t.Context())
	require.ErrorIs(t, err, messages.ErrStopped)
	require.Nil(t, p.PID())
	require.NoError(t, p.Close(t.Context()))
	require.Error(t, p.Configure("retry", policy.Retry{}))
}

func TestWithCarriesTheContext(t *testing.T) {
	rt := alone(t)
	seen := make(chan *messages.Context, 1)
	p, err := rt.Pipeline("p", runtime.Spec{Guards: []actors.Guard{actors.GuardFunc("look", func(c *messages.Context) messages.GuardResult {
		if c != nil {
			kept := *c
			c = &kept
		}
		seen <- c
		return messages.Allow()
	})}})
	require.NoError(t, err)
	fn := func(context.Context) (int, error) { return 1, nil }
	_, _ = runtime.Do(t.Context(), p, fn)
	require.Nil(t, <-seen, "a call without a context")
	eu := p.With(messages.Context{Region: "eu"})
	_, _ = runtime.Do(t.Context(), eu.With(messages.Context{OrderID: "17"}), fn)
	require.Equal(t, messages.Context{Region: "eu", OrderID: "17"}, *<-seen)
	_, _ = runtime.Do(t.Context(), eu, fn)
	require.Equal(t, messages.Context{Region: "eu"}, *<-seen)
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = p.With(messages.Context{OrderID: "17", Tier: messages.Critical}) }))
}

func TestKillSwitchWithoutACluster(t *testing.T) {
	rt := alone(t)
	p, err := rt.Pipeline("p", runtime.Spec{Guards: []actors.Guard{actors.KillSwitch()}})
	require.NoError(t, err)
	order := messages.KillState{On: true, Reason: "fire", By: "ops"}
	require.NoError(t, rt.Kill(t.Context(), order))
	fn := func(context.Context) (int, error) { return 1, nil }
	require.ErrorIs(t, runtime.Try(t.Context(), p, fn).Err, messages.ErrKillSwitch)
	order.On = false
	require.NoError(t, rt.Kill(t.Context(), order))
	require.True(t, runtime.Try(t.Context(), p, fn).Success())
	order.By = ""
	require.ErrorContains(t, rt.Kill(t.Context(), order), "by is")
}

func TestStartRefusesABadName(t *testing.T) {
	_, err := runtime.Start(t.Context(), runtime.Config{Node: "No Good"})
	require.ErrorIs(t, err, messages.ErrInvalid)
}

func TestShutdownStopsEverything(t *testing.T) {
	rt, err := runtime.Start(t.Context(), runtime.Config{})
	require.NoError(t, err)
	p, err := rt.Pipeline("p", runtime.Spec{Sinks: []sinks.Sink{sinks.Log(slog.New(slog.DiscardHandler))}})
	require.NoError(t, err)
	running, release := make(chan struct{}), make(chan struct{})
	f := runtime.Go(t.Context(), p, func(context.Context) (int, error) { close(running); <-release; return 7, nil })
	<-running
	time.AfterFunc(10*time.Millisecond, func() { close(release) })
	require.NoError(t, rt.Shutdown(t.Context()))
	v, err := f.Await(t.Context())
	require.NoError(t, err)
	require.Equal(t, 7, v, "what was accepted was done")
	_, err = runtime.Do(t.Context(), p, func(context.Context) (int, error) { return 1, nil })
	require.ErrorIs(t, err, messages.ErrStopped)
	_, err = rt.Pipeline("late", runtime.Spec{})
	require.ErrorIs(t, err, messages.ErrStopped)
}

func ExampleDo() {
	ctx := context.Background()
	rt, err := runtime.Start(ctx, runtime.Config{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = rt.Shutdown(ctx) }()
	p, err := rt.Pipeline("prices", runtime.Spec{Layers: []policy.Config{
		policy.FallbackValue("yesterday's price"),
		policy.Timeout{Limit: time.Second},
		policy.Retry{Attempts: 3, Backoff: policy.Exponential(time.Millisecond, 10*time.Millisecond)},
	}})
	if err != nil {
		panic(err)
	}
	price, err := runtime.Do(ctx, p, func(context.Context) (string, error) { return "", fmt.Errorf("shop is closed") })
	fmt.Println(price, err)
	// Output: yesterday's price <nil>
}

func ExampleTry() {
	ctx := context.Background()
	rt, err := runtime.Start(ctx, runtime.Config{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = rt.Shutdown(ctx) }()
	p, err := rt.Pipeline("prices", runtime.Spec{Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}}})
	if err != nil {
		panic(err)
	}
	r := runtime.Try(ctx, p, func(context.Context) (int, error) { panic("out of paper") })
	fmt.Println(r.Outcome, r.Attempts, r.Policies(), r.Err)
	// Output: failure 2 [retry] panic: out of paper
}

func ExamplePipeline_Acquire() {
	ctx := context.Background()
	rt, err := runtime.Start(ctx, runtime.Config{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = rt.Shutdown(ctx) }()
	p, err := rt.Pipeline("stream", runtime.Spec{Layers: []policy.Config{policy.Breaker{}, policy.Bulkhead{Permits: 1}}})
	if err != nil {
		panic(err)
	}
	permit, err := p.Acquire(ctx)
	fmt.Println("first: ", err)
	_, err = p.Acquire(ctx)
	fmt.Println("second:", err)
	permit.Done(nil)
	// Output:
	// first:  <nil>
	// second: rejected by bulkhead: full
}
