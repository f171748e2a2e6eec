package policy

import (
	"encoding/json"
	"math"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestBackoff(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	exact := Backoff{Base: 50 * ms, Max: 400 * ms, Factor: 2}
	for _, row := range []struct {
		name    string
		b       Backoff
		attempt int
		prev    time.Duration
		u       float64
		want    time.Duration
	}{
		{"first", exact, 1, 0, 0.9, 50 * ms},
		{"doubles", exact, 3, 0, 0, 200 * ms},
		{"cap", exact, 5, 0, 0, 400 * ms},
		{"cap far out, without overflow", exact, 5000, 0, 0, 400 * ms},
		{"constant", Constant(7 * ms), 9, 0, 0.5, 7 * ms},
		{"zero does not wait", Constant(0), 2, 0, 0.5, 0},
		{"zero does not wait, however it grows", Backoff{Max: s, Factor: 1e300}, 5000, 0, 0.5, 0},
		{"linear, first", Linear(2*s, 3*s, 10*s), 1, 0, 0.5, 2 * s},
		{"linear, third", Linear(2*s, 3*s, 10*s), 3, 0, 0.5, 8 * s},
		{"linear, capped", Linear(2*s, 3*s, 10*s), 4, 0, 0.5, 10 * s},
		{"linear from zero", Linear(0, s, 10*s), 2, 0, 0.5, s},
		{"full jitter, least", Exponential(100*ms, s), 1, 0, 0, 0},
		{"full jitter draws from the whole", Exponential(100*ms, s), 2, 0, 0.25, 50 * ms},
		{"equal jitter, least", exact.WithJitter(EqualJitter), 2, 0, 0, 50 * ms},
		{"equal jitter", exact.WithJitter(EqualJitter), 2, 0, 0.5, 75 * ms},
		{"symmetric, least", exact.WithSpread(0.2), 2, 0, 0, 80 * ms},
		{"symmetric, middle", exact.WithSpread(0.2), 2, 0, 0.5, 100 * ms},
		{"symmetric, the cap comes after the jitter", exact.WithSpread(0.2), 9, 0, 0.9, 400 * ms},
		{"decorrelated, first", Decorrelated(100*ms, s), 1, 0, 0.9, 100 * ms},
		{"decorrelated, least", Decorrelated(100*ms, s), 2, 300 * ms, 0, 100 * ms},
		{"decorrelated", Decorrelated(100*ms, s), 2, 300 * ms, 0.5, 500 * ms},
		{"decorrelated, capped", Decorrelated(100*ms, s), 3, 900 * ms, 0.9, s},
		{"decorrelated, without overflow", Decorrelated(s, maxLimit), 3, math.MaxInt64, 0.999, maxLimit},
	} {
		t.Run(row.name, func(t *testing.T) { require.Equal(t, row.want, row.b.Delay(row.attempt, row.prev, row.u)) })
	}
}

func TestBackoffStaysWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Backoff{
			Base: time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "base")), Factor: rapid.Float64Range(1, 10).Draw(t, "factor"),
			Step: time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "step")), Jitter: Jitter(rapid.IntRange(0, int(DecorrelatedJitter)).Draw(t, "jitter")),
			Spread: rapid.Float64Range(0, 1).Draw(t, "spread"),
		}
		b.Max = b.Base + time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "more"))
		require.NoError(t, Retry{Backoff: b}.WithDefaults().Validate())
		attempt, prev := rapid.IntRange(1, 5000).Draw(t, "attempt"), time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "prev"))
		u := rapid.Float64Range(0, 0.999999).Draw(t, "u")
		d := b.Delay(attempt, prev, u)
		require.LessOrEqual(t, d, b.Max)
		require.GreaterOrEqual(t, b.Delay(attempt, prev, u/2+0.5), d, "longer with a larger number")
		exact := b.WithJitter(NoJitter).Delay(attempt, prev, u)
		const ns = time.Nanosecond // rounding
		switch b.Jitter {
		case NoJitter:
			require.Equal(t, exact, d)
		case FullJitter:
			require.GreaterOrEqual(t, d, time.Duration(0))
			require.LessOrEqual(t, d, exact)
		case EqualJitter:
			require.GreaterOrEqual(t, d, exact/2-ns)
			require.LessOrEqual(t, d, exact)
		case SymmetricJitter:
			require.GreaterOrEqual(t, float64(d), float64(exact)*(1-b.Spread)-2)
			require.LessOrEqual(t, float64(d), float64(exact)*(1+b.Spread)+2)
		case DecorrelatedJitter:
			require.GreaterOrEqual(t, d, b.Base)
			require.LessOrEqual(t, float64(d), max(3*float64(prev), float64(b.Base))+1)
		}
	})
}

// Reference numbers: nominal waits and the range that jitter may make of them, in seconds. Where the reference has its
// jitter go beyond the cap, ours stops at it.
func TestBackoffReferenceNumbers(t *testing.T) {
	text, err := os.ReadFile("testdata/backoff.json")
	require.NoError(t, err)
	var ref struct {
		Schedules []struct {
			Kind                    string
			Base, Step, Max, Spread float64
			Rows                    [][4]float64 // attempt, nominal, least, most
		}
		Decorrelated []struct {
			Base, Max float64
			Rows      [][5]float64 // attempt, previous (0: none), least, most, a sample
		}
	}
	require.NoError(t, json.Unmarshal(text, &ref))
	require.Len(t, ref.Schedules, 4)
	require.Len(t, ref.Decorrelated, 2)
	seconds := func(s float64) time.Duration { return time.Duration(math.Round(s * 1e9)) }
	same := func(want float64, got time.Duration, what string, attempt float64) {
		t.Helper()
		require.InDelta(t, want, got.Seconds(), 1e-9*want+2e-9, "%s, attempt %v", what, attempt)
	}
	const most = 1 - 1e-12
	for _, s := range ref.Schedules {
		require.NotEmpty(t, s.Rows)
		b := map[string]Backoff{
			"constant":    Constant(seconds(s.Base)),
			"linear":      Linear(seconds(s.Base), seconds(s.Step), seconds(s.Max)),
			"exponential": Exponential(seconds(s.Base), seconds(s.Max)).WithJitter(NoJitter),
		}[s.Kind]
		if s.Max == 0 { // none
			s.Max = math.Inf(1)
		}
		for _, row := range s.Rows {
			attempt := int(row[0])
			same(row[1], b.Delay(attempt, 0, 0.5), s.Kind, row[0])
			same(row[2], b.WithSpread(s.Spread).Delay(attempt, 0, 0), s.Kind, row[0])
			same(min(row[3], s.Max), b.WithSpread(s.Spread).Delay(attempt, 0, most), s.Kind, row[0])
		}
	}
	for _, s := range ref.Decorrelated {
		require.NotEmpty(t, s.Rows)
		b := Decorrelated(seconds(s.Base), seconds(s.Max))
		for _, row := range s.Rows {
			attempt, prev := int(row[0]), seconds(row[1])
			same(row[2], b.Delay(attempt, prev, 0), "decorrelated", row[0])
			same(row[3], b.Delay(attempt, prev, most), "decorrelated", row[0])
			if row[3] > row[2] { // a number between 0 and 1 leads to the sample
				u := (row[4] - s.Base) / (3*row[1] - s.Base)
				require.GreaterOrEqual(t, u, 0.0)
				require.Less(t, u, 1.0)
				same(row[4], b.Delay(attempt, prev, u), "decorrelated", row[0])
			}
		}
	}
}
