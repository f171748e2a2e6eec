package policy

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func adaptive(cfg Adaptive) *AdaptiveCore { return NewAdaptive(cfg.WithDefaults().(Adaptive), nil) }

// server is a downstream as the limit meets it: up to its capacity calls do not disturb one another, beyond it they share
// it. Callers keep as many calls running as they want, or are let.
type server struct {
	*AdaptiveCore
	now      Instant
	base     time.Duration
	capacity float64
	wanted   int           // calls at once
	timeout  time.Duration // calls that would take longer are cut off and mean overload; 0: none
	noise    *rand.Rand    // nil: none
	open     bool          // the limit is only observed

	epoch             uint64
	count, sum, drops float64
	slowed            time.Duration // how long probes kept the limit down
	lowest, highest   int           // limits
}

func newServer(cfg Adaptive, base time.Duration, capacity float64) *server {
	return &server{AdaptiveCore: adaptive(cfg), now: 1, base: base, capacity: capacity, wanted: math.MaxInt32}
}

// run lets the server work until the core was told that many facts.
func (s *server) run(facts int) {
	s.lowest, s.highest = math.MaxInt, 0
	for range facts {
		s.step()
		at := s.Snapshot()
		s.lowest, s.highest = min(s.lowest, at.Limit), max(s.highest, at.Limit)
	}
}

func (s *server) step() {
	at := s.Snapshot()
	if at.Epoch != s.epoch {
		s.epoch, s.count, s.sum, s.drops = at.Epoch, 0, 0, 0
	}
	n := min(s.wanted, at.Permits)
	if s.open {
		n = s.wanted
	}
	took := float64(s.base) * max(1, float64(n)/s.capacity)
	if s.noise != nil {
		mean := 0.0
		for range minSamples { // as few as a window may have, of an exponential distribution
			mean += s.noise.ExpFloat64() / minSamples
		}
		took *= mean
	}
	next := s.Next()
	if next == 0 {
		next = s.now.Add(time.Millisecond)
	}
	passed := next.Sub(s.now)
	if at.Permits < at.Limit {
		s.slowed += passed
	}
	if s.timeout > 0 && took > float64(s.timeout) {
		s.drops += float64(n) * float64(passed) / float64(s.timeout)
	} else {
		ended := float64(n) * float64(passed) / took
		s.count += ended
		s.sum += ended * took
	}
	s.now = next
	s.Apply(AdaptiveFact{Epoch: at.Epoch, Count: uint64(s.count), Sum: uint64(s.sum), Drops: uint64(s.drops), InFlight: n, Now: next})
}

// near is what the limit may settle at: above the capacity, for there is always a queue, and not far above.
func near(t require.TestingT, capacity float64, s *server) {
	require.GreaterOrEqual(t, float64(s.lowest), capacity, "capacity %v", capacity)
	require.LessOrEqual(t, float64(s.highest), 1.6*capacity+2*math.Sqrt(capacity)+3, "capacity %v", capacity)
}

func TestAdaptiveConvergesFromBothSides(t *testing.T) {
	for _, capacity := range []float64{1, 5, 10, 50, 200} {
		for _, initial := range []int{1, 20, 1000} {
			s := newServer(Adaptive{Initial: initial}, 10*time.Millisecond, capacity)
			s.run(1000)
			s.run(1000)
			near(t, capacity, s)
		}
	}
}

func TestAdaptiveFollowsTheCapacity(t *testing.T) {
	s := newServer(Adaptive{}, 10*time.Millisecond, 10)
	for _, capacity := range []float64{10, 80, 10, 3, 30} {
		s.capacity = capacity
		s.run(400)
		s.run(100)
		near(t, capacity, s)
	}
}

// A downstream that became slower for good is not overloaded: the limit falls first, and comes back.
func TestAdaptiveThatSettledTooLowComesBack(t *testing.T) {
	s := newServer(Adaptive{}, 10*time.Millisecond, 30)
	s.run(1000)
	s.base *= 5
	s.run(100)
	require.Less(t, s.lowest, 15, "at first it looks like a queue")
	s.run(1500)
	s.run(100)
	near(t, 30, s)
	require.InEpsilon(t, float64(s.base), float64(s.Snapshot().Baseline), 0.25)
}

func TestAdaptiveThatSettledTooHighComesBack(t *testing.T) {
	cfg := Adaptive{}.WithDefaults().(Adaptive)
	s := newServer(cfg, 10*time.Millisecond, 10)
	s.AdaptiveCore = NewAdaptive(cfg, &AdaptiveSnapshot{Limit: 900, Baseline: time.Second, Settings: cfg})
	s.run(500)
	s.run(100)
	near(t, 10, s)
}

// The weakness of a baseline that follows the latency: it rises with the queue, and the limit with it.
func TestAdaptiveLimitDriftedUpWithItsOwnQueue(t *testing.T) {
	updates := 100_000
	if testing.Short() {
		updates /= 10
	}
	noise := rand.New(rand.NewPCG(1, 2))
	for _, row := range []struct {
		cfg             Adaptive
		noise           *rand.Rand
		lowest, highest int // with the capacity 25
	}{
		{Adaptive{}, nil, 40, 48},
		{Adaptive{}, noise, 20, 85},
		{Adaptive{Window: time.Second}, nil, 40, 48},
		{Adaptive{Window: time.Second}, noise, 7, 85},
		{Adaptive{Window: time.Second, Probe: time.Hour}, nil, 40, 48},
		{Adaptive{Window: time.Second, Probe: time.Hour}, noise, 3, 85},
		{Adaptive{Tolerance: 4}, nil, 105, 115},
		{Adaptive{Tolerance: 4}, noise, 20, 210},
		{Adaptive{Smoothing: 1}, nil, 40, 48},
		{Adaptive{Smoothing: 1}, noise, 3, 140}, // each window counts in full, chance too
	} {
		s := newServer(row.cfg, 10*time.Millisecond, 25)
		s.noise = row.noise
		s.run(1000)
		s.run(updates)
		require.GreaterOrEqual(t, s.lowest, row.lowest, "%+v", row)
		require.LessOrEqual(t, s.highest, row.highest, "%+v", row)
	}
}

// Nor may a limit that is only observed take the queue it does not prevent for the downstream's own latency.
func TestAdaptiveThatOnlyObservesLearnsNoQueue(t *testing.T) {
	s := newServer(Adaptive{}, 10*time.Millisecond, 10)
	s.run(500)
	s.open, s.wanted = true, 200
	s.run(20_000)
	require.InEpsilon(t, float64(s.base), float64(s.Snapshot().Baseline), 0.1)
	require.Less(t, s.Snapshot().Limit, 10)
	s.open = false
	s.run(400)
	s.run(100)
	near(t, 10, s)
}

func TestAdaptiveDoesNotGrowUnlessNeeded(t *testing.T) {
	s := newServer(Adaptive{}, 10*time.Millisecond, 1000)
	s.wanted = 9
	s.run(10_000)
	require.Equal(t, 20, s.lowest)
	require.Equal(t, 20, s.highest)
	require.Zero(t, s.slowed, "what is not needed is measured without letting it down")
	require.Positive(t, s.Snapshot().Probes)
	s.wanted = 30
	s.run(1000)
	require.InDelta(t, 60, s.highest, 2, "to twice of what is needed, at most")
}

func TestAdaptiveBacksOffAndRecovers(t *testing.T) {
	s := newServer(Adaptive{Initial: 100}, 10*time.Millisecond, 100)
	s.run(500)
	before := s.Snapshot().Limit
	s.timeout, s.base = 5*time.Millisecond, 10*time.Millisecond // all calls are cut off
	s.run(200)
	require.Equal(t, 1, s.Snapshot().Limit)
	s.timeout = 0
	s.run(1000)
	require.InDelta(t, before, s.Snapshot().Limit, 20)
}

// One window with overload is one step down, however many calls meant it.
func TestAdaptiveBacksOffOnceAWindow(t *testing.T) {
	c := adaptive(Adaptive{Initial: 100})
	now := Instant(1)
	tell := func(count, drops uint64) bool {
		return c.Apply(AdaptiveFact{Epoch: 1, Count: count, Sum: count * 1e6, Drops: drops, InFlight: 100, Now: now})
	}
	require.False(t, tell(0, 50))
	require.False(t, tell(0, 80))
	require.Equal(t, 100, c.Snapshot().Limit, "not before the window ends")
	now = c.Next()
	require.True(t, tell(500, 90))
	require.Equal(t, 90, c.Snapshot().Limit)
	require.EqualValues(t, 1, c.Snapshot().Backoffs)
	now = c.Next()
	require.True(t, tell(600, 90))
	require.Greater(t, c.Snapshot().Limit, 90, "a window without any grows again")
	now = c.Next()
	tell(600, 91)
	for range 8 {
		require.False(t, tell(600, 91), "one is not yet a window")
		now = c.Next()
	}
	for c.Snapshot().Backoffs == 1 {
		tell(600, 91)
		now = c.Next()
	}
	require.LessOrEqual(t, now, Instant(3*time.Second), "but it need not wait for ten")
}

func TestAdaptiveProbesCostLittle(t *testing.T) {
	for _, base := range []time.Duration{time.Millisecond, 50 * time.Millisecond, 2 * time.Second} {
		s := newServer(Adaptive{}, base, 40)
		s.run(20_000)
		require.Greater(t, s.Snapshot().Probes, uint64(10))
		require.Positive(t, s.slowed)
		require.Less(t, s.slowed, s.now.Sub(0)/15, "base %v", base)
	}
}

func TestAdaptiveProbeIsGivenUpWhenCallsHang(t *testing.T) {
	s := newServer(Adaptive{}, 10*time.Millisecond, 10)
	s.run(300)
	for s.Snapshot().Permits == s.Snapshot().Limit {
		s.step()
	}
	at := s.Snapshot()
	require.Less(t, at.Permits, at.Limit)
	begin := s.now
	for now := s.Next(); now != 0; now = s.Next() {
		s.Apply(AdaptiveFact{Epoch: s.Snapshot().Epoch, Now: now})
		s.now = now
	}
	require.Equal(t, at.Limit, s.Snapshot().Permits)
	require.Equal(t, at.Limit, s.Snapshot().Limit)
	require.Equal(t, at.Baseline, s.Snapshot().Baseline, "nothing was measured")
	require.LessOrEqual(t, s.now.Sub(begin), 2*time.Second)
}

func TestAdaptiveProbeEndsWithOverload(t *testing.T) {
	s := newServer(Adaptive{}, 10*time.Millisecond, 10)
	s.run(300)
	for s.Snapshot().Permits == s.Snapshot().Limit {
		s.step()
	}
	at := s.Snapshot()
	s.timeout = time.Millisecond
	for s.Snapshot().Backoffs == 0 {
		s.step()
	}
	require.InDelta(t, float64(at.Limit)*0.9, s.Snapshot().Limit, 1, "backed off from the limit, not from the probe's")
	require.Equal(t, s.Snapshot().Limit, s.Snapshot().Permits)
	require.Equal(t, at.Baseline, s.Snapshot().Baseline)
}

// The same seed probes at the same times, another one at others: nodes do not probe all at once.
func TestAdaptiveProbesAreJittered(t *testing.T) {
	times := func(seed uint64) (at []Instant) {
		s := newServer(Adaptive{Seed: seed}, 10*time.Millisecond, 10)
		for probes := uint64(0); len(at) < 30; {
			s.step()
			if n := s.Snapshot().Probes; n > probes {
				at, probes = append(at, s.now), n
			}
		}
		return at
	}
	one := times(1)
	require.Equal(t, one, times(1))
	require.NotEqual(t, one, times(2))
	var shortest, longest time.Duration = math.MaxInt64, 0
	for i := 2; i < len(one); i++ {
		d := one[i].Sub(one[i-1])
		shortest, longest = min(shortest, d), max(longest, d)
	}
	require.GreaterOrEqual(t, shortest, 15*time.Second)
	require.LessOrEqual(t, longest, 50*time.Second)
	require.Greater(t, longest, shortest+15*time.Second)
}

// Without probes the core must agree with the rule, written down once more, over a plain list of windows.
func TestAdaptiveAgreesWithTheRule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Adaptive{
			Initial: rapid.IntRange(5, 500).Draw(t, "initial"), Min: rapid.IntRange(1, 5).Draw(t, "min"), Max: rapid.IntRange(500, 900).Draw(t, "max"),
			Tolerance: rapid.Float64Range(1, 3).Draw(t, "tolerance"), Smoothing: rapid.Float64Range(0.1, 1).Draw(t, "smoothing"), Probe: maxLimit,
		}.WithDefaults().(Adaptive)
		c := NewAdaptive(cfg, nil)
		limit, baseline := float64(cfg.Initial), 0.0
		var count, sum, drops uint64
		now := Instant(1)
		for range rapid.IntRange(1, 50).Draw(t, "windows") {
			begin := now
			var list []time.Duration
			high := 0
			dropped := rapid.IntRange(0, 5).Draw(t, "drop") == 0
			for i := range rapid.IntRange(10, 30).Draw(t, "samples") {
				d := time.Duration(rapid.Int64Range(1, int64(40*time.Millisecond)).Draw(t, "d"))
				list = append(list, d)
				count++
				sum += uint64(d)
				high = max(high, i*2)
				c.Apply(AdaptiveFact{Epoch: 1, Count: count, Sum: sum, Drops: drops, InFlight: i * 2, Now: now})
			}
			if dropped {
				drops++
			}
			now = c.Next()
			require.True(t, c.Apply(AdaptiveFact{Epoch: 1, Count: count, Sum: sum, Drops: drops, Now: now}))

			var total time.Duration
			for _, d := range list {
				total += d
			}
			mean := float64(total) / float64(len(list))
			switch {
			case dropped:
				limit *= cfg.Backoff
			default:
				if baseline == 0 {
					baseline = mean
				}
				if mean < baseline || float64(high) <= limit*cfg.share() {
					baseline += (mean - baseline) * float64(now.Sub(begin)) / float64(cfg.Window)
				}
				if baseline/mean > 2 {
					baseline *= 0.9
				}
				if float64(high) >= limit/2 {
					gradient := math.Max(0.5, math.Min(1, cfg.Tolerance*baseline/mean))
					limit = limit*(1-cfg.Smoothing) + (limit*gradient+math.Sqrt(limit))*cfg.Smoothing
				}
			}
			limit = math.Max(float64(cfg.Min), math.Min(float64(cfg.Max), limit))
			s := c.Snapshot()
			require.InDelta(t, limit, float64(s.Limit), 1)
			require.InDelta(t, baseline, float64(s.Baseline), 2)
			require.Equal(t, s.Limit, s.Permits)
		}
	})
}

// Whatever it is told, in whatever order, the limit stays within its bounds and the core goes on.
func TestAdaptiveStaysWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		settings := func() Adaptive {
			cfg := Adaptive{Min: rapid.IntRange(1, 50).Draw(t, "min"), Probe: time.Second, Backoff: rapid.Float64Range(0.1, 0.99).Draw(t, "backoff")}
			cfg.Max = cfg.Min + rapid.IntRange(0, 200).Draw(t, "more")
			return cfg.WithDefaults().(Adaptive)
		}
		cfg := settings()
		c := NewAdaptive(cfg, nil)
		now := Instant(1)
		var epoch, count, sum, drops uint64
		for range rapid.IntRange(1, 200).Draw(t, "facts") {
			if rapid.Bool().Draw(t, "tick") && c.Next() != 0 {
				now = c.Next()
			} else {
				now += Instant(rapid.Int64Range(-1e8, 3e8).Draw(t, "dt"))
			}
			count += rapid.Uint64Range(0, 20).Draw(t, "count")
			sum += rapid.Uint64Range(0, 1e9).Draw(t, "sum")
			drops += uint64(max(rapid.IntRange(-10, 2).Draw(t, "drops"), 0))
			f := AdaptiveFact{
				Epoch: c.Snapshot().Epoch - uint64(max(rapid.IntRange(-5, 1).Draw(t, "late"), 0)), InFlight: rapid.IntRange(0, 300).Draw(t, "in flight"),
				Count: count - uint64(max(rapid.IntRange(-9, 1).Draw(t, "overtaken"), 0))%(count+1), Sum: sum, Drops: drops, Now: now,
			}
			switch rapid.IntRange(0, 30).Draw(t, "kind") {
			case 0:
				cfg = settings()
				f.Settings = &cfg
				require.True(t, c.Apply(f))
			case 1:
				s := c.Snapshot()
				c = NewAdaptive(Adaptive{}, &s)
				require.Equal(t, s.Limit, c.Snapshot().Limit)
			default:
				before, stale := c.Snapshot(), f.Epoch != c.Snapshot().Epoch
				if changed := c.Apply(f); stale {
					require.False(t, changed)
					require.Equal(t, before.Limit, c.Snapshot().Limit)
				}
			}
			s := c.Snapshot()
			require.GreaterOrEqual(t, s.Limit, cfg.Min)
			require.LessOrEqual(t, s.Limit, cfg.Max)
			require.GreaterOrEqual(t, s.Permits, cfg.Min)
			require.LessOrEqual(t, s.Permits, s.Limit)
			require.GreaterOrEqual(t, s.Epoch, epoch)
			require.GreaterOrEqual(t, s.Baseline, time.Duration(0))
			if s.Epoch != epoch {
				epoch, count, sum, drops = s.Epoch, 0, 0, 0
			}
		}
	})
}

func TestAdaptiveGoesOnAfterARestart(t *testing.T) {
	s := newServer(Adaptive{}, 10*time.Millisecond, 50)
	s.run(300)
	for s.Snapshot().Permits == s.Snapshot().Limit { // in the middle of a probe
		s.step()
	}
	last := s.Snapshot()
	again := NewAdaptive(Adaptive{}, &last).Snapshot()
	require.Equal(t, last.Limit, again.Limit)
	require.Equal(t, last.Limit, again.Permits, "the probe went with the old incarnation")
	require.Equal(t, last.Baseline, again.Baseline)
	require.Equal(t, last.Settings, again.Settings)
	require.Greater(t, again.Epoch, last.Epoch)
}

func TestAdaptiveKeepsItsLimitWhenReconfigured(t *testing.T) {
	c := adaptive(Adaptive{Initial: 50})
	for _, row := range []struct {
		cfg  Adaptive
		want int
	}{{Adaptive{Initial: 7}, 50}, {Adaptive{Max: 30}, 30}, {Adaptive{Min: 40}, 40}, {Adaptive{}, 40}} {
		cfg := row.cfg.WithDefaults().(Adaptive)
		require.NoError(t, cfg.Validate())
		require.True(t, c.Apply(AdaptiveFact{Settings: &cfg, Now: 1}))
		require.Equal(t, row.want, c.Snapshot().Limit)
		require.Equal(t, row.want, c.Snapshot().Permits)
	}
}

func TestAdaptiveNeedsNoTicksWhenIdle(t *testing.T) {
	c := adaptive(Adaptive{})
	require.Zero(t, c.Next())
	c.Apply(AdaptiveFact{Epoch: 1, Count: 1, Sum: 1, Now: 1})
	n := 0
	for at := c.Next(); at != 0; at = c.Next() {
		c.Apply(AdaptiveFact{Epoch: 1, Count: 1, Sum: 1, Now: at})
		n++
	}
	require.Equal(t, 11, n)
	require.EqualValues(t, 1, c.Credited())
}

func TestAdaptiveSettings(t *testing.T) {
	for field, cfg := range map[string]Adaptive{
		"adaptive.Min":       {Min: -1},
		"adaptive.Max":       {Min: 5, Max: 4},
		"adaptive.Initial":   {Initial: 2000},
		"adaptive.Tolerance": {Tolerance: 0.9},
		"adaptive.Smoothing": {Smoothing: 1.1},
		"adaptive.Backoff":   {Backoff: 1},
		"adaptive.Window":    {Window: time.Millisecond},
		"adaptive.Probe":     {Probe: -1},
		"adaptive.Queue":     {Queue: -1},
		"adaptive.MaxWait":   {MaxWait: -1},
	} {
		require.ErrorContains(t, cfg.WithDefaults().Validate(), field)
	}
	all := Adaptive{Tolerance: math.NaN(), Smoothing: math.NaN(), Backoff: math.NaN(), Min: -1}.WithDefaults().Validate()
	for _, field := range []string{"Tolerance", "Smoothing", "Backoff", "Min"} {
		require.ErrorContains(t, all, "adaptive."+field, "all problems at once")
	}
	for _, cfg := range []Adaptive{{}, {Max: 5}, {Min: 50}} {
		require.NoError(t, cfg.WithDefaults().Validate())
	}
}
