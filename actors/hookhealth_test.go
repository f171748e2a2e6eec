package actors

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

// hookPart is how the system says that its one hook is.
func hookPart(t *testing.T, s *System) Part {
	t.Helper()
	for _, p := range s.Parts() {
		if p.Kind == HookPart {
			return p
		}
	}
	t.Fatal("no hook")
	return Part{}
}

// A hook whose function did not return looked well, with its queue full; and at the end it used up all the time there was.
func TestHookThatHangsLookedWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewSystem(Options{})
		require.NoError(t, err)
		hold := make(chan struct{})
		p, err := s.Pipeline("p", Spec{Hooks: []Hook{{Name: "slow", Queue: 2, OnEnd: func(Moment) { <-hold }}}})
		require.NoError(t, err)
		for range 4 {
			_, err = Do(t.Context(), p, nil, func(context.Context) (int, error) { return 1, nil })
			require.NoError(t, err)
		}
		synctest.Wait()
		require.Equal(t, PartUp, hookPart(t, s).State, "the first look cannot know")
		time.Sleep(6 * time.Second)
		stuck := hookPart(t, s)
		require.Equal(t, PartStuck, stuck.State)
		require.Equal(t, "slow", stuck.Name)
		require.Contains(t, stuck.Detail, "for 6s")

		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = s.Close(ctx)
		require.ErrorContains(t, err, `hook "slow" is stuck`)
		require.NotContains(t, err.Error(), "\n", "one fault, one line")
		require.LessOrEqual(t, time.Since(began), 6*time.Second)
		close(hold)
		synctest.Wait()
	})
}

// What a hook panicked with was printed with two hundred digits, and the event did not name its pipeline.
func TestPanicsOfNumbersWerePrintedOverLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t)
		events, err := s.Events().Watch(64, messages.EventFilter{Kinds: []messages.Kind{messages.ActorRestarted}, Pipelines: []string{"p"}})
		require.NoError(t, err)
		defer events.Close()
		p := newPipeline(t, s, Spec{Hooks: []Hook{{Name: "h", OnEnd: func(Moment) { panic(1) }}}})
		_, err = Do(t.Context(), p, nil, func(context.Context) (int, error) { return 1, nil })
		require.NoError(t, err)
		e := <-events.C()
		require.Equal(t, "panic: 1", e.Reason)
		require.Equal(t, p.name, e.Pipeline)
		require.Len(t, brief(strings.Repeat("x", 999)), 200)
	})
}

func TestHooksThatCanTellNothingAreRefused(t *testing.T) {
	_, err := newSystem(t).Pipeline("p", Spec{Hooks: []Hook{{}, AuditHook(nil), {Queue: -1, OnEnd: func(Moment) {}}}})
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, field := range []string{"hooks[0]", "hooks[1]", "hooks[2].Queue"} {
		require.ErrorContains(t, err, field)
	}
}
