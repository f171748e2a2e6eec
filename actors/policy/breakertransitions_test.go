package policy

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// transitionSettings make every transition reachable by one fact.
func transitionSettings() Breaker {
	return Breaker{
		Consecutive: 3, FailureRate: 0.5, SlowCall: 1, SlowRate: 0.5, MinCalls: 4, Window: time.Hour,
		OpenFor: time.Second, Probes: 3, Successes: 3, ProbeFailureRate: 0.5, Dwell: 2 * time.Second,
		Ramp: []float64{0.1, 0.5}, RampStep: time.Second,
	}
}

// intoStates leads a breaker into each state at instant 1000; what happens next is one fact away.
var intoStates = map[string][]BreakerFact{
	"closed":                        {},
	"closed, two failures in a row": {{Kind: CallFailed}, {Kind: CallFailed}},
	"closed, one of three failed":   {{Kind: CallFailed, Seen: 2}, {Kind: Ticked, Seen: 2}},
	"closed, one of three slow":     {{Kind: CallSlow, Slow: true, Seen: 2}},
	"open":                          {{Kind: CallFailed}, {Kind: CallFailed}, {Kind: CallFailed}},
}

const transitionSecond = Instant(time.Second)

func into(t *testing.T, state string) *BreakerCore {
	t.Helper()
	cfg := transitionSettings()
	further := map[string][]BreakerFact{
		"half-open":                   {{Kind: Ticked, Now: 1000 + transitionSecond}},
		"half-open, one failed":       {{Kind: Ticked, Now: 1000 + transitionSecond}, {Kind: ProbeFailed}},
		"half-open, one succeeded":    {{Kind: Ticked, Now: 1000 + transitionSecond}, {Kind: ProbeSucceeded}},
		"ramping":                     {{Kind: Ticked, Now: 1000 + transitionSecond}, {Kind: ProbeSucceeded}, {Kind: ProbeSucceeded}},
		"ramping, last step":          {{Kind: Ticked, Now: 1000 + transitionSecond}, {Kind: ProbeSucceeded}, {Kind: ProbeSucceeded}, {Kind: Ticked, Now: 1000 + 2*transitionSecond}},
		"ramping, two failed":         {{Kind: Ticked, Now: 1000 + transitionSecond}, {Kind: ProbeSucceeded}, {Kind: ProbeSucceeded}, {Kind: CallFailed}, {Kind: CallFailed}},
		"ramping, three calls, 1 bad": {{Kind: Ticked, Now: 1000 + transitionSecond}, {Kind: ProbeSucceeded}, {Kind: ProbeSucceeded}, {Kind: CallFailed, Seen: 2}},
	}
	facts, first := intoStates[state]
	if !first {
		facts = append(append([]BreakerFact{}, intoStates["open"]...), further[state]...)
		require.NotEmpty(t, further[state], state)
	}
	c := NewBreaker(cfg.WithDefaults().(Breaker), nil)
	now := Instant(1000)
	for _, f := range facts {
		now = max(now, f.Now)
		f.Now, f.Epoch = now, c.Snapshot().Epoch
		c.Apply(f)
	}
	return c
}

func TestEveryTransition(t *testing.T) {
	later := func(seconds float64) Instant { return Instant(seconds * float64(time.Second)) }
	tick := func(after Instant) BreakerFact { return BreakerFact{Kind: Ticked, Now: after} }
	fail, slow := BreakerFact{Kind: CallFailed}, BreakerFact{Kind: CallSlow, Slow: true}
	probeOK, probeFail, probeSlow := BreakerFact{Kind: ProbeSucceeded}, BreakerFact{Kind: ProbeFailed}, BreakerFact{Kind: ProbeSucceeded, Slow: true}
	seen := func(n uint64, f BreakerFact) BreakerFact { f.Seen = n; return f }
	hung := func(out int32, after Instant) BreakerFact { return BreakerFact{Kind: Ticked, Out: out, Now: after} }
	give := func(k BreakerOrderKind) BreakerFact {
		return BreakerFact{Kind: Ordered, Order: &BreakerOrder{Kind: k, Reason: "test"}}
	}
	same := transitionSettings().WithDefaults().(Breaker)
	flat := transitionSettings()
	flat.Ramp = nil
	flat = flat.WithDefaults().(Breaker)
	settings := func(b *Breaker) BreakerFact { return BreakerFact{Kind: Reconfigured, Settings: b} }

	type row struct {
		name  string
		fact  BreakerFact // Now is after the state was reached
		want  BreakerState
		cause BreakerCause // "" if nothing changed
		order BreakerOrderKind
	}
	// What no fact of calls changes in a state is asked of each of them.
	stay := func(s BreakerState, facts ...BreakerFact) (rows []row) {
		for _, f := range facts {
			rows = append(rows, row{name: fmt.Sprintf("fact %d slow %v seen %d", f.Kind, f.Slow, f.Seen), fact: f, want: s})
		}
		return rows
	}
	orders := func(s BreakerState) []row {
		return []row{
			{"forced open", give(ForceOpen), s, "-", ForceOpen},
			{"forced closed", give(ForceClosed), s, "-", ForceClosed},
			{"disabled", give(Disable), s, "-", Disable},
			{"reset", give(Reset), Closed, CauseOrder, 0},
			{"lifted, though nothing is in force", give(Automatic), s, "", 0},
		}
	}
	all := map[string][]row{
		"closed": append(append(
			stay(Closed, tick(1), tick(later(7200)), fail, slow, probeOK, probeFail, probeSlow, seen(99, tick(1)), seen(99, fail)),
			row{"same settings", settings(&same), Closed, "-", 0}), orders(Closed)...),
		"closed, two failures in a row": append(
			stay(Closed, tick(1), slow, seen(4, fail), seen(1, tick(1))),
			row{"a third", fail, Open, CauseConsecutive, 0},
			row{"a third after a success: three of four", seen(1, fail), Open, CauseFailureRate, 0}),
		"closed, one of three failed": append(
			stay(Closed, tick(1), seen(2, slow), seen(9, fail)),
			row{"a second of four", seen(2, fail), Open, CauseFailureRate, 0},
			row{"a second that is slow too: the failure comes first", BreakerFact{Kind: CallFailed, Slow: true, Seen: 2}, Open, CauseFailureRate, 0},
			row{"a slow one after a success: one in five", seen(3, slow), Closed, "", 0}),
		"closed, one of three slow": append(
			stay(Closed, tick(1), seen(2, fail), seen(3, slow)),
			row{"a second of four", seen(2, slow), Open, CauseSlowRate, 0},
			row{"a second that failed", BreakerFact{Kind: CallFailed, Slow: true, Seen: 2}, Open, CauseSlowRate, 0}),
		"open": append(append(
			stay(Open, tick(0), tick(transitionSecond-1), fail, slow, probeOK, probeFail, probeSlow, seen(99, fail)),
			row{"its time is up", tick(transitionSecond), HalfOpen, CauseDelayOver, 0},
			row{"long ago", tick(later(1e6)), HalfOpen, CauseDelayOver, 0},
			row{"same settings", settings(&same), Open, "-", 0}), orders(Open)...),
		"half-open": append(append(
			stay(HalfOpen, tick(1), fail, slow, probeOK, probeFail, probeSlow, hung(1, later(2)-1), hung(0, later(2))),
			row{"a probe hangs", hung(1, later(2)), Open, CauseProbeHung, 0},
			row{"same settings", settings(&same), HalfOpen, "-", 0}), orders(HalfOpen)...),
		"half-open, one failed": append(
			stay(HalfOpen, tick(1), probeOK),
			row{"another: two of three", probeFail, Open, CauseProbeFailed, 0},
			row{"a slow one is a failed one", probeSlow, Open, CauseProbeSlow, 0}),
		"half-open, one succeeded": append(
			stay(HalfOpen, tick(1), probeFail, probeSlow),
			row{"another: one of three could fail", probeOK, Ramping, CauseProbesSucceeded, 0}),
		"ramping": append(append(
			stay(Ramping, tick(1), tick(transitionSecond-1), fail, slow, probeOK, probeFail, seen(99, fail)),
			row{"the next step", tick(transitionSecond), Ramping, CauseRampStep, 0},
			row{"one step at a time, however late", tick(later(60)), Ramping, CauseRampStep, 0},
			row{"same settings", settings(&same), Ramping, "-", 0},
			row{"settings without a ramp", settings(&flat), Closed, CauseSettings, 0}), orders(Ramping)...),
		"ramping, last step": append(
			stay(Ramping, tick(transitionSecond-1)),
			row{"done", tick(transitionSecond), Closed, CauseRamped, 0}),
		"ramping, two failed": append(
			stay(Ramping, seen(4, fail), slow),
			row{"a third", fail, Open, CauseConsecutive, 0}),
		"ramping, three calls, 1 bad": {
			{"a second of four", seen(2, fail), Open, CauseFailureRate, 0},
		},
	}
	for state, rows := range all {
		for _, row := range rows {
			t.Run(state+"/"+row.name, func(t *testing.T) {
				c := into(t, state)
				before := c.Snapshot()
				f := row.fact
				f.Now += c.now
				f.Epoch = before.Epoch
				changed := c.Apply(f)
				s := c.Snapshot()
				require.Equal(t, row.want, s.State)
				require.Equal(t, row.order, s.Order.Kind)
				require.Equal(t, row.cause != "", changed)
				switch row.cause {
				case "":
					require.Equal(t, before, s)
				case "-":
					require.Equal(t, before.Cause, s.Cause)
				default:
					require.Equal(t, row.cause, s.Cause)
				}
				if before.State == s.State && f.Kind != Reconfigured && row.name != "reset" {
					require.Equal(t, before.Epoch, s.Epoch)
				} else {
					require.Equal(t, before.Epoch+1, s.Epoch-b2u(row.cause == CauseSettings))
				}
				// The same fact, of a call admitted earlier, changes nothing.
				if f.Kind != Reconfigured && f.Kind != Ordered && f.Kind != Ticked {
					c = into(t, state)
					f.Epoch--
					require.False(t, c.Apply(f), "admitted before the last change")
				}
			})
		}
	}
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// Whatever happens under an order not to look changes nothing, in any state.
func TestFrozenBreakerStandsStill(t *testing.T) {
	for _, kind := range []BreakerOrderKind{ForceOpen, Disable} {
		for _, state := range []string{"closed, two failures in a row", "closed, one of three failed", "open", "half-open", "half-open, one succeeded", "ramping", "ramping, two failed"} {
			t.Run(kind.String()+"/"+state, func(t *testing.T) {
				c := into(t, state)
				c.Apply(BreakerFact{Kind: Ordered, Epoch: c.Snapshot().Epoch, Order: &BreakerOrder{Kind: kind, Reason: "test"}})
				before := c.Snapshot()
				for kind := Ticked; kind <= ProbeFailed; kind++ {
					for _, slow := range []bool{false, true} {
						require.False(t, c.Apply(BreakerFact{Kind: kind, Slow: slow, Epoch: before.Epoch, Seen: 500, Out: 3, Now: c.now + 10*transitionSecond}))
					}
				}
				require.Equal(t, before, c.Snapshot())
				require.Zero(t, c.Next(), "no tick is due")
				require.True(t, c.Apply(BreakerFact{Kind: Ordered, Epoch: before.Epoch, Seen: 500, Now: c.now, Order: &BreakerOrder{Kind: Automatic, Reason: "test"}}))
				after := c.Snapshot()
				require.Equal(t, before.State, after.State)
				require.False(t, c.Apply(BreakerFact{Kind: Ticked, Epoch: after.Epoch, Seen: 500, Out: 3, Now: c.now}) && after.State != Open, "the time that passed is nobody's fault")
			})
		}
	}
}

// The boundaries are inclusive, and a share of so many decimals is reached by exactly that many calls.
func TestBreakerBoundariesAreInclusive(t *testing.T) {
	for total := 1; total <= 200; total++ {
		for k := 1; k <= total; k++ {
			var rate float64
			_, err := fmt.Sscan(fmt.Sprintf("%.9f", float64(k)/float64(total)), &rate)
			require.NoError(t, err)
			if float64(k)/float64(total) != rate {
				continue // it has no short decimal fraction
			}
			require.True(t, reaches(uint64(k), uint64(total), rate), "%d of %d", k, total)
			require.False(t, reaches(uint64(k-1), uint64(total), rate), "%d of %d", k-1, total)
		}
	}
	require.True(t, reaches(7, 100, 0.07), "by multiplying it would not")
	c := breaker(Breaker{FailureRate: 0.07, MinCalls: 100, Calls: 100})
	for range 6 {
		require.False(t, c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Now: 1}))
	}
	require.True(t, c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Seen: 93, Now: 1}))
}

// A probe that runs while the breaker's actor is restarted is not called hung at once: nobody knows since when it runs.
func TestRestartBeginsTheDwellAnew(t *testing.T) {
	last := into(t, "half-open").Snapshot()
	c := NewBreaker(Breaker{}, &last)
	at := 100 * transitionSecond
	tick := func(now Instant) bool {
		return c.Apply(BreakerFact{Kind: Ticked, Epoch: c.Snapshot().Epoch, Out: 1, Now: now})
	}
	require.LessOrEqual(t, c.Next(), at, "a tick is due, which says what time it is")
	require.False(t, tick(at))
	require.Equal(t, at+2*transitionSecond, c.Next())
	require.False(t, tick(at+2*transitionSecond-1))
	require.True(t, tick(at+2*transitionSecond))
	require.Equal(t, CauseProbeHung, c.Snapshot().Cause)
}

// Whoever passes an earlier instant than before gets what was decided at the latest.
// Callers who are held up between the end of their calls and the telling arrive together, long after: they were not the
// latest calls.
func TestFailuresThatWereHeldUpLookedLikeABurst(t *testing.T) {
	c := breaker(Breaker{Calls: 100, MinCalls: 100, FailureRate: 0.2})
	c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Seen: 10_000, Now: 1})
	for i := range uint64(60) {
		require.False(t, c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Seen: i * 100, Now: 1}))
	}
	require.EqualValues(t, 1, c.seen.counts().Bad)
	for i := range uint64(18) {
		require.False(t, c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Seen: 9_950 + i, Now: 1}), "what is still inside counts")
	}
	require.True(t, c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Seen: 9_999, Now: 1}))
}

func TestClockThatGoesBackOpensAndClosesNothing(t *testing.T) {
	c := into(t, "open")
	until := c.Snapshot().Until
	apply := func(f BreakerFact) bool {
		f.Epoch = c.Snapshot().Epoch
		return c.Apply(f)
	}
	require.False(t, apply(BreakerFact{Kind: Ticked, Now: until - 1}))
	require.False(t, apply(BreakerFact{Kind: Ticked, Now: -until}))
	require.True(t, apply(BreakerFact{Kind: Ordered, Now: 5, Order: &BreakerOrder{Kind: ForceOpen, Reason: "test", TTL: time.Second}}))
	require.Equal(t, until-1+transitionSecond, c.Snapshot().OrderUntil, "counted from the latest instant")
	require.True(t, apply(BreakerFact{Kind: Ordered, Order: &BreakerOrder{Kind: Automatic, Reason: "test"}}))
	require.True(t, apply(BreakerFact{Kind: Ticked, Now: until}))
	require.False(t, apply(BreakerFact{Kind: Ticked, Out: 1, Now: 0}))
	require.False(t, apply(BreakerFact{Kind: ProbeFailed, Now: 0}))
	require.True(t, apply(BreakerFact{Kind: ProbeFailed, Now: 0}))
	require.Equal(t, until+transitionSecond, c.Snapshot().Until, "open for as long as ever")

	c = breaker(Breaker{FailureRate: 0.5, MinCalls: 2, Window: time.Second})
	require.False(t, c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Now: 5 * transitionSecond}))
	require.True(t, c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Now: transitionSecond}), "an old one is counted now")
}
