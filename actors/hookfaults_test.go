package actors

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// A refusal that was tried again is told, in its place, before the first attempt, between two, and from a copy too.
func TestRefusalBetweenAttemptsWasNotTold(t *testing.T) {
	refuseTwice := func() policy.Config {
		var n atomic.Int32
		return policy.Func("quota", func(ctx context.Context, _ policy.Call, next func(context.Context) error) error {
			if k := n.Add(1); k == 1 || k == 3 {
				return &messages.RejectedError{Reason: fmt.Sprintf("spent %d", k)}
			}
			return next(ctx)
		})
	}
	retry := policy.Retry{Attempts: 5, Rejections: true, Backoff: policy.Constant(time.Second)}
	want := []string{
		"execute 0", "reject 0 by quota: spent 1", "retry 0 in 1s", "execute 1", "failure 1", "retry 1 in 1s",
		"reject 1 by quota: spent 3", "retry 1 in 1s", "execute 2", "success 2 success",
	}
	for name, outside := range map[string]policy.Config{"call": policy.Timeout{Limit: time.Hour}, "copy": policy.Hedge{Delay: time.Hour, Idempotent: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rec := &recorder{}
				p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{rec.hook()}, Layers: []policy.Config{outside, retry, refuseTwice()}})
				r := Try(t.Context(), p, nil, after(errBoom))
				require.Equal(t, messages.Success, r.Outcome)
				require.Equal(t, 2, r.Attempts)
				synctest.Wait()
				require.Equal(t, want, rec.take())
			})
		})
	}
}

// What a call of refusals and attempts left behind is not in the record of the next one; nor are refusals attempts.
func TestRefusalsWereTakenForAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memorySink{}
		rec := &recorder{}
		var n atomic.Int32
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{rec.hook()}, Sinks: []FailureSink{sink}, Layers: []policy.Config{
			policy.Retry{Attempts: 6, Rejections: true, Backoff: policy.Constant(0)},
			policy.Func("quota", func(ctx context.Context, _ policy.Call, next func(context.Context) error) error {
				if n.Add(1)%2 == 1 {
					return &messages.RejectedError{Reason: "spent"}
				}
				return next(ctx)
			}),
		}})
		for range 2 {
			n.Store(0)
			r := Try(t.Context(), p, nil, fails)
			require.Equal(t, 3, r.Attempts)
			synctest.Wait()
			require.Len(t, rec.take(), 15, "execute 0, then three times reject, retry, execute, failure, retry: but the last")
		}
		require.Len(t, sink.letters, 2)
		require.Len(t, sink.letters[0].AttemptErrors, 3)
	})
}

// Hooks of all bad kinds beside a good one: the calls' results are as ever and take no longer than without them, the good hook
// misses nothing, and what the bad ones missed is counted.
func TestSlowOrCrashingHookSlowedOrFailedACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		overflow := sys.Events().Subscribe(64, func(e messages.Event) bool { return e.Kind == messages.HookOverflow })
		defer overflow.Close()
		release := make(chan struct{})
		var good atomic.Int64
		p := newPipeline(t, sys, Spec{Hooks: []Hook{
			{Name: "sleeps", Queue: 8, OnExecute: func(Moment) { time.Sleep(time.Minute) }},
			{Name: "panics", Queue: 8, OnSuccess: func(Moment) { panic("hook") }},
			{Name: "leaves", Queue: 8, OnEnd: func(Moment) { goruntime.Goexit() }},
			{Name: "blocks", Queue: 8, Live: true, OnExecute: func(Moment) { <-release }},
			{Name: "good", OnEnd: func(Moment) { good.Add(1) }},
		}})
		begin := time.Now()
		for i := range 2000 {
			v, err := Do(t.Context(), p, nil, succeeds)
			require.NoError(t, err)
			require.Equal(t, 7, v)
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		require.Zero(t, time.Since(begin), "no call waited for a hook")
		time.Sleep(30 * time.Second) // restarts, with their backoffs, and the end of those who spent theirs
		for range 20 {
			_, err := Do(t.Context(), p, nil, succeeds)
			require.NoError(t, err)
		}
		synctest.Wait()
		require.EqualValues(t, 2020, good.Load())
		stats := map[string]HookStats{}
		for _, s := range p.HookStats() {
			stats[s.Name] = s
		}
		require.Equal(t, HookStats{Name: "good", Told: 2020, Queue: 512}, stats["good"])
		require.EqualValues(t, 1, stats["sleeps"].Told)
		require.EqualValues(t, 2020-1-8, stats["sleeps"].Dropped)
		require.Equal(t, 8, stats["sleeps"].Depth)
		require.EqualValues(t, 1, stats["blocks"].Told)
		require.EqualValues(t, 2*2020-1-8, stats["blocks"].Dropped)
		for _, name := range []string{"panics", "leaves"} {
			s := stats[name]
			require.True(t, s.Quarantined, name)
			require.EqualValues(t, 8, s.Restarts, name)
			require.EqualValues(t, 2020, s.Told+s.Dropped, name)
		}
		close(release)
		time.Sleep(time.Hour)
		require.NoError(t, p.Close(t.Context()))
		counts := map[string]uint64{}
		for len(overflow.C()) > 0 {
			e := <-overflow.C()
			counts[e.Source] += uint64(e.Data.(messages.EventCount).Count)
		}
		require.Equal(t, stats["blocks"].Dropped, counts["blocks"])
		require.Equal(t, stats["sleeps"].Dropped, counts["sleeps"])
	})
}

// A hook that never returns does not keep a system from ending: Close waits as long as its context says, and names it.
func TestHookThatBlocksForEverHungClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, err := NewSystem(Options{})
		require.NoError(t, err)
		release := make(chan struct{})
		p := newPipeline(t, sys, Spec{Hooks: []Hook{{Name: "auditor", OnEnd: func(Moment) { <-release }}, {Name: "fine", OnEnd: func(Moment) {}}}})
		_, _ = Do(t.Context(), p, nil, succeeds)
		synctest.Wait()
		_, _ = Do(t.Context(), p, nil, succeeds)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		err = sys.Close(ctx)
		require.Equal(t, 3*time.Second, time.Since(begin))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, `pipeline "p": hook "auditor" is stuck, with 1 calls not told`)
		require.NotContains(t, err.Error(), "fine")
		close(release)
	})
}

// OnEnd comes once for each call, last, with its outcome.
func TestEndOfACallIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []Moment
		p := newPipeline(t, newSystem(t), Spec{
			Guards: []Guard{GuardFunc("door", func(c *messages.Context) messages.GuardResult {
				if c != nil && c.OrderID == "no" {
					return messages.Reject("closed", "", "")
				}
				return messages.Allow()
			})},
			Layers: []policy.Config{policy.Timeout{Limit: time.Minute}, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, policy.Fallback{
				If: func(err error) bool { return errors.Is(err, errOther) }, Func: func(context.Context, error) (any, error) { return 1, nil },
			}},
			Hooks: []Hook{{OnEnd: func(m Moment) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, m)
			}}},
		})
		end := func() Moment {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			require.Len(t, told, 1)
			m := told[0]
			told = nil
			return m
		}
		_, _ = Do(t.Context(), p, nil, succeeds)
		require.Equal(t, messages.Success, end().Outcome)
		_, _ = Do(t.Context(), p, nil, fails)
		m := end()
		require.Equal(t, messages.Failure, m.Outcome)
		require.Equal(t, 2, m.Attempt)
		require.Equal(t, errBoom, m.Err)
		_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) { return 0, errOther })
		m = end()
		require.Equal(t, messages.Fallback, m.Outcome)
		require.Equal(t, errOther, m.Err)
		_, _ = Do(t.Context(), p, &messages.Context{OrderID: "no"}, succeeds)
		m = end()
		require.Equal(t, messages.Rejected, m.Outcome)
		require.Equal(t, "door", m.By)
		require.Equal(t, "closed", m.Reason)
		for _, async := range []bool{false, true} {
			if async {
				_ = Go(t.Context(), p, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }).Result(t.Context())
			} else {
				_, _ = Do(t.Context(), p, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
			}
			m = end()
			require.Equal(t, messages.Timeout, m.Outcome)
			require.Equal(t, time.Minute, m.Duration)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, _ = Do(ctx, p, nil, func(context.Context) (int, error) { cancel(); return 0, ctx.Err() })
		require.Equal(t, messages.Canceled, end().Outcome)
	})
}

// A live hook is told of each attempt when it begins, once.
func TestLiveHookIsToldWhenAnAttemptBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live, late := &recorder{}, &recorder{}
		h := live.hook()
		h.Live = true
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{h, late.hook()}, Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(time.Minute)}}})
		_ = Go(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Hour); return 0, errBoom })
		synctest.Wait()
		require.Equal(t, []string{"execute 1"}, live.take())
		require.Empty(t, late.take())
		time.Sleep(time.Hour + 2*time.Minute)
		require.Equal(t, []string{"execute 2"}, live.take())
		time.Sleep(time.Hour)
		require.Equal(t, []string{"failure 1", "retry 1 in 1m0s", "failure 2"}, live.take())
		require.Len(t, late.take(), 5)
		permit, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, []string{"execute 1"}, live.take())
		permit.Done(nil)
		synctest.Wait()
		require.Equal(t, []string{"success 1 success"}, live.take())
	})
}

var errOther = errors.New("another")
