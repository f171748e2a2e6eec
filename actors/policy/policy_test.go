package policy

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/messages"
)

// Per scope the last order counts, across restarts too.
func TestKillSwitchAgreesWithTheLastOrders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scopes := []messages.Scope{messages.Global, messages.PipelineScope("p"), messages.TypeScope("t")}
		last := map[messages.Scope]messages.KillState{}
		core := NewKillSwitch(nil)
		for range rapid.IntRange(1, 20).Draw(t, "n") {
			o := messages.KillState{
				Scope: rapid.SampledFrom(scopes).Draw(t, "scope"), On: rapid.Bool().Draw(t, "on"),
				Revision: rapid.Uint64Range(1, 9).Draw(t, "revision"),
			}
			was := last[o.Scope].On
			last[o.Scope] = o
			core.Apply([]messages.KillState{o})
			s := core.Snapshot()
			require.Equal(t, o.On != was, len(s.Changed()) == 1)
			if rapid.IntRange(0, 5).Draw(t, "restart") == 0 {
				core = NewKillSwitch(&s)
			}
		}
		s := core.Snapshot()
		_, on := s.Stops("p", "t")
		require.Equal(t, last[messages.Global].On || last[scopes[1]].On || last[scopes[2]].On, on)
		require.Equal(t, on, s.Any())
		st, on := s.Stops("other", "other")
		require.Equal(t, last[messages.Global].On, on)
		if on {
			require.Equal(t, last[messages.Global], st)
		}
		for scope, want := range last {
			st, known := s.State(scope)
			require.True(t, known)
			require.Equal(t, want, st)
		}
	})
}

func TestKillSwitchLocalOrders(t *testing.T) {
	core := NewKillSwitch(nil)
	on := messages.KillState{Scope: messages.Global, On: true}
	require.True(t, core.Apply([]messages.KillState{on}))
	s := core.Snapshot()
	require.True(t, s.Any())
	require.Len(t, s.Changed(), 1)
	on.On = false
	require.True(t, core.Apply([]messages.KillState{on}))
	s = core.Snapshot()
	require.False(t, s.Any())
}

func TestFallbackKnowsItsType(t *testing.T) {
	v, err := FallbackValue("x").Func(context.Background(), nil)
	require.NoError(t, err)
	require.Equal(t, "x", v)
	require.Equal(t, "string", FallbackValue("x").Makes().String())
}

func TestSettingsCore(t *testing.T) {
	s := NewSettings(Timeout{Limit: 1})
	require.True(t, s.Apply(Timeout{Limit: 2}))
	require.Equal(t, Timeout{Limit: 2}, s.Snapshot())
	require.Zero(t, s.Next())
}
