package policy

import (
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func rateLimit(r RateLimit) RateLimit { return r.WithDefaults().(RateLimit) }

// tokens is the slow, obvious model: a bucket that holds fractions of tokens.
type tokens struct {
	every *big.Rat // nanoseconds
	burst int64
	level *big.Rat
	at    Instant
}

func newTokens(r RateLimit) *tokens {
	every := big.NewRat(int64(r.Per), int64(r.Limit))
	// The time between two tokens is rounded up to sixteenths of a nanosecond, by definition.
	n := new(big.Rat).Mul(every, big.NewRat(grain, 1))
	up := new(big.Int).Div(new(big.Int).Sub(new(big.Int).Add(n.Num(), n.Denom()), big.NewInt(1)), n.Denom())
	return &tokens{every: new(big.Rat).SetFrac(up, big.NewInt(grain)), burst: int64(r.Burst), level: big.NewRat(int64(r.Burst), 1), at: 1}
}

func (m *tokens) fill(now Instant) {
	gained := new(big.Rat).Quo(big.NewRat(int64(now-m.at), 1), m.every)
	m.level.Add(m.level, gained)
	if full := big.NewRat(m.burst, 1); m.level.Cmp(full) > 0 {
		m.level = full
	}
	m.at = now
}

// take spends a token, or returns the wait in whole nanoseconds until there is one for who lets ahead others go first.
func (m *tokens) wait(now Instant, ahead int64) time.Duration {
	m.fill(now)
	missing := new(big.Rat).Sub(big.NewRat(1+ahead, 1), m.level)
	if missing.Sign() <= 0 {
		return 0
	}
	wait := missing.Mul(missing, m.every)
	up := new(big.Int).Add(wait.Num(), new(big.Int).Sub(wait.Denom(), big.NewInt(1)))
	return time.Duration(up.Div(up, wait.Denom()).Int64())
}

func (m *tokens) take(now Instant) time.Duration {
	wait := m.wait(now, 0)
	if wait == 0 {
		m.level.Sub(m.level, big.NewRat(1, 1))
	}
	return wait
}

func drawLimit(t *rapid.T) RateLimit {
	r := RateLimit{
		Limit: rapid.IntRange(1, 2000).Draw(t, "limit"),
		Per:   time.Duration(rapid.Int64Range(1, 5e9).Draw(t, "per")),
		Burst: rapid.IntRange(1, 30).Draw(t, "burst"),
	}
	if rapid.Bool().Draw(t, "even") { // intervals of whole nanoseconds
		r.Per = time.Duration(int64(r.Limit) * rapid.Int64Range(1, 1e7).Draw(t, "every"))
	}
	require.NoError(t, r.Validate())
	return r
}

func TestRateLimitAgreesWithABucketOfTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawLimit(t)
		b, m := r.Bucket(), newTokens(r)
		every := int64(r.Per) / int64(r.Limit)
		var mark int64
		now := Instant(1)
		for range rapid.IntRange(1, 150).Draw(t, "arrivals") {
			now += Instant(rapid.Int64Range(0, 2*every+1).Draw(t, "dt"))
			ahead := rapid.IntRange(0, 5).Draw(t, "ahead")
			require.Equal(t, m.wait(now, int64(ahead)), b.Wait(mark, now, ahead))
			left, _ := m.level.Float64()
			require.InDelta(t, math.Floor(left+1e-9), b.Tokens(mark, now), 1e-9)
			want := m.take(now)
			next, wait := b.Take(mark, now)
			require.Equal(t, want, wait)
			if wait > 0 {
				require.Equal(t, mark, next, "who waits spends nothing")
				_, early := b.Take(mark, now.Add(wait-1))
				require.Positive(t, early)
				_, early = b.Take(mark, now.Add(wait))
				require.Zero(t, early, "and the wait is exact")
			}
			mark = next
		}
	})
}

// In any span t no more than Burst + t*Limit/Per calls begin: whatever the order in which their clocks were read.
func TestRateLimitNeverAdmitsMoreThanBurstAndRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawLimit(t)
		b := r.Bucket()
		every := int64(r.Per)/int64(r.Limit) + 1
		var mark int64
		var began []Instant
		now := Instant(10 * every)
		for range 50 {
			now += Instant(rapid.Int64Range(0, every).Draw(t, "dt"))
			at := now - Instant(rapid.Int64Range(0, every).Draw(t, "stale"))
			if next, wait := b.Take(mark, at); wait == 0 {
				mark = next
				began = append(began, at)
			}
		}
		require.NotEmpty(t, began)
		for _, from := range began {
			for _, to := range began {
				if to < from {
					continue
				}
				n := int64(0)
				for _, at := range began {
					if at >= from && at <= to {
						n++
					}
				}
				// (n - Burst) * Per <= (to - from) * Limit, in numbers that cannot overflow
				have := new(big.Int).Mul(big.NewInt(n-int64(r.Burst)), big.NewInt(int64(r.Per)))
				may := new(big.Int).Mul(big.NewInt(int64(to-from)), big.NewInt(int64(r.Limit)))
				require.LessOrEqual(t, have.Cmp(may), 0, "%d calls in %d ns", n, to-from)
			}
		}
	})
}

func TestRateLimitReachesItsRate(t *testing.T) {
	for _, r := range []RateLimit{
		{Limit: 1},
		{Limit: 3},
		{Limit: 1237},
		{Limit: 1_000_000},
		{Limit: 999_983},
		{Limit: 7, Per: time.Minute},
		{Limit: 1_000_000, Per: time.Hour},
		{Limit: 1_000_003, Per: 365 * 24 * time.Hour},
	} {
		r = rateLimit(r)
		require.NoError(t, r.Validate())
		b := r.Bucket()
		exact := float64(r.Per) / float64(r.Limit)
		require.GreaterOrEqual(t, float64(b.every)/grain, exact*(1-1e-12), "%+v", r)
		require.LessOrEqual(t, float64(b.every)/grain, exact*1.0001, "%+v", r)
	}
}

func TestRateLimitSettingsKeepWhatWasSpent(t *testing.T) {
	second := Instant(time.Second)
	for _, row := range []struct {
		name     string
		from, to RateLimit
		spend    int
		idle     time.Duration
		left     int
		wait     time.Duration // when none is left
	}{
		{"nothing spent", RateLimit{Limit: 10}, RateLimit{Limit: 4}, 0, 0, 4, 0},
		{"slower, some left", RateLimit{Limit: 10}, RateLimit{Limit: 1, Burst: 10}, 3, 0, 7, 0},
		{"slower, emptied", RateLimit{Limit: 10}, RateLimit{Limit: 1, Burst: 10}, 10, 0, 0, time.Second},
		{"faster, emptied", RateLimit{Limit: 1, Burst: 10}, RateLimit{Limit: 100, Burst: 10}, 10, 0, 0, 10 * time.Millisecond},
		{"a larger burst adds its tokens", RateLimit{Limit: 10}, RateLimit{Limit: 10, Burst: 25}, 10, 0, 15, 0},
		{"a smaller one is empty, not in debt", RateLimit{Limit: 1000}, RateLimit{Limit: 1}, 1000, 0, 0, time.Second},
		{"half a token regained is half a token", RateLimit{Limit: 1}, RateLimit{Limit: 10, Burst: 1}, 1, 500 * time.Millisecond, 0, 50 * time.Millisecond},
		{"the same", RateLimit{Limit: 3}, RateLimit{Limit: 3}, 3, 100 * time.Millisecond, 0, 233333334},
	} {
		t.Run(row.name, func(t *testing.T) {
			from, to := rateLimit(row.from).Bucket(), rateLimit(row.to).Bucket()
			now := second
			var mark int64
			for range row.spend {
				next, wait := from.Take(mark, now)
				require.Zero(t, wait)
				mark = next
			}
			now = now.Add(row.idle)
			mark = from.Carry(mark, now, to)
			require.Equal(t, row.left, to.Tokens(mark, now))
			require.Equal(t, row.wait, to.Wait(mark, now, 0))
		})
	}
}

// New settings never make tokens: with the same burst nobody has more than before, or less than the part of one.
func TestRateLimitCarryKeepsTheTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, s := drawLimit(t), drawLimit(t)
		s.Burst = r.Burst
		from, to := r.Bucket(), s.Bucket()
		now := Instant(time.Hour)
		var mark int64
		for range rapid.IntRange(0, r.Burst).Draw(t, "spent") {
			mark, _ = from.Take(mark, now)
		}
		now = now.Add(time.Duration(rapid.Int64Range(0, int64(r.Per)).Draw(t, "later")))
		had := from.Tokens(mark, now)
		carried := from.Carry(mark, now, to)
		require.LessOrEqual(t, to.Tokens(carried, now), had)
		require.GreaterOrEqual(t, to.Tokens(carried, now), had-1)
		require.Equal(t, mark, from.Carry(mark, now, from), "to the same it changes nothing")
	})
}

func TestRateLimitDoesNotOverflow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := RateLimit{
			Limit: rapid.IntRange(1, 1e9).Draw(t, "limit"), Per: time.Duration(rapid.Int64Range(1, int64(maxLimit)).Draw(t, "per")),
			Burst: rapid.IntRange(1, 1e9).Draw(t, "burst"),
		}
		if rapid.Bool().Draw(t, "extreme") {
			r.Limit, r.Per, r.Burst = 1, maxLimit, 1
		}
		if r.Validate() != nil {
			t.Skip("a bucket that is never full again")
		}
		b := r.Bucket()
		require.Positive(t, b.every)
		require.GreaterOrEqual(t, b.depth, int64(0))
		var mark int64
		now := Instant(rapid.Int64Range(1, math.MaxInt64).Draw(t, "now"))
		for range 5 {
			next, wait := b.Take(mark, now)
			require.GreaterOrEqual(t, wait, time.Duration(0))
			if wait == 0 {
				require.Greater(t, next, mark)
			}
			require.Less(t, next, int64(MaxMark))
			require.GreaterOrEqual(t, b.Wait(next, now, 1<<20), wait)
			require.GreaterOrEqual(t, b.Carry(next, now, rateLimit(RateLimit{Limit: 1, Per: maxLimit}).Bucket()), next-b.every)
			require.Less(t, b.Tokens(next, now), r.Burst)
			mark = next
			now = Instant(min(int64(now), math.MaxInt64-int64(wait)) + int64(wait))
		}
	})
}

func TestRateLimitSettingsOutOfRange(t *testing.T) {
	for name, cfg := range map[string]RateLimit{
		"rate_limit.Limit is 0": {},
		"rate_limit.Limit":      {Limit: -1},
		"rate_limit.Per":        {Limit: 1, Per: -1},
		"rate_limit.Per is":     {Limit: 1, Per: maxLimit + 1},
		"rate_limit.Burst":      {Limit: 1, Burst: -1},
		"rate_limit.Burst is 2": {Limit: 1, Burst: 2, Smooth: true},
		"as many as Limit":      {Limit: 1, Per: 24 * time.Hour, Burst: 366},
		"rate_limit.Queue":      {Limit: 1, Queue: -1},
		"rate_limit.MaxWait":    {Limit: 1, MaxWait: -1},
	} {
		require.ErrorContains(t, cfg.WithDefaults().Validate(), name)
	}
	require.NoError(t, rateLimit(RateLimit{Limit: 3, Per: maxLimit}).Validate())
	require.Equal(t, RateLimit{Limit: 5, Per: time.Second, Burst: 5}, rateLimit(RateLimit{Limit: 5}))
	require.Equal(t, RateLimit{Limit: 5, Per: time.Second, Burst: 1, Smooth: true}, rateLimit(RateLimit{Limit: 5, Smooth: true}))
}
