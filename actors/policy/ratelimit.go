package policy

import (
	"math"
	"math/bits"
	"time"
)

// RateLimit is the settings of a limit on how many calls begin in a span of time: a token bucket. Each call spends a
// token, however it ends; the bucket gains Limit tokens in each Per, evenly, and holds Burst of them. In any span t no
// more than Burst + t*Limit/Per calls begin.
type RateLimit struct {
	// Limit is how many calls may begin per Per. Required: no default is safe. At most a billion.
	Limit int
	// Per is the span the limit is for. Default 1 s, at most a year.
	Per time.Duration
	// Burst is how many calls may begin at once after a pause. Default Limit, at most a billion; it must be regained
	// within a year.
	Burst int
	// Smooth spaces calls evenly: it is a Burst of 1. A wait that ends late is then not made up for; where the rate
	// must be reached and not only kept, a Burst of 2 makes up for it.
	Smooth bool
	// Queue is how many may wait for a token, first come, first served. Default 0: who finds none is refused at once.
	Queue int
	// MaxWait bounds that wait. It needs a Queue. Who would have to wait longer, or past the deadline of its call, is refused at once.
	// Default none but the call's own.
	MaxWait time.Duration
}

// Kind is "rate_limit".
func (RateLimit) Kind() string { return "rate_limit" }

// WithDefaults fills in zero fields.
func (r RateLimit) WithDefaults() Config {
	orDefault(&r.Per, time.Second)
	if r.Smooth {
		orDefault(&r.Burst, 1)
	}
	orDefault(&r.Burst, r.Limit)
	return r
}

// Validate reports what is out of range.
func (r RateLimit) Validate() error {
	const most = 1_000_000_000
	var c checks
	c.want(r.Limit > 0 && r.Limit <= most, "rate_limit.Limit", r.Limit, "1 to 1000000000")
	c.want(r.Per > 0 && r.Per <= maxLimit, "rate_limit.Per", r.Per, "more than 0, at most a year")
	switch {
	case r.Smooth:
		c.want(r.Burst == 1, "rate_limit.Burst", r.Burst, "1, or unset, when Smooth is set")
	case r.Burst < 1 || r.Burst > most:
		c.want(r.Burst == r.Limit, "rate_limit.Burst", r.Burst, "1 to 1000000000") // else it was told already
	case r.Limit > 0 && r.Per > 0:
		hi, lo := bits.Mul64(uint64(r.Burst), uint64(r.Per))
		c.want(over(hi, lo, uint64(r.Limit)) <= uint64(maxLimit), "rate_limit.Burst", r.Burst, "as many as Limit and Per give in a year, at most")
	}
	c.want(r.Queue >= 0 && r.Queue <= 1<<20, "rate_limit.Queue", r.Queue, "0 to 1048576")
	c.want(r.MaxWait >= 0 && r.MaxWait <= maxLimit, "rate_limit.MaxWait", r.MaxWait, "0 (no limit) to a year")
	c.want(r.MaxWait <= 0 || r.Queue > 0, "rate_limit.MaxWait", r.MaxWait, "0 without a Queue: nobody may wait")
	return c.err()
}

// Bucket is the arithmetic of these settings, which must be complete and valid.
func (r RateLimit) Bucket() TokenBucket {
	per, limit := int64(r.Per)*grain, int64(r.Limit)
	every := (per-1)/limit + 1
	return TokenBucket{every: every, depth: times(every, r.Burst-1)}
}

// TokenBucket is the arithmetic of a rate limit: the generic cell rate algorithm (ITU-T Recommendation I.371, annex A, as
// virtual scheduling). It keeps in one word, the mark, what a bucket of tokens keeps in two: when the bucket will be
// full. A mark that lies in the past is a full bucket, so zero is one, too. The word is the caller's; nothing here
// changes.
//
// Marks count in sixteenths of a nanosecond of the host's clock, and the time between two tokens is rounded up to one:
// it is never too short, and too long by less than 0.01 % at a million calls a second.
type TokenBucket struct {
	every int64 // between two tokens
	depth int64 // from one token to a full bucket
}

const (
	grain = 16
	// lastInstant is where the clock stands still for a bucket, so that no sum overflows: 15 years.
	lastInstant = Instant(15 * maxLimit)
	// MaxMark is more than any mark can be.
	MaxMark = math.MaxInt64
)

// Take spends a token at now and returns the mark after that, or the mark as it was and how long it takes until there
// is a token: at now plus that, to the nanosecond, and not before.
func (b TokenBucket) Take(mark int64, now Instant) (next int64, wait time.Duration) {
	if wait = b.Wait(mark, now, 0); wait > 0 {
		return mark, wait
	}
	return plus(max(mark, fine(now)), b.every), 0
}

// Wait is how long it takes from now until there is a token for one who lets ahead others take theirs first.
func (b TokenBucket) Wait(mark int64, now Instant, ahead int) time.Duration {
	at := fine(now)
	left := plus(max(mark, at), times(b.every, ahead)) - b.depth - at
	if left <= 0 {
		return 0
	}
	return time.Duration((left-1)/grain + 1)
}

// Full reports whether nothing is missing at now.
func (b TokenBucket) Full(mark int64, now Instant) bool { return mark <= fine(now) }

// Tokens is how many tokens there are at now.
func (b TokenBucket) Tokens(mark int64, now Instant) int {
	missing := max(mark-fine(now), 0)
	return int(max(plus(b.depth, b.every)-missing, 0) / b.every)
}

// Carry is the mark under other settings, as of now: what was spent stays spent, and an emptied bucket is empty.
func (b TokenBucket) Carry(mark int64, now Instant, to TokenBucket) int64 {
	at := fine(now)
	if mark <= at {
		return at
	}
	hi, lo := bits.Mul64(uint64(mark-at), uint64(to.every))
	lo, carry := bits.Add64(lo, uint64(b.every-1), 0) // to round up
	spent := over(hi+carry, lo, uint64(b.every))
	return plus(at, int64(min(spent, uint64(plus(to.depth, to.every)))))
}

func fine(t Instant) int64 { return int64(min(max(t, 0), lastInstant)) * grain }

// over is (hi, lo) / by, or the largest number when that is larger still.
func over(hi, lo, by uint64) uint64 {
	if hi >= by {
		return math.MaxUint64
	}
	q, _ := bits.Div64(hi, lo, by)
	return q
}

// plus and times do not overflow: they stop below MaxMark. Nothing they are given is negative.
func plus(a, b int64) int64 {
	if a > MaxMark-1-b {
		return MaxMark - 1
	}
	return a + b
}

func times(a int64, n int) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(n))
	if hi > 0 || lo >= MaxMark {
		return MaxMark - 1
	}
	return int64(lo)
}
