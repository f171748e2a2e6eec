package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// Each test here is named after a fault that was once there.

// bare makes a system whose end is the test's own subject.
func bare(t *testing.T) *System {
	t.Helper()
	sys, err := NewSystem(Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	return sys
}

func TestHookThatPanicsWhileItStopsHungClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		p := newPipeline(t, sys, Spec{Hooks: []Hook{{OnSuccess: func(Moment) { panic("hook") }}}})
		for range 20 {
			_, _ = Do(t.Context(), p, nil, succeeds)
		}
		require.NoError(t, sys.Close(t.Context()))
	})
}

func TestSinkThatAlwaysPanicsLeftLettersBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		p := newPipeline(t, sys, Spec{Sinks: []FailureSink{&memorySink{panics: 1 << 20}}})
		for range 30 {
			_, _ = Do(t.Context(), p, nil, fails)
			time.Sleep(time.Minute) // it is quarantined on the way
		}
		synctest.Wait()
		require.EqualValues(t, 30, p.sinks[0].lost.Load(), "each is told as lost")
		require.Zero(t, p.sinks[0].open.Load())
		require.NoError(t, sys.Close(t.Context()))
	})
}

// refusing is a sink that never takes one of the letters.
type refusing struct{ kept atomic.Int64 }

func (s *refusing) Name() string { return "refusing" }

func (s *refusing) Handle(_ context.Context, d *messages.DeadLetter) (string, error) {
	if d.Error == "poison" {
		return "", &messages.FieldError{Field: "letter", Value: d.ID, Allowed: "another one"}
	}
	s.kept.Add(1)
	return d.ID, nil
}

func TestLetterThatNoSinkCanTakeBlockedTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &refusing{}
		p := newPipeline(t, newSystem(t), Spec{Sinks: []FailureSink{sink}})
		_, _ = Do(t.Context(), p, nil, ctxFails(errors.New("poison")))
		_, _ = Do(t.Context(), p, nil, fails)
		synctest.Wait()
		require.EqualValues(t, 1, sink.kept.Load())
		require.EqualValues(t, 1, p.sinks[0].lost.Load())
	})
}

func TestCloseTookTheLimitsFromSynchronousCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, patience := range []time.Duration{time.Hour, time.Second} { // longer and shorter than the limit
			sys := bare(t)
			sink := &memorySink{}
			p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Minute}}, Sinks: []FailureSink{sink}})
			ended := make(chan Result[int], 1)
			go func() {
				ended <- Try(context.Background(), p, nil, func(ctx context.Context) (int, error) {
					<-ctx.Done()
					return 0, ctx.Err()
				})
			}()
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			err := sys.Close(ctx)
			cancel()
			if patience > time.Minute {
				require.NoError(t, err, "it was waited for")
			} else {
				require.ErrorContains(t, err, "1 calls still in flight")
			}
			require.Equal(t, messages.Timeout, (<-ended).Outcome)
			synctest.Wait()
			_, lost := p.Dropped()
			require.EqualValues(t, 1, len(sink.letters)+int(lost), "its letter is kept, or told as lost")
		}
	})
}

func TestFallbackThatLeavesByGoexitLeftTheFutureOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leave := func(context.Context, error) (int, error) { goruntime.Goexit(); return 0, nil }
		p := pipelineOf(t, policy.FallbackTo(leave), policy.Timeout{Limit: time.Second})
		f := Go(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Minute); return 1, nil })
		_, err := f.Await(t.Context())
		require.ErrorIs(t, err, messages.ErrGoexit)
		time.Sleep(time.Minute)
	})
}

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func TestErrorThatCannotBePrintedPanickedThroughTry(t *testing.T) {
	p := newPipeline(t, newSystem(t), Spec{Sinks: []FailureSink{&memorySink{}}})
	r := Try(t.Context(), p, nil, func(context.Context) (int, error) { return 0, (*nilError)(nil) })
	require.Equal(t, messages.Failure, r.Outcome)
	require.NotEmpty(t, r.DeadLetterID)
}

func TestProbeThatHangsShutTheBreakerForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 1})
		_, _ = Do(t.Context(), p, nil, fails)
		time.Sleep(time.Second)
		release := make(chan struct{})
		hung := Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil })
		synctest.Wait()
		_, err := Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrBreakerOpen)
		time.Sleep(time.Second + time.Millisecond)
		synctest.Wait()
		require.Equal(t, policy.Open, state(p), "the probe counts as failed")
		time.Sleep(time.Second)
		_, err = Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err, "and no longer among those in flight")
		require.Equal(t, policy.Closed, state(p))
		close(release)
		_, _ = hung.Await(t.Context())
		require.Zero(t, layerOf[*breaker](p).probes.Load())
	})
}

func TestHalfOpenBreakerWithFewCallsStaysHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 3})
		_, _ = Do(t.Context(), p, nil, fails)
		for range 3 {
			time.Sleep(time.Hour)
			_, err := Do(t.Context(), p, nil, succeeds)
			require.NoError(t, err)
		}
		require.Equal(t, policy.Closed, state(p))
	})
}

func TestConfigureOfAStoppedLayerClaimedSuccess(t *testing.T) {
	p := pipelineOf(t, policy.Retry{Attempts: 1}, policy.Breaker{})
	require.NoError(t, p.Close(t.Context()))
	require.ErrorIs(t, p.Configure("retry", policy.Retry{Attempts: 9}), messages.ErrStopped)
	require.ErrorIs(t, p.Configure("breaker", policy.Breaker{}), messages.ErrStopped)
}

func TestFallbackOfTheRightTypeCameTooLate(t *testing.T) {
	p := pipelineOf(t, policy.FallbackValue("no"))
	_, err := Do(t.Context(), p, nil, fails)
	require.ErrorContains(t, err, "fallback gives string where the call returns int")
	require.NoError(t, p.Configure("fallback", policy.FallbackValue(3)))
	v, err := Do(t.Context(), p, nil, fails)
	require.NoError(t, err)
	require.Equal(t, 3, v)
}

func TestBuildingWhileOthersStopHungTheSystem(t *testing.T) {
	for range 5 {
		sys := bare(t)
		var old []*Pipeline
		for i := range 20 {
			p, err := sys.Pipeline(fmt.Sprint("old-", i), Spec{})
			require.NoError(t, err)
			old = append(old, p)
		}
		var all sync.WaitGroup
		for g := range 4 {
			all.Go(func() {
				for i := range 50 {
					_, _ = sys.Pipeline(fmt.Sprintf("new-%d-%d", g, i), Spec{Layers: []policy.Config{policy.Breaker{}}})
				}
			})
		}
		for _, p := range old {
			sys.root.Stop(p.PID())
		}
		goruntime.Gosched()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		require.NoError(t, sys.Close(ctx)) // and building while it closes ends too
		cancel()
		all.Wait()
	}
}

// The race detector is this test's judge: a limit that is met in the moment its attempt ends must not touch the next.
func TestLimitThatWasMetReachedIntoTheNextAttempt(t *testing.T) {
	p := pipelineOf(t, policy.Retry{Attempts: 30, Backoff: policy.Constant(0)}, policy.AttemptTimeout{Limit: 2 * time.Millisecond})
	var early atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				_, _ = Do(context.Background(), p, nil, func(ctx context.Context) (int, error) {
					at, _ := ctx.Deadline()
					<-ctx.Done()
					if time.Now().Add(200 * time.Microsecond).Before(at) {
						early.Add(1)
					}
					return 0, errBoom
				})
			}
		})
	}
	all.Wait()
	require.Zero(t, early.Load())
}

func TestAbandonedTasksWereNotCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{Intake: 2, Layers: []policy.Config{policy.Timeout{Limit: time.Second}}})
		release := make(chan struct{})
		answered := 0
		for p.Reserve(1) == 1 {
			var both sync.WaitGroup
			both.Add(2)
			sys.Work(func() {
				RunTask(context.Background(), p, &messages.Task{ID: "1", Type: "x"}, func(context.Context) (any, error) {
					<-release
					return nil, nil
				}, func(Result[any]) { both.Done() }, both.Done)
			})
			go func() {
				both.Wait()
				p.Release(1)
			}()
			time.Sleep(time.Minute)
			answered++
		}
		require.Equal(t, 2, answered, "both were answered, and still take up room")
		close(release)
		synctest.Wait()
		used, abandoned := p.InFlight()
		require.Equal(t, []int{0, 0}, []int{used, abandoned})
	})
}

func TestCallerThatLeftTrippedTheBreakerByAForeignError(t *testing.T) {
	p := pipelineOf(t, policy.Breaker{Consecutive: 1})
	ctx, cancel := context.WithCancel(t.Context())
	r := Try(ctx, p, nil, func(context.Context) (int, error) {
		cancel()
		return 0, errors.New("rpc error: code = Canceled")
	})
	require.Equal(t, messages.Canceled, r.Outcome)
	require.Equal(t, policy.Closed, state(p))
}

func TestSubscriberThatPanicsToreThePipelineDown(t *testing.T) {
	sys := newSystem(t)
	p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Breaker{Consecutive: 1}}})
	sub := sys.Events().Subscribe(1, func(messages.Event) bool { panic("subscriber") })
	_, _ = Do(t.Context(), p, nil, fails)
	_, err := Do(t.Context(), p, nil, succeeds)
	require.ErrorIs(t, err, messages.ErrBreakerOpen, "the breaker did its work")
	require.EqualValues(t, 1, sub.Dropped())
}

func TestDoneOfATakenFutureWatchedAnotherCall(t *testing.T) {
	p := pipelineOf(t)
	f := Go(t.Context(), p, nil, succeeds)
	_, _ = f.Await(t.Context())
	release := make(chan struct{})
	g := Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil })
	<-f.Done()
	close(release)
	_, _ = g.Await(t.Context())
}

// An order of the kill switch is applied once, and in its turn, however busy the host is.
func TestKillOrdersAreNotRepeated(t *testing.T) {
	sys := newSystem(t)
	order := messages.KillState{Scope: messages.Global, Reason: "x", By: "x"}
	for range 200 {
		for _, on := range []bool{true, false} {
			order.On = on
			require.NoError(t, sys.Kill(t.Context(), order))
			_, is := sys.Killed("", "", nil)
			require.Equal(t, on, is)
		}
	}
	st, _ := sys.KillState(messages.Global)
	require.EqualValues(t, 400, st.Revision)
}

func TestErrorThatAsksForTooLongAWaitIsNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Retry{Attempts: 3, Backoff: policy.Constant(0)})
		begin := time.Now()
		r := Try(t.Context(), p, nil, ctxFails(retryAfterError{24 * time.Hour}))
		require.Equal(t, 1, r.Attempts)
		require.Zero(t, time.Since(begin))
	})
}

// What a pipeline takes in is what its bulkhead takes.
func TestRoomKnowsTheBulkhead(t *testing.T) {
	p := pipelineOf(t, policy.Bulkhead{Permits: 2, Queue: 3})
	n, _, _ := p.Room("")
	require.Equal(t, 5, n)
	require.Equal(t, 5, p.Reserve(5))
	n, wait, why := p.Room("")
	require.Zero(t, n)
	require.Positive(t, wait)
	require.Empty(t, why)
	p.Release(5)
}

func TestYoungProbeWasCalledHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: 30 * time.Second, Probes: 3})
		_, _ = Do(t.Context(), p, nil, fails)
		time.Sleep(30 * time.Second)
		_, _ = Do(t.Context(), p, nil, succeeds)
		time.Sleep(29900 * time.Millisecond)
		_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(200 * time.Millisecond); return 1, nil })
		require.NoError(t, err)
		require.Equal(t, policy.HalfOpen, state(p))
	})
}

// A probe that hangs is written off, whatever happened to its epoch since.
func TestHungProbeOfAnEarlierEpochKeptTheBreakerShut(t *testing.T) {
	cfg := policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 1}
	for name, change := range map[string]func(*testing.T, *Pipeline){
		"reconfigured": func(t *testing.T, p *Pipeline) { require.NoError(t, p.Configure("breaker", cfg)) },
		"its neighbour failed": func(t *testing.T, p *Pipeline) {
			_, _ = Do(t.Context(), p, nil, fails)
			require.NoError(t, p.Configure("breaker", cfg))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 2})
				_, _ = Do(t.Context(), p, nil, fails)
				time.Sleep(time.Second)
				release := make(chan struct{})
				hung := Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil })
				synctest.Wait()
				change(t, p)
				admitted := false
				for range 10 {
					time.Sleep(2 * time.Second)
					_, err := Do(t.Context(), p, nil, succeeds)
					admitted = admitted || err == nil
				}
				require.True(t, admitted)
				close(release)
				_, _ = hung.Await(t.Context())
				require.Zero(t, layerOf[*breaker](p).probes.Load())
			})
		})
	}
}

// The race detector is this test's judge: a call that never comes to its timeout disarms it all the same.
func TestRefusedAsyncCallLeftItsTimerArmed(t *testing.T) {
	p := newPipeline(t, newSystem(t), Spec{
		Guards: []Guard{GuardFunc("door", func(*messages.Context) messages.GuardResult { return messages.Reject("closed") })},
		Layers: []policy.Config{policy.Timeout{Limit: time.Millisecond}},
	})
	for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); {
		_ = Go(context.Background(), p, nil, succeeds).Result(context.Background())
	}
}

func TestSinkTriedForEverAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		sink := &memorySink{fail: 1 << 30}
		p := newPipeline(t, sys, Spec{Sinks: []FailureSink{sink}})
		release, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = Do(context.Background(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil })
		}()
		_, _ = Do(t.Context(), p, nil, fails)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorContains(t, sys.Close(ctx), "1 calls still in flight")
		close(release)
		<-ended
		synctest.Wait()
		_, lost := p.Dropped()
		require.EqualValues(t, 1, lost)
	})
}

// A caller whose time is up is not one that changed its mind: what the downstream answers still counts.
func TestBreakerDoesNotHideBehindItsCallersDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 3})
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			r := Try(ctx, p, nil, func(context.Context) (int, error) { time.Sleep(2 * time.Second); return 0, errBoom })
			cancel()
			require.Equal(t, messages.Failure, r.Outcome)
			require.ErrorIs(t, r.Err, errBoom)
		}
		synctest.Wait() // a caller whose time is up does not wait for the verdict
		require.Equal(t, policy.Open, state(p))
	})
}
