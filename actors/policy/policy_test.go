package policy

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/messages"
)

func TestBackoff(t *testing.T) {
	ms := time.Millisecond
	exact := Backoff{Base: 50 * ms, Max: 400 * ms, Factor: 2}
	for _, row := range []struct {
		name    string
		b       Backoff
		attempt int
		u       float64
		want    time.Duration
	}{
		{"first", exact, 1, 0.9, 50 * ms},
		{"doubles", exact, 3, 0, 200 * ms},
		{"cap", exact, 5, 0, 400 * ms},
		{"cap far out, without overflow", exact, 5000, 0, 400 * ms},
		{"full jitter draws from the whole", Exponential(100*ms, time.Second), 1, 0.25, 75 * ms},
		{"constant", Constant(7 * ms), 9, 0.5, 7 * ms},
		{"zero does not wait", Constant(0), 2, 0.5, 0},
	} {
		t.Run(row.name, func(t *testing.T) { require.Equal(t, row.want, row.b.Delay(row.attempt, row.u)) })
	}
}

func TestBackoffStaysWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Backoff{
			Base: time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "base")), Factor: rapid.Float64Range(1, 10).Draw(t, "factor"),
			Jitter: rapid.Float64Range(0, 1).Draw(t, "jitter"),
		}
		b.Max = b.Base + time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "more"))
		d := b.Delay(rapid.IntRange(1, 1000).Draw(t, "attempt"), rapid.Float64Range(0, 0.999999).Draw(t, "u"))
		require.GreaterOrEqual(t, d, time.Duration(0))
		require.LessOrEqual(t, d, b.Max)
	})
}

// In whatever order, and however often, orders arrive: the highest revision of each scope counts.
func TestKillSwitchConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scopes := []messages.Scope{messages.Global, messages.PipelineScope("p"), messages.TypeScope("t")}
		orders := make([]messages.KillState, rapid.IntRange(1, 20).Draw(t, "n"))
		newest := map[messages.Scope]messages.KillState{}
		for i := range orders {
			o := messages.KillState{Scope: rapid.SampledFrom(scopes).Draw(t, "scope"), On: rapid.Bool().Draw(t, "on"), Revision: uint64(i + 1)}
			orders[i], newest[o.Scope] = o, o
		}
		core := NewKillSwitch(nil)
		for _, o := range rapid.Permutation(append(orders, orders...)).Draw(t, "order") {
			core.Apply([]messages.KillState{o})
			if rapid.IntRange(0, 5).Draw(t, "restart") == 0 {
				s := core.Snapshot()
				core = NewKillSwitch(&s)
			}
		}
		s := core.Snapshot()
		_, on := s.Stops("p", "t")
		require.Equal(t, newest[messages.Global].On || newest[scopes[1]].On || newest[scopes[2]].On, on)
		st, on := s.Stops("other", "other")
		require.Equal(t, newest[messages.Global].On, on)
		if on {
			require.Equal(t, newest[messages.Global], st)
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
