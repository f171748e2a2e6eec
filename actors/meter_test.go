package actors

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// counted is how many calls of an outcome were counted.
func meterCounted(p *Pipeline, o messages.Outcome) int { return int(p.Stats().Calls[o].Count()) }

func TestHistogramAgreesWithASortedList(t *testing.T) {
	bounds := DurationBounds()
	near := func(t *rapid.T) time.Duration {
		b := rapid.SampledFrom(bounds).Draw(t, "bound")
		return max(b+time.Duration(rapid.IntRange(-1, 1).Draw(t, "off")), 0)
	}
	rapid.Check(t, func(t *rapid.T) {
		var d durations
		var all []time.Duration
		for range rapid.IntRange(0, 50).Draw(t, "n") {
			took := time.Duration(rapid.Int64Range(0, int64(2*time.Minute)).Draw(t, "took"))
			if rapid.Bool().Draw(t, "near") {
				took = near(t)
			}
			all = append(all, took)
			d.add(int64(took))
		}
		sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
		var h Histogram
		h.read(&d)
		var below uint64
		for i, bound := range bounds {
			below += h.Buckets[i]
			want := sort.Search(len(all), func(n int) bool { return all[n] > bound })
			if int(below) != want {
				t.Fatalf("%d up to %v, want %d", below, bound, want)
			}
		}
		var sum time.Duration
		for _, took := range all {
			sum += took
		}
		if int(h.Count()) != len(all) || h.Sum != sum {
			t.Fatalf("%d took %v, want %d and %v", h.Count(), h.Sum, len(all), sum)
		}
	})
}

// What callers saw is what was counted, whatever they did, while others read.
func TestCallsCountedAreCallsMade(t *testing.T) {
	p := newPipeline(t, newSystem(t), Spec{
		Layers: []policy.Config{
			policy.Fallback{Func: func(_ context.Context, err error) (any, error) {
				if errors.Is(err, errBoom) {
					return 1, nil
				}
				return nil, err
			}, If: func(err error) bool { return errors.Is(err, errBoom) }},
			policy.Retry{Attempts: 2, Backoff: policy.Constant(0)},
			policy.Bulkhead{Permits: 2},
		},
	})
	var seen [len(outcomes)]atomic.Uint64
	note := func(o messages.Outcome) {
		for v, name := range outcomes {
			if name == o {
				seen[v].Add(1)
			}
		}
	}
	stop := make(chan struct{})
	var reader, callers sync.WaitGroup
	reader.Go(func() {
		var last uint64
		for {
			n := p.Stats().Calls[messages.Success].Count()
			if n < last {
				panic("a count went back")
			}
			last = n
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for g := range 8 {
		callers.Go(func() {
			for i := range 200 {
				fn := func(context.Context) (int, error) {
					switch (g + i) % 5 {
					case 0:
						return 0, errBoom
					case 1:
						panic("boom")
					case 2:
						return 0, errors.New("other")
					}
					return 1, nil
				}
				switch i % 4 {
				case 0:
					note(Try(gone, p, nil, fn).Outcome)
				case 1:
					note(Go(t.Context(), p, nil, fn).Result(t.Context()).Outcome)
				case 2:
					permit, err := Acquire(t.Context(), p, nil)
					if err != nil {
						note(messages.Rejected)
						continue
					}
					permit.Done(nil)
					permit.Done(nil) // counts for nothing
					note(messages.Success)
				default:
					note(Try(t.Context(), p, nil, fn).Outcome)
				}
			}
		})
	}
	callers.Wait()
	close(stop)
	reader.Wait()
	st := p.Stats()
	var sum uint64
	for v, o := range outcomes {
		require.Equal(t, seen[v].Load(), st.Calls[o].Count(), o)
		sum += st.Calls[o].Count()
	}
	require.EqualValues(t, 1600, sum)
	var refused, answers uint64
	for _, n := range st.Refusals {
		refused += n
	}
	for _, n := range st.Fallbacks {
		answers += n
	}
	require.Equal(t, st.Calls[messages.Rejected].Count()+st.Fallbacks[messages.Rejected], refused)
	require.Equal(t, st.Calls[messages.Fallback].Count(), answers)
}

func TestCallThatPanicsOrLeavesIsCountedOnce(t *testing.T) {
	p := pipelineOf(t, policy.Bulkhead{Permits: 4})
	_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) { panic("boom") })
	require.Error(t, err)
	require.Equal(t, 1, meterCounted(p, messages.Failure))
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) { goruntime.Goexit(); return 0, nil })
	}()
	<-left
	require.Equal(t, 2, meterCounted(p, messages.Failure))
	_, err = Go(t.Context(), p, nil, func(context.Context) (int, error) { goruntime.Goexit(); return 0, nil }).Await(t.Context())
	require.ErrorIs(t, err, messages.ErrGoexit)
	require.Equal(t, 3, meterCounted(p, messages.Failure))
	require.EqualValues(t, 3, p.Stats().Attempts[AttemptFailure].Count())
}

// A call whose limit was met is answered while its function still runs: that end is nobody's second call.
func TestAbandonedCallWasCountedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: time.Second})
		f := Go(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Minute); return 1, nil })
		_, err := f.Await(t.Context())
		require.Error(t, err)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		st := p.Stats()
		require.Equal(t, 1, meterCounted(p, messages.Timeout))
		require.Equal(t, 0, meterCounted(p, messages.Success))
		require.Equal(t, Histogram{Buckets: bucketOf(time.Second), Sum: time.Second}, st.Calls[messages.Timeout])
		require.Equal(t, Histogram{Buckets: bucketOf(time.Second), Sum: time.Second}, st.Attempts[AttemptTimeout])
		require.Zero(t, st.Overhead.Count(), "it is not known")
	})
}

func bucketOf(took time.Duration) (b [durationBuckets]uint64) {
	b[durationBucket(int64(took))]++
	return b
}

// Overhead is what a call took beside its attempts.
func TestStatsOfARetriedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{
			policy.Retry{Attempts: 3, Backoff: policy.Constant(2 * time.Second)},
		}})
		n := 0
		_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) {
			time.Sleep(time.Second)
			if n++; n < 3 {
				return 0, errBoom
			}
			return 1, nil
		})
		require.NoError(t, err)
		st := p.Stats()
		require.Equal(t, 7*time.Second, st.Calls[messages.Success].Sum)
		require.Equal(t, 2*time.Second, st.Attempts[AttemptFailure].Sum)
		require.EqualValues(t, 2, st.Attempts[AttemptFailure].Count())
		require.Equal(t, time.Second, st.Attempts[AttemptSuccess].Sum)
		require.Equal(t, Histogram{Buckets: bucketOf(4 * time.Second), Sum: 4 * time.Second}, st.Overhead)
		require.EqualValues(t, 2, st.Retries)
	})
}

func TestStatsOfAHedgedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: time.Second, Max: 2})
		var n atomic.Int32
		_, err := Do(t.Context(), p, nil, func(ctx context.Context) (int, error) {
			if n.Add(1) == 2 {
				time.Sleep(5 * time.Second)
				return 1, nil
			}
			<-ctx.Done()
			return 0, ctx.Err()
		})
		require.NoError(t, err)
		synctest.Wait()
		st := p.Stats()
		require.Equal(t, [3]uint64{2, 1, 1}, [3]uint64{st.Hedged, st.HedgeWon, st.HedgeWasted})
		require.EqualValues(t, 1, st.Attempts[AttemptSuccess].Count())
		require.EqualValues(t, 2, st.Attempts[AttemptCanceled].Count(), "nobody waited for them")
		require.Zero(t, st.Overhead.Count(), "attempts overlap")
		require.Equal(t, 1, meterCounted(p, messages.Success))
	})
}

// What operators and users write is no label, and there is a place for so many.
func TestLabelsAreClosedAndBounded(t *testing.T) {
	sys := newSystem(t)
	var n atomic.Int64
	p := newPipeline(t, sys, Spec{Guards: []Guard{GuardFunc("quota", func(*messages.Context) messages.GuardResult {
		return messages.Reject(fmt.Sprintf("reason-%d", n.Add(1)))
	})}})
	for range 2 * maxLabelled {
		_, err := Do(t.Context(), p, nil, succeeds)
		require.Error(t, err)
	}
	st := p.Stats()
	require.Len(t, st.Refusals, maxLabelled+1)
	require.EqualValues(t, maxLabelled, st.Refusals[Refusal{otherLabel, otherLabel}])
	require.EqualValues(t, maxLabelled, st.Unlabelled)

	q := newPipelineNamed(t, sys, "q")
	require.NoError(t, sys.Kill(t.Context(), messages.KillState{Scope: messages.Global, On: true, Reason: "Order 17 of Ann", By: "op"}))
	_, err := Do(t.Context(), q, nil, succeeds)
	require.ErrorIs(t, err, messages.ErrKillSwitch)
	require.Equal(t, map[Refusal]uint64{{"kill_switch", "ordered"}: 1}, q.Stats().Refusals)
	require.Len(t, sys.Stats().Kills, 1)
}

func TestStatsOfBreakersLimitsAndRetryBudgets(t *testing.T) {
	p := newPipeline(t, newSystem(t), Spec{
		Layers: []policy.Config{
			policy.Retry{Attempts: 2, Backoff: policy.Constant(0), Budget: policy.RetryBudget{Ratio: 1e-9, MinPerSecond: 1e-9, Window: time.Hour}},
			policy.Breaker{Consecutive: 1, OpenFor: time.Hour},
			policy.RateLimit{Limit: 5, Per: time.Hour},
			policy.Bulkhead{Permits: 3},
		},
		Sinks: []FailureSink{&keeping{}},
	})
	_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) {
		require.Equal(t, BulkheadStats{InUse: 1, Limit: 3}, *p.Stats().Bulkhead)
		return 0, errBoom
	})
	require.ErrorIs(t, err, errBoom)
	_, err = Do(t.Context(), p, nil, succeeds)
	require.ErrorIs(t, err, messages.ErrBreakerOpen)
	st := p.Stats()
	require.EqualValues(t, 1, st.Suppressed)
	require.Equal(t, map[Transition]uint64{{"closed", "open", "consecutive"}: 1}, st.Transitions)
	require.Equal(t, 1, st.Breakers["open"])
	require.Equal(t, 0, st.Breakers["closed"])
	require.Equal(t, 4, *st.Tokens)
	require.Contains(t, st.RetryBudgets, "retry")
	require.Equal(t, map[string]uint64{"failure": 1}, st.Letters)
	require.EqualValues(t, 1, st.Refusals[Refusal{"breaker", "open"}], st.Refusals)

	require.NoError(t, p.Close(t.Context()))
	closed := p.Stats()
	require.Nil(t, closed.Breakers)
	require.Nil(t, closed.Bulkhead)
	require.Equal(t, st.Calls, closed.Calls, "what was counted stays")
}

// keeping is a sink that takes everything.
type keeping struct{ n atomic.Int64 }

func (k *keeping) Name() string { return "keeping" }
func (k *keeping) Handle(context.Context, *messages.DeadLetter) (string, error) {
	k.n.Add(1)
	return "1", nil
}

func TestWaitsForTokensAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.RateLimit{Limit: 1, Per: 3 * time.Second, Burst: 1, Queue: 1, MaxWait: time.Minute})
		for range 2 {
			_, err := Do(t.Context(), p, nil, succeeds)
			require.NoError(t, err)
		}
		st := p.Stats()
		require.Equal(t, Histogram{Buckets: bucketOf(3 * time.Second), Sum: 3 * time.Second}, st.RateLimitWaits)
		require.Equal(t, 3*time.Second, st.Overhead.Sum)
		require.EqualValues(t, 2, st.Overhead.Count())
	})
}

func TestRestartsAreCountedByKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{{Name: "mine", OnSuccess: func(Moment) { panic("boom") }}}})
		_, err := Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, map[string]uint64{"hook": 1}, p.sys.Stats().Restarts)
	})
}

// Counting allocates nothing, on the usual path or another.
func TestCountingAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own pools allocate; the counts are asserted by the run without it (make allocs)")
	}
	p := pipelineOf(t)
	c := &call{p: p, start: 1, now: 2, attempts: 1}
	c.log[0] = attemptLog{begin: 1, end: 2}
	r := &messages.RejectedError{By: "breaker", Reason: "open"}
	d := &call{p: p, start: 1, now: 2, verdict: rejected}
	require.Zero(t, testing.AllocsPerRun(100, func() { p.meter.count(c, nil); p.meter.count(d, r) }))
}

// BenchmarkCount is what is counted of one call that ended.
func BenchmarkCount(b *testing.B) {
	newCall := func() *call {
		p := pipelineOf(b)
		c := &call{p: p, start: 1, now: 2, attempts: 1}
		c.log[0] = attemptLog{begin: 1, end: 2}
		return c
	}
	b.Run("success", func(b *testing.B) {
		c := newCall()
		b.ReportAllocs()
		for b.Loop() {
			c.p.meter.count(c, nil)
		}
	})
	b.Run("refusal", func(b *testing.B) {
		c := newCall()
		c.attempts, c.verdict = 0, rejected
		r := &messages.RejectedError{By: "breaker", Reason: "open"}
		b.ReportAllocs()
		for b.Loop() {
			c.p.meter.count(c, r)
		}
	})
}
