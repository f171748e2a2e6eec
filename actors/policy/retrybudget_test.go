package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

func TestRetryBudgetSettings(t *testing.T) {
	require.True(t, RetryBudget{}.Zero())
	require.Equal(t, RetryBudget{}, RetryBudget{}.WithDefaults(), "none stays none")
	require.Equal(t, RetryBudget{Name: "x"}, RetryBudget{Name: "x"}.WithDefaults(), "a name alone stays one")
	full := RetryBudget{Name: "x", Ratio: 0.2, MinPerSecond: 10, Window: 10 * time.Second}
	require.Equal(t, full, RetryBudget{Name: "x", Ratio: 0.2}.WithDefaults())
	require.Equal(t, full, RetryBudget{Name: "x"}.Declared())
	for field, b := range map[string]RetryBudget{
		"retry.Budget.Name":         {Name: "No Good"},
		"retry.Budget.Ratio":        {Ratio: -1},
		"retry.Budget.MinPerSecond": {MinPerSecond: -1},
		"retry.Budget.Window":       {Window: time.Millisecond},
	} {
		err := Retry{Budget: b}.WithDefaults().Validate()
		require.ErrorIs(t, err, messages.ErrInvalid)
		require.ErrorContains(t, err, field)
	}
	err := Retry{Attempts: -1, MaxElapsed: -1, Backoff: Backoff{Base: -1, Factor: 0.5, Step: -1, Jitter: 9, Spread: 2, Max: -2}}.WithDefaults().Validate()
	for _, field := range []string{"retry.Attempts", "retry.MaxElapsed", "Backoff.Base", "Backoff.Max", "Backoff.Factor", "Backoff.Step", "Backoff.Jitter", "Backoff.Spread"} {
		require.ErrorContains(t, err, field)
	}
}

const step = Instant(time.Second)

// ledger drives a core as its host does, and keeps what it told.
type ledger struct {
	core           *RetryBudgetCore
	calls, retries uint64
}

func newLedger(ratio, floor float64) *ledger {
	cfg := RetryBudget{Ratio: ratio, MinPerSecond: floor, Window: 10 * time.Second}
	return &ledger{core: NewRetryBudget(cfg, nil, RetryBudgetFact{Now: 1})}
}

func (l *ledger) tell(now Instant) {
	l.core.Apply(RetryBudgetFact{Calls: l.calls, Retries: l.retries, Now: now})
}

// until brings the ticks that are due by now, each late by the same time.
func (l *ledger) until(now, late Instant) {
	for at := l.core.Next(); at != 0 && at+late <= now; at = l.core.Next() {
		l.tell(at + late)
	}
}

func (l *ledger) left() float64 {
	s := l.core.Snapshot()
	return s.Left(l.calls, l.retries)
}

func TestRetryBudgetWindow(t *testing.T) {
	l := newLedger(0.1, 0.5) // a floor of five
	require.InDelta(t, 5, l.left(), 0)
	l.calls += 20
	l.tell(step)
	require.InDelta(t, 7, l.left(), 1e-9)
	l.retries += 6
	require.InDelta(t, 1, l.left(), 1e-9, "what was not told yet counts too")
	s := l.core.Snapshot()
	require.True(t, s.Allows(l.calls, l.retries))
	l.retries++
	require.False(t, s.Allows(l.calls, l.retries))
	l.until(10*step, 0)
	require.InDelta(t, 0, l.left(), 1e-9, "all is still inside")
	l.calls += 10
	l.until(11*step, 0)
	require.InDelta(t, 6, l.left(), 1e-9, "the first calls and retries left with their step")
	l.until(30*step, 0)
	require.InDelta(t, 5, l.left(), 1e-9)
	require.Zero(t, l.core.Next(), "an empty window wants no ticks")
	l.calls++
	l.tell(1000 * step)
	require.InDelta(t, 5.1, l.left(), 1e-9, "the first call after a sleep counts at its time")
	require.Equal(t, 1001*step, l.core.Next())
	l.core.Apply(RetryBudgetFact{Calls: 3, Now: 1})
	require.InDelta(t, 5.1, l.left(), 1e-9, "a reading that was overtaken has nothing new")
}

func TestRetryBudgetRatioThatIsNoBinaryFraction(t *testing.T) {
	for calls := uint64(10); calls <= 1000; calls += 10 {
		for _, tenths := range []uint64{1, 3, 6, 7, 9} {
			s := RetryBudgetSnapshot{Settings: RetryBudget{Ratio: float64(tenths) / 10, Window: time.Second}}
			require.True(t, s.Allows(calls, calls*tenths/10-1))
			require.False(t, s.Allows(calls, calls*tenths/10))
		}
	}
}

func TestRetryBudgetRestartErrsTowardsFewer(t *testing.T) {
	l := newLedger(1, 0.5)
	l.calls, l.retries = 100, 3
	l.tell(5 * step)
	last := l.core.Snapshot()
	l.retries += 1 // while it was down
	l.core = NewRetryBudget(RetryBudget{}, &last, RetryBudgetFact{Calls: l.calls, Retries: l.retries, Now: 12 * step})
	require.InDelta(t, 5-4, l.left(), 1e-9, "calls are forgotten, retries are not")
	require.Equal(t, last.Settings, l.core.Snapshot().Settings)
	l.until(21*step, 0)
	require.InDelta(t, 5-4, l.left(), 1e-9, "and count as just made")
	l.until(22*step, 0)
	require.InDelta(t, 5, l.left(), 1e-9)
}

func TestRetryBudgetReconfigured(t *testing.T) {
	l := newLedger(0.1, 0.5)
	l.calls, l.retries = 100, 4
	cfg := RetryBudget{Ratio: 0.2, MinPerSecond: 1, Window: 10 * time.Second}
	require.True(t, l.core.Apply(RetryBudgetFact{Calls: 100, Retries: 4, Now: step, Settings: &cfg}))
	require.InDelta(t, 10+20-4, l.left(), 1e-9, "what is in the window stays")
	cfg.Window = time.Second
	require.True(t, l.core.Apply(RetryBudgetFact{Calls: 100, Retries: 4, Now: 2 * step, Settings: &cfg}))
	require.InDelta(t, 1-4, l.left(), 1e-9, "another window begins with the retries alone")
	l.until(10*step, 0)
	require.InDelta(t, 1, l.left(), 1e-9)
}

// The core agrees with a list of all that ever happened. With ticks that come late it allows fewer, never more, from
// the moment it heard of the time.
func TestRetryBudgetAgreesWithAListOfEvents(t *testing.T) {
	type event struct {
		at    Instant
		retry bool
	}
	rapid.Check(t, func(t *rapid.T) {
		ratio, floor := rapid.SampledFrom([]float64{0.1, 0.2, 0.7, 2}).Draw(t, "ratio"), rapid.SampledFrom([]float64{0.001, 0.3, 2}).Draw(t, "floor")
		late := Instant(rapid.SampledFrom([]int64{0, 0, int64(step) / 3, int64(step) * 5 / 2, int64(step) * 40}).Draw(t, "late"))
		l := newLedger(ratio, floor)
		var events []event
		model := func(now Instant) float64 {
			sum := floor * 10
			for _, e := range events {
				if e.at/step > now/step-stats.Buckets {
					if e.retry {
						sum--
					} else {
						sum += ratio
					}
				}
			}
			return sum
		}
		now := Instant(1)
		for range rapid.IntRange(1, 150).Draw(t, "n") {
			now += Instant(rapid.SampledFrom([]int64{0, 1, int64(step) / 7, int64(step), int64(step) * 9, int64(step) * 25}).Draw(t, "pause"))
			l.until(now, late)
			retry := rapid.Bool().Draw(t, "retry")
			asleep := l.core.Next() == 0
			if due := l.core.Next(); retry && due != 0 && now >= due {
				l.tell(now) // as a retry does that finds the tick overdue
			}
			if retry {
				left := l.left()
				if late == 0 {
					require.InDelta(t, model(now), left, 1e-6)
				}
				require.LessOrEqual(t, left, model(now)+1e-6)
				if s := l.core.Snapshot(); !s.Allows(l.calls, l.retries) {
					continue
				}
				l.retries++
			} else {
				l.calls++
			}
			events = append(events, event{now, retry})
			if asleep {
				l.tell(now)
			}
		}
		l.tell(now)
		require.LessOrEqual(t, l.left(), model(now)+1e-6)
	})
}
