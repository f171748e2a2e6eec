package policy

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

const day = 24 * time.Hour

// clerk drives a core as its host does: it counts beside it, and sweeps.
type clerk struct {
	core *ErrorBudgetCore
	kept BudgetEvidence
	now  Instant
	all  stats.Events
}

func newClerk(cfg ErrorBudget) *clerk {
	cfg.Name = "x"
	c := &clerk{now: 1}
	c.core = NewErrorBudget(cfg.WithDefaults(), nil, &c.kept, c.fact())
	return c
}

func (c *clerk) fact() ErrorBudgetFact {
	return ErrorBudgetFact{Now: c.now, Readings: []BudgetReading{{Events: c.all}}}
}

// pass lets d pass in steps, with so many calls in each.
func (c *clerk) pass(d, step time.Duration, good, bad uint64) {
	for end := c.now.Add(d); c.now < end; {
		c.now = c.now.Add(step)
		c.all.Good += good
		c.all.Bad += bad
		c.core.Apply(c.fact())
	}
}

func (c *clerk) state() BudgetState { return c.core.Snapshot().Series[0] }

func fired(s BudgetState) (list []bool) {
	for _, b := range s.Burn {
		list = append(list, b.Fired)
	}
	return list
}

func TestErrorBudgetSettings(t *testing.T) {
	b := ErrorBudget{Name: "x", Objective: 0.999}.WithDefaults()
	require.NoError(t, b.Validate())
	require.Equal(t, 30*day, b.Window)
	require.Equal(t, DefaultBurnRules(), b.Burn)
	require.Equal(t, 100, b.MinEvents)
	require.Len(t, ErrorBudget{Objective: 0.999, Window: 7 * time.Hour}.WithDefaults().Burn, 2, "rules longer than the window are left out")
	require.Len(t, ErrorBudget{Objective: 0.9}.WithDefaults().Burn, 3, "a rate that is never reached is")
	bad := ErrorBudget{
		Name: "No Good", Objective: 99.9, Window: 31 * day, Latency: -1, MinEvents: -1, MaxSeries: 5000, By: []Dimension{"x", ByTier, ByTier},
		Burn:      []BurnRule{{Rate: -1, Long: 40 * day, Short: time.Second, Action: BudgetAction{Refuse: "x"}}, {Rate: -1, Long: time.Hour, Short: time.Hour}},
		Exhausted: BudgetAction{TellOnly: true, StopRetries: true},
	}.WithDefaults().Validate()
	require.ErrorIs(t, bad, messages.ErrInvalid)
	for _, field := range []string{
		"Name", "Objective is 99.9: want a share of more than 0 and less than 1: 99.9 % is 0.999", "Window", "Latency", "MinEvents", "MaxSeries",
		"Burn[0].Rate", "Burn[0].Long", "Burn[0].Short", "Burn[0].Action.Refuse", "Burn[1].Rate", "Burn[1].Short", "Exhausted.TellOnly", "By[0]", "By[2]",
	} {
		require.ErrorContains(t, bad, field)
	}
	for _, objective := range []float64{0, 1, -1, math.NaN(), math.Inf(1)} {
		require.Error(t, ErrorBudget{Name: "x", Objective: objective}.WithDefaults().Validate())
	}
	err := ErrorBudget{Name: "x", Objective: 0.9, Burn: []BurnRule{{Rate: 14.4, Long: time.Hour, Short: time.Minute}}}.WithDefaults().Validate()
	require.ErrorContains(t, err, "what all calls failing come to")
}

// The workbook, chapter 5, table 5-8: of a 30-day budget, 14.4 for an hour uses 2 %, 6 for six hours 5 %, 1 for three
// days 10 %; and table 5-4: 14.4 uses all of it in 50 hours, 1 in 30 days. Chapter 3: 99.9 % allow 43.2 minutes a month.
func TestErrorBudgetWorkbookNumbers(t *testing.T) {
	require.InDelta(t, 43.2, (&ErrorBudget{Objective: 0.999}).Allowed()*(30*day).Minutes(), 1e-9)
	for _, row := range []struct {
		rate     float64
		span     time.Duration
		consumed float64
	}{{14.4, time.Hour, 0.02}, {6, 6 * time.Hour, 0.05}, {1, 3 * day, 0.1}} {
		c := newClerk(ErrorBudget{Objective: 0.999})
		bad := uint64(row.rate * 10)
		c.pass(row.span, 5*time.Minute, 10_000-bad, bad)
		s := c.state()
		require.InEpsilon(t, row.consumed, s.Consumed, 1e-3, "%v from the first call on", row)
		if row.rate > 1 { // at 1 it would be exhausted as the window ends
			require.InEpsilon(t, float64(30*day)/row.rate-float64(row.span), float64(s.ExhaustedIn), 0.01, "%v", row)
		}
		require.Equal(t, row.span, s.Watched)

		c = newClerk(ErrorBudget{Objective: 0.999})
		c.pass(30*day-row.span, time.Hour, 120_000, 0)
		c.pass(row.span, 5*time.Minute, 10_000-bad, bad)
		s = c.state()
		require.InEpsilon(t, row.consumed, s.Consumed, 0.01, "%v after a quiet month", row)
		require.InDelta(t, 1, s.Consumed+s.Remaining, 1e-12)
	}
}

// Which rules fire at a rate that lasts, and that all clear when it ends.
func TestErrorBudgetRulesFireAndClear(t *testing.T) {
	for _, row := range []struct {
		bad  uint64 // of 10000
		want []bool
	}{
		{9, []bool{false, false, false, false}},
		{10, []bool{false, false, false, true}},
		{29, []bool{false, false, false, true}},
		{30, []bool{false, false, true, true}},
		{60, []bool{false, true, true, true}},
		{143, []bool{false, true, true, true}},
		{144, []bool{true, true, true, true}},
		{10_000, []bool{true, true, true, true}},
	} {
		c := newClerk(ErrorBudget{Objective: 0.999})
		c.pass(3*day-time.Hour, 10*time.Minute, 100_000-10*row.bad, 10*row.bad)
		c.pass(time.Hour, time.Minute, 10_000-row.bad, row.bad)
		require.Equal(t, row.want, fired(c.state()), "%d of 10000", row.bad)
		if row.bad == 144 {
			require.Equal(t, "burn_14.4", c.state().Level)
			require.Equal(t, BudgetAction{Refuse: messages.NonEssential, StopRetries: true}, c.state().Action)
			until := c.state().Burn[0].Until.Sub(c.now)
			require.InDelta(t, 5*time.Minute, until, float64(10*time.Second), "with no call, the short window decides")
			c.pass(6*time.Minute, time.Minute, 10_000, 0)
			require.Equal(t, []bool{false, true, true, true}, fired(c.state()), "five minutes later the first is over")
			c.pass(25*time.Minute, time.Minute, 10_000, 0)
			require.Equal(t, []bool{false, false, true, true}, fired(c.state()))
			c.pass(6*time.Hour, time.Minute, 10_000, 0)
			require.Equal(t, []bool{false, false, false, false}, fired(c.state()))
		}
	}
}

// Both windows must burn: an hour ago it was bad and now it is not, or it has only just begun.
func TestErrorBudgetBothWindowsMustBurn(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	c.pass(time.Hour, time.Minute, 10_000, 0)
	c.pass(2*time.Minute, time.Minute, 9_800, 200)
	s := c.state()
	require.GreaterOrEqual(t, s.Burn[0].Short, 5.0)
	require.Less(t, s.Burn[0].Long, 14.4)
	require.False(t, s.Burn[0].Fired)
}

func TestErrorBudgetMinEvents(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	c.pass(time.Minute, time.Minute, 0, 99)
	require.Equal(t, LevelNone, c.state().Level)
	require.False(t, c.state().Exhausted)
	c.pass(time.Minute, time.Minute, 0, 1)
	require.True(t, c.state().Burn[0].Fired)
	require.EqualValues(t, 100, c.state().Burn[0].ShortCalls)
	c.pass(3*time.Minute, time.Minute, 0, 0)
	require.True(t, c.state().Burn[0].Fired)
	c.pass(3*time.Minute, time.Minute, 0, 0)
	require.False(t, c.state().Burn[0].Fired, "without calls in the short window it is over")
}

// Near its rate a rule does not come and go.
func TestErrorBudgetFlappedAtItsThreshold(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	changes, was := 0, false
	for i := range 500 {
		bad := uint64(148)
		if i%10 < 5 {
			bad = 140
		}
		c.pass(time.Minute, time.Minute, 10_000-bad, bad)
		if is := c.state().Burn[0].Fired; is != was {
			changes, was = changes+1, is
		}
	}
	require.Equal(t, 1, changes)
}

// 144 of 10000 with an objective of 0.999 is a burn rate of 14.399999999999986 in floating point.
func TestBurnOfExactlyTheThresholdDidNotFire(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	c.pass(time.Hour, time.Minute, 9856, 144)
	require.Less(t, c.state().Burn[0].Long, 14.4)
	require.True(t, c.state().Burn[0].Fired)
	c = newClerk(ErrorBudget{Objective: 0.999})
	c.pass(30*day, time.Hour, 999, 1)
	require.True(t, c.state().Exhausted, "all of it is used")
	require.InDelta(t, 0, c.state().Remaining, 1e-9)
}

// An objective of 99.9 % made anything below 100 % critical: the thresholds are of the burn, not of the success rate.
func TestObjectiveOf999TurnedCriticalBelowPerfection(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	c.pass(3*day, 10*time.Minute, 99_990, 10) // 0.9999
	require.Equal(t, LevelNone, c.state().Level)
	require.InEpsilon(t, 0.1, c.state().Burn[3].Long, 1e-9)
}

// The budget's use was given although nothing had been counted, and its burn rates were 0 beside errors that were known.
func TestConsumptionWasDividedByNoRequests(t *testing.T) {
	s := newClerk(ErrorBudget{Objective: 0.999}).state()
	require.Zero(t, s.Consumed)
	require.InDelta(t, 1, s.Remaining, 0)
	require.Equal(t, Never, s.ExhaustedIn)
	require.Equal(t, LevelNone, s.Level)
}

// The numbers that a predecessor computed from counts of a whole window, where the definitions give the same.
func TestErrorBudgetAgreesWithThePredecessorWhereThatWasRight(t *testing.T) {
	for _, row := range []struct {
		objective float64
		window    time.Duration
		good, bad uint64
		consumed  float64
	}{{0.999, 30 * day, 1_000_000, 0, 0}, {0.999, 30 * day, 999_500, 500, 0.5}, {0.999, 30 * day, 998_000, 2000, 2}, {0.99, 7 * day, 19_900, 100, 0.5}} {
		c := newClerk(ErrorBudget{Objective: row.objective, Window: row.window})
		c.pass(row.window, time.Hour, 0, 0) // watched for all of it
		c.all = stats.Events{Good: row.good, Bad: row.bad}
		c.core.Apply(c.fact())
		require.InDelta(t, row.consumed, c.state().Consumed, 1e-9)
		require.InDelta(t, 1-row.consumed, c.state().Remaining, 1e-9, "less than 0 when overdrawn")
	}
}

// The forecast took remaining/(burn-1) of the period: old errors leave the window, and at a rate of 1 that had lasted
// for the whole window it would never be exhausted or always be.
func TestDepletionIgnoredTheWindow(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	c.pass(30*day, time.Hour, 9992, 8) // a steady 0.8
	require.Equal(t, Never, c.state().ExhaustedIn, "what comes is what leaves")

	c = newClerk(ErrorBudget{Objective: 0.999})
	c.pass(5*day, time.Hour, 9970, 30) // half of it in the first five days
	c.pass(24*day+20*time.Hour, 2*time.Hour, 20_000, 0)
	c.pass(4*time.Hour, time.Hour, 9988, 12) // 1.2: 0.04 a day, but a tenth a day is about to leave
	s := c.state()
	require.InEpsilon(t, 0.5, s.Consumed, 0.02)
	require.Greater(t, s.ExhaustedIn, 20*day, "not the twelve days of 0.5/0.04")
	require.NotEqual(t, Never, s.ExhaustedIn)

	c = newClerk(ErrorBudget{Objective: 0.999})
	c.pass(30*day, time.Hour, 9980, 20)
	require.Zero(t, c.state().ExhaustedIn)
	require.InEpsilon(t, -1, c.state().Remaining, 0.01)
}

// One bad call of the first few must not use up the budget of a month.
func TestFirstErrorExhaustedAYoungBudget(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	c.pass(10*time.Second, time.Second, 99, 1)
	require.False(t, c.state().Exhausted)
	require.Less(t, c.state().Consumed, 0.001)
}

func TestErrorBudgetExhaustedAndRecovered(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.99, Window: time.Hour, Burn: []BurnRule{{Rate: 90, Long: 2 * time.Minute, Short: time.Minute}}})
	c.pass(time.Hour, time.Minute, 1000, 0)
	c.pass(time.Minute, time.Minute, 0, 700)
	require.True(t, c.state().Exhausted)
	require.Equal(t, BudgetAction{Refuse: messages.NonEssential}, c.state().Action)
	require.Equal(t, LevelExhausted, c.state().Level)
	recovered := Instant(0)
	for range 70 {
		c.pass(time.Minute, time.Minute, 1000, 0)
		if s := c.state(); s.Exhausted {
			require.Less(t, s.Remaining, 0.02)
		} else if recovered == 0 {
			recovered = c.now
		}
	}
	require.NotZero(t, recovered)
	require.Equal(t, LevelNone, c.state().Level)
}

func TestErrorBudgetTicksOnlyWhileThereIsSomethingToSee(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	require.Zero(t, c.core.Next())
	require.True(t, c.core.Idle())
	c.pass(time.Second, time.Second, 1000, 0)
	require.Equal(t, c.now.Add(BudgetSweep), c.core.Next())
	require.False(t, c.core.Idle())
	c.pass(time.Second, time.Second, 0, 0)
	require.True(t, c.core.Idle())
	require.Zero(t, c.core.Next(), "good calls may age unseen")
	c.pass(time.Second, time.Second, 0, 1000)
	ticks := 0
	for c.pass(time.Second, time.Second, 0, 0); c.core.Next() != 0; ticks++ {
		require.Greater(t, c.core.Next(), c.now)
		c.now = c.core.Next()
		c.core.Apply(c.fact())
	}
	require.Equal(t, LevelNone, c.state().Level)
	require.Less(t, ticks, 1000)
}

// New settings judge what was counted by the old ones.
func TestErrorBudgetReconfiguredKeepsItsWindow(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	c.pass(time.Hour, time.Minute, 9800, 200)
	require.True(t, c.state().Burn[0].Fired)
	good, bad := c.state().Good, c.state().Bad
	cfg := ErrorBudget{Name: "x", Objective: 0.98, Burn: []BurnRule{{Rate: 1, Long: time.Hour, Short: time.Minute}, {Rate: 14.4, Long: time.Hour, Short: 5 * time.Minute}}}.WithDefaults()
	f := c.fact()
	f.Settings = &cfg
	c.core.Apply(f)
	s := c.state()
	require.Equal(t, []uint64{good, bad}, []uint64{s.Good, s.Bad})
	require.Equal(t, []bool{false, true}, fired(s))
	require.InEpsilon(t, 1, s.Burn[1].Long, 1e-9)
}

// A core that broke is replaced by one that has all the evidence and the same decisions.
func TestErrorBudgetLostItsWindowInARestart(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	c.pass(2*time.Hour, time.Minute, 9800, 200)
	before := c.core.Snapshot()
	after := NewErrorBudget(ErrorBudget{}, &before, &c.kept, c.fact()).Snapshot()
	require.Equal(t, before, after)
}

// Numbers agree with a list of calls, to within what the history promises.
func TestErrorBudgetAgreesWithAListOfCalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type happened struct {
			at Instant
			stats.Events
		}
		cfg := ErrorBudget{
			Objective: rapid.SampledFrom([]float64{0.9, 0.99, 0.999, 0.5}).Draw(t, "objective"), MinEvents: 10, Window: 2 * day,
			Burn: []BurnRule{{Rate: 1.5, Long: time.Hour, Short: 5 * time.Minute}, {Rate: 1, Long: day, Short: time.Hour}},
		}
		c := newClerk(cfg)
		var list []happened
		rule := make([]bool, 2)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			c.now = c.now.Add(time.Duration(rapid.Int64Range(1, int64(rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Minute, 6 * time.Hour}).Draw(t, "scale"))).Draw(t, "dt")))
			news := stats.Events{Good: rapid.Uint64Range(0, 100).Draw(t, "good"), Bad: rapid.Uint64Range(0, 100).Draw(t, "bad")}
			c.all.Good, c.all.Bad = c.all.Good+news.Good, c.all.Bad+news.Bad
			list = append(list, happened{c.now, news})
			c.core.Apply(c.fact())
			s := c.state()
			within := func(span time.Duration) (e stats.Events) { // where nothing lies near its beginning
				for _, x := range list {
					age := c.now.Sub(x.at)
					if d := age - span; d > -span/60 && d < span/60 {
						return stats.Events{}
					}
					if age < span {
						e.Good, e.Bad = e.Good+x.Good, e.Bad+x.Bad
					}
				}
				return e
			}
			if e := within(2 * day); e.Total() > 0 {
				require.Equal(t, e, stats.Events{Good: s.Good, Bad: s.Bad})
			}
			for i, r := range c.core.cfg.Burn {
				long, short := within(r.Long), within(r.Short)
				if long.Total() == 0 || short.Total() == 0 {
					rule[i] = s.Burn[i].Fired
					continue
				}
				least, calls := r.Rate, uint64(10)
				if rule[i] {
					least, calls = 0.9*least, 5
				}
				ratio := func(e stats.Events) float64 {
					return float64(e.Bad) / float64(e.Good+e.Bad) / (1 - c.core.cfg.Objective)
				}
				require.InDelta(t, ratio(long), s.Burn[i].Long, 1e-9)
				require.InDelta(t, ratio(short), s.Burn[i].Short, 1e-9)
				rule[i] = long.Total() >= calls && short.Total() >= calls && ratio(long) >= least-1e-6 && ratio(short) >= least-1e-6
				require.Equal(t, rule[i], s.Burn[i].Fired)
			}
		}
	})
}

// The forecast agrees with letting the time pass.
func TestErrorBudgetForecastComesTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClerk(ErrorBudget{Objective: 0.9, Window: 6 * time.Hour, Burn: []BurnRule{{Rate: 9, Long: time.Hour, Short: time.Minute}}})
		for range rapid.IntRange(1, 5).Draw(t, "phases") {
			c.pass(time.Duration(rapid.IntRange(10, 90).Draw(t, "minutes"))*time.Minute, time.Minute, rapid.Uint64Range(50, 100).Draw(t, "good"), rapid.Uint64Range(0, 8).Draw(t, "bad"))
			if c.state().Exhausted {
				return
			}
		}
		good, bad := rapid.Uint64Range(50, 100).Draw(t, "good"), rapid.Uint64Range(1, 15).Draw(t, "bad")
		c.pass(time.Hour, time.Minute, good, bad)
		s := c.state()
		if s.Exhausted || s.Consumed > 0.97 {
			return
		}
		begin := c.now
		for c.now.Sub(begin) < 6*time.Hour && !c.state().Exhausted {
			c.pass(time.Minute, time.Minute, good, bad)
		}
		if c.state().Exhausted {
			if s.ExhaustedIn == Never { // by a hair
				require.Greater(t, c.state().Consumed, 0.97)
				require.Less(t, c.state().Consumed, 1.1)
				return
			}
			require.InDelta(t, c.now.Sub(begin), s.ExhaustedIn, float64(30*time.Minute))
		} else if s.ExhaustedIn != Never {
			require.Greater(t, c.state().Consumed, 0.9)
		}
	})
}

func TestErrorBudgetStateIsRestored(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	c.pass(5*day, time.Hour, 9990, 10)
	c.pass(time.Hour, time.Minute, 9800, 200)
	f := c.fact()
	f.Save = &ErrorBudgetState{}
	c.core.Apply(f)
	text, err := f.Save.MarshalBinary()
	require.NoError(t, err)
	var s ErrorBudgetState
	require.NoError(t, s.UnmarshalBinary(text))
	require.Equal(t, stats.Events{Good: c.all.Good, Bad: c.all.Bad}, f.Save.Series[0].Counted)
	f.Save.At, f.Save.Series[0].Counted = 0, stats.Events{}
	require.Equal(t, *f.Save, s)

	d := newClerk(ErrorBudget{Objective: 0.999})
	d.pass(time.Minute, time.Second, 0, 0)
	f = d.fact()
	f.Restore, f.Age = &s, time.Minute
	d.core.Apply(f)
	want, got := c.state(), d.state()
	require.Equal(t, []uint64{want.Good, want.Bad}, []uint64{got.Good, got.Bad})
	require.Equal(t, want.Watched+time.Minute, got.Watched)
	require.InEpsilon(t, want.Consumed, got.Consumed, 0.01)
	require.True(t, got.Burn[0].Fired)
	d.pass(2*time.Hour, time.Minute, 0, 0)
	require.False(t, d.state().Burn[0].Fired)
	require.Equal(t, want.Bad, d.state().Bad)
	d.pass(31*day, time.Hour, 0, 0)
	require.Zero(t, d.state().Bad)
}

// The bytes of version 1 must be read for ever.
func TestErrorBudgetStateVersion1(t *testing.T) {
	s := ErrorBudgetState{Series: []SeriesState{{Watched: time.Second}, {Series: Series{Keyed: true, Tier: messages.Critical, Region: "eu"}}}}
	s.Series[0].Levels[3] = []stats.HistoryBucket{{Events: stats.Events{Good: 300, Bad: 2}}, {Age: 5, Events: stats.Events{Bad: 1}}}
	text, err := s.MarshalBinary()
	require.NoError(t, err)
	const golden = "0102000000008094ebdc030000000200ac0202050001000000000208637269746963616c02657500000000000000000000f2884a9e"
	require.Equal(t, golden, hex.EncodeToString(text))
	var back ErrorBudgetState
	require.NoError(t, back.UnmarshalBinary(text))
	require.Equal(t, s, back)
}

func TestDamagedStateOfAnErrorBudgetWasRestored(t *testing.T) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	c.pass(time.Hour, time.Minute, 9800, 200)
	text, err := c.core.state(nil).MarshalBinary()
	require.NoError(t, err)
	for i := range text {
		var s ErrorBudgetState
		require.Error(t, s.UnmarshalBinary(text[:i]))
		broken := append([]byte(nil), text...)
		broken[i] ^= 1
		require.Error(t, s.UnmarshalBinary(broken))
		require.Empty(t, s.Series)
	}
}

func FuzzErrorBudgetState(f *testing.F) {
	c := newClerk(ErrorBudget{Objective: 0.999})
	c.pass(time.Hour, time.Minute, 9800, 200)
	text, _ := c.core.state(nil).MarshalBinary()
	f.Add(text)
	f.Add([]byte{1, 0, 0, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, b := range [][]byte{text, sealed(text)} { // with a sum that fits, so that the rest is looked at too
			var s ErrorBudgetState
			if s.UnmarshalBinary(b) != nil {
				continue
			}
			d := newClerk(ErrorBudget{Objective: 0.999})
			fact := d.fact()
			fact.Restore = &s
			d.core.Apply(fact)
			again, err := s.MarshalBinary()
			require.NoError(t, err)
			var back ErrorBudgetState
			require.NoError(t, back.UnmarshalBinary(again))
			require.Equal(t, s, back)
		}
	})
}

// sealed replaces the last four bytes by the sum of the others.
func sealed(text []byte) []byte {
	if len(text) < 4 {
		return text
	}
	body := append([]byte(nil), text[:len(text)-4]...)
	return binary.BigEndian.AppendUint32(body, crc32.ChecksumIEEE(body))
}
