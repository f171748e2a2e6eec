package policy

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

func newHedgeCore(cfg Hedge, last *HedgeSnapshot) *HedgeCore {
	cfg.Idempotent = true
	return NewHedge(cfg.WithDefaults().(Hedge), last)
}

// The delay must agree with the slow, obvious model: the sorted list of what is inside the window. A call counts as of the
// reading before it, or of its own instant if that is the first after a sleep.
func TestHedgeAgreesWithASortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Hedge{
			Quantile: rapid.Float64Range(0.01, 0.99).Draw(t, "q"), MinCalls: rapid.IntRange(1, 20).Draw(t, "min"), Window: 10 * time.Second,
			Delay: time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "delay")),
		}
		c := newHedgeCore(cfg, nil)
		type call struct {
			at   Instant
			took time.Duration
		}
		var calls []call
		var reading [stats.SketchBuckets]uint32
		var now Instant
		want, learnt := cfg.Delay, false
		for range rapid.IntRange(1, 40).Draw(t, "ticks") {
			from := now
			now += Instant(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "dt"))
			if c.Next() == 0 {
				from = now
			}
			for range rapid.IntRange(0, 8).Draw(t, "n") {
				took := time.Duration(rapid.Int64Range(int64(10*time.Microsecond), int64(10*time.Second)).Draw(t, "took"))
				reading[stats.Bucket(took)]++
				calls = append(calls, call{from, took})
			}
			copied := reading
			was := c.Snapshot().Delay
			changed := c.Apply(HedgeFact{Now: now, Took: &copied})
			calls = slices.DeleteFunc(calls, func(x call) bool { return x.at/Instant(time.Second) <= now/Instant(time.Second)-10 })
			require.EqualValues(t, len(calls), c.Snapshot().Calls)
			got := c.Snapshot().Delay
			require.Equal(t, changed, got != was)
			if len(calls) >= cfg.MinCalls {
				sorted := slices.Clone(calls)
				slices.SortFunc(sorted, func(a, b call) int { return int(a.took - b.took) })
				exact := sorted[int(cfg.Quantile*float64(len(sorted)-1))].took
				require.InEpsilon(t, exact, got, stats.RelativeError)
				want, learnt = got, true
			} else {
				require.Equal(t, want, got, "what was learnt last, %v, counts on", learnt)
			}
		}
	})
}

func TestHedgeTicks(t *testing.T) {
	c := newHedgeCore(Hedge{Window: 5 * time.Second}, nil)
	require.Zero(t, c.Next(), "no calls, no ticks")
	const many = 1<<31 - 1
	reading := [stats.SketchBuckets]uint32{3: many}
	c.Apply(HedgeFact{Now: 1, Took: &reading})
	n := 0
	for at := c.Next(); at != 0; at = c.Next() {
		require.LessOrEqual(t, at.Sub(c.now), 500*time.Millisecond)
		same := reading
		c.Apply(HedgeFact{Now: at, Took: &same})
		n++
	}
	require.Equal(t, 11, n, "one window of ticks after the last call, and then none")
	require.EqualValues(t, many, c.Seen())
	for range 2 { // past the end of its word
		reading[3] += many
		c.Apply(HedgeFact{Now: c.now + 1, Took: &reading})
	}
	require.EqualValues(t, 2*many, c.Snapshot().Calls)
	require.Zero(t, newHedgeCore(Hedge{Delay: 1}, nil).Next(), "a fixed delay needs none")
}

func TestHedgeGoesOnAfterARestart(t *testing.T) {
	c := newHedgeCore(Hedge{MinCalls: 1}, nil)
	reading := [stats.SketchBuckets]uint32{100: 5}
	c.Apply(HedgeFact{Now: 1, Took: &reading})
	last := c.Snapshot()
	require.Positive(t, last.Delay)
	again := newHedgeCore(Hedge{}, &last)
	require.Equal(t, last.Delay, again.Snapshot().Delay)
	reading[200] = 7 // counted between the incarnations: nobody knows when
	again.Apply(HedgeFact{Now: 2, Took: &reading})
	require.Zero(t, again.Snapshot().Calls)
	require.Equal(t, last.Delay, again.Snapshot().Delay)
	require.EqualValues(t, 12, again.Seen())

	cfg := Hedge{Idempotent: true, Delay: time.Second, Quantile: 0.5}.WithDefaults().(Hedge)
	require.True(t, again.Apply(HedgeFact{Settings: &cfg}))
	require.Equal(t, time.Second, again.Snapshot().Delay, "another quantile must be learnt anew")
}

func TestHedgeSettingsOutOfRange(t *testing.T) {
	err := Hedge{Delay: -1, Quantile: 1, MinCalls: -1, Window: 1, Max: 9, MaxLosers: -1}.WithDefaults().Validate()
	for _, field := range []string{"Idempotent", "Delay", "Quantile", "MinCalls", "Window", "Max is", "MaxLosers"} {
		require.ErrorContains(t, err, "hedge."+field)
	}
	require.NoError(t, Hedge{Idempotent: true}.WithDefaults().Validate())
	require.Equal(t, "hedge", Hedge{}.Kind())
}

// Readings may overtake each other on their way.
func TestOldReadingWrappedAround(t *testing.T) {
	cfg := Hedge{Idempotent: true, Quantile: 0.5, MinCalls: 10, Window: 10 * time.Second}.WithDefaults().(Hedge)
	c := NewHedge(cfg, nil)
	var older, newer [stats.SketchBuckets]uint32
	older[100], newer[100] = 50, 60
	c.Apply(HedgeFact{Now: 1, Took: &newer})
	require.EqualValues(t, 60, c.Snapshot().Calls)
	c.Apply(HedgeFact{Now: 2, Took: &older})
	require.EqualValues(t, 60, c.Snapshot().Calls)
}
