package actors

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// A layer that observes decides and tells, and does nothing; bulkheads stay in force.
func TestObserveOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		events := sys.Events().Subscribe(64, func(e messages.Event) bool { return e.Kind == messages.PolicyObserved })
		defer events.Close()
		p := newPipeline(t, sys, Spec{Observe: true, Layers: []policy.Config{
			policy.FallbackValue(9),
			policy.Timeout{Limit: time.Second},
			policy.Retry{Attempts: 3, Backoff: policy.Constant(0)},
			policy.Breaker{Consecutive: 1, OpenFor: time.Hour},
			policy.Bulkhead{Permits: 1},
			policy.AttemptTimeout{Limit: time.Second},
		}})
		slow := func(ctx context.Context) (int, error) {
			time.Sleep(2 * time.Second)
			return 0, errors.Join(ctx.Err(), errBoom)
		}
		r := Try(t.Context(), p, nil, slow)
		require.Equal(t, messages.Failure, r.Outcome)
		require.NotErrorIs(t, r.Err, context.DeadlineExceeded, "its context did not end")
		require.Equal(t, 1, r.Attempts)
		require.Equal(t, []string{"fallback", "timeout", "retry", "attempt_timeout"}, r.Observed())
		require.Equal(t, policy.Open, layerOf[*breaker](p).view.Load().State, "it decides as ever")

		r = Try(t.Context(), p, nil, succeeds)
		require.Equal(t, messages.Success, r.Outcome)
		require.Equal(t, []string{"breaker"}, r.Observed(), "it would have refused")
		require.Equal(t, []string{"fallback", "timeout", "retry", "breaker", "bulkhead", "attempt_timeout"}, r.Policies())
		permit, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err)
		r = Try(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, r.Err, messages.ErrBulkheadFull)
		permit.Done(nil)
		require.Empty(t, Try(t.Context(), newPipelineNamed(t, sys, "other", policy.Retry{}), nil, succeeds).Observed())

		synctest.Wait()
		told := map[string]string{}
		for len(events.C()) > 0 {
			e := <-events.C()
			told[e.Source] = e.Reason
		}
		require.Equal(t, map[string]string{
			"fallback": "would have answered", "timeout": "would have timed out", "retry": "would have retried",
			"breaker": "would have refused", "attempt_timeout": "would have timed out",
		}, told)

		require.NoError(t, p.Observe("breaker", false))
		require.ErrorIs(t, Try(t.Context(), p, nil, succeeds).Err, messages.ErrBreakerOpen, "one layer acts again")
		require.NoError(t, p.Observe("", false))
		require.Equal(t, messages.Fallback, Try(t.Context(), p, nil, succeeds).Outcome)
		require.NoError(t, p.Observe("", true))
		require.Equal(t, messages.Success, Try(t.Context(), p, nil, succeeds).Outcome)
		require.ErrorIs(t, p.Observe("hedge", true), messages.ErrNotFound)
		require.Equal(t, messages.Failure, Go(t.Context(), p, nil, slow).Result(t.Context()).Outcome, "asynchronous calls are not limited either")
	})
}

func newPipelineNamed(t testing.TB, sys *System, name string, layers ...policy.Config) *Pipeline {
	t.Helper()
	p, err := sys.Pipeline(name, Spec{Layers: layers})
	require.NoError(t, err)
	return p
}

// A detached limit answers a synchronous call too, whatever its function does; what goes on is counted, and capped.
func TestDetachedTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.FallbackValue(3), policy.Timeout{Limit: time.Second, Detached: true, MaxAbandoned: 2}, policy.Bulkhead{Permits: 8})
		var running atomic.Int32
		deaf := func() (int, error) {
			running.Add(1)
			defer running.Add(-1)
			time.Sleep(time.Minute)
			return 1, nil
		}
		begin := time.Now()
		v, err := Do(t.Context(), p, nil, func(context.Context) (int, error) { return deaf() })
		require.NoError(t, err)
		require.Equal(t, 3, v)
		r := Try(t.Context(), p, nil, func(context.Context) (int, error) { return deaf() })
		require.Equal(t, messages.Fallback, r.Outcome)
		require.ErrorIs(t, r.Err, messages.ErrTimeout)
		require.Equal(t, 2*time.Second, time.Since(begin).Truncate(10*ms))
		_, abandoned := p.InFlight()
		require.Equal(t, 2, abandoned)
		require.EqualValues(t, 6, layerOf[*bulkhead](p).count(), "they keep their permits")

		r = Try(t.Context(), p, nil, succeeds)
		require.Equal(t, messages.Fallback, r.Outcome)
		refused := new(messages.RejectedError)
		require.ErrorAs(t, r.Err, &refused)
		require.Equal(t, []string{"timeout", "abandoned"}, []string{refused.By, refused.Reason})
		require.ErrorIs(t, r.Err, messages.ErrIntakeFull)
		n, _, _ := p.Room("")
		require.Zero(t, n, "no task is fetched either")

		time.Sleep(time.Minute)
		synctest.Wait()
		require.Zero(t, running.Load())
		_, abandoned = p.InFlight()
		require.Zero(t, abandoned)
		require.EqualValues(t, 8, layerOf[*bulkhead](p).count())
		v, err = Do0(t.Context(), p, nil, func() (int, error) { return 5, nil })
		require.NoError(t, err)
		require.Equal(t, 5, v)
		v, err = Do0(t.Context(), p, nil, deaf)
		require.NoError(t, err)
		require.Equal(t, 3, v)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*ms, cancel)
		_, err = Do0(ctx, p, nil, deaf)
		require.ErrorIs(t, err, context.Canceled, "a caller who leaves does not wait either")
		time.Sleep(time.Minute)

		for _, layers := range [][]policy.Config{
			{policy.Retry{}, policy.Timeout{Limit: 1, Detached: true}},
			{policy.Timeout{Limit: 1}, policy.Timeout{Limit: 1, Detached: true}},
		} {
			_, err := p.sys.Pipeline("inner", Spec{Layers: layers})
			require.ErrorContains(t, err, ".Detached is true")
		}
		both, err := p.sys.Pipeline("both", Spec{Layers: []policy.Config{policy.Timeout{Limit: 1}, policy.Timeout{Limit: 1}}})
		require.NoError(t, err)
		require.ErrorContains(t, both.Configure("timeout-2", policy.Timeout{Limit: 1, Detached: true}), "timeout-2.Detached is true")
		require.NoError(t, both.Configure("timeout", policy.Timeout{Limit: 1, Detached: true}))
		require.ErrorContains(t, policy.Timeout{Limit: 1, MaxAbandoned: -1}.Validate(), "timeout.MaxAbandoned")
	})
}

func TestFallbackChain(t *testing.T) {
	second := errors.New("second")
	panics := policy.Fallback{Func: func(context.Context, error) (any, error) { panic("fallback") }}
	chain := policy.FallbackChain(
		policy.Fallback{Func: func(context.Context, error) (any, error) { return nil, second }},
		policy.Fallback{If: func(err error) bool { return errors.Is(err, messages.ErrBreakerOpen) }, Func: func(context.Context, error) (any, error) { return "open", nil }},
		policy.Fallback{If: func(err error) bool { return errors.Is(err, errBoom) }, Func: func(_ context.Context, err error) (any, error) { return "for " + err.Error(), nil }},
	)
	p := pipelineOf(t, chain)
	fail := func(err error) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return "", err }
	}
	r := Try(t.Context(), p, nil, fail(errBoom))
	require.Equal(t, "for boom", r.Value)
	require.ErrorIs(t, r.Err, errBoom, "the primary error stays readable")
	other := errors.New("other")
	r = Try(t.Context(), p, nil, fail(other))
	require.Equal(t, messages.Failure, r.Outcome)
	require.ErrorIs(t, r.Err, second)
	require.ErrorIs(t, r.Err, other, "the primary error is not lost behind the fallback's own")
	fell := new(messages.FallbackError)
	require.ErrorAs(t, r.Err, &fell)
	require.Equal(t, other, fell.Primary)
	require.Equal(t, "fallback: second; it was asked because of: other", fell.Error())

	picky := policy.FallbackChain(policy.Fallback{If: func(err error) bool { return errors.Is(err, errBoom) }, Func: func(context.Context, error) (any, error) { return "x", nil }})
	require.NoError(t, p.Configure("fallback", policy.FallbackChain(panics, policy.FallbackValue("next"))))
	r = Try(t.Context(), p, nil, fail(other))
	require.Equal(t, "next", r.Value, "one that panics has failed, and the next is asked")
	require.NoError(t, p.Configure("fallback", picky))
	_, err := Do(t.Context(), p, nil, fail(other))
	require.Equal(t, other, err, "an error that nobody answers is left alone")
	require.Equal(t, "string", policy.FallbackChain(policy.FallbackValue(""), policy.FallbackValue("")).Makes().String())
	require.ErrorContains(t, policy.FallbackChain(policy.FallbackValue(""), policy.FallbackValue(1)).Validate(), "fallback chain is \"string and int\"")
	untyped := policy.Fallback{Func: func(context.Context, error) (any, error) { return nil, second }}
	require.Equal(t, "int", policy.FallbackChain(untyped, policy.FallbackValue(1)).Makes().String(), "what is known is checked")
	require.Error(t, policy.FallbackChain().Validate())
	require.Error(t, policy.FallbackChain(policy.FallbackValue(""), policy.Fallback{}).Validate())
}

// Refusals and answered calls reach the sinks when that is asked for, and only then.
func TestCaptureOfRefusalsAndFallbacks(t *testing.T) {
	for _, capture := range []bool{false, true} {
		var kept []*messages.DeadLetter
		sys := newSystem(t)
		refuse := GuardFunc("no", func(c *messages.Context) messages.GuardResult {
			if c != nil {
				return messages.Reject("told so")
			}
			return messages.Allow()
		})
		p := newPipeline(t, sys, Spec{
			Guards: []Guard{refuse}, Layers: []policy.Config{policy.FallbackValue(1)}, Sinks: []FailureSink{&keeper{&kept}},
			CaptureRejected: capture, CaptureFallback: capture,
		})
		answered := Try(t.Context(), p, nil, fails)
		refused := Try(t.Context(), p, &messages.Context{IdempotencyKey: "k"}, succeeds)
		require.Equal(t, []messages.Outcome{messages.Fallback, messages.Rejected}, []messages.Outcome{answered.Outcome, refused.Outcome})
		require.NoError(t, p.Close(t.Context()))
		if !capture {
			require.Empty(t, kept)
			continue
		}
		require.Len(t, kept, 2)
		require.Equal(t, []string{answered.DeadLetterID, refused.DeadLetterID}, []string{kept[0].ID, kept[1].ID})
		require.Equal(t, []string{"boom", "rejected-by-no"}, []string{kept[0].Error, kept[1].Reason})
		require.Equal(t, messages.Fallback, kept[0].Outcome)
		require.Equal(t, "k", kept[1].IdempotencyKey)
	}
}

// keeper is a sink that keeps what it gets; its actor is the only writer.
type keeper struct{ kept *[]*messages.DeadLetter }

func (k *keeper) Name() string { return "keeper" }
func (k *keeper) Handle(_ context.Context, d *messages.DeadLetter) (string, error) {
	*k.kept = append(*k.kept, d)
	return d.ID, nil
}
