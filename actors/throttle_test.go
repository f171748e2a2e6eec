package actors

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
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

// reject is the probability in force, after all that was counted was told.
func (t *throttle) reject() float64 {
	t.host.Await(context.Background(), t.fact(t.view.Load(), t.sys.now()))
	return t.view.Load().Reject
}

// A sequential caller sees exactly what the formula gives, after each failure.
func TestThrottleIsExactForASequentialCaller(t *testing.T) {
	p := pipelineOf(t, policy.Throttle{Window: 24 * time.Hour, MinRequests: 5})
	l := layerOf[*throttle](p)
	random := rand.New(rand.NewPCG(1, 2))
	requests, accepts := 0, 0
	for range 3000 {
		draw := random.Float64()
		l.draw = func() float64 { return draw }
		reject := l.view.Load().Reject
		bad := random.IntN(100) < 70
		requests++
		_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) {
			if bad {
				return 0, errBoom
			}
			return 1, nil
		})
		switch {
		case draw < reject:
			require.ErrorIs(t, err, messages.ErrThrottled)
			rejected := new(messages.RejectedError)
			require.ErrorAs(t, err, &rejected)
			require.Equal(t, "throttle", rejected.By)
			require.Equal(t, "throttled", rejected.Reason)
		case !bad:
			require.NoError(t, err)
			accepts++
		default:
			require.Equal(t, errBoom, err)
			want := 0.0
			if requests >= 5 {
				want = min(max(float64(requests-2*accepts)/float64(requests+1), 0), 0.95)
			}
			require.InDelta(t, want, l.view.Load().Reject, 1e-12)
		}
	}
	require.Greater(t, requests-accepts, 1000)
}

// Requests are counted when they come: calls that hang, and calls that are refused here, which never end in a verdict of
// the downstream at all.
func TestRequestsWereCountedOnlyWhenTheyEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Throttle{Window: 10 * time.Second, MaxReject: 1})
		l := layerOf[*throttle](p)
		release := make(chan struct{})
		var held []Future[int]
		for range 20 {
			held = append(held, Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil }))
		}
		time.Sleep(3 * time.Second)
		require.InDelta(t, 20.0/21, l.view.Load().Reject, 1e-12, "they hang, none has ended, and it is known")
		l.draw = func() float64 { return 0 }
		for range 5 {
			_, err := Do(t.Context(), p, nil, succeeds)
			require.ErrorIs(t, err, messages.ErrThrottled)
		}
		require.InDelta(t, 25.0/26, l.reject(), 1e-12, "and so do those refused here")
		close(release)
		for _, f := range held {
			_, _ = f.Await(t.Context())
		}
		require.Zero(t, l.reject(), "they were only slow")
		time.Sleep(time.Minute)
	})
}

// By the formula alone a healthy downstream that takes a while would be throttled by the first burst it is sent.
func TestCallsInFlightLookedLikeRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Throttle{})
		var all sync.WaitGroup
		var refused atomic.Int64
		for i := range 3000 { // 100 a second that take 2 s each, from idle; one in ten fails, some of them fast
			time.Sleep(10 * ms)
			all.Go(func() {
				_, err := Do(context.Background(), p, nil, func(context.Context) (int, error) {
					if i%20 == 0 {
						return 0, errBoom
					}
					time.Sleep(2 * time.Second)
					if i%20 == 10 {
						return 0, errBoom
					}
					return 1, nil
				})
				if errors.Is(err, messages.ErrThrottled) {
					refused.Add(1)
				}
			})
		}
		all.Wait()
		require.Zero(t, refused.Load())
		time.Sleep(5 * time.Minute)
	})
}

// The downstream that can take a tenth of what it is asked is asked about K times as often as it accepts, and is asked
// for everything again when it is well.
func TestThrottleHoldsBackAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Throttle{Window: 10 * time.Second})
		l := layerOf[*throttle](p)
		random := rand.New(rand.NewPCG(3, 4))
		l.draw = random.Float64
		asked, accepted := 0, 0
		run := func(seconds, capacity int) (refused int) {
			asked, accepted = 0, 0
			for range seconds {
				left := capacity
				for range 200 {
					time.Sleep(5 * ms)
					_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) {
						asked++
						if left--; left < 0 {
							return 0, errBoom
						}
						accepted++
						return 1, nil
					})
					if errors.Is(err, messages.ErrThrottled) {
						refused++
					}
				}
			}
			return refused
		}
		require.Zero(t, run(20, 200))
		run(20, 20) // it takes a window to forget
		refused := run(60, 20)
		require.InDelta(t, 60*20, accepted, 60*4, "what it can take it gets")
		require.InDelta(t, 2*accepted, asked, float64(accepted)*0.3, "and about K times that, not ten times")
		require.InDelta(t, 60*200-2*60*20, refused, 60*20)
		run(30, 200)
		require.Zero(t, run(10, 200), "well again")
		run(30, 0)
		require.InDelta(t, 0.95, l.view.Load().Reject, 1e-9)
		require.Positive(t, asked, "some always pass")
		time.Sleep(11 * time.Second)
		require.Zero(t, l.view.Load().Reject, "it forgets while nobody calls")
		require.True(t, l.view.Load().asleep.Load())
	})
}

func TestThrottleCountsNoCancellationAndNoRefusalInside(t *testing.T) {
	p := pipelineOf(t, policy.Throttle{MinRequests: 1, Window: time.Hour}, policy.Bulkhead{Permits: 1})
	l := layerOf[*throttle](p)
	permit, err := Acquire(t.Context(), p, nil)
	require.NoError(t, err)
	for range 50 {
		_, err := Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrBulkheadFull)
	}
	permit.Done(nil)
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Do(ctx, p, nil, func(ctx context.Context) (int, error) { cancel(); return 0, ctx.Err() })
		require.ErrorIs(t, err, context.Canceled)
		var gone sync.WaitGroup
		gone.Go(func() {
			_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) { goruntime.Goexit(); return 0, nil })
		})
		gone.Wait()
	}
	require.Zero(t, l.reject())
	require.Equal(t, policy.Traffic{Admitted: 151, Accepted: 1, Neutral: 150}, l.view.Load().traffic())
	_, _ = Do(t.Context(), p, nil, fails)
	_, _ = Do(t.Context(), p, nil, fails)
	require.Positive(t, l.view.Load().Reject, "two failures beside one success do count")
	require.InDelta(t, 1.0/4, l.view.Load().Reject, 1e-12)
}

func TestThrottleAccepts(t *testing.T) {
	errInput := errors.New("no such account")
	accepts := func(err error) bool {
		if errors.Is(err, context.DeadlineExceeded) {
			panic("classifier")
		}
		return errors.Is(err, errInput)
	}
	p := pipelineOf(t, policy.Throttle{MinRequests: 1, Window: time.Hour, Accepts: accepts})
	l := layerOf[*throttle](p)
	for range 10 {
		_, err := Do(t.Context(), p, nil, ctxFails(errInput))
		require.Equal(t, errInput, err)
		_, err = Do(t.Context(), p, nil, ctxFails(messages.Discard(errBoom)))
		require.ErrorIs(t, err, errBoom)
	}
	require.Equal(t, policy.Traffic{Admitted: 20, Accepted: 20}, l.view.Load().traffic())
	panicked := new(messages.PanicError)
	_, err := Do(t.Context(), p, nil, ctxFails(context.DeadlineExceeded))
	require.ErrorAs(t, err, &panicked)
	permit, err := Acquire(t.Context(), p, nil)
	require.NoError(t, err)
	permit.Done(context.DeadlineExceeded)
	require.Equal(t, policy.Traffic{Admitted: 22, Accepted: 20, Neutral: 2}, l.view.Load().traffic(), "it takes its admission back")
	require.Zero(t, p.inFlight())
	require.NoError(t, p.Configure("throttle", policy.Throttle{MinRequests: 1, Window: time.Hour}))
	for range 30 {
		_, _ = Do(t.Context(), p, nil, ctxFails(errInput))
	}
	require.Positive(t, l.view.Load().Reject, "without it they are failures; what was counted stays")
	require.ErrorIs(t, p.Configure("throttle", policy.Bulkhead{}), messages.ErrInvalid)
}

func TestThrottleLosesNoCallUnderLoad(t *testing.T) {
	p := pipelineOf(t, policy.Throttle{Window: time.Second}, policy.Bulkhead{Permits: 40})
	l := layerOf[*throttle](p)
	var calls, ran, refused atomic.Int64
	var all sync.WaitGroup
	for g := range 64 {
		all.Go(func() {
			for i := range 150 {
				ctx, cancel := context.WithCancel(context.Background())
				var one sync.WaitGroup
				one.Go(func() { // its own goroutine: Goexit ends it
					calls.Add(1)
					_, err := Do(ctx, p, nil, func(context.Context) (int, error) {
						ran.Add(1)
						goruntime.Gosched()
						return exit(g+i, cancel)
					})
					if errors.Is(err, messages.ErrThrottled) {
						refused.Add(1)
					}
				})
				one.Wait()
				cancel()
			}
		})
	}
	all.Wait()
	l.reject()
	seen := l.view.Load().traffic()
	require.EqualValues(t, calls.Load(), seen.Admitted+seen.Refused)
	require.EqualValues(t, refused.Load(), seen.Refused)
	require.Equal(t, seen.Admitted, seen.Accepted+seen.Failed+seen.Neutral, "nothing is in flight")
	require.Positive(t, ran.Load())
	require.Positive(t, refused.Load())
}

func TestThrottleOnlyObserves(t *testing.T) {
	p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Throttle{}}, Observe: true})
	l := layerOf[*throttle](p)
	l.draw = func() float64 { return 0 }
	for range 10 {
		require.Empty(t, Try(t.Context(), p, nil, fails).Observed())
	}
	r := Try(t.Context(), p, nil, succeeds)
	require.Equal(t, messages.Success, r.Outcome)
	require.Equal(t, []string{"throttle"}, r.Observed())
	require.Equal(t, policy.Traffic{Admitted: 10, Refused: 1, Failed: 10}, l.view.Load().traffic(), "it counts as if it had acted")
	require.NoError(t, p.Observe("throttle", false))
	_, err := Do(t.Context(), p, nil, succeeds)
	require.ErrorIs(t, err, messages.ErrThrottled)
}

// A call that is counted while the throttle falls asleep, and does not see that it does, must not wait for the next one.
func TestThrottleDoesNotSleepThroughACall(t *testing.T) {
	l := layerOf[*throttle](pipelineOf(t, policy.Throttle{}))
	core := policy.NewThrottle(l.first, nil)
	v := l.view.Load()
	v.asleep.Store(false)
	require.False(t, l.sleep(core))
	require.True(t, v.asleep.Load())
	v.asleep.Store(false)
	v.admitted.add(1, 1) // and saw that it was awake
	require.True(t, l.sleep(core), "a tick is due")
	require.False(t, v.asleep.Load())
}

// throttleCrasher is a core that panics when it is told to.
type throttleCrasher struct {
	*policy.ThrottleCore
	crash *atomic.Int64
}

func (c throttleCrasher) Apply(f policy.ThrottleFact) bool {
	if c.crash.Add(-1) >= 0 {
		panic("core is broken")
	}
	return c.ThrottleCore.Apply(f)
}

func TestThrottleSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, err := NewSystem(Options{Restarts: RestartPolicy{Initial: time.Second}, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer func() { require.NoError(t, sys.Close(context.Background())) }()
		p := &Pipeline{sys: sys, name: "p", meter: &callMeter{}}
		p.intake.size = 1
		require.NoError(t, p.build(Spec{Layers: []policy.Config{policy.Throttle{MinRequests: 7}}, Intake: 1}))
		l, crash := layerOf[*throttle](p), new(atomic.Int64)
		l.revive = func(cfg policy.Throttle, last *policy.ThrottleSnapshot) throttleCore {
			return throttleCrasher{policy.NewThrottle(cfg, last), crash}
		}
		require.NoError(t, sys.within(l.start))
		l.draw = func() float64 { return 0 }
		for range 7 {
			_, _ = Do(t.Context(), p, nil, fails)
		}
		_, err = Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrThrottled)
		old := l.view.Load()
		l.draw = func() float64 { return 0.99 }
		permit, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err)
		crash.Store(1)
		_, err = Do(t.Context(), p, nil, fails)
		require.Equal(t, errBoom, err, "a host that fails costs no call its result")
		require.Equal(t, hostFailed, l.host.status.Load())
		require.Positive(t, l.view.Load().Reject, "what it decided last is in force")
		time.Sleep(2 * time.Second)
		v := l.view.Load()
		require.Zero(t, v.Reject, "evidence is dropped")
		require.Greater(t, v.Epoch, old.Epoch)
		require.Equal(t, 7, v.Settings.MinRequests)
		permit.Done(errBoom) // admitted before
		require.Zero(t, l.reject())
		require.Equal(t, policy.Traffic{}, v.traffic())
		l.draw = func() float64 { return 0 }
		for range 7 {
			_, _ = Do(t.Context(), p, nil, fails)
		}
		require.Positive(t, l.view.Load().Reject, "and it judges again")
	})
}
