package runtime_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/sinks"
)

// wellSink is a sink that says how it is.
type wellSink struct {
	sinks.Sink
	err error
}

func (s *wellSink) Healthy(context.Context) error { return s.err }

func TestHealthCheckAllAsksEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, err := runtime.Start(t.Context(), runtime.Config{Restarts: actors.RestartPolicy{Budget: 1, Initial: time.Minute, Max: time.Minute}})
		require.NoError(t, err)
		sink := &wellSink{Sink: sinks.Log(nil)}
		fails := true
		pipe := pipelineNamed(t, rt, "pay", runtime.Spec{
			Guards: []actors.Guard{actors.GuardFunc("hours", func(*messages.Context) messages.GuardResult { return messages.Allow() })},
			Layers: []policy.Config{policy.Retry{Attempts: 1}, policy.Breaker{}},
			Hooks: []actors.Hook{{Name: "watch", OnSuccess: func(actors.Moment) {
				if fails {
					panic("watch")
				}
			}}},
			Sinks: []sinks.Sink{sink},
		})
		var asked int
		leave, err := rt.Register("database", "orders", func(context.Context) error { asked++; return nil })
		require.NoError(t, err)
		report := rt.HealthCheckAll(t.Context())
		require.Equal(t, runtime.Up, report.Status)
		require.Equal(t, 1, asked)
		kinds := map[string]runtime.Status{}
		for _, h := range report.Parts {
			kinds[h.Kind+" "+h.Pipeline+" "+h.Name] = h.Status
		}
		require.Equal(t, map[string]runtime.Status{
			"guard  kill_switch": runtime.Up, "guard pay hours": runtime.Up, "policy pay retry": runtime.Up, "policy pay breaker": runtime.Up,
			"hook pay watch": runtime.Up, "sink pay log": runtime.Up, "database  orders": runtime.Up,
		}, kinds)
		leave()

		sink.err = errors.New("disk is full")
		_, err = runtime.Do(t.Context(), pipe, oneValue) // its hook panics, and is restarted in a minute
		require.NoError(t, err)
		synctest.Wait()
		report = rt.HealthCheckAll(t.Context())
		require.Equal(t, runtime.Degraded, report.Status)
		require.Equal(t, runtime.Health{Kind: "sink", Pipeline: "pay", Name: "log", Status: runtime.Down, Detail: "disk is full"}, part(t, report, "sink", "log"))
		require.Equal(t, runtime.Degraded, part(t, report, "hook", "watch").Status)
		require.Equal(t, 1, asked, "it has left")
		time.Sleep(2 * time.Minute)
		require.Equal(t, runtime.Up, part(t, rt.HealthCheckAll(t.Context()), "hook", "watch").Status)
		_, err = runtime.Do(t.Context(), pipe, oneValue)
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		_, err = runtime.Do(t.Context(), pipe, oneValue)
		require.NoError(t, err)
		require.NoError(t, rt.Shutdown(t.Context()))
		time.Sleep(10 * time.Minute)
	})
}

func TestHealthOfAQuarantinedPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, err := runtime.Start(t.Context(), runtime.Config{Restarts: actors.RestartPolicy{Budget: 0.5}})
		require.NoError(t, err)
		pipe := pipelineNamed(t, rt, "pay", runtime.Spec{Hooks: []actors.Hook{{Name: "watch", OnSuccess: func(actors.Moment) { panic("watch") }}}})
		_, err = runtime.Do(t.Context(), pipe, oneValue)
		require.NoError(t, err)
		synctest.Wait()
		h := part(t, rt.HealthCheckAll(t.Context()), "hook", "watch")
		require.Equal(t, runtime.Down, h.Status)
		require.Contains(t, h.Detail, "quarantined: panic: watch")
		require.NoError(t, rt.Shutdown(t.Context()))
		time.Sleep(time.Second)
	})
}

func TestHealthCheckThatHangsWasAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, err := runtime.Start(t.Context(), runtime.Config{})
		require.NoError(t, err)
		var asked atomic.Int64
		let := make(chan struct{})
		_, err = rt.Register("model", "slow", func(context.Context) error { asked.Add(1); <-let; return nil })
		require.NoError(t, err)
		_, err = rt.Register("model", "panics", func(context.Context) error { panic("ouch") })
		require.NoError(t, err)
		for _, detail := range []string{"did not return", "has not returned"} {
			report := rt.HealthCheckAll(t.Context())
			require.Equal(t, runtime.Degraded, report.Status)
			require.Contains(t, part(t, report, "model", "slow").Detail, detail)
			require.Contains(t, part(t, report, "model", "panics").Detail, "ouch")
		}
		require.EqualValues(t, 1, asked.Load())
		close(let)
		synctest.Wait()
		require.Equal(t, runtime.Up, part(t, rt.HealthCheckAll(t.Context()), "model", "slow").Status)
		require.NoError(t, rt.Live(t.Context()))
		require.NoError(t, rt.Shutdown(t.Context()))
		require.Error(t, rt.Live(t.Context()))
		time.Sleep(time.Second)
	})
}

func TestRegisterTellsAllThatIsWrong(t *testing.T) {
	rt, err := runtime.Start(t.Context(), runtime.Config{})
	require.NoError(t, err)
	_, err = rt.Register("a b", "", nil)
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.ErrorContains(t, err, "kind")
	require.ErrorContains(t, err, "name")
	_, err = rt.Register("database", "orders", nil)
	require.NoError(t, err)
	_, err = rt.Register("database", "orders", nil)
	require.ErrorContains(t, err, "no other part")
	require.ErrorIs(t, rt.OnShutdown(runtime.ShutdownHandler{Limit: -1}), messages.ErrInvalid)
	require.NoError(t, rt.Shutdown(t.Context()))
}

func part(t *testing.T, r runtime.HealthReport, kind, name string) runtime.Health {
	t.Helper()
	for _, h := range r.Parts {
		if h.Kind == kind && h.Name == name {
			h.Took = 0
			return h
		}
	}
	require.Fail(t, "no such part", "%s %s in %v", kind, name, r.Parts)
	return runtime.Health{}
}

func pipelineNamed(t *testing.T, rt *runtime.Runtime, name string, spec runtime.Spec) runtime.Pipeline {
	t.Helper()
	p, err := rt.Pipeline(name, spec)
	require.NoError(t, err)
	return p
}
