package actors

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

// listError is an error that cannot be compared, as those of validators are.
type listError []string

func (e listError) Error() string { return strings.Join(e, ", ") }

func TestErrorThatCannotBeComparedCrashedTheHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{rec.hook()}})
		_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) { return 0, listError{"name", "amount"} })
		require.Error(t, err)
		synctest.Wait()
		require.Zero(t, p.HookStats()[0].Restarts)
		require.Equal(t, []string{"execute 1", "failure 1"}, rec.take())
	})
}

type silentError struct{}

func (*silentError) Error() string { panic("no text") }

func TestErrorWithoutTextCrashedTheLogHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{LogHook(slog.New(slog.NewTextHandler(&text, nil)))}})
		_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) { return 0, &silentError{} })
		require.Error(t, err)
		synctest.Wait()
		require.Zero(t, p.HookStats()[0].Restarts)
		require.Contains(t, text.String(), "attempt failed")
	})
}

// Two pipelines share an event hook, and one of them is behind.
func TestEventHookForgotItsBoundWhenMomentsCameOutOfOrder(t *testing.T) {
	sys := newSystem(t)
	sub := sys.Events().Subscribe(64, func(e messages.Event) bool { return e.Kind == messages.CallFailed })
	defer sub.Close()
	hook, now := EventHook(sys, EventHookConfig{PerSecond: 2}), time.Now()
	for range 20 {
		hook.OnEnd(Moment{At: now, Outcome: messages.Failure})
		hook.OnEnd(Moment{At: now.Add(-5 * time.Second), Outcome: messages.Failure})
	}
	require.LessOrEqual(t, len(sub.C()), 4)
}

func TestEventHookToldAllOfALongError(t *testing.T) {
	sys := newSystem(t)
	sub := sys.Events().Subscribe(1, nil)
	defer sub.Close()
	EventHook(sys, EventHookConfig{}).OnEnd(Moment{Outcome: messages.Failure, Err: errors.New(strings.Repeat("x", 1<<20))})
	require.LessOrEqual(t, len((<-sub.C()).Reason), messages.MaxErrorLen)
}

// A lock is for labels that are new: those that are no tokens are not new for ever.
func TestReasonThatIsNoTokenTookALockForEachCall(t *testing.T) {
	var l labelled
	l.add(0, labels{"guard", "too busy"})
	l.mu.Lock()
	defer l.mu.Unlock()
	done := make(chan struct{})
	go func() { l.add(0, labels{"guard", "too busy"}); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		require.Fail(t, "it waits for the lock")
	}
}

func TestHookWithSettingsThatMakeNoSenseWasTaken(t *testing.T) {
	sys := newSystem(t)
	for field, h := range map[string]Hook{
		"hooks[0].Queue":           {Queue: -1},
		"hooks[0].SampleSuccesses": EventHook(sys, EventHookConfig{SampleSuccesses: 1.5}),
		"hooks[0].PerSecond":       EventHook(sys, EventHookConfig{PerSecond: -1}),
		"hooks[0].System":          EventHook(nil, EventHookConfig{}),
		"hooks[0].Audit":           AuditHook(nil),
	} {
		_, err := sys.Pipeline("p", Spec{Hooks: []Hook{h}})
		require.ErrorContains(t, err, field)
		require.ErrorIs(t, err, messages.ErrInvalid)
	}
	_, err := sys.Pipeline("p", Spec{Hooks: []Hook{{Queue: 1 << 17}}})
	require.ErrorIs(t, err, messages.ErrInvalid)
}
