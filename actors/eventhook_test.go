package actors

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func TestEventHookTellsEndsOfCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		sub := sys.Events().Subscribe(64, func(e messages.Event) bool { return e.Kind.Token()[:5] == "call_" })
		p := newPipeline(t, sys, Spec{
			Hooks:  []Hook{EventHook(sys, EventHookConfig{PerSecond: 3})},
			Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, policy.Breaker{Consecutive: 4, OpenFor: time.Hour}},
		})
		next := func() (messages.Event, messages.CallEnd) {
			synctest.Wait()
			require.NotEmpty(t, sub.C())
			e := <-sub.C()
			return e, e.Data.(messages.CallEnd)
		}
		_, _ = Do(t.Context(), p, nil, succeeds) // none of the successes
		_, _ = Do(t.Context(), p, &messages.Context{TraceID: "t1", Extra: map[string]any{"card": "4111"}}, fails)
		e, end := next()
		require.Equal(t, messages.CallFailed, e.Kind)
		require.Equal(t, "p", e.Pipeline)
		require.Equal(t, errBoom.Error(), e.Reason)
		require.Equal(t, messages.CallEnd{Outcome: messages.Failure, Attempts: 2, TraceID: "t1", Duration: end.Duration}, end)
		_, _ = Do(t.Context(), p, nil, fails)
		_, _ = next()
		for range 5 { // one of them in this second
			_, _ = Do(t.Context(), p, nil, succeeds)
		}
		e, end = next()
		require.Equal(t, messages.CallRejected, e.Kind)
		require.Equal(t, "breaker", e.Source)
		require.Equal(t, "open", e.Reason)
		require.Zero(t, end.LeftOut)
		synctest.Wait()
		require.Empty(t, sub.C())
		time.Sleep(2 * time.Second)
		_, _ = Do(t.Context(), p, nil, succeeds)
		_, end = next()
		require.EqualValues(t, 4, end.LeftOut)
	})
}

func TestEventHookSamplesSuccesses(t *testing.T) {
	told := func(share float64, seed uint64) (at []int) {
		sys := newSystem(t)
		hook, sub := EventHook(sys, EventHookConfig{SampleSuccesses: share, Seed: seed, PerSecond: 1000}), sys.Events().Subscribe(8, nil)
		defer sub.Close()
		for i := range 1000 {
			hook.OnEnd(Moment{Outcome: messages.Success})
			if len(sub.C()) > 0 {
				<-sub.C()
				at = append(at, i)
			}
		}
		return at
	}
	require.Len(t, told(1, 1), 1000)
	require.Empty(t, told(0, 1))
	require.InDelta(t, 100, len(told(0.1, 1)), 40)
	require.Equal(t, told(0.1, 7), told(0.1, 7))
	require.NotEqual(t, told(0.1, 7), told(0.1, 8))
}
