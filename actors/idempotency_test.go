package actors

import (
	"context"
	goruntime "runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func keyed(key string) *messages.Context { return &messages.Context{IdempotencyKey: key} }

// memoryOf counts what the layer's store in memory holds: claimed, and done.
func memoryOf(p *Pipeline) (busy, done int) {
	s := layerOf[*idempotency](p).memory
	for i := range s.parts {
		s.parts[i].mu.Lock()
		for _, c := range s.parts[i].byKey {
			if c.done {
				done++
			} else {
				busy++
			}
		}
		s.parts[i].mu.Unlock()
	}
	return busy, done
}

func TestDuplicateIsGivenTheResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Hour}, policy.Idempotency{Keep: time.Minute}, policy.Retry{}}, Hooks: []Hook{rec.hook()}})
		ctx := t.Context()
		v, err := Do(ctx, p, keyed("1"), succeeds)
		require.NoError(t, err)
		require.Equal(t, 7, v)
		synctest.Wait()
		rec.take()
		r := Try(ctx, p, keyed("1"), never(t))
		require.Equal(t, messages.Success, r.Outcome)
		require.Equal(t, 7, r.Value)
		require.Zero(t, r.Attempts)
		require.Equal(t, []string{"timeout", "idempotency"}, r.Policies())
		synctest.Wait()
		require.Equal(t, []string{"execute 0", "success 0 success"}, rec.take())
		v, _ = Go(ctx, p, keyed("1"), never(t)).Await(ctx)
		require.Equal(t, 7, v)

		_, err = Do(ctx, p, keyed("1"), returns("another type"))
		wrong := new(messages.TypeError)
		require.ErrorAs(t, err, &wrong)
		require.Equal(t, messages.TypeError{By: "idempotency", Want: "string", Got: "int"}, *wrong)
		for n := range 2 {
			v, _ = Do(ctx, p, keyed(""), returns(n))
			require.Equal(t, n, v, "no key, no protection")
			v, _ = Do(ctx, p, nil, returns(n))
			require.Equal(t, n, v)
		}
		time.Sleep(time.Minute)
		v, _ = Do(ctx, p, keyed("1"), returns(8))
		require.Equal(t, 8, v, "what was kept is gone")
		_, err = Do(ctx, p, keyed("nil"), returns[error](nil))
		require.NoError(t, err)
		e, err := Do(ctx, p, keyed("nil"), returns[error](errBoom))
		require.NoError(t, err)
		require.NoError(t, e, "nil is a result")
	})
}

func TestDuplicateMeanwhileIsRefusedOrWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Idempotency{Hold: time.Minute})
		ctx := t.Context()
		first := Go(ctx, p, keyed("1"), func(context.Context) (int, error) { time.Sleep(10 * time.Second); return 7, nil })
		time.Sleep(time.Second)
		r := Try(ctx, p, keyed("1"), never(t))
		require.Equal(t, messages.Rejected, r.Outcome)
		require.ErrorIs(t, r.Err, messages.ErrInProgress)
		refused := new(messages.RejectedError)
		require.ErrorAs(t, r.Err, &refused)
		require.Equal(t, "idempotency", refused.By)
		require.Equal(t, "in_progress", refused.Reason)
		require.Equal(t, 59*time.Second, refused.RetryAfter)
		v, _ := Do(ctx, p, keyed("2"), returns(2))
		require.Equal(t, 2, v, "another key is another effect")

		require.NoError(t, p.Configure("idempotency", policy.Idempotency{Hold: time.Minute, Wait: 5 * time.Second}))
		begin := time.Now()
		_, err := Do(ctx, p, keyed("1"), never(t))
		require.ErrorIs(t, err, messages.ErrInProgress)
		require.Equal(t, 5*time.Second, time.Since(begin))
		v, err = Do(ctx, p, keyed("1"), never(t))
		require.NoError(t, err, "the first ended meanwhile")
		require.Equal(t, 7, v)
		require.LessOrEqual(t, time.Since(begin), 9*time.Second+lastPoll)
		_, _ = first.Await(ctx)

		failing := Go(ctx, p, keyed("3"), func(context.Context) (int, error) { time.Sleep(time.Second); return 0, errBoom })
		synctest.Wait()
		r = Try(ctx, p, keyed("3"), returns(3))
		require.Equal(t, 3, r.Value)
		require.Equal(t, 1, r.Attempts, "the first failed: who waited does the work")
		_, err = failing.Await(ctx)
		require.ErrorIs(t, err, errBoom)
	})
}

func TestWaitForTheFirstEndsWithTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 9}, policy.Timeout{Limit: 3 * time.Second}, policy.Idempotency{Wait: time.Hour})
		release := make(chan struct{})
		first := Go(t.Context(), p, keyed("1"), func(context.Context) (int, error) { <-release; return 7, nil })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := Try(ctx, p, keyed("1"), never(t))
		require.Equal(t, messages.Canceled, r.Outcome)
		require.Equal(t, time.Second, r.Duration)
		for _, bare := range []bool{false, true} {
			begin := time.Now()
			var err error
			if bare {
				_, err = Do0(t.Context(), p, keyed("1"), func() (int, error) { t.Error("ran"); return 0, nil })
			} else {
				_, err = Do(t.Context(), p, keyed("1"), never(t))
			}
			require.ErrorIs(t, err, messages.ErrTimeout)
			require.Equal(t, 3*time.Second, time.Since(begin))
		}
		close(release)
		_, _ = first.Await(t.Context())
	})
}

func TestOnlyASuccessCompletesAKey(t *testing.T) {
	for name, row := range map[string]struct {
		layers []policy.Config
		fn     func(ctx context.Context, cancel func()) (int, error)
	}{
		"failure":   {fn: func(context.Context, func()) (int, error) { return 0, errBoom }},
		"panic":     {fn: func(context.Context, func()) (int, error) { panic("x") }},
		"goexit":    {fn: func(context.Context, func()) (int, error) { goruntime.Goexit(); return 0, nil }},
		"canceled":  {fn: func(ctx context.Context, cancel func()) (int, error) { cancel(); return 0, ctx.Err() }},
		"timeout":   {[]policy.Config{policy.AttemptTimeout{Limit: time.Second}}, func(ctx context.Context, _ func()) (int, error) { <-ctx.Done(); return 0, ctx.Err() }},
		"fallback":  {[]policy.Config{policy.FallbackValue(1)}, func(context.Context, func()) (int, error) { return 0, errBoom }},
		"predicate": {[]policy.Config{policy.Retry{If: func(error) bool { panic("x") }}}, func(context.Context, func()) (int, error) { return 0, errBoom }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, append([]policy.Config{policy.Idempotency{}}, row.layers...)...)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				_, _ = Go(ctx, p, keyed("1"), func(ctx context.Context) (int, error) { return row.fn(ctx, cancel) }).Await(t.Context())
				busy, done := memoryOf(p)
				require.Zero(t, busy+done)
				v, err := Do(t.Context(), p, keyed("1"), returns(3))
				require.NoError(t, err)
				require.Equal(t, 3, v)
			})
		})
	}
}

func TestLaterRefusalReleasesTheKey(t *testing.T) {
	p := pipelineOf(t, policy.Idempotency{}, policy.Breaker{Consecutive: 1, OpenFor: time.Hour})
	for range 2 {
		_, err := Do(t.Context(), p, keyed("1"), fails)
		require.Error(t, err)
	}
	require.Equal(t, policy.Open, state(p))
	busy, done := memoryOf(p)
	require.Zero(t, busy+done)
}

func TestFallbackAnswerCompletesAKeyOnlyWhenAsked(t *testing.T) {
	p := pipelineOf(t, policy.Idempotency{KeepFallback: true}, policy.FallbackValue(1))
	_, _ = Do(t.Context(), p, keyed("1"), fails)
	r := Try(t.Context(), p, keyed("1"), never(t))
	require.Equal(t, 1, r.Value)
	require.Equal(t, messages.Success, r.Outcome)
	// and the default is a row of TestOnlyASuccessCompletesAKey
}

// The caller is told of the timeout at the limit; the claim is kept until the function has returned, and what it
// returned then is what a retry of the caller is given.
func TestTimeoutKeepsTheClaimUntilTheWorkEnds(t *testing.T) {
	slow := func(context.Context) (int, error) { time.Sleep(time.Minute); return 7, nil }
	for name, detached := range map[string]bool{"async": false, "detached": true} {
		run := func(t *testing.T, p *Pipeline) {
			t.Helper()
			var err error
			if detached {
				_, err = Do(t.Context(), p, keyed("1"), slow)
			} else {
				_, err = Go(t.Context(), p, keyed("1"), slow).Await(t.Context())
			}
			require.ErrorIs(t, err, messages.ErrTimeout)
			_, err = Do(t.Context(), p, keyed("1"), never(t))
			require.ErrorIs(t, err, messages.ErrInProgress, "the work goes on")
			time.Sleep(time.Minute)
		}
		t.Run(name+", inside the timeout", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Timeout{Limit: time.Second, Detached: detached}, policy.Idempotency{})
				run(t, p)
				v, err := Do(t.Context(), p, keyed("1"), never(t))
				require.NoError(t, err)
				require.Equal(t, 7, v, "the late success is the key's result")
			})
		})
		t.Run(name+", outside the timeout", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Idempotency{}, policy.Timeout{Limit: time.Second, Detached: detached})
				run(t, p)
				busy, done := memoryOf(p)
				require.Zero(t, busy+done, "released when the function had returned")
				v, err := Do(t.Context(), p, keyed("1"), returns(8))
				require.NoError(t, err)
				require.Equal(t, 8, v)
			})
		})
	}
	t.Run("cooperative", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pipelineOf(t, policy.Timeout{Limit: time.Second}, policy.Idempotency{})
			_, err := Do(t.Context(), p, keyed("1"), slow)
			require.ErrorIs(t, err, messages.ErrTimeout)
			v, _ := Do(t.Context(), p, keyed("1"), never(t))
			require.Equal(t, 7, v)
		})
	})
}

// A holder whose time was up ends after somebody else has claimed the key: its caller has its value, the key has not.
func TestSlowFirstHoldersMarkIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Idempotency{Hold: time.Minute})
		events := p.sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Kind == messages.IdempotencyLost })
		ctx := t.Context()
		slow := Go(ctx, p, keyed("1"), func(context.Context) (int, error) { time.Sleep(2 * time.Minute); return 1, nil })
		time.Sleep(time.Minute)
		second := Go(ctx, p, keyed("1"), func(context.Context) (int, error) { time.Sleep(50 * time.Second); return 2, nil })
		v, err := slow.Await(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, v)
		e := <-events.C()
		require.Equal(t, "idempotency", e.Source)
		require.Contains(t, e.Reason, messages.ErrConflict.Error())
		require.Equal(t, messages.EventCount{Count: 1}, e.Data)
		v, _ = second.Await(ctx)
		require.Equal(t, 2, v)
		v, _ = Do(ctx, p, keyed("1"), never(t))
		require.Equal(t, 2, v)

		// and it does not release the second's claim either
		slow = Go(ctx, p, keyed("2"), func(context.Context) (int, error) { time.Sleep(2 * time.Minute); return 0, errBoom })
		time.Sleep(time.Minute + time.Second)
		second = Go(ctx, p, keyed("2"), func(context.Context) (int, error) { time.Sleep(59500 * time.Millisecond); return 2, nil })
		_, err = slow.Await(ctx)
		require.ErrorIs(t, err, errBoom)
		_, err = Do(ctx, p, keyed("2"), never(t))
		require.ErrorIs(t, err, messages.ErrInProgress)
		_, _ = second.Await(ctx)
	})
}

func TestFullStoreRefusesNewKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Idempotency{Max: 2, Keep: time.Hour})
		ctx := t.Context()
		for _, k := range []string{"1", "2"} {
			_, _ = Do(ctx, p, keyed(k), succeeds)
			time.Sleep(time.Minute)
		}
		_, err := Do(ctx, p, keyed("3"), never(t))
		refused := new(messages.RejectedError)
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "store_full", refused.Reason)
		require.Equal(t, 58*time.Minute, refused.RetryAfter)
		require.ErrorIs(t, err, messages.ErrUnavailable)
		v, _ := Do(ctx, p, keyed("1"), never(t))
		require.Equal(t, 7, v, "what is there answers")
		require.NoError(t, p.Configure("idempotency", policy.Idempotency{Max: 2, Keep: time.Hour, FailOpen: true}))
		v, _ = Do(ctx, p, keyed("3"), returns(3))
		require.Equal(t, 3, v)
		require.NoError(t, p.Configure("idempotency", policy.Idempotency{Max: 2, Keep: time.Hour}))
		time.Sleep(58 * time.Minute)
		v, _ = Do(ctx, p, keyed("4"), returns(4))
		require.Equal(t, 4, v, "what has expired makes room")
		require.NoError(t, p.Configure("idempotency", policy.Idempotency{Max: 3, Keep: time.Hour}))
		v, _ = Do(ctx, p, keyed("5"), returns(5))
		require.Equal(t, 5, v, "so does a larger store")
	})
}

func TestIdempotencyThatOnlyObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty()
		p := newPipeline(t, newSystem(t), Spec{Observe: true, Layers: []policy.Config{policy.Idempotency{Store: store}}})
		events := p.sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Kind == messages.PolicyObserved })
		first := Go(t.Context(), p, keyed("1"), func(context.Context) (int, error) { time.Sleep(time.Minute); return 1, nil })
		synctest.Wait()
		r := Try(t.Context(), p, keyed("1"), returns(2))
		require.Equal(t, 2, r.Value)
		require.Equal(t, []string{"idempotency"}, r.Observed())
		require.Equal(t, "would have refused", (<-events.C()).Reason)
		require.Empty(t, first.Result(t.Context()).Observed())
		r = Try(t.Context(), p, keyed("1"), returns(3))
		require.Equal(t, 3, r.Value)
		require.Equal(t, "would have answered", (<-events.C()).Reason)
		require.Empty(t, store.seen, "it claims nothing")
		busy, done := memoryOf(p)
		require.Zero(t, busy+done, "nor in memory")
		require.NoError(t, p.Observe("", false))
		v, _ := Do(t.Context(), p, keyed("1"), returns(4))
		require.Equal(t, 4, v)
		v, _ = Do(t.Context(), p, keyed("1"), never(t))
		require.Equal(t, 4, v)
	})
}

func TestClaimsSurviveRestartAndNewSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Idempotency{})
		_, _ = Do(t.Context(), p, keyed("done"), succeeds)
		release := make(chan struct{})
		first := Go(t.Context(), p, keyed("busy"), func(context.Context) (int, error) { <-release; return 1, nil })
		synctest.Wait()
		check := func() {
			t.Helper()
			v, _ := Do(t.Context(), p, keyed("done"), never(t))
			require.Equal(t, 7, v)
			_, err := Do(t.Context(), p, keyed("busy"), never(t))
			require.ErrorIs(t, err, messages.ErrInProgress)
		}
		restart(t, &layerOf[*idempotency](p).settled, check)
		check()
		require.NoError(t, p.Configure("idempotency", policy.Idempotency{Hold: time.Hour, Max: 1}))
		check()
		close(release)
		v, _ := first.Await(t.Context())
		require.Equal(t, 1, v)
		v, _ = Do(t.Context(), p, keyed("busy"), never(t))
		require.Equal(t, 1, v)
	})
}

func TestIdempotencyKeyOfOnesOwn(t *testing.T) {
	p := pipelineOf(t, policy.Bulkhead{Permits: 1}, policy.Idempotency{Key: func(c messages.Context) string {
		if c.OrderID == "" {
			panic("no order")
		}
		return c.OrderID
	}})
	_, err := Do(t.Context(), p, nil, never(t))
	panicked := new(messages.PanicError)
	require.ErrorAs(t, err, &panicked)
	require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
	_, _ = Do(t.Context(), p, orderOf("1"), succeeds)
	v, _ := Do(t.Context(), p, orderOf("1"), never(t))
	require.Equal(t, 7, v)
}
