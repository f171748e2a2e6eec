package actors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// recorder writes down what a hook is told.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) hook() Hook {
	say := func(what string) func(Moment) {
		return func(m Moment) {
			r.mu.Lock()
			defer r.mu.Unlock()
			line := fmt.Sprintf("%s %d", what, m.Attempt)
			if m.Delay > 0 {
				line += " in " + m.Delay.String()
			}
			if m.By != "" {
				line += " by " + m.By + ": " + m.Reason
			}
			if m.Outcome.Good() {
				line += " " + string(m.Outcome)
			}
			r.lines = append(r.lines, line)
		}
	}
	return Hook{OnExecute: say("execute"), OnSuccess: say("success"), OnFailure: say("failure"), OnRetry: say("retry"), OnReject: say("reject")}
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lines
	r.lines = nil
	return l
}

// A hook is told of every attempt, in order, and of how the call ended.
func TestHooksAreToldEverythingInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		closed := GuardFunc("door", func(c *messages.Context) messages.GuardResult {
			if c != nil && c.OrderID == "no" {
				return messages.Reject("closed", "sign", "back at five")
			}
			return messages.Allow()
		})
		p := newPipeline(t, newSystem(t), Spec{
			Guards: []Guard{closed},
			Layers: []policy.Config{
				policy.Fallback{Func: func(context.Context, error) (any, error) { return 3, nil }, If: func(err error) bool { return errors.Is(err, messages.ErrTimeout) }},
				policy.Timeout{Limit: time.Minute},
				policy.Retry{Attempts: 3, Backoff: policy.Constant(time.Second)},
				policy.Breaker{Consecutive: 3},
			},
			Hooks: []Hook{rec.hook()},
		})
		told := func(want ...string) {
			t.Helper()
			synctest.Wait()
			require.Equal(t, want, rec.take())
		}
		_, _ = Do(t.Context(), p, nil, succeeds)
		told("execute 1", "success 1 success")
		_, err := Do(t.Context(), p, &messages.Context{OrderID: "no"}, succeeds)
		rejected := new(messages.RejectedError)
		require.ErrorAs(t, err, &rejected)
		require.Equal(t, map[string]any{"sign": "back at five"}, rejected.Metadata)
		require.ErrorIs(t, err, messages.ErrGuard)
		told("reject 0 by door: closed")
		_, _ = Do(t.Context(), p, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		told("execute 1", "failure 1", "success 1 fallback")
		_, _ = Go(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Hour); return 0, nil }).Await(t.Context())
		told("execute 1", "failure 1", "success 1 fallback")
		time.Sleep(time.Hour)
		synctest.Wait()
		told() // the abandoned function tells nothing more
		ctx, cancel := context.WithCancel(t.Context())
		_, _ = Do(ctx, p, nil, func(ctx context.Context) (int, error) { cancel(); return 0, ctx.Err() })
		told("execute 1")
		_, _ = Do(t.Context(), p, nil, fails)
		told("execute 1", "failure 1", "retry 1 in 1s", "execute 2", "failure 2", "retry 2 in 1s", "execute 3", "failure 3")
		_, _ = Do(t.Context(), p, nil, fails)
		told("execute 0", "reject 0 by breaker: open")
	})
}

func TestHooksThatMisbehaveHurtNobody(t *testing.T) {
	sys := newSystem(t)
	release := make(chan struct{})
	var after atomic.Int64
	p, err := sys.Pipeline("p", Spec{Hooks: []Hook{
		{Name: "blocks", Queue: 4, OnSuccess: func(Moment) { <-release }},
		{Name: "panics", OnSuccess: func(m Moment) {
			if m.Context.OrderID == "bad" {
				panic("hook")
			}
			after.Add(1)
		}},
	}})
	require.NoError(t, err)
	events := sys.Events().Subscribe(16, func(e messages.Event) bool { return e.Kind == messages.ActorRestarted })
	_, err = Do(t.Context(), p, &messages.Context{OrderID: "bad"}, succeeds)
	require.NoError(t, err)
	for range 50 {
		v, err := Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err)
		require.Equal(t, 7, v)
	}
	require.Positive(t, p.hooks[0].dropped.Load(), "what the blocked hook cannot take is dropped and counted")
	require.Eventually(t, func() bool { return after.Load() == 50 }, 5*time.Second, time.Millisecond, "the other one goes on after its restart")
	require.Equal(t, messages.ActorRestarted, (<-events.C()).Kind)
	close(release)
}

func TestGuardThatPanicsIsPassedOver(t *testing.T) {
	sys := newSystem(t)
	p := newPipeline(t, sys, Spec{Guards: []Guard{GuardFunc("broken", func(*messages.Context) messages.GuardResult { panic("guard") })}})
	_, err := Do(t.Context(), p, nil, succeeds)
	require.NoError(t, err)
	require.EqualValues(t, 1, sys.GuardErrors())
}

func TestKillSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Retry{Attempts: 5, Backoff: policy.Constant(time.Second)}}})
		unguarded, err := sys.Pipeline("bare", Spec{Unstoppable: true})
		require.NoError(t, err)
		on := messages.KillState{Scope: messages.Global, On: true, Reason: "fire", By: "ops"}

		// It is read again before each attempt.
		time.AfterFunc(1500*time.Millisecond, func() { _ = sys.Kill(context.Background(), on) })
		r := Try(t.Context(), p, nil, fails)
		require.Equal(t, messages.Rejected, r.Outcome)
		require.Equal(t, 2, r.Attempts)
		require.ErrorIs(t, r.Err, messages.ErrKillSwitch)
		rejected := new(messages.RejectedError)
		require.ErrorAs(t, r.Err, &rejected)
		require.Equal(t, "fire", rejected.Reason)
		require.Equal(t, "global", rejected.Metadata["scope"])

		r = Try(t.Context(), p, nil, succeeds)
		require.Zero(t, r.Attempts)
		require.Empty(t, r.Policies(), "guards come before the layers")
		n, _, why := p.Room("charge")
		require.Zero(t, n)
		require.Equal(t, "kill_switch", why)
		_, err = Do(t.Context(), unguarded, nil, succeeds)
		require.NoError(t, err, "an unstoppable pipeline is not asked")

		on.On = false
		require.NoError(t, sys.Kill(t.Context(), on))
		_, err = Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err)
		require.NoError(t, sys.Kill(t.Context(), messages.KillState{Scope: messages.TypeScope("charge"), On: true, Reason: "x"}))
		_, err = Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err, "another scope")
		n, _, _ = p.Room("charge")
		require.Zero(t, n)
		_, found := sys.Killed("p", "charge", nil)
		require.True(t, found)
	})
}

// memorySink keeps letters, after failing as often as told.
type memorySink struct {
	mu      sync.Mutex
	letters []*messages.DeadLetter
	fail    int
	panics  int
	hang    chan struct{}
}

func (s *memorySink) Name() string { return "memory" }

func (s *memorySink) Handle(_ context.Context, d *messages.DeadLetter) (string, error) {
	if s.hang != nil {
		<-s.hang
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.panics > 0:
		s.panics--
		panic("sink")
	case s.fail > 0:
		s.fail--
		return "", errBoom
	}
	s.letters = append(s.letters, d)
	return d.ID, nil
}

func TestSinksSeeEveryTerminalFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memorySink{fail: 3}
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{Sinks: []FailureSink{sink}, Layers: []policy.Config{policy.Timeout{Limit: time.Second}, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}}})
		who := &messages.Context{OrderID: "17", Extra: map[string]any{messages.RequestData: map[string]any{"order": 17}}}
		r := Try(t.Context(), p, who, fails)
		require.NotEmpty(t, r.DeadLetterID)
		late := Try(t.Context(), p, who, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		_ = Try(t.Context(), p, who, succeeds)
		time.Sleep(time.Minute) // the sink fails a few times first
		synctest.Wait()
		require.Len(t, sink.letters, 2)
		d := sink.letters[0]
		require.Equal(t, r.DeadLetterID, d.ID)
		require.Equal(t, []string{"boom", "boom"}, d.AttemptErrors)
		require.Equal(t, messages.ReasonFailure, d.Reason)
		require.Equal(t, "*errors.errorString", d.ErrorType)
		require.Equal(t, "17", d.Context.OrderID)
		require.JSONEq(t, `{"order":17}`, string(d.Body))
		require.Equal(t, []string{"timeout", "retry"}, d.Policies)
		require.Equal(t, late.DeadLetterID, sink.letters[1].ID)
		require.Equal(t, messages.ReasonTimeout, sink.letters[1].Reason)
		require.Equal(t, []string{"timeout: no answer within 1s"}, sink.letters[1].AttemptErrors, "the limit is what ended the attempt")

		lost := sys.Events().Subscribe(4, func(e messages.Event) bool { return e.Kind == messages.DeadLetterLost })
		sink.panics = 1
		_ = Try(t.Context(), p, nil, fails)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, "sink panicked", (<-lost.C()).Reason)
		_ = Try(t.Context(), p, nil, fails)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Len(t, sink.letters, 3, "and the sink goes on")
	})
}

func TestSinkThatHangsFillsItsQueueAndNoMore(t *testing.T) {
	sink := &memorySink{hang: make(chan struct{})}
	p := newPipeline(t, newSystem(t), Spec{Sinks: []FailureSink{sink}})
	for range sinkQueue + 10 {
		_, err := Do(t.Context(), p, nil, fails)
		require.ErrorIs(t, err, errBoom)
	}
	require.GreaterOrEqual(t, p.sinks[0].lost.Load(), uint64(9))
	close(sink.hang)
}

func TestRestartPolicy(t *testing.T) {
	p := RestartPolicy{Initial: time.Second, Max: 5 * time.Second, HalfLife: time.Minute, Budget: 4}
	for _, row := range []struct {
		failures float64
		since    time.Duration
		count    float64
		delay    time.Duration
		ok       bool
	}{
		{0, 0, 1, time.Second, true},
		{1, 0, 2, 2 * time.Second, true},
		{2, 0, 3, 4 * time.Second, true},
		{3, 0, 4, 5 * time.Second, true}, // capped
		{4, 0, 5, 0, false},
		{4, time.Minute, 3, 4 * time.Second, true}, // faded by half
		{4, 24 * time.Hour, 1, time.Second, true},
	} {
		count, delay, ok := p.next(row.failures, row.since)
		require.InDelta(t, row.count, count, 1e-9)
		require.Equal(t, row.ok, ok)
		require.Equal(t, row.delay, delay.Round(time.Millisecond))
	}
}

func TestBusDropsForTheSlowAndOnlyForThem(t *testing.T) {
	var bus Bus
	slow := bus.Subscribe(2, nil)
	picky := bus.Subscribe(8, func(e messages.Event) bool { return e.Kind == messages.BreakerOpened })
	for range 5 {
		bus.Publish(messages.Event{Kind: messages.BreakerClosed})
	}
	bus.Publish(messages.Event{Kind: messages.BreakerOpened})
	require.EqualValues(t, 4, slow.Dropped())
	require.Len(t, picky.C(), 1)
	slow.Close()
	slow.Close()
	bus.Publish(messages.Event{Kind: messages.BreakerOpened})
	require.EqualValues(t, 4, slow.Dropped())
	require.Len(t, picky.C(), 2)
}

// What a full intake refuses is told like what any layer refuses, whether or not a fallback was asked.
func TestHookWasToldOfAFullIntakeInTwoWays(t *testing.T) {
	for name, layers := range map[string][]policy.Config{
		"no layer": nil, "a fallback that does not answer": {policy.Fallback{Func: func(context.Context, error) (any, error) { return 0, nil }, If: func(error) bool { return false }}},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var told []string
			note := func(what string) func(Moment) {
				return func(m Moment) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, fmt.Sprintf("%s %d", what, m.Attempt))
				}
			}
			sys := newSystem(t)
			p := newPipeline(t, sys, Spec{Layers: layers, Intake: 1, Hooks: []Hook{{OnExecute: note("execute"), OnReject: note("reject"), OnSuccess: note("success")}}})
			release := make(chan struct{})
			first := Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil })
			_, err := Go(t.Context(), p, nil, noopContext).Await(t.Context())
			require.ErrorIs(t, err, messages.ErrIntakeFull)
			close(release)
			_, err = first.Await(t.Context())
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(told) == 4
			}, 5*time.Second, time.Millisecond)
			require.Equal(t, []string{"execute 0", "reject 0", "execute 1", "success 1"}, told)
		})
	}
}
