package policy

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

// modelCall is a call as the slow, obvious model remembers it.
type modelCall struct {
	bucket    Instant
	bad, slow bool
}

// The breaker must agree with the slow, obvious model: a list of calls, judged at each that failed or was slow. What it
// judges is the true rate of the calls that were completed.
func TestBreakerAgreesWithAListOfCalls(t *testing.T) {
	for name, calls := range map[string]int{"time": 0, "calls": 12} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { agreesWithAList(t, calls) })
		})
	}
}

func agreesWithAList(t *rapid.T, most int) {
	cfg := Breaker{
		FailureRate: rapid.Float64Range(0.1, 1).Draw(t, "rate"), Window: 10 * time.Millisecond,
		Consecutive: rapid.IntRange(0, 4).Draw(t, "consecutive"),
		SlowCall:    1, SlowRate: rapid.Float64Range(0.1, 1).Draw(t, "slow rate"),
	}
	if most > 0 {
		cfg.Calls = rapid.IntRange(1, most).Draw(t, "window")
		most = cfg.Calls
	} else {
		most = 12
	}
	cfg.MinCalls = rapid.IntRange(1, most).Draw(t, "min")
	cfg = cfg.WithDefaults().(Breaker)
	require.NoError(t, cfg.Validate())
	c := NewBreaker(cfg, nil)
	const width = Instant(time.Millisecond)
	var list []modelCall
	var now Instant
	var seen uint64
	run := 0
	tick := func(at Instant) {
		require.False(t, c.Apply(BreakerFact{Kind: Ticked, Epoch: 1, Seen: seen, Now: at}))
	}
	for range rapid.IntRange(1, 80).Draw(t, "calls") {
		now += Instant(rapid.Int64Range(0, int64(3*width)).Draw(t, "dt"))
		for at := c.Next(); at != 0 && at <= now; at = c.Next() {
			tick(at)
		}
		bad, slow := rapid.Bool().Draw(t, "bad"), rapid.Bool().Draw(t, "slow")
		list = append(list, modelCall{now / width, bad, slow})
		run++
		if !bad {
			run = 0
		}
		if !bad && !slow {
			seen++
			if c.Idle() {
				tick(now) // the first after a sleep is told at once; the next tick, or a failure, brings the others
			}
			continue
		}
		window := list
		if cfg.Calls > 0 {
			window = list[max(0, len(list)-cfg.Calls):]
		}
		var good, ill, late uint64
		for _, p := range window {
			if cfg.Calls == 0 && p.bucket <= now/width-10 {
				continue
			}
			if p.bad {
				ill++
			} else {
				good++
			}
			if p.slow {
				late++
			}
		}
		f := BreakerFact{Kind: CallSlow, Slow: slow, Epoch: 1, Seen: seen, Now: now}
		if bad {
			f.Kind = CallFailed
		}
		total := float64(good + ill)
		var cause BreakerCause
		switch {
		case cfg.Consecutive > 0 && run >= cfg.Consecutive:
			cause = CauseConsecutive
		case good+ill < uint64(cfg.MinCalls):
		case cfg.FailureRate > 0 && ill > 0 && float64(ill)/total >= cfg.FailureRate:
			cause = CauseFailureRate
		case late > 0 && float64(late)/total >= cfg.SlowRate:
			cause = CauseSlowRate
		}
		require.Equal(t, cause != "", c.Apply(f))
		if cause != "" {
			s := c.Snapshot()
			require.Equal(t, Open, s.State)
			require.Equal(t, cause, s.Cause)
			require.Equal(t, []uint64{good, ill, late}, []uint64{s.Good, s.Bad, s.Slow}, "the true rate of the completed calls")
			require.Equal(t, run, s.Run)
			return
		}
		require.Equal(t, stats.Counts{Good: good, Bad: ill, Slow: late}, c.seen.counts())
	}
}

// Half-open must agree with its list of results: the first so many decide by ratio, as soon as what is missing cannot
// change it, and not before.
func TestHalfOpenAgreesWithAListOfResults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "successes")
		rate := float64(rapid.IntRange(0, n).Draw(t, "rate")) / float64(n)
		if rapid.Bool().Draw(t, "odd rate") {
			rate = rapid.Float64Range(0, 1).Draw(t, "a rate")
		}
		c := breaker(Breaker{Consecutive: 1, OpenFor: time.Second, Probes: n + rapid.IntRange(0, 3).Draw(t, "more"), Successes: n, ProbeFailureRate: rate})
		c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Now: 1})
		c.Apply(BreakerFact{Kind: Ticked, Epoch: 2, Now: 1 + Instant(time.Second)})
		opens := func(failed int) bool { return failed > 0 && float64(failed)/float64(n) >= rate }
		failed := 0
		for i := 1; ; i++ {
			require.LessOrEqual(t, i, n, "the first so many decide")
			kind := ProbeSucceeded
			if rapid.Bool().Draw(t, "bad") {
				kind = ProbeFailed
				failed++
			}
			want := HalfOpen
			best, worst := opens(failed), opens(failed+n-i) // if all that are missing succeed, or fail
			if best == worst {
				want = Closed
				if best {
					want = Open
				}
			}
			changed := c.Apply(BreakerFact{Kind: kind, Epoch: 3, Now: 2 + Instant(time.Second)})
			require.Equal(t, want, c.Snapshot().State, "%d of %d failed after %d, rate %v", failed, n, i, rate)
			require.Equal(t, want != HalfOpen, changed)
			if changed {
				require.EqualValues(t, failed, c.Snapshot().Bad)
				return
			}
		}
	})
}

// The delay is what the settings say of the number of times in a row, within the jitter, and never above the maximum.
func TestOpenDelayGrowsWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Breaker{
			Consecutive: 1, Probes: 1, OpenFor: time.Duration(rapid.Int64Range(1, 1e10).Draw(t, "for")),
			OpenGrowth: rapid.Float64Range(1, 5).Draw(t, "growth"), OpenJitter: rapid.SampledFrom([]float64{0, 0.1, 0.5, 1}).Draw(t, "jitter"),
			Seed: rapid.Uint64().Draw(t, "seed"),
		}
		cfg.OpenMax = cfg.OpenFor + time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "more"))
		c := breaker(cfg)
		apply := func(kind BreakerFactKind, now Instant) BreakerSnapshot {
			require.True(t, c.Apply(BreakerFact{Kind: kind, Epoch: c.Snapshot().Epoch, Now: now}))
			return c.Snapshot()
		}
		s := apply(CallFailed, 1)
		streak := 1
		for trips := range rapid.IntRange(1, 20).Draw(t, "trips") {
			delay := s.Until.Sub(c.now)
			require.Equal(t, s.OpenDelay, delay)
			require.Equal(t, streak, s.Streak)
			require.Equal(t, cfg.openDelay(streak, uint64(trips+1)), delay, "the same seed gives the same times")
			require.LessOrEqual(t, delay, cfg.OpenMax)
			require.Positive(t, delay)
			nominal := min(float64(cfg.OpenFor)*math.Pow(cfg.OpenGrowth, float64(streak-1)), float64(cfg.OpenMax))
			require.InDelta(t, nominal, float64(delay), nominal*cfg.OpenJitter+1)
			apply(Ticked, s.Until)
			streak++
			if rapid.Bool().Draw(t, "from half-open") {
				s = apply(ProbeFailed, c.now+1)
				continue
			}
			closed := apply(ProbeSucceeded, c.now+1)
			calm := closed.CalmAt
			require.Equal(t, c.now.Add(delay), calm)
			if rapid.Bool().Draw(t, "calm") {
				streak = 1
				calm++
			}
			s = apply(CallFailed, calm)
		}
	})
}

func TestOpenDelaysDiffer(t *testing.T) {
	cfg := Breaker{OpenFor: time.Second, OpenMax: time.Hour, OpenJitter: 0.5}.WithDefaults().(Breaker)
	delays := map[time.Duration]bool{}
	var sum time.Duration
	for seed := range uint64(100) {
		cfg.Seed = seed
		for trips := range uint64(100) {
			d := cfg.openDelay(1, trips)
			delays[d] = true
			sum += d
		}
	}
	require.Greater(t, len(delays), 9900)
	require.InDelta(t, time.Second, sum/10_000, float64(10*time.Millisecond))
}

// An order that looks on changes nothing of what the breaker does itself, and one that freezes it takes that time out of
// its life. The twin never hears of orders.
func TestOrdersLieOverTheAutomaticState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Breaker{Consecutive: 2, FailureRate: 0.5, MinCalls: 3, Calls: 5, SlowCall: 1, OpenFor: 20, OpenMax: 80, Probes: 2, ProbeFailureRate: 0.6, Dwell: time.Hour}
		ordered, twin := breaker(cfg), breaker(cfg)
		var now, until Instant
		var seen, twinSeen uint64 // counted as the gate does
		inForce := BreakerOrderKind(0)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			now += Instant(rapid.IntRange(0, 10).Draw(t, "dt"))
			if until != 0 && now >= until {
				inForce, until = 0, 0
				// Before a call is let in again the gate tells the time.
				ordered.Apply(BreakerFact{Kind: Ticked, Epoch: ordered.Snapshot().Epoch, Seen: seen, Now: now})
				twin.Apply(BreakerFact{Kind: Ticked, Epoch: twin.Snapshot().Epoch, Seen: twinSeen, Now: now})
				if ordered.Snapshot().State != Closed {
					seen, twinSeen = 0, 0
				}
			}
			frozen := inForce == ForceOpen || inForce == Disable
			s := ordered.Snapshot()
			if rapid.IntRange(0, 6).Draw(t, "order?") == 0 {
				o := BreakerOrder{Kind: BreakerOrderKind(rapid.IntRange(1, 5).Draw(t, "order")), Reason: "test"}
				if o.Kind <= Disable && rapid.Bool().Draw(t, "ttl?") {
					o.TTL = time.Duration(rapid.IntRange(1, 40).Draw(t, "ttl"))
				}
				f := BreakerFact{Kind: Ordered, Epoch: s.Epoch, Seen: seen, Now: now, Order: &o}
				require.NoError(t, o.Validate())
				ordered.Apply(f)
				inForce, until = o.Kind, 0
				if o.TTL > 0 {
					until = now.Add(o.TTL)
				}
				if o.Kind == Reset || o.Kind == Automatic {
					inForce = 0
				}
				if o.Kind == Reset {
					f.Epoch, f.Seen, f.Now = twin.Snapshot().Epoch, twinSeen, now
					twin.Apply(f)
					seen, twinSeen = 0, 0
				} else if !frozen && s.State == Closed {
					twin.Apply(BreakerFact{Kind: Ticked, Epoch: s.Epoch, Seen: twinSeen})
				}
			} else {
				f := BreakerFact{Kind: BreakerFactKind(rapid.IntRange(0, int(ProbeFailed)).Draw(t, "kind")), Slow: rapid.Bool().Draw(t, "slow"), Epoch: s.Epoch, Now: now}
				f.Slow = f.Slow || f.Kind == CallSlow
				if s.State == Closed && rapid.Bool().Draw(t, "success") {
					seen++
					if !frozen {
						twinSeen++
					}
				}
				f.Seen = seen
				ordered.Apply(f)
				if f.Seen = twinSeen; !frozen {
					twin.Apply(f)
				}
			}
			o, w := ordered.Snapshot(), twin.Snapshot()
			if o.Epoch != s.Epoch {
				seen, twinSeen = 0, 0
			}
			require.Equal(t, inForce, o.OrderAt(now))
			o.Order, o.OrderUntil, o.Orders, o.Given = BreakerOrder{}, 0, 0, BreakerOrder{}
			w.Order, w.OrderUntil, w.Orders, w.Given = BreakerOrder{}, 0, 0, BreakerOrder{}
			require.Equal(t, w, o)
		}
	})
}

// Facts overtake each other between their reading and the mailbox. However they come, the window holds the calls in the
// order in which they ended, and a rate that was never reached is never seen.
func TestFailuresThatOvertookEachOtherLookedLikeARun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(5, 40).Draw(t, "window")
		c := breaker(Breaker{FailureRate: 0.5, Calls: n, MinCalls: n})
		var facts []BreakerFact
		var list []bool // bad
		var seen uint64
		for range rapid.IntRange(1, 60).Draw(t, "failures") {
			for range rapid.IntRange(3, 30).Draw(t, "successes") {
				seen++
				list = append(list, false)
			}
			list = append(list, true)
			facts = append(facts, BreakerFact{Kind: CallFailed, Epoch: 1, Seen: seen, Now: 1})
		}
		for _, f := range rapid.Permutation(facts).Draw(t, "order") {
			require.False(t, c.Apply(f), "at most one of four failed")
		}
		var bad uint64
		window := list[max(0, len(list)-n):]
		for _, b := range window {
			if b {
				bad++
			}
		}
		counts := c.seen.counts()
		require.Equal(t, bad, counts.Bad)
		require.EqualValues(t, len(window), counts.Total())
	})
}
